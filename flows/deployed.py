"""The flows that `prefect.yaml` deploys: typed parameters in, artifacts of the store out.

Each is the same pipeline as the command of its name (`uio2 build ...`, `uio2 run digits`), so what one has made the
other reuses. The store is `UIO2_HOME` of the work pool; where Beam runs is `UIO2_BEAM_OPTIONS`, or a flow's
`beam_options`; neither is part of a recipe.

Run: prefect deployment run build-coco -p images=train2017 -p annotations=annotations
"""

# No postponed annotations: Prefect loads this file by its path, outside sys.modules, where they cannot be resolved.
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import build, nightly, pipelines, tokenizer
from flows import evaluate as evaluations
from flows import finetune as recipes
from flows.checks import check_beam_options, check_sources
from flows.stages import run_stages
from uio2.evaluate.gate import refuse
from uio2.pipeline.console import Console
from uio2.pipeline.execution import Execution
from uio2.pipeline.plan import upstream
from uio2.pipeline.runner import Runner
from uio2.pipeline.stage import Pipeline
from uio2.pipeline.store import Store
from uio2.pipeline.tracking import open_tracker

ATTEMPTS = 3
BEAM_OPTIONS = "UIO2_BEAM_OPTIONS"

Made = list[dict[str, str]]
Limit = Annotated[int, Field(ge=1)] | None
Shards = Annotated[int, Field(ge=1)]
Bindings = tuple[str, ...]
Names = tuple[str, ...]

_options: Any = {"task_runner": ThreadPoolTaskRunner(max_workers=2), "persist_result": False, "log_prints": False}


@flow(name="build-coco", **_options)
def build_coco(
    images: str, annotations: str, vqa: str = "", limit: Limit = None, num_shards: Shards = 8,
    gin: Bindings = (), beam_options: str = "",
) -> Made:  # fmt: skip
    """COCO: images with captions, boxes, keypoints and, with a VQA folder, questions.

    Args:
        images: folder with the images, in subfolders as the annotations name them or not.
        annotations: folder with instances, captions and person_keypoints JSON.
        vqa: folder with VQA v2 questions and answers; empty for none.
        limit: records of each split, by hashed key; none for all.
        num_shards: files of each split.
        gin: gin bindings, one value each, for example data.CocoSpec.masks=True.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    return _build(
        ["coco"], {"images": images, "annotations": annotations, "vqa": vqa}, limit, num_shards, gin, beam_options
    )


@flow(name="build-refcoco", **_options)
def build_refcoco(
    images: str, refer: str, dataset: Literal["refcoco", "refcoco-plus", "refcocog"] = "refcoco",
    limit: Limit = None, num_shards: Shards = 8, gin: Bindings = (), beam_options: str = "",
) -> Made:  # fmt: skip
    """Referring expressions of a REFER folder.

    Args:
        images: folder with COCO's images.
        refer: folder of REFER, with refcoco, refcoco+ or refcocog below it.
        dataset: which of them.
        limit: records of each split, by hashed key; none for all.
        num_shards: files of each split.
        gin: gin bindings, one value each, for example data.RefCocoSpec.split_by='umd'.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    return _build([dataset], {"images": images, "refer": refer}, limit, num_shards, gin, beam_options)


@flow(name="build-vqa", **_options)
def build_vqa(
    images: str, annotations: str, limit: Limit = None, num_shards: Shards = 8, gin: Bindings = (),
    beam_options: str = "",
) -> Made:  # fmt: skip
    """Questions about pictures with answers to choose from.

    Args:
        images: folder with the images.
        annotations: file or folder with the questions.
        limit: records of each split, by hashed key; none for all.
        num_shards: files of each split.
        gin: gin bindings, one value each, for example data.VqaOptionsSpec.validation_fraction=0.1.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    return _build(["vqa-options"], {"images": images, "annotations": annotations}, limit, num_shards, gin, beam_options)


@flow(name="build-instructions", **_options)
def build_instructions(
    text: str,
    dataset: Literal["alpaca", "dolly", "flan2021", "flan-t0", "flan-niv2", "flan-cot", "flan-dialog"] = "alpaca",
    limit: Limit = None, num_shards: Shards = 8, gin: Bindings = (), beam_options: str = "",
) -> Made:  # fmt: skip
    """Instructions with responses, from JSON, JSON lines or Parquet.

    Args:
        text: file or folder with the instructions.
        dataset: what they become.
        limit: records of each split, by hashed key; none for all.
        num_shards: files of each split.
        gin: gin bindings, one value each, for example data.InstructionsSpec.validation_fraction=0.1.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    return _build([dataset], {"text": text}, limit, num_shards, gin, beam_options)


