"""The predict stage: the only part of evaluation that runs the model.

Examples come in stored order in batches of one shape, so each length is compiled once. A shard holds whole batches:
wherever a killed run resumes, every example is decoded beside the same neighbours and the files are the same. Pictures
and spectrograms are written before the shard that names them. Finished shards wait in the stage's scratch; they are
copied out together at the end.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uio2.evaluate import truth
from uio2.evaluate.decoding import DRAW, GREEDY, OPTIONS, Decoded, decode
from uio2.evaluate.families import family_of
from uio2.evaluate.media import SUFFIXES, write_media
from uio2.evaluate.predictions import (
    Header,
    Prediction,
    PredictionsError,
    read_shard,
    shard_name,
    shard_stem,
    write_index,
    write_shard,
)
from uio2.evaluate.specs import PredictSpec
from uio2.pipeline.stage import StageContext, StageError

if TYPE_CHECKING:
    from uio2.model import ModelConfig, UnifiedIO2
    from uio2.tasks.eval_feed import EvalBatch
    from uio2.tasks.mixture import Mixture

TRUTH = "truth/"
# Rounded so that the last bits of a log-probability do not decide a digest.
LOGPROB_DECIMALS, PIXEL_DECIMALS = 5, 3


def run(spec: PredictSpec, context: StageContext) -> Mapping[str, Any]:
    """Predicts with the input `checkpoint` on the tasks of the input `mixture`.

    Other inputs: `tokenizer`, and the datasets that the mixture's tasks read, by their names.
    """
    from uio2.model.checkpoint import native

    mixture = _open_mixture(context)
    model = native.load(context.inputs["checkpoint"].path / "model")
    mixture.check_model(model.config)
    plans = plans_of(
        spec, mixture=mixture, config=model.config, work=context.work,
        checkpoint=context.inputs["checkpoint"].digest, tokenizer=context.inputs["tokenizer"].digest,
    )  # fmt: skip
    total, done = sum(plan.rows for plan in plans), 0
    for plan in plans:
        for rows in plan.shards(model, mixture):
            done += rows
            context.progress(done, total, f"predicted {plan.task}")
    for plan in plans:
        plan.publish(context.out)
    write_index(context.out, tasks={plan.task: {"rows": plan.rows, "shards": plan.num_shards} for plan in plans})
    return {
        "examples": {plan.task: plan.rows for plan in plans},
        "left_out": [task for task in spec.tasks if task not in mixture.tasks],
        "truncated": sum(plan.truncated() for plan in plans),
    }


def plans_of(
    spec: PredictSpec, *, mixture: Mixture, config: ModelConfig, work: Path, checkpoint: str = "", tokenizer: str = ""
) -> list[TaskPlan]:
    """What is to be predicted, task by task; `checkpoint` and `tokenizer` are the digests that headers name.

    Raises:
      StageError: none of the tasks is in the mixture.
    """
    tasks = [task for task in spec.tasks if task in mixture.tasks]
    if not tasks:
        raise StageError(f"PredictSpec.tasks {list(spec.tasks)} share nothing with the mixture's {mixture.tasks}")
    known = {"checkpoint": checkpoint, "tokenizer": tokenizer}
    return [TaskPlan.of(spec, config=config, mixture=mixture, task=task, work=work, **known) for task in tasks]


def decoding_of(spec: PredictSpec, *, config: ModelConfig, mixture: Mixture, task: str) -> dict[str, Any]:
    """How a task's answers are decoded, as a header says it."""
    family, makes = family_of(task), mixture.task(task).makes
    if mixture.task(task).has_choices:
        return {"method": OPTIONS}
    if makes == "text":
        longest = min(family.max_length or spec.max_length, config.decoder_max_text_length)
        return {"method": GREEDY, "max_length": longest}
    from uio2.model.generate import GenerateSettings

    settings = GenerateSettings.for_modality(makes, seed=spec.seed, **family.drawing)
    names = ("seed", "temperature", "top_p", "guidance")
    return {"method": DRAW, "modality": makes} | {name: getattr(settings, name) for name in names}


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """One task's files in `work`: which shards there are, and what each header says."""

    task: str
    rows: int
    per_shard: int
    batch_size: int
    header: Header
    work: Path

    @classmethod
    def of(
        cls, spec: PredictSpec, *, config: ModelConfig, mixture: Mixture, task: str, work: Path, checkpoint: str,
        tokenizer: str,
    ) -> TaskPlan:  # fmt: skip
        """The plan of a task: all of its examples, or as many as the spec says."""
        from uio2.tasks.eval_feed import count_eval_examples

        rows = count_eval_examples(mixture, task=task, split=spec.split, limit=spec.max_examples or None)
        per_shard = math.ceil(spec.shard_size / spec.batch_size) * spec.batch_size
        header = Header(
            task=task,
            split=spec.split,
            shard=0,
            num_shards=math.ceil(rows / per_shard),
            rows=0,
            first_index=0,
            decoding=decoding_of(spec, config=config, mixture=mixture, task=task),
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            input_size=mixture.recipe.image_size,
        )
        return cls(task, rows, per_shard, spec.batch_size, header, work)

    @property
    def num_shards(self) -> int:
        """How many files."""
        return self.header.num_shards

    def shards(self, model: UnifiedIO2, mixture: Mixture) -> Iterator[int]:
        """Makes the shards that are not there yet; yields how many rows each step added."""
        from uio2.tasks.eval_feed import eval_examples

        first = 0
        while first < self.num_shards and self._is_done(first):
            yield self._header(first).rows
            first += 1
        if first == self.num_shards:
            return
        feed = eval_examples(
            mixture, task=self.task, batch_size=self.batch_size, split=self.header.split, limit=self.rows,
            start=first * self.per_shard,
        )  # fmt: skip
        rows: list[Prediction] = []
        for shard in range(first, self.num_shards):
            header = self._header(shard)
            while len(rows) < header.rows:
                batch = next(feed, None)
                if batch is None:
                    raise StageError(f"task {self.task!r}: the data ends at example {header.first_index + len(rows)} "
                                     f"of {self.rows}; build the dataset and register the mixture again")  # fmt: skip
                made = self._predict(model, mixture, batch, header=header, first_index=header.first_index + len(rows))
                rows += made
                yield len(made)
            write_shard(self.work, header=header, rows=rows)
            rows = []

    def publish(self, out: Path) -> None:
        """Copies the finished shards to the output."""
        (out / self.task).mkdir(parents=True, exist_ok=True)
        for shard in range(self.num_shards):
            name, media = shard_name(shard, self.num_shards), shard_stem(shard, self.num_shards)
            shutil.copyfile(self.work / self.task / name, out / self.task / name)
            if (self.work / self.task / media).is_dir():
                shutil.copytree(
                    self.work / self.task / media, out / self.task / media, ignore=shutil.ignore_patterns("*.tmp")
                )

    def truncated(self) -> int:
        """Texts that were cut: as many tokens as decoding allows, and no end marker among them."""
        longest = self.header.decoding.get("max_length")
        if longest is None:
            return 0
        paths = (self._path(shard) for shard in range(self.num_shards))
        return sum(len(row.tokens) >= longest for path in paths for row in read_shard(path)[1])

    def _path(self, shard: int) -> Path:
        return self.work / self.task / shard_name(shard, self.num_shards)

    def _header(self, shard: int) -> Header:
        first = shard * self.per_shard
        return dataclasses.replace(
            self.header, shard=shard, first_index=first, rows=min(self.per_shard, self.rows - first)
        )

    def _is_done(self, shard: int) -> bool:
        if not self._path(shard).exists():
            return False
        try:
            header, rows = read_shard(self._path(shard))
        except PredictionsError:  # damaged scratch costs only the decoding
            return False
        files = (self.work / self.task / row.media for row in rows if row.media)
        return header == self._header(shard) and all(path.exists() for path in files)

    def _predict(
        self, model: UnifiedIO2, mixture: Mixture, batch: EvalBatch, *, header: Header, first_index: int
    ) -> list[Prediction]:
        for reason in filter(None, batch.reasons):
            print(f"{header.split}: {reason}")
        answers = decode(
            model, batch.batch, decoding=header.decoding, first_index=first_index, rows=len(batch.metadata)
        )
        rows = zip(batch.metadata, answers, strict=True)
        return [
            self._row(about, answer, index=first_index + i, header=header, mixture=mixture)
            for i, (about, answer) in enumerate(rows)
        ]

    def _row(
        self, about: Mapping[str, Any], answer: Decoded, *, index: int, header: Header, mixture: Mixture
    ) -> Prediction:
        box = about["box"]
        media = None if answer.media is None else self._write(answer.media, index=index, header=header)
        return Prediction(
            example_id=about["example_id"],
            index=index,
            task=self.task,
            prompt=about["prompt"],
            text="" if media else mixture.vocabulary.decode(answer.tokens),
            tokens=tuple(answer.tokens),
            logprob=round(answer.logprob, LOGPROB_DECIMALS),
            targets=tuple(about["all_targets"]),
            image_id=int(about["image_id"]),
            image_info=tuple(float(v) for v in about["image_info"]),
            true_box=None if box is None else _pixels(box),
            question=about["question"],
            truth={k.removeprefix(TRUTH): truth.to_json(v) for k, v in about.items() if k.startswith(TRUTH)},
            media=media,
        )

    def _write(self, values: np.ndarray, *, index: int, header: Header) -> str:
        """Writes the picture or spectrogram of an example; its path from the task's folder."""
        suffix = SUFFIXES[header.decoding["modality"]]
        name = f"{shard_stem(header.shard, header.num_shards)}/{index}{suffix}"
        path = self.work / self.task / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_media(path, values)
        return name


def _pixels(box: Sequence[float]) -> tuple[float, float, float, float]:
    y1, x1, y2, x2 = (round(float(v), PIXEL_DECIMALS) for v in box)
    return y1, x1, y2, x2


def _open_mixture(context: StageContext) -> Mixture:
    from uio2.tasks.mixture import open_mixture

    given = {name: found for name, found in context.inputs.items() if found.kind == "dataset"}
    datasets = {name: artifact.path / artifact.stats.get("tfds_dir", "") for name, artifact in given.items()}
    return open_mixture(context.inputs["mixture"].path, datasets=datasets, tokenizer=context.inputs["tokenizer"].path)
