"""Tasks of video: frames and sound on their places, and clips that lack some of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks import made
from tests.tiny import videos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return videos.build(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def captions(folder, tokenizer):
    return made.mixture_of("video_captioning", folder=folder, tokenizer=tokenizer)


def test_frames_in_order_the_last_one_as_the_image(captions):
    example = made.trained(captions, record=0, draws={})
    assert example["image_history_inputs"].shape == (3, 32, 32, 3)
    columns = [float((picture.mean((0, 2)) * np.arange(32)).sum() / picture.mean((0, 2)).sum())
               for picture in example["image_history_inputs"]]  # fmt: skip
    last = example["image_inputs"].mean((0, 2))
    columns.append(float((last * np.arange(96)).sum() / last.sum()) / 3)
    # Nine frames, four taken from the middle of their quarters: number 1, 3, 5, 7 of 0 to 8.
    steps = np.diff(columns)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.15)
    # The canvas is square and the frame 2:3, so a third of it is no picture.
    assert example["image_inputs_mask"].mean() == pytest.approx(2 / 3)
    assert example["audio_history_inputs"].shape[0] == 1
    assert example["audio_inputs_mask"].any()


def test_clips_without_sound_or_with_few_frames_are_masked_there(captions):
    found = made.evaluated(captions)
    rows = {row["example_id"]: n for n, row in enumerate(found.metadata)}
    assert set(rows) == {"clip0/0", "clip1/0"}
    sounds = found.batch["inputs/audio/mask"].any(axis=1)
    frames = found.batch["inputs/image_history/mask"].any(axis=2).sum(axis=1)
    assert [bool(sounds[rows[key]]) for key in ("clip0/0", "clip1/0")] == [True, False]
    assert [int(frames[rows[key]]) for key in ("clip0/0", "clip1/0")] == [3, 1]
    assert not found.batch["inputs/audio_history/mask"][rows["clip1/0"]].any()


def test_a_recipe_without_history_sees_the_middle(folder, tokenizer):
    mixture = made.mixture_of(
        "video_captioning", folder=folder, tokenizer=tokenizer, input_modalities=("text", "image")
    )
    found = made.evaluated(mixture)
    assert {key.split("/")[1] for key in found.batch if key.startswith("inputs/")} == {"text", "image"}
    picture = made.trained(mixture, record=0, draws={})["image_inputs"].mean((0, 2))
    assert float((picture * np.arange(96)).sum() / picture.sum()) == pytest.approx(47.5, abs=2)


@pytest.mark.parametrize(
    ("name", "counts", "first"),
    [
        ("video_captioning", [1, 1, 0, 0, 0], ["a square moves", "it goes right"]),
        ("video_tagging", [1, 1, 1, 0, 0], ["moving"]),
        ("video_qa", [1, 1, 0, 0, 0], ["square", "a square"]),
    ],
)
def test_what_can_be_asked(folder, tokenizer, name, counts, first):
    mixture = made.mixture_of(name, folder=folder, tokenizer=tokenizer)
    assert made.usable(mixture) == counts
    row = made.evaluated(mixture).metadata[0]
    assert row["all_targets"] == first
    assert row["target"] == first[0]


def test_sampled_patches_work_on_frames_too(folder, tokenizer):
    mixture = made.mixture_of("video_tagging", folder=folder, tokenizer=tokenizer, image_input_samples=0.5)
    found = made.evaluated(mixture)
    assert found.batch["inputs/image/input"].shape[1] == 18
    assert found.batch["inputs/image/mask"].all()
