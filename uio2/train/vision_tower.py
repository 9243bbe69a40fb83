"""Stage `vision-tower`: trains the vision transformer on dense labels before anything else.

The published model starts from a pre-trained vision tower and never trains it; a small one from scratch
learns identity far faster from one label per patch than through the text decoder. Each patch predicts the
class of the object whose box covers its centre (or none), the distances from its centre to the sides of
that box, in patches, and its own mean colour: without the last, features that a frozen tower hands on keep no
colour, and questions about it stay at chance (VQA exact match 0.60 instead of what README.md shows).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import tensorflow as tf
from flax import nnx
from jaxtyping import Array, Float

from uio2.model.checkpoint import native, tree
from uio2.model.config import ModelConfig
from uio2.model.layers import Dense
from uio2.model.vit import VisionTransformer
from uio2.pipeline.operative import OPERATIVE, operative_gin
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks import boxes, image
from uio2.tasks.datasets import StoredDataset
from uio2.tasks.feed import CHUNK, FURTHEST, FeedStats, Handed, data_options
from uio2.tasks.guard import REASON, blank, explain, guarded
from uio2.tasks.order import locate
from uio2.tasks.tokenizer_stage import dataset_directory
from uio2.train.execution import Execution
from uio2.train.loop import HISTORY, Loop, history_text, train
from uio2.train.models import functional
from uio2.train.processes import Crew, crew
from uio2.train.sharding import Share, open_mesh
from uio2.train.specs import VisionTowerSpec

NAME = "vision-tower"
FIELDS = ("image", "objects/bbox", "objects/label")
Batch = dict[str, np.ndarray]


class DenseTower(nnx.Module):
    """The vision transformer under a linear head: `classes` + 1 scores, 4 distances and 3 colours per patch."""

    def __init__(self, config: ModelConfig, *, classes: int, rngs: nnx.Rngs):
        self.vit = VisionTransformer.of(config, rngs=rngs)
        self.grid = config.image_grid
        self.head = Dense(2 * config.image_vit.emb_dim, classes + 8, bias=True, rngs=rngs)

    def __call__(
        self, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b n 4"], Float[Array, "b n 3"]]:
        features = self.vit(batch["image"], mask=batch["mask"], pos_ids=batch["pos_ids"], grid=self.grid)
        out = self.head(features)
        return out[..., :-7], out[..., -7:-3], out[..., -3:]


def dense_loss(
    tower: DenseTower, batch: Mapping[str, Array], *, spec: VisionTowerSpec
) -> tuple[Array, dict[str, Array]]:
    """Weighted cross entropy per patch, mean absolute error of the distances on objects and of the mean colours."""
    logits, distances, colours = tower(batch)
    labels, background = batch["label"], logits.shape[-1] - 1
    foreground = (labels != background).astype(jnp.float32) * batch["mask"]
    weights = batch["mask"] * jnp.where(foreground > 0, spec.foreground_weight, 1.0)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    class_loss = (entropy * weights).sum() / jnp.maximum(weights.sum(), 1.0)
    count = jnp.maximum(foreground.sum(), 1.0)
    box_loss = (jnp.abs(distances - batch["distance"]).mean(-1) * foreground).sum() / count
    pixels = batch["image"].reshape(*batch["image"].shape[:2], -1, 3).mean(2)
    colour_loss = (jnp.abs(colours - pixels).mean(-1) * weights).sum() / jnp.maximum(weights.sum(), 1.0)
    right = ((logits.argmax(-1) == labels) * foreground).sum() / count
    loss = class_loss + spec.box_weight * box_loss + spec.colour_weight * colour_loss
    parts = {"class_loss": class_loss, "box_loss": box_loss, "colour_loss": colour_loss}
    return loss, {"loss": loss, **parts, "foreground_accuracy": right}


def dense_labels(
    canvas_boxes: tf.Tensor, labels: tf.Tensor, *, config: ModelConfig, background: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels int32 [n] and distances float32 [n, 4] (top, left, bottom, right; in patches) per patch.

    Args:
      canvas_boxes: float32 [k, 4] y1 x1 y2 x2, canvas pixels; where boxes overlap the smallest wins.
      labels: int64 [k].
      config: grid and patch size.
      background: the label of a patch no box covers.
    """
    patch, (rows, columns) = config.image_patch_size, config.image_grid
    y = (tf.repeat(tf.range(rows, dtype=tf.float32), columns) + 0.5) * patch
    x = (tf.tile(tf.range(columns, dtype=tf.float32), [rows]) + 0.5) * patch
    y1, x1, y2, x2 = tf.unstack(canvas_boxes, axis=1)
    sides = tf.stack([y[:, None] - y1, x[:, None] - x1, y2 - y[:, None], x2 - x[:, None]], -1)  # [n, k, 4]
    covered = tf.reduce_all(sides > 0, -1)
    area = tf.where(covered, (y2 - y1) * (x2 - x1), np.float32(np.inf))
    area = tf.concat([area, tf.fill([tf.shape(area)[0], 1], np.float32(1e30))], 1)  # the background column
    best = tf.argmin(area, 1)
    sides = tf.concat([sides, tf.zeros([tf.shape(sides)[0], 1, 4])], 1)
    labels = tf.concat([tf.cast(labels, tf.int32), [background]], 0)
    return tf.gather(labels, best), tf.gather(sides, best, batch_dims=1) / patch