@flow(name="build-audio", **_options)
def build_audio(
    audio: str, annotations: str = "", dataset: Literal["audio", "audio-tags", "speech"] = "audio",
    limit: Limit = None, num_shards: Shards = 8, gin: Bindings = (), beam_options: str = "",
) -> Made:  # fmt: skip
    """Sound with captions, labels or transcripts.

    Args:
        audio: folder with the clips.
        annotations: file or folder with their texts; empty where they lie among the clips.
        dataset: captions (audio), labels (audio-tags) or transcripts (speech).
        limit: records of each split, by hashed key; none for all.
        num_shards: files of each split.
        gin: gin bindings, one value each, for example data.SpeechSpec.validation_fraction=0.1.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    return _build([dataset], {"audio": audio, "annotations": annotations}, limit, num_shards, gin, beam_options)


@flow(name="build-video", **_options)
def build_video(
    video: str, annotations: str = "", limit: Limit = None, num_shards: Shards = 8, gin: Bindings = (),
    beam_options: str = "",
) -> Made:  # fmt: skip
    """Clips with captions, labels and questions.

    Args:
        video: folder with the clips.
        annotations: file or folder with their texts; empty where they lie among the clips.
        limit: records of each split, by hashed key; none for all.
        num_shards: files of each split.
        gin: gin bindings, one value each, for example data.VideoSpec.validation_fraction=0.1.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    return _build(["video"], {"video": video, "annotations": annotations}, limit, num_shards, gin, beam_options)


@flow(name="digits", **_options)
def digits(gin: Bindings = ()) -> Made:
    """The embedded default, from handwritten digits to a registered model.

    Args:
        gin: gin bindings, one value each, for example STEPS=20.
    """
    return run_pipeline(pipelines.build("digits", bindings=gin))


@flow(name="finetune", **_options)
def finetune(
    recipe: str, model: str = "", initial_checkpoint: str = "", tokenizer: str = "", datasets: dict[str, str] = {},  # noqa: B006
    gin: Bindings = (),
) -> Made:  # fmt: skip
    """Training by a recipe, as `uio2 train` does it, checked before anything starts.

    Args:
        recipe: a file of configs/finetune or configs/pretrain, or your own.
        model: a file of configs/models; empty where the checkpoint says what it is.
        initial_checkpoint: model or artifact of the store, or a folder (ours, T5X, Hugging Face); empty to start anew.
        tokenizer: a SentencePiece model; empty for the checkpoint's own, or one trained on the data.
        datasets: TFDS folders by name, for example {"alpaca": "data/alpaca"}; the others are the newest of the store.
        gin: gin bindings, one value each, for example STEPS=20.
    """
    names = {"INITIAL_CHECKPOINT": initial_checkpoint, "TOKENIZER": tokenizer}
    given = [f"{name}={value!r}" for name, value in names.items() if value]
    files = [file for file in (model, recipe) if file]
    ready = recipes.prepared(files, [*given, *gin], store=Store(None).prepare(), given=datasets)
    return run_pipeline(ready.pipeline)


@flow(name="train-tokenizer", **_options)
def train_tokenizer(
    datasets: Names = (), folders: dict[str, str] = {}, vocab_size: Annotated[int, Field(ge=300)] = 16000,  # noqa: B006
    model_type: Literal["bpe", "unigram"] = "bpe", max_sentences: Annotated[int, Field(ge=1)] = 1_000_000,
    prompts: Names = (),
) -> Made:  # fmt: skip
    """A tokenizer on the texts of datasets, for a model that starts from fresh parameters.

    Args:
        datasets: names of datasets, for example ["coco", "alpaca"]; the newest of the store is read.
        folders: TFDS folders by dataset name, for example {"alpaca": "data/alpaca"}.
        vocab_size: pieces, bytes and control pieces included; the 1225 special pieces come on top.
        model_type: bpe, as the published model, or unigram.
        max_sentences: texts that are used at most, taken at an even stride.
        prompts: prompt families whose wording is trained on too; empty for those of the tasks that read the datasets.
    """
    settings: dict[str, Any] = {"vocab_size": vocab_size, "model_type": model_type, "max_sentences": max_sentences}
    if prompts:
        settings["prompts"] = prompts
    return run_pipeline(tokenizer.pipeline_of(datasets, folders, store=Store(None).prepare(), settings=settings))


