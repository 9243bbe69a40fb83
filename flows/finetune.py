"""Training by a recipe: the datasets its tasks need -> register -> train, from a checkpoint or from fresh parameters.

Reproduces: what the recipe says. Cost, score: in the head of each file of `configs/finetune` and `configs/pretrain`.
Run: uio2 train --gin_file=configs/models/large.gin --gin_file=configs/finetune/refexp.gin
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uio2.model.config import ModelConfig
from uio2.pipeline.gin_config import GinConfig, search
from uio2.pipeline.gin_names import Names, scan
from uio2.pipeline.operative import operative_gin
from uio2.pipeline.stage import Pipeline, Source, Stage, StageError, UsageError
from uio2.pipeline.store import Store
from uio2.tasks.families import TaskError, find_task
from uio2.tasks.mixtures import expand
from uio2.tasks.specs import REGISTER, TRAIN_TOKENIZER, RegisterSpec, TokenizerSpec
from uio2.tasks.task_list import stored
from uio2.train.model_choice import chosen, config_of
from uio2.train.recipe import FROM_CHECKPOINT, Recipe
from uio2.train.specs import TRAIN, TrainSpec

CONFIG = "configs/pipelines/finetune.gin"
RECIPES = ("configs/finetune", "configs/pretrain")
# A command line that sets one of these means a recipe.
MARKS = ("MODEL", "TASKS", "INITIAL_CHECKPOINT", "MODEL_DIR")


def is_recipe(gin_files: Sequence[str], bindings: Sequence[str]) -> bool:
    """Whether these files or bindings set what only a recipe has."""
    names = Names()
    for file in gin_files:
        path = search(file)
        scan(names, path.read_text(), place=str(path), find=search)
    given = {binding.partition("=")[0].strip() for binding in bindings} | names.macros.keys()
    return not given.isdisjoint(MARKS) or names.mentioned(Recipe)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A recipe, resolved.

    Attributes:
      recipe: where it starts, where results go.
      register, train, tokenizer: the specs of its stages; the last is used only where a tokenizer is trained.
      start: the checkpoint it starts from (`uio2.train.starting.Start`), or None.
    """

    recipe: Recipe
    register: RegisterSpec
    train: TrainSpec
    tokenizer: TokenizerSpec
    start: Any = None

    @property
    def config(self) -> ModelConfig:
        """The model that is trained."""
        return ModelConfig.from_dict(self.train.model_config)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets its tasks read, by input name."""
        return tuple(dict.fromkeys(find_task(name).dataset for name in self.register.rates))

    @property
    def tokenizer_path(self) -> Path | None:
        """The file given for it, else the checkpoint's; None where one is to be trained or nothing is known."""
        if self.recipe.tokenizer:
            return Path(self.recipe.tokenizer).expanduser()
        return self.start.tokenizer if self.start else None

    def text(self, *, trains_tokenizer: bool = False) -> str:
        """Every value of it as a gin file."""
        specs = {"recipe": self.recipe, **({"tokenizer": self.tokenizer} if trains_tokenizer else {})}
        return operative_gin({**specs, "register": self.register, "train": self.train})


def settings(gin_files: Sequence[str], bindings: Sequence[str], *, store: Store) -> Settings:
    """Resolves a recipe; touches no data.

    Args:
      gin_files: of the recipe and the model, in any order, after `CONFIG`.
      bindings: `X=Y`.
      store: where artifacts that the recipe names are.

    Raises:
      UsageError: a value cannot be meant, or there is no model, no task or no checkpoint of that name.
    """
    config = GinConfig.parse([CONFIG, *gin_files], bindings)
    recipe = config.spec(Recipe)
    if not recipe.tasks:
        raise UsageError(f"no TASKS: add --gin_file=RECIPE, one of {', '.join(recipe_files())}, or your own")
    try:
        expand(recipe.tasks)
    except TaskError as error:
        raise UsageError(f"TASKS: {error}") from error
    start = None
    if recipe.initial_checkpoint:
        from uio2.train.starting import find_start

        start = find_start(recipe.initial_checkpoint, store=store)
    model = model_of(recipe.model, start)
    fitted = sizes(config_of(model), bound=config.names.bound(RegisterSpec)) + _lengths(config_of(model), recipe)
    config = GinConfig.parse([CONFIG, *gin_files], [*bindings, f"MODEL={model!r}", *fitted])
    recipe = dataclasses.replace(config.spec(Recipe), model=recipe.model)
    found = Settings(recipe, config.spec(RegisterSpec), config.spec(TrainSpec), config.spec(TokenizerSpec), start)
    config.check_used(pipeline=recipe.pipeline, own=CONFIG)
    return found


def recipe_files() -> list[str]:
    """The recipes of the repository, as `--gin_file` takes them."""
    return [f"{folder}/{path.name}" for folder in RECIPES for path in sorted(search_folder(folder).glob("*.gin"))]


def search_folder(folder: str) -> Path:
    """A folder of the repository."""
    return search(CONFIG).parents[2] / folder


