"""The predict stage: the only part of evaluation that runs the model.

Examples come in stored order in batches of one shape, so each length is compiled once. A file holds whole batches, and
pictures and spectrograms are written before the file that names them. Finished files wait in the stage's scratch.
Several processes (`UIO2_NUM_PROCESSES`, `UIO2_PROCESS_ID`, one scratch) each make a run of the files and need nothing
of each other; the first one waits for all and copies them out together.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uio2.evaluate import truth
from uio2.evaluate.decoding import DRAW, OPTIONS, Decoded, decode, text_decoding
from uio2.evaluate.families import family_of
from uio2.evaluate.media import SUFFIXES, write_media
from uio2.evaluate.predictions import Header, Prediction, shard_stem, write_index, write_shard
from uio2.evaluate.shard_plan import Member, TaskPlan, own_shards
from uio2.evaluate.specs import SETTINGS, PredictSpec
from uio2.pipeline.stage import StageContext, StageError

if TYPE_CHECKING:
    from uio2.evaluate.devices import Devices
    from uio2.model import ModelConfig, UnifiedIO2
    from uio2.tasks.eval_feed import EvalBatch
    from uio2.tasks.mixture import Mixture

TRUTH = "truth/"
# Rounded so that the last bits of a log-probability do not decide a digest.
LOGPROB_DECIMALS, PIXEL_DECIMALS = 5, 3
_LOOK_EVERY_S = 0.5


def run(spec: PredictSpec, context: StageContext) -> Mapping[str, Any]:
    """Predicts with the input `checkpoint`, of any layout, on the tasks of the input `mixture`.

    Other inputs: `tokenizer`, and the datasets that the mixture's tasks read, by their names.
    """
    from uio2.evaluate.devices import Devices

    member = Member.from_environment()
    mixture = _open_mixture(context)
    devices = Devices.here(batch_size=spec.batch_size)
    model = _load(spec, context, devices)
    mixture.check_model(model.config)
    plans = plans_of(
        spec, mixture=mixture, config=model.config, work=context.work,
        checkpoint=context.inputs["checkpoint"].digest, tokenizer=context.inputs["tokenizer"].digest,
    )  # fmt: skip
    total = sum(plan.rows for plan in plans)
    maker = Maker(model, mixture, devices, spec.batch_size)
    done = 0
    for plan, shards in own_shards(plans, member):
        for rows in maker.make(plan, shards):
            done += rows
            context.progress(done, total, f"predicted {plan.task}")
    if not member.leads:
        return {"made": done}
    _wait(plans, lambda found: context.progress(found, total, "waiting for the other processes"))
    for plan in plans:
        plan.publish(context.out)
    write_index(context.out, tasks={plan.task: {"rows": plan.rows, "shards": plan.num_shards} for plan in plans})
    context.progress(total, total, "predicted")
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
    from uio2.tasks.eval_feed import count_eval_examples

    tasks = [task for task in spec.tasks if task in mixture.tasks]
    if not tasks:
        raise StageError(f"PredictSpec.tasks {list(spec.tasks)} share nothing with the mixture's {mixture.tasks}")
    plans = []
    for task in tasks:
        header = Header(
            task=task, split=spec.split, shard=0, num_shards=0, rows=0, first_index=0,
            decoding=decoding_of(spec, config=config, mixture=mixture, task=task), checkpoint=checkpoint,
            tokenizer=tokenizer, input_size=mixture.recipe.image_size,
        )  # fmt: skip
        rows = count_eval_examples(mixture, task=task, split=spec.split, limit=spec.max_examples or None)
        plans.append(TaskPlan.of(header, rows=rows, shard_size=spec.shard_size, batch_size=spec.batch_size, work=work))
    return plans


def decoding_of(spec: PredictSpec, *, config: ModelConfig, mixture: Mixture, task: str) -> dict[str, Any]:
    """How a task's answers are decoded, as a header says it."""
    family, makes = family_of(task), mixture.task(task).makes
    if mixture.task(task).has_choices:
        return {"method": OPTIONS}
    asked = asked_decoding(spec, task=task, way=family.name, makes=makes)
    if makes == "text":
        longest = min(family.max_length or spec.max_length, config.decoder_max_text_length)
        if "max_length" in asked:
            longest = min(int(asked["max_length"]), config.decoder_max_text_length)
        first = mixture.vocabulary.base_size
        return text_decoding(asked, longest=longest, seed=spec.seed, first_location=first)
    from uio2.model.generate import GenerateSettings

    settings = GenerateSettings.for_modality(makes, **{"seed": spec.seed, **family.drawing, **asked})
    names = ("seed", "temperature", "top_p", "guidance", *(n for n in asked if n in ("top_k", "repetition_penalty")))
    return {"method": DRAW, "modality": makes} | {name: getattr(settings, name) for name in names}


