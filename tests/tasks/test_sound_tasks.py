"""Tasks of sound: what is asked and made of clips, silent and long ones among them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks import made
from tests.tiny import audio, scenes
from uio2.tasks.audio import normalise_target
from uio2.tasks.task import DRAW_ITEM, DRAW_TARGET


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("sound")
    return {"audio": audio.build(at, seconds=4.5), "audio_tags": audio.build_tags(at), "speech": audio.build_speech(at)}


def test_tags_are_distinct_and_training_draws_their_order(folders, tokenizer):
    mixture = made.mixture_of("audio_tagging", folder=folders["audio_tags"], tokenizer=tokenizer)
    assert made.usable(mixture) == [1, 1, 1, 1, 0]
    rows = {row["example_id"]: row for row in made.evaluated(mixture).metadata}
    assert rows["train/1.wav/0"]["target"] == "Tone, Speech"
    assert rows["train/2.wav/0"]["truth/labels"] == [b"a, b", b"c"]
    drawn = {
        made.trained(mixture, record=0, draws={DRAW_TARGET: draw})["text_targets"].decode()
        for draw in np.linspace(0, 0.99, 12)
    }
    assert drawn == {"telephone, tone", "tone, telephone"}


def test_a_silent_clip_is_heard_as_no_tokens(folders, tokenizer):
    mixture = made.mixture_of("audio_tagging", folder=folders["audio_tags"], tokenizer=tokenizer)
    found = made.evaluated(mixture)
    silent = [row["target"] for row in found.metadata].index("Silence")
    heard = found.batch["inputs/audio/mask"][found.valid].any(axis=1)
    assert not heard[silent]
    assert heard.sum() == 3


def test_sound_is_made_of_any_segment_and_never_of_silence(folders, tokenizer):
    mixture = made.mixture_of("audio_generation", folder=folders["audio"], tokenizer=tokenizer)
    found = made.evaluated(mixture)
    assert found.metadata[0]["prompt"] == "[Audio] [S] Make a sound that fits this description: a digit 1"
    assert found.batch["targets/audio/mask"][found.valid].any(axis=1).all()
    assert not [key for key in found.batch if key.startswith("inputs/audio")]
    long = {"key": "long", "sample_rate": 16_000, "captions": ["", "beeps"], "audio": _beeps((1, 0, 1))}
    mute = {**long, "key": "mute", "audio": _beeps((0, 0))}
    said = {**long, "key": "unsaid", "captions": [" "]}
    rows = [long, mute, said]
    folder = scenes.write(folders["audio"].parent / "more", "audio_captions", audio.FEATURES,
                          {"train": rows, "validation": rows})  # fmt: skip
    mixture = made.mixture_of("audio_generation", folder=folder, tokenizer=tokenizer)
    assert made.usable(mixture) == [1, 0, 0]
    first, last = (made.trained(mixture, record=0, draws={DRAW_ITEM: draw}) for draw in (0.0, 0.9))
    assert first["text_inputs"].decode().endswith("beeps")
    assert (first["meta/example_id"], last["meta/example_id"]) == (b"long/0", b"long/2")
    assert first["audio_targets_mask"].any()
    assert np.abs(normalise_target(first["audio_targets"]) - normalise_target(last["audio_targets"])).max() > 0.5


def _beeps(levels: tuple[float, ...]) -> bytes:
    """A segment of 4.08 s for each level, each of another pitch; 0 is digital silence."""
    t = np.arange(65_280) / 16_000
    parts = [0.3 * level * np.sin(2 * np.pi * 300 * (n + 1) * t) for n, level in enumerate(levels)]
    return audio.dtmf.wav_bytes(np.concatenate(parts))


def test_speech_in_both_directions(folders, tokenizer):
    heard = made.mixture_of("speech_to_text", folder=folders["speech"], tokenizer=tokenizer)
    assert made.usable(heard) == [1, 1, 1, 1, 0]
    assert [row["target"] for row in made.evaluated(heard).metadata] == ["One.", "four five six", "two three",
                                                                         "nothing"]  # fmt: skip
    made_of_text = made.mixture_of("text_to_speech", folder=folders["speech"], tokenizer=tokenizer)
    # The second is longer than a segment, the fourth silent, the fifth says nothing.
    assert made.usable(made_of_text) == [1, 0, 1, 0, 0]
    found = made.evaluated(made_of_text)
    assert [row["prompt"] for row in found.metadata] == [
        "[Audio] [S] Read this text aloud: One.",
        "[Audio] [S] Read this text aloud: four five six",
    ]
    assert found.batch["targets/audio/loss_mask"][found.valid].any(axis=1).all()


def test_a_recording_is_written_down_if_all_of_it_is_heard(folders, tokenizer):
    """The second is 4.4 s long: a segment and a rest that other tasks leave out."""
    long = made.mixture_of("speech_to_text", folder=folders["speech"], tokenizer=tokenizer)
    found = made.evaluated(long)
    number = [row["target"] for row in found.metadata].index("two three")
    assert found.batch["inputs/audio_history/mask"][number].any()
    assert 0 < found.batch["inputs/audio/mask"][number].sum() < 32
    short = made.mixture_of("speech_to_text", folder=folders["speech"], tokenizer=tokenizer,
                            input_modalities=("text", "audio"))  # fmt: skip
    assert made.usable(short) == [1, 0, 1, 1, 0]
    assert "two three" not in [row["target"] for row in made.evaluated(short).metadata]


def test_broken_recordings_do_not_stop_the_count(tokenizer, tmp_path):
    row = {"key": "k", "sample_rate": 16_000, "transcript": "one", "speaker": "", "audio": b"RIFF no clip"}
    folder = scenes.write(tmp_path, "speech", audio.SPEECH, {"train": [row]})
    # Heard ones are counted by the feed as what they are; none can be made.
    for name, usable in (("speech_to_text", 1), ("text_to_speech", 0)):
        assert made.usable(made.mixture_of(name, folder=folder, tokenizer=tokenizer)) == [usable]


@pytest.mark.parametrize("samples", [0, 1])
def test_clips_of_one_sample_or_none_are_no_target(tokenizer, tmp_path, samples):
    data = audio.dtmf.wav_bytes(np.full(samples, 0.5))
    row = {"key": "k", "sample_rate": 16_000, "captions": ["a click"], "audio": data}
    folder = scenes.write(tmp_path, "audio_captions", audio.FEATURES, {"train": [row]})
    mixture = made.mixture_of("audio_generation", folder=folder, tokenizer=tokenizer)
    assert made.usable(mixture) == [0]
