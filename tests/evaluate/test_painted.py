"""Answers that are pictures, from the model to the page: predicted, kept beside the rows, scored and shown."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import scenes
from uio2.evaluate import predict, report, score
from uio2.evaluate.decoding import decode
from uio2.evaluate.media import read_log_mel, write_media
from uio2.evaluate.predictions import read_all, read_shard
from uio2.evaluate.specs import PredictSpec, ReportSpec, ScoreSpec
from uio2.pipeline.artifact import digest_directory
from uio2.pipeline.stage import spec_to_json
from uio2.tasks import families
from uio2.tasks.specs import RegisterSpec

from . import tiny

TASK = "painted_depth"
SPEC = PredictSpec(tasks=(TASK,), batch_size=2, shard_size=2)


@pytest.fixture(scope="module", autouse=True)
def own_families():
    """The folder of the tests' own families is looked at too, as long as this module runs."""
    families.__path__.append(str(Path(__file__).parent / "families"))
    families.all_tasks.cache_clear()
    yield
    families.__path__.pop()
    families.all_tasks.cache_clear()


def _file(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _rows(first: int, count: int) -> list[dict]:
    rng = np.random.default_rng(first)
    rows = []
    for number in range(first, first + count):
        image = rng.integers(0, 255, (24, 40, 3), dtype=np.uint8)
        depth = np.full((24, 40), 1000 * (number % 7 + 1), np.uint16)
        rows.append({"image": _file(image, "JPEG"), "image/id": number, "depth": _file(depth, "PNG")})
    return rows


@pytest.fixture(scope="module")
def inputs(own_families, tmp_path_factory):
    """Five images with depth maps, a mixture that paints them, a small model that was never taught."""
    import tensorflow_datasets as tfds
    from flax import nnx

    from uio2.model import ModelConfig, UnifiedIO2, VitConfig
    from uio2.model.checkpoint import native
    from uio2.model.parts import ImageCodecConfig
    from uio2.tasks.vocabulary import UnifiedVocabulary

    folder = tmp_path_factory.mktemp("painted")
    features = tfds.features.FeaturesDict({
        "image": tfds.features.Image(encoding_format="jpeg"), "image/id": np.int64,
        "depth": tfds.features.Tensor(shape=(), dtype=np.str_),
    })  # fmt: skip
    built = scenes.write(folder, "image_depth", features, {"train": _rows(0, 2), "validation": _rows(10, 5)}, shards=1)
    recipe = RegisterSpec(
        rates={TASK: 1.0}, target_modalities=("image",), image_size=(32, 32), image_patch_size=16, text_inputs=32,
        image_target_size=(16, 16), image_target_patch_size=2,
    )  # fmt: skip
    tokenizer = tiny.tokenizer(folder / "tokenizer")
    vocabulary = UnifiedVocabulary.from_file(tokenizer.path)
    (folder / "mixture").mkdir()
    values = {"recipe": spec_to_json(recipe), "tokenizer": {"sha256": vocabulary.sha256}}
    (folder / "mixture" / "mixture.json").write_text(json.dumps(values))
    config = dataclasses.replace(
        ModelConfig.preset("digits"), emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1,
        num_decoder_layers=1, text_vocab_size=vocabulary.padded_size, encoder_max_text_length=32,
        decoder_max_text_length=16, image_size=(32, 32), image_patch_size=16, target_modalities=("text", "image"),
        image_vit=VitConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1, num_positions=5),
        image_vocab_size=40,
        image_codec=ImageCodecConfig(
            channels=32, multipliers=(1, 2), num_res_blocks=1, num_codes=32, image_size=(16, 16), attention_sides=(8,)
        ),
    )  # fmt: skip
    (folder / "train").mkdir()
    native.save(UnifiedIO2(config, rngs=nnx.Rngs(0)), folder / "train" / "model")
    return {
        "depth": tiny.artifact(built, kind="dataset", name="own/build-image-depth", tfds_dir="."),
        "tokenizer": tokenizer,
        "mixture": tiny.artifact(folder / "mixture", kind="mixture", name="own/register"),
        "checkpoint": tiny.artifact(folder / "train", kind="checkpoint", name="own/train"),
    }


@pytest.fixture(scope="module")
def predicted(inputs, tmp_path_factory):
    context = tiny.context(tmp_path_factory.mktemp("predicted") / "predict", **inputs)
    predict.run(SPEC, context)
    return tiny.artifact(context.out, kind="predictions", name="own/predict")


def test_every_example_has_a_picture_beside_its_shard(predicted):
    (found,) = read_all(predicted.path)
    assert found.header.decoding == {
        "method": "draw", "modality": "image", "seed": 0, "temperature": 0.9, "top_p": 0.9, "guidance": 0.0
    }  # fmt: skip
    assert len(found.rows) == 5
    for row in found.rows:
        assert row.media == f"predictions-0000{row.index // 2}-of-00003/{row.index}.png"
        with Image.open(found.folder / row.media) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")
        assert len(row.tokens) == 64
        assert (row.text, row.question, len(row.truth["target_info"])) == ("", "", 11)
        assert row.logprob < 0
    assert len({tuple(row.tokens) for row in found.rows}) == 5
    assert {path.suffix for path in predicted.path.rglob("*") if path.is_file()} == {".json", ".jsonl", ".png"}


