"""`build-audio`: WAV clips keep their bytes, bad clips become dead letters, AudioCaps' rows meet in their clip."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import dtmf
from beam_jobs.specs import BUILD_AUDIO, AudioCaptionsSpec
from tests.beam_jobs.conftest import SHARED, at, needs_shared, pointing, run_stage
from tests.beam_jobs.media_files import sound, tone
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
        "train/1.wav": "not_sound",
        "train/2.wav": "audio_missing",
        "train/3.wav": "no_samples",
    }
    assert built.stats["records"]["caption"]["written"] == 1


def test_a_table_with_other_columns_is_an_error(clips: Path, tmp_path: Path):
    (clips / "audio" / "captions_train.csv").write_text("path,label\n0.wav,x\n")
    with pytest.raises(StageError, match=r"captions_train.csv: columns \['path', 'label'\]; expected file_name"):
        run_stage(BUILD_AUDIO, AudioCaptionsSpec(), tmp_path, raw=at(clips))


@needs_shared
def test_audiocaps_rows_of_a_clip_are_one_example(tmp_path: Path):
    audio, lists = tmp_path / "clips", tmp_path / "lists"
    lists.mkdir()
    (lists / "audiocaps_val.csv").write_bytes(
        (SHARED / "audio_mini" / "captions_only" / "audiocaps_val.csv").read_bytes()
    )
    (lists / "bad_rows.csv").write_bytes((SHARED / "nasty" / "annotations" / "bad_rows.csv").read_bytes())
    head = "audiocap_id,youtube_id,start_time,caption\n"
    (lists / "test.csv").write_text(f'{head}1,abcdefghijk,30,A dog barks\n2,abcdefghijk,30,"Barking, twice"\n')
    # As the published files of several tools are named; none is WAV.
    whole = tone(0.5, rate=16_000)
    for name in (
        "aaaaaaaaaaa.flac",
        "test/abcdefghijk.flac",
        "val/YvfY_TJq7n_U_130.flac",
        "val/tdWhHV3X25Q_60_70.flac",
    ):
        sound(audio / name, whole, codec="flac", rate=16_000, format="s16")
    raw = pointing(tmp_path / "raw", audio=audio, annotations=lists)
    built = run_stage(BUILD_AUDIO, AudioCaptionsSpec(max_dropped_fraction=0.5), tmp_path, raw=raw)
    (example,) = built.examples("test")
    assert example["key"] == b"abcdefghijk_30"
    assert example["captions"].tolist() == [b"A dog barks", b"Barking, twice"]
    assert {e["key"].decode() for e in built.examples("validation")} == {"vfY_TJq7n_U_130", "tdWhHV3X25Q_60"}
    assert [e["key"] for e in built.examples("train")] == [b"aaaaaaaaaaa_30"]
    faults = {letter["source"]: letter["reason"] for letter in built.letters() if letter["fault"]}
    assert faults == {
        "bad_rows.csv:[2]": "cell_count",
        "bad_rows.csv:[3]": "cell_count",
        "bad_rows.csv:[4]": "bad_number",
        "bad_rows.csv:[5]": "bad_csv",
    }
    built.check_counts()