# Of the flow finetune too: a fine-tune with what a schedule needs around it.
@flow(name="finetune", **_options)
def finetune_nightly(
    model_name: str, sources: dict[str, str], recipe: str, suite: str, initial_checkpoint: str = "",
    builds: Names = ("refcoco",), model: str = "", tokenizer: str = "", improve: str = "refexp/acc",
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.05, max_fall: dict[str, float] = {},  # noqa: B006
    gin: Bindings = (), suite_gin: Bindings = (), limit: Limit = None, num_shards: Shards = 8, beam_options: str = "",
) -> Made:  # fmt: skip
    """A night: build the datasets, fine-tune from the champion, evaluate both, promote what is better.

    A night without new data or settings finds everything published and ends soon.

    Args:
        model_name: in the model registry; a night starts from its champion, and what is better takes its place.
        sources: folders of raw files by role, for example {"images": "train2014", "refer": "refer"}.
        recipe: a file of configs/finetune, or your own.
        suite: a file of configs/evaluate, or your own; its gate must be passed too.
        initial_checkpoint: where to start while there is no champion, as for the deployment finetune.
        builds: datasets that are built from the sources; others that are read are the newest of the store.
        model: a file of configs/models; empty where the checkpoint says what it is.
        tokenizer: a SentencePiece model; empty for the checkpoint's own.
        improve: the metric in which the champion must be beaten; empty to ask for no improvement.
        significance: largest p of the paired test of that.
        max_fall: metrics that may fall behind the champion's, by so much and no more, for example {"refexp/iou": 0.01}.
        gin: gin bindings of the recipe, one value each, for example STEPS=20.
        suite_gin: gin bindings of the suite, one value each, for example LIMIT=1000.
        limit: records of each split of the built datasets, by hashed key; none for all.
        num_shards: files of each split.
        beam_options: where Beam runs, for example --runner=DataflowRunner --region=europe-west4; empty for here.
    """
    store = Store(None).prepare()
    words = (f"TOKENIZER={tokenizer!r}",) if tokenizer else ()
    files = (model,) if model else ()
    settings = nightly.Settings(
        model_name=model_name, name=f"{model_name}-nightly", initial_checkpoint=initial_checkpoint,
        recipe=(*files, recipe), gin=(*words, *gin), suite=(*files, suite), suite_gin=(*words, *suite_gin),
        improve=improve, significance=significance, max_fall=max_fall,
    )  # fmt: skip
    nightly.check(settings, store=store)
    made = _build(builds, sources, limit, num_shards, (), beam_options)
    tonight = nightly.night(settings, datasets=nightly.built(builds, made), store=store)
    get_run_logger().info(tonight.about)
    return made + run_pipeline(tonight.pipeline)


@flow(name="evaluate", **_options)
def evaluate(
    suite: str, checkpoint: str, model: str = "", tokenizer: str = "", datasets: dict[str, str] = {},  # noqa: B006
    limit: Annotated[int, Field(ge=0)] = 0, gin: Bindings = (),
) -> Made:  # fmt: skip
    """A checkpoint by a suite, as `uio2 evaluate` does it: the flow fails where its gate is not passed.

    Args:
        suite: a file of configs/evaluate, or your own.
        checkpoint: model or artifact of the store, or a folder (ours, T5X, Hugging Face).
        model: a file of configs/models; empty where the checkpoint says what it is.
        tokenizer: a SentencePiece model; empty for the checkpoint's own.
        datasets: TFDS folders by name, for example {"refcoco": "data/ref_coco"}; the others are the store's newest.
        limit: examples of each task; 0 for all.
        gin: gin bindings, one value each, for example SPLIT='test'.
    """
    given = {"CHECKPOINT": checkpoint, "TOKENIZER": tokenizer, "LIMIT": limit}
    bindings = [f"{name}={value!r}" for name, value in given.items() if value]
    files = [file for file in (model, suite) if file]
    ready = evaluations.prepared(files, [*gin, *bindings], store=Store(None).prepare(), given=datasets)
    made = run_pipeline(ready.pipeline)
    for artifact in made:
        if artifact["name"].endswith("/gate"):
            refuse(Path(artifact["uri"]))
    return made


@flow(name="pipeline", **_options)
def pipeline(name: str, sources: dict[str, str] = {}, gin: Bindings = ()) -> Made:  # noqa: B006 - Prefect copies it
    """Any pipeline, as `uio2 run` takes it.

    Args:
        name: digits, coco, or a module of your own that the worker can import.
        sources: folders by role, for example {"images": "train2017", "annotations": "annotations"}.
        gin: gin bindings, one value each, for example STEPS=20.
    """
    return run_pipeline(pipelines.build(name, bindings=gin, sources=sources))


def _build(
    names: Sequence[str], sources: Mapping[str, str], limit: int | None, num_shards: int, gin: Sequence[str],
    beam_options: str,
) -> Made:  # fmt: skip
    given = {role: path for role, path in sources.items() if path}
    pipeline = build.pipeline_of(names, given, bindings=gin)
    check_sources(given)
    check_beam_options(beam_options)
    stages = [
        dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, limit=limit, num_shards=num_shards))
        if stage.type.kind == "dataset"
        else stage
        for stage in pipeline.stages
    ]
    if beam_options:
        os.environ[BEAM_OPTIONS] = beam_options
    return run_pipeline(Pipeline(pipeline.name, tuple(stages)))


def run_pipeline(pipeline: Pipeline, *, only: Sequence[str] = ()) -> Made:
    """Runs a pipeline, or the stages `only` with what they need, as tasks of the current flow."""
    store = Store(None).prepare()
    console = Console()
    tracker = open_tracker(store, pipeline=pipeline.name, console=console)
    runner = Runner(store, pipeline=pipeline.name, console=console, tracker=tracker)
    try:
        execution = Execution(pipeline, runner, stages=upstream(pipeline, only) if only else None)
        execution.account("running")
        try:
            made = run_stages(execution, attempts=ATTEMPTS)
        except BaseException as error:
            execution.account("failed" if isinstance(error, Exception) else "stopped")
            raise
        execution.account("finished")
    finally:
        tracker.close()
    return made
