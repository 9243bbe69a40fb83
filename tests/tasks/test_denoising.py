"""Self-supervised objectives: what is hidden is what is asked for, and nothing of it is seen."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made
from tests.tiny import audio, texts, videos
from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES
from uio2.tasks import hiding, image
from uio2.tasks.families.denoise_text import EXTREME, REGULAR
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import make_mixture
from uio2.tasks.spans import Corruption, hide_spans
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import DRAW_ITEM, DRAW_TARGET

LONG = " ".join(f"w{n}" for n in range(200))


def filled(prompt: str, target: str) -> str:
    """The prompt with its holes filled from the target."""
    parts = re.split(r"(<extra_id_\d+>) ?", target)
    answers = dict(zip(parts[1::2], parts[2::2], strict=True))
    return " ".join(answers.get(word, word).strip() for word in prompt.split())


@pytest.mark.parametrize("how", [REGULAR, *EXTREME, Corruption(share=0.15, mean=1), Corruption(share=0.999, mean=1)])
@pytest.mark.parametrize("count", [2, 3, 17, 200, 900])
def test_holes_filled_give_the_text_again(how, count):
    words = [f"w{n}" for n in range(count)]
    asked = set()
    for draw in (0.0, 0.3, 0.999):
        prompt, target = (t.numpy().decode() for t in hide_spans(tf.constant(words), how=how, draw=tf.constant(draw)))
        assert filled(prompt, target) == " ".join(words)
        sentinels = re.findall(r"<extra_id_(\d+)>", prompt)
        assert [int(s) for s in sentinels] == list(range(len(sentinels)))
        assert sentinels == re.findall(r"<extra_id_(\d+)>", target)
        assert len(sentinels) <= 200
        hidden = len(target.split()) - len(sentinels)
        assert hidden == np.clip(round(count * how.share), 1, count - 1)
        asked.add(prompt)
    assert len(asked) > 1 or count < 4 or how.share > 0.9  # else there is little to choose


def test_holes_are_anywhere_and_about_as_long_as_said():
    words = tf.constant(LONG.split())
    lengths, hits = [], np.zeros(200)
    for draw in np.linspace(0, 0.999, 60, dtype=np.float32):
        _, target = hide_spans(words, how=REGULAR, draw=tf.constant(draw))
        holes = re.split(r"<extra_id_\d+> ", target.numpy().decode())[1:]
        lengths += [len(hole.split()) for hole in holes]
        hits[[int(word[1:]) for hole in holes for word in hole.split()]] += 1
    assert np.mean(lengths) == pytest.approx(3, abs=0.01)
    assert max(lengths) > 6
    # Every part is hidden about as often as all the text: 15%.
    np.testing.assert_allclose(hits.reshape(4, 50).mean(axis=1) / 60, 0.15, atol=0.04)


def test_the_only_hole_of_a_short_text_is_anywhere():
    words = tf.constant(["a", "b", "c", "d", "e", "f", "g", "h"])
    prompts = {
        hide_spans(words, how=REGULAR, draw=tf.constant(draw))[0].numpy().decode()
        for draw in np.linspace(0, 0.999, 60, dtype=np.float32)
    }
    assert len(prompts) == 8


@pytest.fixture(scope="module")
def denoised(tokenizer, tmp_path_factory):
    rows = (
        (LONG, "", "the end"),
        ("one two", "", "three"),
        ("a <extra_id_3> b", "c d", "e"),
        ("five words", "in", "two"),
    )
    folder = texts.build(tmp_path_factory.mktemp("denoise"), rows=(*rows, ("f ive", "words here", "too")))
    return made.mixture_of("denoise_text_alpaca", folder=folder, tokenizer=tokenizer)


def test_each_text_in_three_ways_with_its_own_prefix(denoised):
    assert made.usable(denoised) == [3, 0, 0, 3, 3]
    rows = {row["example_id"]: row for row in made.evaluated(denoised).metadata}
    regular, sequential, extreme = (rows[f"alpaca/3/{way}"] for way in range(3))
    assert regular["prompt"].startswith("[Text] [R] ")
    assert extreme["prompt"].startswith("[Text] [X] ")
    text = "five words in two"
    for row in (regular, extreme):
        assert filled(row["prompt"].split("] ", 2)[2], row["target"]) == text
    assert (sequential["prompt"], sequential["target"]) == ("[Text] [S] five words", "in two")


def test_a_long_text_is_cut_to_a_window_that_training_draws(denoised):
    rows = {row["example_id"]: row for row in made.evaluated(denoised).metadata}
    sequential = rows["alpaca/0/1"]
    words = (sequential["prompt"].removeprefix("[Text] [S] ") + " " + sequential["target"]).split()
    assert words == LONG.split()[:32]
    starts = {
        made.trained(denoised, record=0, draws={DRAW_ITEM: 0.5, 3: draw})["text_inputs"].decode().split()[2]
        for draw in (0.0, 0.5, 0.99)
    }
    assert len(starts) == 3


def test_sentinels_are_one_piece_each(denoised):
    found = made.evaluated(denoised)
    row = [row["example_id"] for row in found.metadata].index("alpaca/4/0")
    vocabulary = denoised.vocabulary
    tokens = found.batch["inputs/text/tokens"][row]
    sentinel = vocabulary.base_size + 1199
    assert (tokens == sentinel).sum() == 1
    assert found.batch["targets/text/targets"][row][0] == sentinel
    assert vocabulary.piece(tokens[0]) == "▁[Text]▁[R]"


def test_pictures_lists_of_texts_work_too(datasets, tokenizer):
    mixture = made.mixture_of("denoise_text_coco", folder=datasets["coco"], tokenizer=tokenizer)
    found = made.evaluated(mixture)
    number, way = found.metadata[5]["example_id"].split("/")
    assert (int(number), int(way)) == (found.metadata[5]["image_id"], 5)


def test_hidden_patches_are_not_seen_and_alone_count(datasets, tokenizer):
    mixture = made.mixture_of("denoise_image_coco", folder=datasets["coco"], tokenizer=tokenizer)
    found = made.evaluated(mixture)
    batch = {key: value[found.valid] for key, value in found.batch.items()}
    assert found.metadata[0]["prompt"] == "[Image] [R]"
    # 36 patches of 96 x 96 pixels, 64 codes of the same picture.
    assert batch["inputs/image/mask"].sum(axis=1).tolist() == [9] * len(found.metadata)
    np.testing.assert_array_equal(batch["targets/image/task_mask"], batch["targets/image/loss_mask"])
    assert batch["targets/image/mask"].all()
    share = batch["targets/image/loss_mask"].mean()
    assert 0.65 < share < 0.85
    # What is hidden has the value of black, whatever is there.
    seen = batch["inputs/image/input"] * (1 - batch["inputs/image/mask"][..., None])
    assert len(np.unique(seen[0].round(4))) <= 4
    one, two = (made.trained(mixture, record=0, draws={DRAW_TARGET: draw}) for draw in (0.1, 0.2))
    assert (one["image_inputs_mask"] != two["image_inputs_mask"]).any()


def test_codes_are_hidden_where_the_picture_is_on_canvases_of_other_shapes():
    source = tf.constant([40.0, 80.0])
    seen, made_ = image.place(source, size=(96, 96)), image.place(source, size=(32, 64))
    hidden = np.zeros((96, 96), bool)
    hidden[24:48, 48:96] = True  # the upper right quarter of the picture, which lies in rows 24 to 72
    codes = hiding.hidden_codes(tf.constant(hidden), seen=seen, made=made_, size=(32, 64), patch=8)
    expected = np.zeros((4, 8), bool)
    expected[:2, 4:] = True
    np.testing.assert_array_equal(codes.numpy().reshape(4, 8), expected)


def test_hidden_sound_is_not_heard_and_alone_counts(tokenizer, tmp_path):
    mixture = made.mixture_of("denoise_audio", folder=audio.build(tmp_path, seconds=3.0), tokenizer=tokenizer)
    assert made.usable(mixture) == [1, 1, 1, 1, 1]  # the silent clip has three seconds of noise before it
    found = made.evaluated(mixture)
    batch = {key: value[found.valid] for key, value in found.batch.items()}
    grid = batch["targets/audio/task_mask"].reshape(-1, 16, 2, 8, 2)
    # A patch of the input is 2 x 2 codes: all of them or none.
    np.testing.assert_array_equal(grid.min(axis=(2, 4)), grid.max(axis=(2, 4)))
    there = batch["targets/audio/mask"].reshape(-1, 16, 2, 8, 2).max(axis=(2, 4)).reshape(-1, 128)
    heard = batch["inputs/audio/mask"]
    hidden = grid.max(axis=(2, 4)).reshape(-1, 128)
    assert not (heard & hidden).any()
    assert ((heard | hidden) <= there).all()
    assert hidden.sum() / (hidden | heard).sum() == pytest.approx(0.8, abs=0.02)


def test_all_ways_mix_in_one_batch_and_each_row_teaches(datasets, tokenizer, tmp_path):
    """Texts, code masks, pictures and sound that some rows have and others lack, video among them."""
    names = ("denoise_text_coco", "denoise_image_coco", "denoise_audio", "video_captioning")
    recipe = RegisterSpec(**{
        **made.SMALL, "rates": dict.fromkeys(names, 1.0), "input_modalities": INPUT_MODALITIES,
        "target_modalities": TARGET_MODALITIES,
    })  # fmt: skip
    stored = {"coco": datasets["coco"], "audio": audio.build(tmp_path), "video": videos.build(tmp_path)}
    batch = next(Feed(make_mixture(recipe, datasets=stored, tokenizer=tokenizer), seed=3).batches(batch_size=24))
    taught = {kind: batch[f"targets/{kind}/{mask}"].any(axis=1)
              for kind, mask in (("text", "mask"), ("image", "loss_mask"), ("audio", "loss_mask"))}  # fmt: skip
    assert (sum(rows.astype(int) for rows in taught.values()) == 1).all()
    assert all(rows.any() for rows in taught.values())
    for kind in ("image", "audio"):
        counted, hidden = batch[f"targets/{kind}/loss_mask"], batch[f"targets/{kind}/task_mask"]
        np.testing.assert_array_equal(counted, hidden)
        assert (counted.sum(axis=1) < batch[f"targets/{kind}/mask"].sum(axis=1))[taught[kind]].all()
