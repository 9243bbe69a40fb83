"""`build-speech`: transcripts in the layouts they are published in, recordings byte for byte where they are WAV."""

from __future__ import annotations

from pathlib import Path

from beam_jobs.specs import BUILD_SPEECH, SpeechSpec
from tests.beam_jobs.conftest import SHARED, Built, at, lines, needs_shared, pointing, run_stage
from tests.beam_jobs.test_audio_tags import clip


def _said(built: Built, split: str) -> dict[str, tuple[str, str]]:
    return {e["key"].decode(): (e["transcript"].decode(), e["speaker"].decode()) for e in built.examples(split)}


def test_librispeech_common_voice_and_ljspeech(tmp_path: Path):
    audio = tmp_path / "raw" / "audio"
    data = clip(audio / "train-clean-100" / "84" / "121" / "84-121-0000.wav", 1)
    clip(audio / "train-clean-100" / "84" / "121" / "84-121-0001.wav", 2)
    (audio / "train-clean-100" / "84" / "121" / "84-121.trans.txt").write_text(
        "84-121-0000 GO DO YOU HEAR\n84-121-0001 BUT IN LESS THAN FIVE MINUTES\n"
    )
    clip(audio / "clips" / "cv_1.wav", 3)
    (audio / "dev.tsv").write_text('client_id\tpath\tsentence\nspk9\tcv_1.wav\t"Well," she said.\n')
    clip(audio / "wavs" / "LJ001.wav", 4)
    (audio / "metadata.csv").write_text('LJ001|It cost $5, "he" said.|It cost five dollars, "he" said.\n')
    spec = SpeechSpec(validation_fraction=0.0)
    built = run_stage(BUILD_SPEECH, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert _said(built, "train") == {
        "84-121-0000": ("GO DO YOU HEAR", "84"),
        "84-121-0001": ("BUT IN LESS THAN FIVE MINUTES", "84"),
        "LJ001": ('It cost five dollars, "he" said.', ""),
    }
    assert _said(built, "validation") == {"cv_1.wav": ('"Well," she said.', "spk9")}
    example = next(e for e in built.examples("train") if e["key"] == b"84-121-0000")
    assert (example["audio"], example["sample_rate"]) == (data, 16000)
    assert run_stage(BUILD_SPEECH, spec, tmp_path / "again", raw=at(tmp_path / "raw")).shards() == built.shards()


def test_recordings_without_words_or_without_sound(tmp_path: Path):
    audio = tmp_path / "raw" / "audio"
    clip(audio / "a.wav")
    rows = [{"file": "a.wav", "text": "here"}, {"file": "b.wav", "text": "not there"}, {"file": "c.wav", "text": " "}]
    lines(audio / "train.jsonl", rows)
    (audio / "x.trans.txt").write_text("ID-ALONE\n")
    built = run_stage(BUILD_SPEECH, SpeechSpec(max_dropped_fraction=0.9), tmp_path, raw=at(tmp_path / "raw"))
    assert _said(built, "train") == {"a.wav": ("here", "")}
    assert built.reasons() == {
        "b.wav": "audio_missing",
        "train.jsonl:2": "empty_text",
        "x.trans.txt:0": "cell_count",
    }
    built.check_counts()


@needs_shared
def test_real_recordings_and_damaged_ones(tmp_path: Path):
    folder = SHARED / "audio_mini"
    raw = pointing(tmp_path / "raw", audio=folder, annotations=folder / "manifest.jsonl")
    built = run_stage(BUILD_SPEECH, SpeechSpec(max_dropped_fraction=0.9), tmp_path / "a", raw=raw)
    said = {**_said(built, "train"), **_said(built, "validation")}
    assert said["speech/spk1_snt1.wav"][0] == "the child almost hurt the small dog"
    assert built.stats["records"]["recording"] == {
        "in": 58, "written": 32, "dropped": {"empty_text": 26}, "over_limit": 0,
    }  # fmt: skip
    nasty = sorted((SHARED / "nasty" / "audio").iterdir())
    table = lines(tmp_path / "nasty.jsonl", [{"file": path.name, "text": "word"} for path in nasty])
    raw = pointing(tmp_path / "raw2", audio=SHARED / "nasty" / "audio", annotations=table)
    built = run_stage(BUILD_SPEECH, SpeechSpec(max_dropped_fraction=0.9), tmp_path / "b", raw=raw)
    assert built.reasons() == {
        "cut_half.wav": "cut_short",
        "git_symlink_text.wav": "not_sound",
        "nan_inf_float.wav": "not_finite",
        "text.wav": "not_sound",
        "zero_byte.wav": "empty_file",
        "zero_rate.wav": "bad_rate",
        "zero_samples.wav": "no_samples",
    }
    built.check_counts()
    kept = {e["key"].decode(): e for split in built.stats["splits"] for e in built.examples(split)}
    original = {name for name, e in kept.items() if e["audio"] == (SHARED / "nasty" / "audio" / name).read_bytes()}
    # Decoded: floats, a header that a streaming writer left open, AAC. The rest is PCM WAV.
    assert set(kept) - original == {"digital_silence.wav", "streaming_sizes.wav", "testing.m4a"}
    assert (
        kept["streaming_sizes.wav"]["audio"][44:]
        == (SHARED / "nasty" / "audio" / "streaming_sizes.wav").read_bytes()[44:]
    )
