"""What cannot work, found before anything is read at length, allocated or started: every problem at once, a line each.

It reads the names and shapes of a checkpoint's tensors, never their values, and the pieces of a tokenizer; TensorFlow
is not imported, and JAX looks at no accelerator (the processes that train must be the ones to take it).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uio2.model.config import ModelConfig
from uio2.pipeline.stage import UsageError
from uio2.tasks.families import find_task
from uio2.tasks.model_check import mismatches
from uio2.tasks.pieces import PUBLISHED_ROWS, PUBLISHED_SOURCE, Pieces, VocabularyError, padded_size, tokenizer_mismatch
from uio2.tasks.sources import DATASETS
from uio2.tasks.specs import RegisterSpec
from uio2.train.evaluation_spec import TASK, TASK_FIGURES
from uio2.train.specs import TrainSpec

# Lines of one error that lists many tensors.
SHOWN_TENSORS = 6
# What the position tables and rotary distances of a checkpoint were trained for.
_LENGTHS = ("encoder_max_text_length", "decoder_max_text_length")
_SIZES = ("image_size", "image_history_size", "audio_size", "audio_history_size")


@dataclasses.dataclass(frozen=True)
class Flight:
    """What is about to run.

    Attributes:
      register, train: the recipe.
      datasets: those that can be had, by input name.
      start: the checkpoint (`uio2.train.starting.Start`), or None.
      tokenizer: a SentencePiece file or a folder with one; None where one is trained on the data.
      pieces: how many pieces such a one gets.
      devices: over which batches are split; None where that is not known.
    """

    register: RegisterSpec
    train: TrainSpec
    datasets: Mapping[str, Path]
    start: Any = None
    tokenizer: Path | None = None
    pieces: int = 0
    devices: int | None = None

    @property
    def config(self) -> ModelConfig:
        """The model that is trained."""
        return ModelConfig.from_dict(self.train.model_config)


def problems(flight: Flight) -> Iterator[str]:
    """Every problem as one line (a misfit of tensors has some more)."""
    yield from _data(flight)
    yield from _modalities(flight.register)
    yield from mismatches(flight.register, flight.config)
    yield from _batch(flight)
    yield from _evaluation(flight)
    yield from _scratch(flight) if flight.start is None else _checkpoint(flight)
    yield from _tokenizer(flight)


def refuse(found: Sequence[str]) -> None:
    """Raises UsageError with a line for each problem, if there is any."""
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise UsageError(f"{count}, nothing was started:\n" + "\n".join(f"  - {line}" for line in found))


def _data(flight: Flight) -> Iterator[str]:
    needed: dict[str, list[str]] = {}
    for name in flight.register.rates:
        needed.setdefault(find_task(name).dataset, []).append(name)
    missing = {dataset: tasks for dataset, tasks in needed.items() if dataset not in flight.datasets}
    if flight.register.missing_data == "leave_out" and len(missing) < len(needed):
        missing = {}
    for dataset, tasks in missing.items():
        need = DATASETS.get(dataset)
        how = f"`uio2 build {need.build}` ({need.about}), or " if need else ""
        names = ", ".join(tasks)
        yield f"no dataset {dataset!r} for {names}: {how}--dataset {dataset}=DIR, or take {names} out of TASKS"
    for dataset, path in flight.datasets.items():
        if not any(path.glob("**/dataset_info.json")):
            yield f"dataset {dataset!r}: {path} holds no dataset_info.json; expected a TFDS directory with its version"


def _modalities(register: RegisterSpec) -> Iterator[str]:
    for name in register.rates:
        task = find_task(name)
        if task.makes not in register.target_modalities:
            yield (f"task {name!r} answers with {task.makes}, TARGET_MODALITIES are {register.target_modalities}; "
                   f"add it, or take the task out of TASKS")  # fmt: skip
        if task.takes and not set(task.takes) & set(register.input_modalities):
            yield (f"task {name!r} is about {' or '.join(task.takes)}, INPUT_MODALITIES are {register.input_modalities}"
                   f"; add it, or take the task out of TASKS")  # fmt: skip


def _batch(flight: Flight) -> Iterator[str]:
    spec, devices = flight.train, flight.devices
    if devices is None:
        return
    size, name = (spec.packing.groups, "PACKING_GROUPS") if spec.packing.packs else (spec.batch_size, "BATCH_SIZE")
    parts, times = devices * spec.step.microbatches, spec.step.microbatches
    if size % parts:
        near = max(1, round(size / parts)) * parts
        what = f"{devices} devices" + (f" times {times} microbatches" if times > 1 else "")
        yield f"{name} is {size}; expected a multiple of the {what} it is split over, for example {near}"


def _evaluation(flight: Flight) -> Iterator[str]:
    spec, saving, tasks = flight.train.evaluation, flight.train.saving, list(flight.register.rates)
    known = ", ".join(tasks)
    family, _, rest = saving.best_metric.partition("/")
    name, _, key = rest.rpartition("/")
    if saving.keep_best and f"{family}/" == TASK and (name not in tasks or key not in TASK_FIGURES):
        yield (f"BEST_METRIC is {saving.best_metric!r}; expected {TASK}NAME/{' or '.join(TASK_FIGURES)}, NAME one of "
               f"{known}")  # fmt: skip
    if not spec.every:
        return
    for task in spec.tasks:
        if task not in tasks:
            yield f"EvaluationSpec.tasks names {task!r}, which is not trained; expected some of {known}"
    splits = {name: _splits(path) for name, path in flight.datasets.items()}
    if splits and all(found and spec.split not in found for found in splits.values()):
        have = "; ".join(f"{name}: {', '.join(sorted(found))}" for name, found in splits.items())
        yield (f"EvaluationSpec.split is {spec.split!r}, which no dataset has ({have}); name one of them, build "
               "datasets that have it, or --gin.EVAL_EVERY=0")  # fmt: skip


def _splits(path: Path) -> set[str]:
    """The names of a dataset's splits; none where it does not say, which is said elsewhere."""
    found = next(iter(path.glob("**/dataset_info.json")), None)
    try:
        return {split["name"] for split in json.loads(found.read_text())["splits"]} if found else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _scratch(flight: Flight) -> Iterator[str]:
    config, inputs, targets = flight.config, flight.register.input_modalities, flight.register.target_modalities
    towers = [name for name in ("image", "audio") if {name, f"{name}_history"} & set(inputs)]
    if towers and config.freeze_vit:
        yield (f"from fresh parameters the transformer that sees {' and '.join(towers)} would stay random: "
               "--gin.FREEZE_VIT=False, or give INITIAL_CHECKPOINT")  # fmt: skip
    codecs = [name for name in ("image", "audio") if name in targets]
    if codecs:
        yield (f"from fresh parameters the codec that makes {' and '.join(codecs)} out of codes would stay random, and "
               f"is not trained here: give INITIAL_CHECKPOINT, or remove {codecs} from TARGET_MODALITIES")  # fmt: skip


