"""`build-audio`: clips keep their bytes, and bad clips become dead letters."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import dtmf
from beam_jobs.specs import BUILD_AUDIO, AudioCaptionsSpec
from tests.beam_jobs.conftest import at, run_stage
from uio2.pipeline.stage import StageError


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    audio = tmp_path / "raw" / "audio"
    (audio / "train").mkdir(parents=True)
    rows = []
    for i, keys in enumerate(("12", "34", "56", "789", "*#")):
        path = audio / "train" / f"{i}.wav"
        path.write_bytes(dtmf.wav_bytes(dtmf.dial(np.random.default_rng(i), keys)))
        rows.append({"file_name": path.name, "caption_1": f"keys {keys}", "caption_2": " "})
    with (audio / "captions_train.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["file_name", "caption_1", "caption_2"])
        table.writeheader()
        table.writerows(rows)
    return tmp_path / "raw"


def test_clips_keep_their_bytes_and_captions(clips: Path, tmp_path: Path):
    built = run_stage(BUILD_AUDIO, AudioCaptionsSpec(), tmp_path, raw=at(clips))
    examples = {e["key"].decode(): e for e in built.examples("train")}
    assert set(examples) == {f"train/{i}.wav" for i in range(5)}
    for key, example in examples.items():
        assert example["audio"] == (clips / "audio" / key).read_bytes()
        assert example["sample_rate"] == 16000
    assert examples["train/4.wav"]["captions"].tolist() == [b"keys *#"]


def test_bad_clips_become_dead_letters(clips: Path, tmp_path: Path):
    audio = clips / "audio" / "train"
    whole = (audio / "0.wav").read_bytes()
    (audio / "0.wav").write_bytes(whole[: len(whole) // 2])
    (audio / "1.wav").write_bytes(b"ID3 no wave")
    (audio / "2.wav").unlink()
    (audio / "3.wav").write_bytes(dtmf.wav_bytes(np.zeros(0, np.float32)))
    built = run_stage(BUILD_AUDIO, AudioCaptionsSpec(max_dropped_fraction=0.9), tmp_path, raw=at(clips))
    assert {letter["key"]: letter["reason"] for letter in built.letters()} == {
        "train/0.wav": "cut_short",
        "train/1.wav": "not_wav",
        "train/2.wav": "audio_missing",
        "train/3.wav": "no_samples",
    }
    assert built.stats["records"]["caption"]["written"] == 1


def test_a_table_with_other_columns_is_an_error(clips: Path, tmp_path: Path):
    (clips / "audio" / "captions_train.csv").write_text("path,label\n0.wav,x\n")
    with pytest.raises(StageError, match=r"captions_train.csv: columns \['path', 'label'\]; expected file_name"):
        run_stage(BUILD_AUDIO, AudioCaptionsSpec(), tmp_path, raw=at(clips))