class DenseFeed:
    """Batches of pictures with dense labels; the batch of a step depends on dataset, seed and step only.

    A file that does not decode keeps its place, as a picture without patches.

    Attributes:
      classes: names of the labels.
      stats: what was fed so far.
    """

    def __init__(self, dataset: StoredDataset, *, config: ModelConfig, seed: int, split: str = "train"):
        self._dataset, self._config, self._seed = dataset, config, seed
        self._reader = dataset.reader(split)
        self._size = dataset.splits[split]
        self.classes = dataset.classes()
        self.stats = FeedStats()
        self._failure: Exception | None = None
        if not self._size or not self.classes:
            raise StageError(
                f"{dataset.directory}: no labelled objects in split {split!r}; expected a built coco dataset"
            )

    def _example(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        config, record = self._config, self._dataset.parser(FIELDS)(serialized)
        pixels = tf.io.decode_image(record["image"], channels=3, expand_animations=False)
        source = tf.cast(tf.shape(pixels)[:2], tf.float32)
        placement = image.place(source, size=config.image_size)
        canvas = image.render(pixels, placement, size=config.image_size)
        shown = image.pixel_mask(placement, size=config.image_size)
        found = boxes.to_canvas(record["objects"]["bbox"], placement, size=config.image_size)
        label, distance = dense_labels(found, record["objects"]["label"], config=config, background=len(self.classes))
        return {"canvas": canvas, "shown": shown, "label": label, "distance": distance}

    def _batch(self, examples: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        config = self._config
        mask = image.patch_mask(examples["shown"], patch=config.image_patch_size)
        return {
            "image": image.patchify(image.normalise(examples["canvas"]), patch=config.image_patch_size),
            "mask": mask,
            "pos_ids": tf.broadcast_to(tf.range(config.num_patches), tf.shape(mask)),
            "label": examples["label"],
            "distance": examples["distance"],
            REASON: examples[REASON],
        }

    def _records(self, start: int, handed: Handed) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(their numbers in the stream, serialized records) from a position on."""
        handed.restart()
        for first in itertools.count(start, CHUNK):
            positions = first + np.arange(CHUNK)
            _, rows = locate(positions, size=self._size, seed=self._seed, task=NAME)
            try:
                numbers = handed.add(rows, np.zeros([CHUNK, 0], np.float32), taken=self.stats.examples)
                yield numbers, self._reader.read(rows)
            except Exception as error:  # swallowed by the stream, which ends: `batches` says it
                self._failure = error
                raise

    def batches(self, *, batch_size: int, start_step: int = 0) -> Iterator[Batch]:
        """Endless batches from a step on.

        Raises:
          StageError: nothing but files that do not decode.
        """
        handed = Handed(most=FURTHEST + 16 * batch_size, name=str(self._dataset.directory))

        def rescue(number: int, spec: Mapping[str, tf.TensorSpec]) -> Mapping[str, tf.Tensor]:
            row, _ = handed.find(number)
            try:
                made = self._example(tf.constant(self._reader.read(np.array([row]))[0]))
            except Exception as error:
                return blank(spec, reason=explain(error, name=f"{NAME}, record {row}"))
            return {**made, REASON: tf.constant("")}

        signature = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)
        source = tf.data.Dataset.from_generator(
            lambda: self._records(start_step * batch_size, handed), output_signature=signature
        )
        examples = guarded(source.unbatch(), self._example, rescue=rescue, parallel=2)
        batches = examples.batch(batch_size, drop_remainder=True).map(
            self._batch, num_parallel_calls=1, deterministic=True
        )
        for batch in batches.prefetch(4).with_options(data_options(2)).as_numpy_iterator():
            self.stats.examples += batch_size
            self.stats.add(batch.pop(REASON))
            yield batch
        raise StageError(f"the records ended: {self._failure}") from self._failure


def run(spec: VisionTowerSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes `vit/` (arrays under the names they have in the model), `config.json`, `history.jsonl`, and
    `operative_config.gin`."""
    execution = Execution.from_environment()
    with crew(execution) as together:
        return _run(spec, context, execution=execution, together=together)


def _run(spec: VisionTowerSpec, context: StageContext, *, execution: Execution, together: Crew) -> Mapping[str, Any]:
    config = ModelConfig.from_dict(spec.model_config)
    coco = context.inputs["coco"]
    feed = DenseFeed(StoredDataset(dataset_directory(coco)), config=config, seed=spec.seed)
    tower = DenseTower(config, classes=len(feed.classes), rngs=nnx.Rngs(spec.seed))
    module, params = functional(tower)
    # Small enough to be whole on every device, and for every process to read all of each batch.
    mesh = open_mesh(dataclasses.replace(execution, plan="data"), batch_size=spec.batch_size)
    share = Share.of(mesh)
    loop = Loop.of(
        spec,
        loss=lambda values, batch: dense_loss(module(values), batch, spec=spec),
        batches=lambda step: map(share.take, feed.batches(batch_size=spec.batch_size, start_step=step)),
        mesh=mesh,
        label="vision tower",
    )
    trained = train(loop, params, context, crew=together)
    history = trained.history
    if feed.stats.dropped and together.leads:
        print(feed.stats.text())
    flat = {name: np.asarray(array) for name, array in tree.flatten(module(trained.params).vit).items()}
    if together.leads:
        native.save_arrays(flat, context.out / "vit")
        (context.out / "config.json").write_text(config.to_json() + "\n")
        (context.out / HISTORY).write_text(history_text(history))
        (context.out / OPERATIVE).write_text(operative_gin({"vision-tower": spec}))
    size = sum(array.size for array in flat.values())
    return {"parameters": int(size), "steps": spec.steps, "classes": len(feed.classes),
            "dropped": dict(feed.stats.dropped), **_last(history)}  # fmt: skip


def _last(history: list[dict[str, float]]) -> dict[str, float]:
    return {k: v for k, v in history[-1].items() if k in ("loss", "foreground_accuracy", "box_loss")}


def load_vit(path: Any, model_params: Mapping[str, Any]) -> dict[str, Any]:
    """`model_params` (our names) with the vision transformer of a `vision-tower` artifact in its place, on the host."""
    prefix = "image_vit/"
    stored = {prefix + name: array for name, array in native.load_arrays(path / "vit").items()}
    expected = {k: tuple(v.shape) for k, v in model_params.items() if k.startswith(prefix)}
    tree.check(expected, stored)
    return {**model_params, **stored}
