"""Made pictures against real ones: the distances are what their formulas say, with any extractor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from uio2.evaluate import score
from uio2.evaluate.media import write_media
from uio2.evaluate.predictions import Prediction, PredictionsError, read_task
from uio2.evaluate.specs import ScoreSpec
from uio2.evaluate.summary import read_metrics
from uio2.pipeline.stage import StageError
from uio2.tasks.metrics.generation import Gaussian, frechet_distance, generation_results, kernel_distance
from uio2.tasks.metrics.result import MetricError, Resampling

from . import tiny

TASK = "image_generation_coco_2017"
ONCE = Resampling(resamples=20)


def mean_colours(pictures: np.ndarray) -> np.ndarray:
    """An extractor of a user's own: [n, 3]."""
    return pictures.mean(axis=(1, 2))


def words(texts: list[str]) -> np.ndarray:
    """Features of texts in the same space."""
    return np.array([[text.count(name) + 0.1 for name in ("red", "green", "blue")] for text in texts])


def test_frechet_distance_of_gaussians_with_a_closed_form_and_by_scipy():
    near, far = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, 3.5])
    a, b = Gaussian(near, np.diag([4.0, 1.0, 9.0])), Gaussian(far, np.diag([1.0, 16.0, 9.0]))
    expected = ((near - far) ** 2).sum() + (2 - 1) ** 2 + (1 - 4) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)

    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)), rng.normal(1, 2, size=(200, 12))
    p, q = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(p + q - 2 * sqrtm(p @ q).real)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(expected, rel=1e-9)
    twice = Gaussian.of(x, np.full(200, 2.0))
    np.testing.assert_allclose(twice.covariance, np.cov(np.tile(x, (2, 1)), rowvar=False))


def test_kernel_distance_by_its_definition_and_unbiased():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs) / 30
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    same = [kernel_distance(rng.normal(size=(40, 3)), rng.normal(size=(40, 3))) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(len(same))


def test_sets_that_cannot_be_measured_are_refused():
    good = np.ones((3, 2))
    with pytest.raises(MetricError, match=r"example 'b'.*NaN"):
        generation_results(good * [[1], [np.nan], [1]], real=good, ids=["a", "b", "c"], resampling=ONCE)
    with pytest.raises(ValueError, match="two or more"):
        generation_results(good[:1], real=good[:1], ids=["a"], resampling=ONCE)


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """Predictions that paint every scene as it is, and others that paint noise."""
    found = {}
    for name in ("right", "noise"):
        folder, rng = tmp_path_factory.mktemp(name), np.random.default_rng(0)
        rows = []
        for i, scene in enumerate(world.validation):
            pixels = scene.image / 255 if name == "right" else rng.random((96, 96, 3))
            (folder / TASK / "p").mkdir(parents=True, exist_ok=True)
            write_media(folder / TASK / "p" / f"{i}.png", pixels)
            rows.append(Prediction(
                example_id=f"{i}-{i}", index=i, task=TASK, prompt=f"Paint {tiny.captions(scene)[0]}", text="",
                tokens=(3,), logprob=-1.0, targets=(), image_id=i, image_info=(0.0,) * 11,
                truth={"target_info": list(tiny.INFO)}, media=f"p/{i}.png",
            ))  # fmt: skip
        found[name] = tiny.write_predictions(folder, rows={TASK: rows})
    return found


def scored(world, predictions, folder, **fields) -> dict:
    context = tiny.context(folder, coco=world.inputs["coco"], predictions=predictions)
    score.run(ScoreSpec(resamples=20, **fields), context)
    return read_metrics(context.out)["metrics"]


def test_scenes_are_nearer_to_themselves_than_noise_is(world, made, tmp_path):
    right = scored(world, made["right"], tmp_path / "r")
    noise = scored(world, made["noise"], tmp_path / "n")
    assert list(right) == ["image/frechet", "image/kernel", "image/likeness"]
    assert right["image/frechet"]["less_is_better"]
    assert right["image/frechet"]["value"] < 1e-3 < noise["image/frechet"]["value"]
    assert right["image/kernel"]["value"] < noise["image/kernel"]["value"]
    assert noise["image/likeness"]["high"] < 0.99 < right["image/likeness"]["low"]


def test_the_extractor_may_be_a_function_by_name_or_an_exported_one(world, made, tmp_path):
    import jax
    from jax import export

    from uio2.evaluate.features import BATCH

    shape = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), "float32")
    file = tmp_path / "colours.bin"
    file.write_bytes(export.export(jax.jit(lambda x: x.mean(axis=(1, 2))))(shape).serialize())
    named = f"{__name__}:mean_colours"
    by_name = scored(
        world, made["right"], tmp_path / "a", features=named, features_size=32, text_features=f"{__name__}:words"
    )
    by_file = scored(world, made["right"], tmp_path / "b", features=str(file), features_size=32)
    assert by_name.keys() == {*by_file, "image/text_likeness"}
    assert by_file["image/frechet"]["value"] == pytest.approx(by_name["image/frechet"]["value"], abs=1e-5)
    assert ScoreSpec(features=str(file)).features_sha256 != ScoreSpec().features_sha256
    with pytest.raises(StageError, match=r"package\.module:function"):
        scored(world, made["right"], tmp_path / "c", features="nothing.here")


def test_a_dataset_without_the_pictures_is_refused(world, made, tmp_path):
    rows = read_task(made["right"].path, task=TASK).rows
    others = [dataclasses.replace(row, image_id=500 + row.image_id, media=str(made["right"].path / TASK / row.media))
              for row in rows]  # fmt: skip
    with pytest.raises(PredictionsError, match="lacks 16 pictures, among them image 500"):
        scored(world, tiny.write_predictions(tmp_path / "p", rows={TASK: others}), tmp_path / "s")