def model_of(given: str, start: Any) -> str:
    """The model as specs hold it: what is given, or what the checkpoint `start` says of itself.

    Raises:
      UsageError: neither is a model.
    """
    if given != FROM_CHECKPOINT:
        try:
            model = chosen(given)
            config_of(model)
        except StageError as error:
            raise UsageError(f"MODEL: {error}") from error
        return model
    if start is None:
        raise UsageError("no MODEL: add --gin_file=configs/models/SIZE.gin (tiny, base, large, xl, xxl, digits), or "
                         "--gin.MODEL=\"'config.json'\"; with INITIAL_CHECKPOINT its own config serves")  # fmt: skip
    config = start.checkpoint.config()
    if config is None:
        raise UsageError(f"no MODEL: {start.checkpoint.folder} is a T5X checkpoint, which holds no config; add "
                         "--gin_file=configs/models/SIZE.gin, or --gin.MODEL=\"'config.json'\"")  # fmt: skip
    return chosen(str(start.checkpoint.folder / "config.json"))


def sizes(config: ModelConfig, *, bound: set[str]) -> list[str]:
    """Bindings that make examples of the sizes the model takes, where the recipe does not bind them."""
    codec = config.image_codec
    found: dict[str, Any] = {
        "image_size": config.image_size,
        "image_patch_size": config.image_patch_size,
        "image_history_size": config.image_history_size,
        "audio_patch_size": config.audio_patch_size,
        "image_target_size": codec.image_size,
        "image_target_patch_size": codec.patch_size,
        "audio_target_patch_size": config.audio_codec.patch_size,
        "num_frames": min(RegisterSpec.num_frames, config.image_resampler.max_frames),
        "num_audio_segments": min(RegisterSpec.num_audio_segments, config.audio_resampler.max_frames),
    }
    return [f"tasks.RegisterSpec.{field}={value!r}" for field, value in found.items() if field not in bound]


def _lengths(config: ModelConfig, recipe: Recipe) -> list[str]:
    """Bindings of what else follows from model and tasks."""
    lengths = {
        "TEXT_INPUTS": (recipe.text_inputs, config.encoder_max_text_length),
        "TEXT_TARGETS": (recipe.text_targets, config.decoder_max_text_length),
    }
    families = sorted({find_task(name).prompts for name in expand(recipe.tasks)} - {""})
    texts = [f"{name}={most}" for name, (given, most) in lengths.items() if given is None]
    return [f"tasks.TokenizerSpec.prompts={tuple(families)!r}", *texts]


def find_datasets(tasks: Iterable[str], *, store: Store, given: Mapping[str, str]) -> dict[str, Path]:
    """Where each dataset of these tasks is that can be had: the folder given for it, else the newest of the store.

    Raises:
      UsageError: a folder is given for a dataset that no task reads.
    """
    read = tuple(dict.fromkeys(find_task(name).dataset for name in tasks))
    unknown = [name for name in given if name not in read]
    if unknown:
        raise UsageError(f"--dataset {unknown[0]}=...: no task of the recipe reads it; they read {read}")
    places: dict[str, Path] = {}
    for name in read:
        if name in given:
            places[name] = Path(given[name])
        elif artifact := stored(name, store=store):
            places[name] = artifact.path
    return places


def build(found: Settings, *, datasets: Mapping[str, Path], tokenizer: Path | None) -> Pipeline:
    """The pipeline.

    Args:
      found: the recipe.
      datasets: by input name, each a TFDS directory or the folder of a dataset artifact.
      tokenizer: a SentencePiece file or a tokenizer artifact; None trains one on the datasets.
    """
    data: dict[str, Stage | Source] = {name: Source(str(path)) for name, path in datasets.items()}
    stages: list[Stage] = []
    words: Stage | Source
    if tokenizer is None:
        words = Stage("tokenizer", TRAIN_TOKENIZER, found.tokenizer, data)
        stages.append(words)
    else:
        words = Source(str(tokenizer))
    mixture = Stage("register", REGISTER, found.register, {**data, "tokenizer": words})
    inputs: dict[str, Stage | Source] = {**data, "mixture": mixture, "tokenizer": words}
    if found.start is not None:
        inputs["initial"] = Source(str(found.start.source))
    return Pipeline(found.recipe.pipeline, (*stages, mixture, Stage("train", TRAIN, found.train, inputs)))


@dataclasses.dataclass(frozen=True)
class Ready:
    """A recipe that was found able to run: what it says, its stages, and every value of it as a gin file."""

    found: Settings
    pipeline: Pipeline
    text: str

    @property
    def model_dir(self) -> Path | None:
        """Where the user wants the finished checkpoint besides."""
        given = self.found.recipe.model_dir
        return Path(given).expanduser() if given else None


def prepared(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    *,
    store: Store,
    given: Mapping[str, str],
    devices: int | None = None,
) -> Ready:
    """Resolves a recipe and checks that it can work.

    Args:
      gin_files, bindings, store: as for `settings`.
      given: folders of datasets by input name; the others are the newest of the store.
      devices: over how many batches are split; None where that is not known yet.

    Raises:
      UsageError: all that is wrong, a line each.
    """
    from uio2.train import preflight
    from uio2.train.model_dir import objection

    found = settings(gin_files, bindings, store=store)
    datasets = find_datasets(found.register.rates, store=store, given=given)
    tokenizer = found.tokenizer_path
    flight = preflight.Flight(
        register=found.register, train=found.train, datasets=datasets, start=found.start, tokenizer=tokenizer,
        pieces=found.tokenizer.vocab_size, devices=devices,
    )  # fmt: skip
    text = found.text(trains_tokenizer=tokenizer is None)
    problems = list(preflight.problems(flight))
    if found.recipe.model_dir:
        problems += filter(None, [objection(Path(found.recipe.model_dir).expanduser(), text)])
    preflight.refuse(problems)
    return Ready(found, build(found, datasets=datasets, tokenizer=tokenizer), text)