def asked_decoding(spec: PredictSpec, *, task: str, way: str, makes: str) -> dict[str, float | int]:
    """The settings of `PredictSpec.decoding` for a task.

    Raises:
      StageError: one that answers of this modality do not have.
    """
    found: dict[str, float | int] = {}
    for name in (makes, way, task):
        found |= spec.decoding.get(name, {})
    wrong = sorted(found.keys() - set(SETTINGS[makes]))
    if wrong:
        raise StageError(
            f"PredictSpec.decoding of {task!r} sets {', '.join(wrong)}; answers that are {makes} have "
            f"{', '.join(SETTINGS[makes])}"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes prediction files with a model."""

    model: UnifiedIO2
    mixture: Mixture
    devices: Devices
    batch_size: int

    def make(self, plan: TaskPlan, shards: range) -> Iterator[int]:
        """Makes the files of a run that are not there yet; yields how many rows each step added."""
        missing = plan.missing(shards)
        gone = {shard for run in missing for shard in run}
        yield sum(plan.of_shard(shard).rows for shard in shards if shard not in gone)
        for run in missing:
            yield from self._make(plan, run)

    def _make(self, plan: TaskPlan, shards: range) -> Iterator[int]:
        from uio2.tasks.eval_feed import eval_examples

        feed = eval_examples(
            self.mixture, task=plan.task, batch_size=self.batch_size, split=plan.header.split, limit=plan.rows,
            start=shards.start * plan.per_shard,
        )  # fmt: skip
        for shard in shards:
            header = plan.of_shard(shard)
            rows: list[Prediction] = []
            while len(rows) < header.rows:
                batch = next(feed, None)
                if batch is None:
                    raise StageError(f"task {plan.task!r}: the data ends at example {header.first_index + len(rows)} "
                                     f"of {plan.rows}; build the dataset and register the mixture again")  # fmt: skip
                made = self._predict(batch, plan, header=header, first_index=header.first_index + len(rows))
                rows += made
                yield len(made)
            write_shard(plan.work, header=header, rows=rows)

    def _predict(self, batch: EvalBatch, plan: TaskPlan, *, header: Header, first_index: int) -> list[Prediction]:
        for reason in filter(None, batch.reasons):
            print(f"{header.split}: {reason}")
        answers = decode(
            self.model, self.devices.put(batch.batch), decoding=header.decoding, first_index=first_index,
            rows=len(batch.metadata),
        )  # fmt: skip
        rows = zip(batch.metadata, answers, strict=True)
        return [
            self._row(about, answer, plan, index=first_index + i, header=header)
            for i, (about, answer) in enumerate(rows)
        ]

    def _row(
        self, about: Mapping[str, Any], answer: Decoded, plan: TaskPlan, *, index: int, header: Header
    ) -> Prediction:
        box = about["box"]
        media = None if answer.media is None else _write(answer.media, plan, index=index, header=header)
        return Prediction(
            example_id=about["example_id"],
            index=index,
            task=plan.task,
            prompt=about["prompt"],
            text="" if media else self.mixture.vocabulary.decode(answer.tokens),
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


def _write(values: np.ndarray, plan: TaskPlan, *, index: int, header: Header) -> str:
    """Writes the picture or spectrogram of an example; its path from the task's folder."""
    suffix = SUFFIXES[header.decoding["modality"]]
    name = f"{shard_stem(header.shard, header.num_shards)}/{index}{suffix}"
    path = plan.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_media(path, values)
    return name


def _wait(plans: Sequence[TaskPlan], report: Callable[[int], None]) -> None:
    """Until every file is there. One that never comes is the launcher's matter: it ends all when one process fails."""
    left = [(plan, shard) for plan in plans for shard in range(plan.num_shards)]
    total = sum(plan.rows for plan in plans)
    while left := [(plan, shard) for plan, shard in left if not plan.is_done(shard)]:
        report(total - sum(plan.of_shard(shard).rows for plan, shard in left))
        time.sleep(_LOOK_EVERY_S)


def _pixels(box: Sequence[float]) -> tuple[float, float, float, float]:
    y1, x1, y2, x2 = (round(float(v), PIXEL_DECIMALS) for v in box)
    return y1, x1, y2, x2


def _load(spec: PredictSpec, context: StageContext, devices: Devices) -> UnifiedIO2:
    from uio2.model.checkpoint import layouts
    from uio2.model.config import ModelConfig

    checkpoint = layouts.find(context.inputs["checkpoint"].path)
    config = ModelConfig.from_dict(spec.model_config) if spec.model_config else checkpoint.config()
    return checkpoint.load(config=config, sharding=devices.placement(config) if config else None)


def _open_mixture(context: StageContext) -> Mixture:
    from uio2.tasks.mixture import open_mixture
    from uio2.tasks.tokenizer_stage import dataset_directories

    datasets = dataset_directories(context.inputs)
    return open_mixture(context.inputs["mixture"].path, datasets=datasets, tokenizer=context.inputs["tokenizer"].path)
