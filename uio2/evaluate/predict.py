"""The predict stage: the only part of evaluation that runs the model.

Examples come in stored order in batches of one shape, so each length is compiled once. A shard holds whole batches:
wherever a killed run resumes, every example is decoded beside the same neighbours and the files are the same.
Finished shards wait in the stage's scratch; they are copied out together at the end.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uio2.evaluate.families import family_of
from uio2.evaluate.predictions import (
    Header,
    Prediction,
    PredictionsError,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from uio2.evaluate.specs import PredictSpec
from uio2.pipeline.stage import StageContext, StageError

if TYPE_CHECKING:
    from uio2.model import UnifiedIO2
    from uio2.tasks.eval_feed import EvalBatch
    from uio2.tasks.mixture import Mixture

EOS_ID = 1
PREFIX = "[Text] [S] "
# Rounded so that the last bits of a log-probability do not decide a digest.
LOGPROB_DECIMALS, PIXEL_DECIMALS = 5, 3


def run(spec: PredictSpec, context: StageContext) -> Mapping[str, Any]:
    """Predicts with the input `checkpoint` on the tasks of the input `mixture`.

    Other inputs: `tokenizer`, and the datasets `coco` and `refcoco` as far as the mixture needs them.
    """
    from uio2.model.checkpoint import native
    from uio2.tasks.eval_feed import count_eval_examples

    mixture = _open_mixture(context)
    model = native.load(context.inputs["checkpoint"].path / "model")
    mixture.check_model(model.config)
    tasks = [task for task in spec.tasks if task in mixture.tasks]
    if not tasks:
        raise StageError(f"PredictSpec.tasks {list(spec.tasks)} share nothing with the mixture's {mixture.tasks}")
    plans = [
        _Plan.of(
            spec, context, model=model, mixture=mixture, task=task,
            rows=count_eval_examples(mixture, task=task, split=spec.split, limit=spec.max_examples or None),
        )
        for task in tasks
    ]  # fmt: skip
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
        "left_out": [task for task in spec.tasks if task not in tasks],
        "truncated": sum(plan.truncated() for plan in plans),
    }


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One task's files: which shards there are, and what each header says."""

    task: str
    rows: int
    per_shard: int
    batch_size: int
    header: Header
    work: Path
    question: re.Pattern[str] | None

    @classmethod
    def of(
        cls, spec: PredictSpec, context: StageContext, *, model: UnifiedIO2, mixture: Mixture, task: str, rows: int
    ) -> _Plan:
        per_shard = math.ceil(spec.shard_size / spec.batch_size) * spec.batch_size
        longest = min(family_of(task).max_length or spec.max_length, model.config.decoder_max_text_length)
        header = Header(
            task=task,
            split=spec.split,
            shard=0,
            num_shards=math.ceil(rows / per_shard),
            rows=0,
            first_index=0,
            decoding={"method": "greedy", "max_length": longest},
            checkpoint=context.inputs["checkpoint"].digest,
            tokenizer=context.inputs["tokenizer"].digest,
            input_size=mixture.recipe.image_size,
        )
        question = question_pattern(mixture.task(task).prompts)
        return cls(task, rows, per_shard, spec.batch_size, header, context.work, question)

    @property
    def num_shards(self) -> int:
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
                made = self._predict(model, mixture, batch, first_index=header.first_index + len(rows))
                rows += made
                yield len(made)
            write_shard(self.work, header=header, rows=rows)
            rows = []

    def publish(self, out: Path) -> None:
        """Copies the finished shards to the output."""
        (out / self.task).mkdir(parents=True, exist_ok=True)
        for shard in range(self.num_shards):
            name = shard_name(shard, self.num_shards)
            shutil.copyfile(self.work / self.task / name, out / self.task / name)

    def truncated(self) -> int:
        """Answers that were cut: as many tokens as decoding allows, and no end marker among them."""
        longest = self.header.decoding["max_length"]
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
            return read_shard(self._path(shard))[0] == self._header(shard)
        except PredictionsError:  # damaged scratch costs only the decoding
            return False

    def _predict(self, model: UnifiedIO2, mixture: Mixture, batch: EvalBatch, *, first_index: int) -> list[Prediction]:
        from uio2.model.generate import generate

        for reason in filter(None, batch.reasons):
            print(f"{self.header.split}: {reason}")
        output = generate(model, batch.batch, max_length=self.header.decoding["max_length"])
        tokens, logprobs = np.asarray(output.tokens), np.asarray(output.logprobs, np.float64)
        return [
            self._row(
                about, index=first_index + i, ids=up_to_end(tokens[i].tolist()), logprob=float(logprobs[i].sum()),
                mixture=mixture,
            )
            for i, about in enumerate(batch.metadata)
        ]  # fmt: skip

    def _row(
        self, about: Mapping[str, Any], *, index: int, ids: Sequence[int], logprob: float, mixture: Mixture
    ) -> Prediction:
        box = about["box"]
        asked = self.question.fullmatch(about["prompt"].removeprefix(PREFIX)) if self.question else None
        return Prediction(
            example_id=about["example_id"],
            index=index,
            task=self.task,
            prompt=about["prompt"],
            text=mixture.vocabulary.decode(list(ids)),
            tokens=tuple(ids),
            logprob=round(logprob, LOGPROB_DECIMALS),
            targets=tuple(about["all_targets"]),
            image_id=int(about["image_id"]),
            image_info=tuple(float(v) for v in about["image_info"]),
            true_box=None if box is None else _pixels(box),
            question=asked.group(1) if asked else "",
        )


def _pixels(box: Sequence[float]) -> tuple[float, float, float, float]:
    y1, x1, y2, x2 = (round(float(v), PIXEL_DECIMALS) for v in box)
    return y1, x1, y2, x2


def up_to_end(ids: Sequence[int]) -> list[int]:
    """The tokens before the end marker."""
    return list(ids[: ids.index(EOS_ID)]) if EOS_ID in ids else list(ids)


def question_pattern(prompts: str) -> re.Pattern[str] | None:
    """What finds a question or expression in the evaluation prompt of a family; None where it asks nothing."""
    from uio2.tasks.prompts import load_prompts, segments

    found = segments(load_prompts(prompts).evaluation)
    if not any(name in ("question", "expression") for _, name in found):
        return None
    parts = (re.escape(literal) + ("(.*)" if name else "") for literal, name in found)
    return re.compile("".join(parts), re.DOTALL)


def _open_mixture(context: StageContext) -> Mixture:
    from uio2.tasks.mixture import open_mixture

    given = {name: found for name, found in context.inputs.items() if found.kind == "dataset"}
    datasets = {name: artifact.path / artifact.stats.get("tfds_dir", "") for name, artifact in given.items()}
    return open_mixture(context.inputs["mixture"].path, datasets=datasets, tokenizer=context.inputs["tokenizer"].path)