def test_a_killed_run_draws_the_same_pictures(inputs, predicted, tmp_path):
    class Killed(Exception):
        pass

    def stop_in_the_middle(done, total, text):
        if done >= 4:
            raise Killed

    context = tiny.context(tmp_path / "p", **inputs)
    with pytest.raises(Killed):
        predict.run(SPEC, dataclasses.replace(context, progress=stop_in_the_middle))
    (shard,) = context.work.rglob("*.jsonl")
    lost = context.work / TASK / read_shard(shard)[1][0].media
    lost.unlink()
    predict.run(SPEC, context)
    assert digest_directory(context.out) == predicted.digest


def test_pictures_are_scored_against_the_stored_maps_and_shown(inputs, predicted, tmp_path):
    world = inputs | {"predictions": predicted}
    context = tiny.context(tmp_path / "s", **world)
    stats = score.run(ScoreSpec(resamples=20), context)
    (found,) = read_all(predicted.path)
    with Image.open(found.folder / found.rows[0].media) as image:
        said = 10 * (1 - np.asarray(image, np.float64).mean(axis=-1) / 255)
    # 40 x 24 pixels fill the middle rows of the canvas.
    inside = said[(16 - 9) // 2 :][:9]
    true = 10 % 7 + 1
    first = json.loads((context.out / "per_example.jsonl").read_text().splitlines()[0])
    assert first["scores"]["abs_rel"] == pytest.approx(np.abs(inside - true).mean() / true, rel=0.05)
    assert first["answer"] == found.rows[0].media
    figure = stats["metrics"]["depth/rmse"]
    assert (figure["baseline"], figure["less_is_better"], figure["n"]) == (None, True, 5)
    world |= {"score": tiny.artifact(context.out, kind="report", name="own/score")}
    context = tiny.context(tmp_path / "r", **world)
    report.run(ReportSpec(num_examples=2), context)
    page = (context.out / "report.html").read_text()
    assert "Baseline: none." in page
    assert page.count("data:image/png;base64") >= 4


def test_the_likeliest_option_is_chosen_wherever_it_stands(inputs):
    from uio2.model.checkpoint import native
    from uio2.tasks.eval_feed import eval_examples
    from uio2.tasks.mixture import open_mixture

    mixture = open_mixture(
        inputs["mixture"].path, datasets={"depth": inputs["depth"].path}, tokenizer=inputs["tokenizer"].path
    )
    model = native.load(inputs["checkpoint"].path / "model")
    batch = next(eval_examples(mixture, task=TASK, batch_size=2)).batch
    options = np.zeros((2, 3, 5), np.int32)
    for place, tokens in enumerate([[9, 1], [12, 14, 15, 1], [20, 11, 1]]):
        options[0, place, : len(tokens)] = tokens
    options[1] = options[0, [1, 2, 0]]
    options[:, :, 4:] = 0
    batch = {key: np.repeat(value[:1], 2, axis=0) for key, value in batch.items()} | {"choices/tokens": options}
    one, two = decode(model, batch, decoding={"method": "options"}, first_index=0, rows=2)
    assert one.tokens == two.tokens
    assert one.tokens in ([9], [12, 14, 15], [20, 11])
    assert one.logprob == pytest.approx(two.logprob, abs=1e-4)


def test_sound_is_drawn_equally_in_any_batch():
    from tests.model import tiny as tiny_model

    config = dataclasses.replace(tiny_model.EVERYTHING, input_modalities=("text",), target_modalities=("audio",))
    model = tiny_model.make(config)
    batch = {key: value for key, value in tiny_model.everything(rows=2).items() if key.startswith("inputs/text/")}
    decoding = {"method": "draw", "modality": "audio", "seed": 3, "temperature": 1.0, "top_p": 0.95, "guidance": 0.0}
    both = decode(model, batch, decoding=decoding, first_index=6, rows=2)
    turned = {key: value[::-1] for key, value in batch.items()}
    again = decode(model, turned, decoding=decoding, first_index=6, rows=2)
    assert both[0].media.shape == (24, 16)
    # A row's draws follow its index, not its neighbours: the first row elsewhere has other draws.
    assert again[1].tokens != both[0].tokens
    one = decode(model, {k: v[:1] for k, v in batch.items()}, decoding=decoding, first_index=6, rows=1)
    assert one[0].tokens == both[0].tokens


def test_spectrograms_are_kept_as_they_are(tmp_path):
    values = np.random.default_rng(0).normal(size=(256, 128)).astype(np.float32)
    write_media(tmp_path / "a.npz", values)
    write_media(tmp_path / "b.npz", values)
    np.testing.assert_array_equal(read_log_mel(tmp_path / "a.npz"), values)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
