"""`build-audio-tags`: ESC-50 and AudioSet in their own layouts, labels as people say them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beam_jobs import dtmf
from beam_jobs.specs import BUILD_AUDIO_TAGS, AudioTagsSpec
from tests.beam_jobs.conftest import SHARED, Built, at, lines, needs_shared, pointing, run_stage
from uio2.pipeline.stage import StageError

CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/m/0\n'
SEGMENTS = """# Segments csv created by nobody
# YTID, start_seconds, end_seconds, positive_labels
--abc, 30.000, 40.000, "/m/09x0r,/m/05zppz"
gone1234567, 0.000, 10.000, "/m/09x0r"
strange7890, 10.000, 20.000, "/m/unknown"
--abc, 5.000, later, "/m/09x0r"
"""


def clip(path: Path, seed: int = 0) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dtmf.wav_bytes(dtmf.dial(np.random.default_rng(seed), "12")))
    return path.read_bytes()


def _labels(built: Built, split: str) -> dict[str, list[str]]:
    return {e["key"].decode(): [t.decode() for t in e["labels"]] for e in built.examples(split)}


def test_esc50_takes_a_fold_for_validation(tmp_path: Path):
    audio = tmp_path / "raw" / "audio"
    data = clip(audio / "audio" / "1-1-A-0.wav", 1)
    clip(audio / "audio" / "5-2-A-43.wav", 2)
    (audio / "meta").mkdir()
    (audio / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n5-2-A-43.wav,5,43,car_horn,False,2,A\n"
    )
    built = run_stage(BUILD_AUDIO_TAGS, AudioTagsSpec(), tmp_path, raw=at(tmp_path / "raw"))
    assert _labels(built, "train") == {"1-1-A-0.wav": ["dog"]}
    assert _labels(built, "validation") == {"5-2-A-43.wav": ["car horn"]}
    (example,) = built.examples("train")
    assert (example["audio"], example["sample_rate"]) == (data, 16000)


def test_audioset_names_its_codes_and_counts_what_nobody_could_fetch(tmp_path: Path):
    audio = tmp_path / "raw" / "audio"
    clip(audio / "clips" / "Y--abc.wav")
    (audio / "class_labels_indices.csv").write_text(CLASSES)
    (audio / "balanced_train_segments.csv").write_text(SEGMENTS)
    spec = AudioTagsSpec(max_dropped_fraction=0.5)
    built = run_stage(BUILD_AUDIO_TAGS, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert _labels(built, "train") == {"--abc_30.0": ["Speech", "Male speech, man speaking"]}
    letters = {letter["reason"]: letter["fault"] for letter in built.letters()}
    assert letters == {"audio_missing": False, "unknown_label": True, "bad_segment": True, "cell_count": True}
    built.check_counts()


def test_labels_of_any_table_and_clips_that_cannot_be_used(tmp_path: Path):
    audio = tmp_path / "raw" / "audio"
    clip(audio / "a.wav")
    (audio / "b.wav").write_bytes(b"OggS and so on")
    rows = [
        {"file": "a.wav", "labels": ["car_horn", "siren", "siren"]},
        {"file": "b.wav", "labels": "dog;bark"},
        {"file": "c.wav", "label": ""},
        {"file": "../../etc/passwd", "label": "dog"},
        {"file": "a.wav", "label": "again"},
    ]
    lines(audio / "train.jsonl", rows)
    spec = AudioTagsSpec(max_dropped_fraction=0.95)
    built = run_stage(BUILD_AUDIO_TAGS, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert _labels(built, "train") == {"a.wav": ["car horn", "siren"]}
    assert built.reasons() == {
        "a.wav": "duplicate_key",
        "b.wav": "not_sound",
        "train.jsonl:2": "no_labels",
        "../../etc/passwd": "path_escape",
    }
    assert "Ogg" in next(letter["error"] for letter in built.letters() if letter["reason"] == "not_sound")
    built.check_counts()


def test_class_names_alone_are_an_error(tmp_path: Path):
    audio = tmp_path / "raw" / "audio"
    clip(audio / "a.wav")
    (audio / "class_labels_indices.csv").write_text(CLASSES)
    with pytest.raises(StageError, match=r"only class_labels_indices\.csv, which holds names of classes"):
        run_stage(BUILD_AUDIO_TAGS, AudioTagsSpec(), tmp_path, raw=at(tmp_path / "raw"))


@needs_shared
def test_real_clips(tmp_path: Path):
    esc50 = pointing(tmp_path / "raw", audio=SHARED / "audio_mini" / "esc50")
    built = run_stage(BUILD_AUDIO_TAGS, AudioTagsSpec(), tmp_path, raw=esc50)
    assert sorted(_labels(built, "train").values()) == [["car horn"], ["dog"], ["thunderstorm"]]
    assert _labels(built, "validation") == {"5-156999-C-19.wav": ["thunderstorm"]}
    # The published segment list as a tool without care for quotes wrote it.
    tables = SHARED / "audio_mini" / "captions_only"
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("audioset_class_labels_indices.csv", "audioset_eval_segments_200.csv"):
        (lists / name).write_bytes((tables / name).read_bytes())
    clip(tmp_path / "clips" / "--4gqARaEJE_0_10.wav")
    audioset = pointing(tmp_path / "raw2", audio=tmp_path / "clips", annotations=lists)
    built = run_stage(BUILD_AUDIO_TAGS, AudioTagsSpec(), tmp_path / "b", raw=audioset)
    assert built.stats["records"]["clip"] == {
        "in": 203,
        "written": 1,
        "dropped": {"audio_missing": 202},
        "over_limit": 0,
    }
    assert list(_labels(built, "validation").values()) == [["Domestic animals, pets", "Squeak", "Dog", "Animal"]]