def _checkpoint(flight: Flight) -> Iterator[str]:
    from uio2.model.checkpoint.tree import CheckpointError

    _stay_on_cpu()
    checkpoint = flight.start.checkpoint
    try:
        own = checkpoint.config()
        absent = [] if own is None else list(_absent(flight.config, own))
        if absent:
            yield from absent
            return
        checkpoint.check(flight.config)
    except CheckpointError as error:
        first, *rest = str(error).splitlines()
        more = [f"  ... and {len(rest) - SHOWN_TENSORS} more"] if len(rest) > SHOWN_TENSORS else []
        yield "\n".join([f"INITIAL_CHECKPOINT {checkpoint.folder}: {first} Is MODEL the model it is of?",
                         *rest[:SHOWN_TENSORS], *more])  # fmt: skip
        return
    if own is None:
        return
    for field in _LENGTHS:
        ours, theirs = getattr(flight.config, field), getattr(own, field)
        if ours > theirs:
            yield f"the model's {field} is {ours}, the checkpoint was trained for {theirs}; lower it to that"
    used = {f"{m}_size" for m in flight.register.input_modalities}
    for field in _SIZES:
        ours, theirs = getattr(flight.config, field), getattr(own, field)
        if field in used and ours != theirs:
            yield f"the model's {field} is {ours}, the checkpoint's {theirs}; set it to that"


def _absent(config: ModelConfig, own: ModelConfig) -> Iterator[str]:
    for field in ("input_modalities", "target_modalities"):
        missing = [name for name in getattr(config, field) if name not in getattr(own, field)]
        if missing:
            yield (f"the checkpoint's {field} are {getattr(own, field)}, without {', '.join(missing)}; take that out"
                   f" of {field.upper()} and its tasks out of TASKS, or start from a model that has it")  # fmt: skip


def _tokenizer(flight: Flight) -> Iterator[str]:
    rows = flight.config.text_vocab_size
    if flight.tokenizer is None:
        if flight.start is not None:
            yield (f"INITIAL_CHECKPOINT {flight.start.checkpoint.folder} brings no tokenizer, and the ids of another "
                   f"mean other pieces: give --tokenizer FILE, for a published model {PUBLISHED_SOURCE}")  # fmt: skip
        elif rows == PUBLISHED_ROWS or rows < padded_size(flight.pieces):
            yield (f"a tokenizer of {flight.pieces} pieces is trained on the data and the model's text_vocab_size is "
                   f"{rows}: --gin.TEXT_VOCAB_SIZE={padded_size(flight.pieces)}, or give --tokenizer FILE")  # fmt: skip
        return
    try:
        given = Pieces.from_file(flight.tokenizer)
        own = Pieces.from_file(flight.start.tokenizer) if flight.start and flight.start.tokenizer else given
    except VocabularyError as error:
        yield str(error)
        return
    wrong = tokenizer_mismatch(given, rows=rows)
    if wrong:
        yield wrong
    if given.sha256 != own.sha256:
        yield (f"{given.source} is another tokenizer than the checkpoint was trained with ({own.source}, "
               f"{own.base_size} pieces, sha256 {own.sha256[:12]}); give that, or leave --tokenizer out")  # fmt: skip


def _stay_on_cpu() -> None:
    """Names and shapes need no accelerator, and a process that has taken a TPU keeps it from those that train."""
    import jax

    jax.config.update("jax_platforms", "cpu")
