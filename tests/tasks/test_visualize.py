"""The page of `uio2 visualize`: what it shows is what the batch holds, and it loads nothing."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import shutil
import socket
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.tasks import page_parts as parts
from tests.tasks.conftest import RECIPE
from tests.tiny import audio as tiny_audio
from uio2.cli.main import main
from uio2.pipeline.stage import UsageError
from uio2.tasks import audio, boxes, image, keypoints, video
from uio2.tasks.converter import convert
from uio2.tasks.mixture import make_mixture
from uio2.tasks.packing.spec import PackingSpec
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.unified import unify
from uio2.tasks.visualize import layout, marks, sound
from uio2.tasks.visualize.cards import Example, Style
from uio2.tasks.visualize.page import build, write
from uio2.tasks.visualize.serve import PageServer
from uio2.tasks.visualize.source import evaluation_examples, packed_examples, training_examples
from uio2.tasks.wav import read_wav

SMALL = RegisterSpec(
    rates={"audio_caption": 1.0}, input_modalities=("text", "image", "image_history"), text_inputs=64, text_targets=96,
    target_modalities=("text", "image"), image_size=(64, 96), image_history_size=(32, 32), num_frames=3,
    image_target_size=(64, 64),
)  # fmt: skip


def made(example: dict, *, vocabulary, recipe=SMALL) -> dict[str, np.ndarray]:
    """One stage 1 example through stages 2 and 3, without the batch dimension."""
    stage1 = {key: tf.convert_to_tensor(value)[None] for key, value in example.items()}
    batch = convert(unify(stage1, vocabulary=vocabulary, recipe=recipe), recipe=recipe)
    return {key: value.numpy()[0] for key, value in batch.items() if not key.startswith("meta/")}


def page_of(*examples: Example, mixture, recipe=SMALL, **options) -> str:
    style = Style(recipe, mixture.vocabulary)
    return build(examples, title="made by hand", about="", style=style, **options).html


def few(mixture, *names: str):
    """The mixture with some of its tasks."""
    return dataclasses.replace(mixture, recipe=dataclasses.replace(RECIPE, rates=dict.fromkeys(names, 1.0)))


def noise_picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_task_shows_the_picture_its_boxes_and_its_tokens(mixture):
    (example,) = evaluation_examples(few(mixture, "refcoco_unc"), split="validation", count=1)
    page = build([example], title="refcoco_unc", about="", style=Style(RECIPE, mixture.vocabulary)).html
    parts.assert_loads_nothing(page)
    stored = next(iter(mixture.dataset("refcoco_unc").stream("validation", ("image",)).as_numpy_iterator()))
    source = tf.io.decode_image(stored["image"]).numpy().astype(int)
    assert np.abs(parts.pictures(page)["image"].astype(int) - source).max() <= 1
    box = {role: parts.elements(page, "rect", "box", role)[0].attributes for role in ("target", "stored")}
    for key in ("x", "y", "width", "height"):  # a location token is up to a thousandth low
        assert float(box["target"][key]) == pytest.approx(float(box["stored"][key]), abs=2.1)
    top, left = example.facts["box"][:2]
    assert float(box["stored"]["x"]) == pytest.approx(1000 * left / 96, abs=0.1)
    assert float(box["stored"]["y"]) == pytest.approx(1000 * top / 96, abs=0.1)
    tokens = example.batch["targets/text/targets"][:4].tolist()
    assert min(tokens) >= mixture.vocabulary.base_size
    notes = [e.attributes.get("title", "") for e in parts.elements(page, "span", "t", "location")]
    assert [note.partition(":")[0] for note in notes[-4:]] == [f"id {token}" for token in tokens]
    assert example.facts["example_id"] in page


def test_training_pages_show_what_the_feed_draws(mixture):
    two = few(mixture, "refcoco_unc", "image_caption_coco_2017")

    def page(start):
        found = list(training_examples(two, count=5, seed=3, start=start))
        return found, build(found, title="", about="", style=Style(two.recipe, two.vocabulary)).html

    found, html = page(0)
    assert len(parts.elements(html, "article")) == 5
    assert {example.task for example in found} == set(two.recipe.rates)
    for example in found:
        target = marks.in_tokens(example.batch["targets/text/targets"], role="target", vocabulary=two.vocabulary)
        assert bool(target.boxes) == (example.task == "refcoco_unc")
    later, _ = page(3)
    assert (later[0].task, later[0].title) == (found[3].task, found[3].title)
    for key, value in later[0].batch.items():
        np.testing.assert_array_equal(value, found[3].batch[key], err_msg=key)


def test_evaluation_shares_the_examples_among_tasks_and_names_the_splits(mixture):
    two = few(mixture, "vqa_coco_2017", "box_classification_coco_2017")
    found = list(evaluation_examples(two, split="validation", count=3))
    assert [len(list(rows)) for _, rows in itertools.groupby(found, lambda e: e.task)] == [2, 1]
    with pytest.raises(UsageError, match=r"--split test.*\['train', 'validation'\]"):
        list(evaluation_examples(two, split="test", count=1))


def test_a_clip_is_seen_and_heard(tokenizer, tmp_path):
    recipe = RegisterSpec(rates={"audio_caption": 1.0}, input_modalities=("text", "audio", "audio_history"),
                          num_audio_segments=2, text_inputs=32, text_targets=32)  # fmt: skip
    mixture = make_mixture(recipe, datasets={"audio": tiny_audio.build(tmp_path, seconds=6)}, tokenizer=tokenizer)
    (example,) = evaluation_examples(mixture, split="validation", count=1)
    page = build([example], title="", about="", style=Style(recipe, mixture.vocabulary)).html
    parts.assert_loads_nothing(page)
    shown = parts.pictures(page)
    assert {shown[name].shape for name in ("audio history 1", "audio")} == {(128, 256, 3)}
    tones = shown["audio"].astype(int).sum(-1).max(axis=1)
    assert tones[64:].max() > tones[:48].max(), "the keys' tones lie in the lower half of the picture"
    (clip,) = parts.elements(page, "audio")
    heard = read_wav(parts.decoded(clip.attributes["src"]))
    (stored,) = mixture.dataset("audio_caption").stream("validation", ("audio",)).take(1).as_numpy_iterator()
    spoken = read_wav(stored["audio"])
    assert abs(len(heard) - len(spoken)) < 2048, "the silence behind the end is not played"
    ours, theirs = (audio.log_mel(audio.cut(tf.constant(x)))[0].numpy() for x in (heard, spoken))
    frames = slice(0, len(spoken) // audio.HOP - audio.SPECTROGRAM[0] - 8)
    assert np.corrcoef(ours[0].ravel(), theirs[0].ravel())[0, 1] > 0.9
    assert np.corrcoef(ours[1, frames].ravel(), theirs[1, frames].ravel())[0, 1] > 0.9


def test_silence_stays_silent():
    values, _ = audio.log_mel(tf.zeros([1, audio.SEGMENT_SAMPLES]))
    assert np.abs(sound.reconstruct(values[0].numpy())).max() == 0


def test_image_target_and_history_by_hand(mixture):
    pixels = noise_picture(48, 96)
    frames = tf.constant(np.stack([pixels, pixels // 2, pixels]))
    history, placement = video.features(frames, recipe=SMALL)
    hidden = np.zeros((8, 8), bool)
    hidden[2:4, 3:6] = True
    target = noise_picture(64, 64)
    batch = made(
        {"text_inputs": "[Image] [S] fill it", **history, "image_targets": target.astype(np.float32) / 255,
         "image_targets_mask": np.ones((64, 64), bool), "image_targets_loss_mask": hidden.reshape(-1),
         "image_targets_task_mask": hidden.reshape(-1)}, vocabulary=mixture.vocabulary)  # fmt: skip
    page = page_of(Example("inpainting", "1", batch), mixture=mixture)
    parts.assert_loads_nothing(page)
    shown = parts.pictures(page)
    top = int(placement.pad[0])
    assert top == 8
    assert np.abs(shown["image"][top : top + 48].astype(int) - pixels).max() <= 1
    assert (shown["image"][:top] == 0).all()
    assert np.abs(shown["image target"].astype(int) - target).max() <= 1
    assert shown["image history 1"].mean() > 1.5 * shown["image history 2"].mean()
    assert "image history 3" not in shown
    np.testing.assert_array_equal(shown["codes the task hides"][..., 3] == 255, hidden)
    np.testing.assert_array_equal(shown["codes in the loss"][..., 3] == 255, hidden)
    overlays = [parts.picture(e.attributes["src"]) for e in parts.elements(page, "img", "mask")]
    # The pixel below a patch's centre decides: the last row of patches of the image and of each frame is padding.
    assert [o.shape[:2] for o in overlays] == [(4, 6), (2, 2), (2, 2), (8, 8)]
    np.testing.assert_array_equal(overlays[0][..., 3] > 0, np.repeat([[False], [False], [False], [True]], 6, axis=1))
    assert "18 of 24 patches" in page
    assert len(np.unique(overlays[3][hidden], axis=0)) == len(np.unique(overlays[3][~hidden], axis=0)) == 1
    assert (overlays[3][2, 3] != overlays[3][0, 0]).any()
    bare = build([Example("inpainting", "1", batch)], title="", about="",
                 style=Style(SMALL, mixture.vocabulary, masks=False)).html  # fmt: skip
    assert not parts.elements(bare, "img", "mask")


def test_masked_patches_are_dimmed_and_missing_ones_grey(mixture):
    recipe = dataclasses.replace(SMALL, input_modalities=("text", "image"), image_input_samples=12)
    pixels = tf.constant(noise_picture(32, 96))
    placement = image.place(tf.constant([32.0, 96.0]), size=recipe.image_size)
    mask = image.pixel_mask(placement, size=recipe.image_size)
    batch = made(
        {"text_inputs": "a", "text_targets": "b", "image_inputs": image.render(pixels, placement, size=(64, 96)),
         "image_inputs_mask": mask, "image_inputs_noise": np.linspace(0, 0.9, 24, dtype=np.float32)},
        vocabulary=mixture.vocabulary, recipe=recipe)  # fmt: skip
    page = page_of(Example("t", "1", batch), mixture=mixture, recipe=recipe)
    (overlay,) = parts.elements(page, "img", "mask")
    dimmed = parts.picture(overlay.attributes["src"])[..., 3] > 0
    np.testing.assert_array_equal(dimmed, [[True] * 6, [False] * 6, [False] * 6, [True] * 6])
    shown = parts.pictures(page)["image"]
    np.testing.assert_allclose(shown[16:48], pixels, atol=1)
    assert (shown[:16] == 128).all()
    assert "12 of 24 patches" in page


def test_keypoints_and_named_boxes_are_drawn(mixture):
    points = tf.constant([[10.0, 20.0], [30.0, 40.0]] + [[0.0, 0.0]] * 15)
    text = keypoints.to_text(points, tf.range(17) < 2, size=(64, 96)).numpy().decode()
    named = "<extra_id_300> <extra_id_400> <extra_id_700> <extra_id_800> red digit"
    batch = made({"text_inputs": f"[Text] [S] where is {named} and", "text_targets": [text, named]},
                 vocabulary=mixture.vocabulary)  # fmt: skip
    found = marks.in_tokens(batch["targets/text/targets"], role="target", vocabulary=mixture.vocabulary)
    assert [p.name for p in found.points] == ["nose", "left eye"]
    assert found.points[0].y == pytest.approx(10 / 64, abs=0.002)
    assert found.points[1].x == pytest.approx(40 / 96, abs=0.002)
    assert len(found.bones) == 1
    (box,) = found.boxes
    assert (box.name, box.top, box.right) == ("red digit", pytest.approx(0.1, abs=1e-3), pytest.approx(0.6, abs=1e-3))
    (asked,) = marks.in_tokens(batch["inputs/text/tokens"], role="prompt", vocabulary=mixture.vocabulary).boxes
    assert asked == dataclasses.replace(box, role="prompt", name="")


def test_a_stored_box_follows_scale_and_crop():
    canvas, source = (64, 96), tf.constant([100.0, 200.0])
    for placement in (
        image.place(source, size=canvas),
        image.place_randomly(source, size=canvas, draws=tf.constant([1.0, 0.2, 0.5, 0.5])),
    ):
        info = placement.info().numpy().tolist()
        (box,) = marks.stored_box([20, 30, 80, 150], image_info=info, size=canvas).boxes
        expected = boxes.to_canvas(tf.constant([0.2, 0.15, 0.8, 0.75]), placement, size=canvas).numpy() / (canvas * 2)
        np.testing.assert_allclose([box.top, box.left, box.bottom, box.right], expected, atol=1e-5)
    assert marks.stored_box(None, image_info=info, size=canvas) == marks.Marks()


def test_hostile_text_stays_text(mixture):
    attack = "<script>alert(1)</script><img src=x onerror='alert(2)'>"
    box = "<extra_id_300> <extra_id_400> <extra_id_700> <extra_id_800>"
    batch = made({"text_inputs": attack, "text_targets": f'{box} "><script>', "image_inputs": np.zeros((64, 96, 3)),
                  "image_inputs_mask": np.ones((64, 96), bool)}, vocabulary=mixture.vocabulary)  # fmt: skip
    example = Example(attack, attack, batch, {attack: attack, "all_targets": [attack]})
    page = page_of(example, mixture=mixture)
    parts.assert_loads_nothing(page)
    assert len(parts.elements(page, "article")) == 1
    assert any(attack in e.text for e in parts.elements(page, "td"))
    (name,) = parts.elements(page, "span", "name")
    assert name.text == '"><script>'


def test_what_does_not_count_is_marked(mixture):
    batch = made({"text_inputs": "a", "text_targets": ""}, vocabulary=mixture.vocabulary)
    page = page_of(Example("t", "1", batch), mixture=mixture)
    assert "nothing counts in the loss" in page
    assert len(parts.elements(page, "span", "t", "end", "free")) == 1


def test_a_page_stays_below_its_limit(mixture):
    batch = made({"text_inputs": "a", "text_targets": "b", "image_inputs": noise_picture(64, 96) / np.float32(255),
                  "image_inputs_mask": np.ones((64, 96), bool)}, vocabulary=mixture.vocabulary)  # fmt: skip
    found = [Example("t", str(n), batch) for n in range(6)]
    style = Style(SMALL, mixture.vocabulary)
    whole = build(found, title="", about="", style=style)
    mean, most = whole.bytes_per_example
    assert (whole.examples, whole.left_out) == (6, 0)
    assert mean <= most < 40_000, "64 x 96 pixels of noise as PNG are 25 KB in base64"
    limited = build(found, title="", about="", style=style, max_bytes=2 * most)
    assert limited.examples + limited.left_out == 6
    assert 2 <= limited.examples < 6
    assert f"{limited.left_out} more had no place" in limited.html


def test_packed_rows_hold_every_token_once(mixture):
    batches = [made({"text_inputs": "a " * n, "text_targets": "b"}, vocabulary=mixture.vocabulary) for n in (3, 9, 5)]
    examples = [Example("t", str(n), batch) for n, batch in enumerate(batches)]
    sides = [layout.sides(batch) for batch in batches]
    packing = layout.Packing([1, 0, 1], (64, 32))
    rows = layout.packed_rows(sides, packing)
    assert [row.side for row in rows] == ["encoder", "decoder"] * 2
    assert [row.examples for row in rows] == [1, 1, 2, 2]
    assert [[b.example for b in row.blocks] for row in rows] == [[2], [2], [1, 3], [1, 3]]
    assert sum(row.tokens for row in rows) == sum(side.tokens for pair in sides for side in pair)
    page = page_of(*examples, mixture=mixture, packing=packing)
    assert len(parts.elements(page, "span", "block", "text")) == 6
    with pytest.raises(ValueError, match="places 3 examples, the page shows 2"):
        layout.packed_rows(sides[:2], packing)


def test_served_on_this_machine_alone():
    server = PageServer("<p>page</p>")
    server.start()
    port = int(server.url.rstrip("/").rpartition(":")[2])
    try:
        assert server.url == f"http://127.0.0.1:{port}/"
        assert _answer(port, "/") == (200, b"<p>page</p>")
        for path in ("/../../etc/passwd", "/page.html", "/index.html", "/?x"):
            assert _answer(port, path)[0] == 404
        assert _answer(port, "/", host="evil.example")[0] == 404
        assert _answer(port, "/", method="POST")[0] == 501
        with pytest.raises(ConnectionRefusedError):  # another address of this machine
            socket.create_connection(("127.0.0.2", port), timeout=5)
    finally:
        server.close()


def _answer(port: int, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers={"Host": f"{host or '127.0.0.1'}:{port}"})
    response = connection.getresponse()
    return response.status, response.read()


def test_the_command_writes_one_page(datasets, tokenizer, tmp_path, capsys):
    arguments = ["--dataset", f"coco={datasets['coco']}", "--tokenizer", str(tokenizer), "--store", str(tmp_path / "s"),
                 "--num_examples", "2", "--gin.tasks.RegisterSpec.image_size=(96, 96)"]  # fmt: skip
    tasks = "vqa_coco_2017,image_caption_coco_2017"
    assert main(["visualize", tasks, str(tmp_path / "pages"), "--json", *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    (path,) = (tmp_path / "pages").iterdir()
    assert said["page"] == str(path)
    assert said["bytes"] == path.stat().st_size
    page = path.read_text()
    parts.assert_loads_nothing(page)
    assert [e.text for e in parts.elements(page, "span", "task")] == tasks.split(",")
    assert main(["visualize", "vqa_coco", str(tmp_path / "x.html"), *arguments]) == 2
    assert "did you mean 'vqa_coco_2017'?" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_draws_the_picture(mixture, tmp_path):
    pixels = np.zeros((64, 96, 3), np.float32)
    pixels[..., 0] = 1.0
    batch = made({"text_inputs": "a", "text_targets": "b", "image_inputs": pixels,
                  "image_inputs_mask": np.ones((64, 96), bool)}, vocabulary=mixture.vocabulary)  # fmt: skip
    page = build([Example("t", "1", batch)], title="", about="", style=Style(SMALL, mixture.vocabulary))
    write(page, tmp_path / "page.html")
    shot = tmp_path / "shot.png"
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", f"--screenshot={shot}",
         (tmp_path / "page.html").as_uri()],
        check=True, capture_output=True, timeout=90)  # fmt: skip
    seen = np.array(Image.open(shot).convert("RGB")).astype(int)
    red = (np.abs(seen - [255, 0, 0]).max(-1) < 40).sum()
    assert red > 0.9 * 320 * 320 * 64 / 96, "320 pixels wide, as the style says"


def test_a_packed_page_shows_whole_rows_and_who_shares_them(mixture):
    spec = PackingSpec("best_fit", encoder=160, decoder={"text": 64}, window_rows=8)
    found, packing = packed_examples(few(mixture, "vqa_coco_2017", "refcoco_unc"), packing=spec, count=5)
    assert len(found) == len(packing.rows) <= 5
    assert len(set(packing.rows)) < len(found)
    rows = layout.packed_rows([layout.sides(example.batch) for example in found], packing)
    for row in rows:
        assert 0 < row.tokens <= row.length == {"encoder": 160, "decoder": 64}[row.side]
    page = page_of(*found, mixture=mixture, recipe=RECIPE, packing=packing)
    assert f"{rows[0].tokens} / 160" in page
