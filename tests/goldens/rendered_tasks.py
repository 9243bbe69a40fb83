"""One example of a task as text: from the tiny COCO fixture through the builders' own code and all three stages.

The datasets are written without Beam (the same reading, joining, encoding and metadata, in one process), because what
is under test here is what a task makes of a record.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from beam_jobs import coco, refcoco, sources
from beam_jobs.job import Info, Job, Record, Row, order
from beam_jobs.shards import write_shard
from beam_jobs.specs import CocoSpec, RefCocoSpec
from beam_jobs.tfds_metadata import write_metadata
from tests.tiny import audio as tiny_audio
from tests.tiny import pictures as tiny_pictures
from tests.tiny import texts as tiny_texts
from tests.tiny import videos as tiny_videos
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.stage import StageContext
from uio2.tasks import tokenizer_stage
from uio2.tasks.eval_feed import eval_examples
from uio2.tasks.families import find_task
from uio2.tasks.mixture import Mixture, make_mixture
from uio2.tasks.specs import RegisterSpec, TokenizerSpec
from uio2.tasks.task import NUM_DRAWS

# Datasets by input name that need no files: each is written straight from Python by a module of `tests.tiny`.
TINY: dict[str, Callable[[Path], Path]] = {
    "audio": tiny_audio.build,
    "depth": tiny_pictures.depth,
    "normals": tiny_pictures.normals,
    "regions": tiny_pictures.regions,
    "image_text": tiny_pictures.image_text,
    "vqa_options": tiny_pictures.vqa_options,
    "coco-people": tiny_pictures.coco,
    "audio_tags": tiny_audio.build_tags,
    "speech": tiny_audio.build_speech,
    "video": tiny_videos.build,
    **{
        name: functools.partial(tiny_texts.build, name=name)
        for name in ("alpaca", "dolly", "flan2_flan2021", "flan2_t0", "flan2_niv2", "flan2_cot", "flan2_dialog")
    },
}
# Tasks that read something which the fixture's records of their dataset do not hold.
ELSEWHERE = {"keypoints_coco_2017": "coco-people", "segmentation_coco_2017": "coco-people"}
FIXTURE = Path(__file__).parents[1] / "fixtures" / "coco_tiny"
SIZES = {"image_size": (96, 96), "image_patch_size": 16, "text_inputs": 40, "text_targets": 32,
         "image_history_size": (32, 32), "num_frames": 2, "num_audio_segments": 1,
         "image_target_size": (64, 64)}  # fmt: skip
TOKENIZER = TokenizerSpec(vocab_size=400)
VERSION = "1.0.0"
DRAW = 0.5


def render(name: str) -> str:
    """The first evaluation example of a task, and the first training record with every draw at 0.5."""
    mixture = _mixture(name)
    task = mixture.task(name)
    lines = [f"# {name}: dataset {task.dataset}, prompts {task.prompts}, metrics {task.score}", "", "# evaluation"]
    found = next(eval_examples(mixture, task=name, batch_size=1, limit=1))
    lines += [f"{key} = {_shown(value)}" for key, value in found.metadata[0].items()]
    lines += [""] + [_feature(key, value[0], mixture) for key, value in found.batch.items()]
    lines += ["", f"# training, every draw {DRAW}"]
    example = _training_example(mixture, name)
    texts = {key: example[key].numpy().decode() for key in ("text_inputs", "text_targets", "meta/example_id")}
    lines += [f"{key} = {text!r}" for key, text in texts.items()]
    lines += [f"{key} = {_shown(example[key].numpy().tolist())}" for key in ("meta/image_info", "meta/box")]
    return "\n".join(lines) + "\n"


def _mixture(name: str) -> Mixture:
    """One task, with the modalities it has, and a tokenizer trained on the text of COCO and RefCOCO."""
    task = find_task(name)
    recipe = RegisterSpec(
        rates={name: 1.0}, input_modalities=("text", *task.takes), target_modalities=(task.makes,), **SIZES
    )
    stored = _dataset(ELSEWHERE.get(name, task.dataset))
    return make_mixture(recipe, datasets={task.dataset: stored}, tokenizer=_tokenizer())


@functools.cache
def _dataset(name: str) -> Path:
    """The dataset of an input name; the folder lives as long as the process."""
    folder = Path(_kept_folder().name)
    if name not in TINY:
        return _from_fixture(folder)["refcoco" if name.startswith("refcoco") else name]
    return TINY[name](folder / name)


@functools.cache
def _from_fixture(folder: Path) -> dict[str, Path]:
    """Files in COCO's and REFER's layout, through the builders' own code."""
    images, spec = FIXTURE / "images", CocoSpec()
    folders = sources.subfolders(images)
    files = (*coco.annotation_files(FIXTURE / "annotations"), *coco.vqa_files(FIXTURE / "vqa"))
    refs = refcoco.choose_refs(FIXTURE / "refer", dataset="", split_by="")
    pair = (("refs", str(refs)), ("instances", str(refs.with_name("instances.json"))))
    return {
        "coco": _write(coco.CocoJob(files, str(images), folders, spec.max_pixels), folder),
        "refcoco": _write(refcoco.RefCocoJob(pair, str(images), folders, RefCocoSpec().max_pixels), folder),
    }


@functools.cache
def _kept_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="uio2-goldens-")


def _write(job: Job, folder: Path) -> Path:
    rows: dict[Any, dict[str, list]] = {}
    info: dict[str, list] = {}
    for source in job.sources():
        for item in job.read(source):
            if isinstance(item, Row):
                rows.setdefault(item.key, {kind: [] for kind in job.join_kinds})[item.kind].append(item.value)
            elif isinstance(item, Info):
                info.setdefault(item.kind, []).append(item.value)
    joined = [item for key, kinds in rows.items() for item in job.assemble(key, kinds, info)]
    records = [item for item in joined if isinstance(item, Record)]
    out = folder / job.name / VERSION
    shards = {}
    for split in sorted({record.split for record in records}):
        found = [(order(job.name, split, record.key), record) for record in records if record.split == split]
        ordered = sorted(found, key=lambda pair: pair[0])
        shard = write_shard(job, split=split, index=0, num_shards=1, ordered=ordered, folder=str(out))
        shards[split] = [(shard.records, shard.bytes)]
    write_metadata(out, name=job.name, version=VERSION, description="", features=job.features(info), shards=shards)
    return out


@functools.cache
def _tokenizer() -> Path:
    folder = Path(_kept_folder().name)
    datasets, out = _from_fixture(folder), folder / "tokenizer"
    out.mkdir()
    inputs = {
        key: Artifact("dataset", f"goldens/{key}", "1", str(path), "", stats={"tfds_dir": "."})
        for key, path in datasets.items()
    }
    tokenizer_stage.run(TOKENIZER, StageContext(inputs, out, folder, lambda *_: None, lambda *_: None))
    return out


def _training_example(mixture: Mixture, name: str) -> Mapping[str, tf.Tensor]:
    row = np.flatnonzero(mixture.counts(name, "train"))[:1]
    (data,) = mixture.dataset(name).reader("train").read(row)
    record = mixture.parser(name)(tf.constant(data))
    prepare = mixture.preprocessor(name, training=True)  # for one record, tracing a graph takes ten times as long
    return prepare(record, tf.constant(0), tf.fill([NUM_DRAWS], DRAW))


def _feature(key: str, value: np.ndarray, mixture: Mixture) -> str:
    """Shape and dtype, and the pieces of texts, the values of numbers or the mean and deviation of pixels."""
    head = f"{key}  {value.dtype}{list(value.shape)}"
    if value.dtype == np.float32:
        return f"{head}  mean {value.mean():.2f}, deviation {value.std():.2f}"
    if key.endswith(("tokens", "targets", "inputs")):
        used = [np.trim_zeros(row, "b") for row in np.atleast_2d(value)]
        return f"{head}  {' | '.join(' '.join(map(mixture.vocabulary.piece, row)) for row in used)}"
    return f"{head}  {_run_lengths(value)}"


def _run_lengths(value: np.ndarray) -> str:
    """`0..14, 0 x17`: counting up as a range, equal pieces as a count."""
    pieces: list[str] = []
    for run in np.split(value, np.flatnonzero(np.diff(value) != 1) + 1):
        pieces += [f"{run[0]}..{run[-1]}"] if len(run) > 2 else [str(v) for v in run]
    counted = [(piece, len(list(same))) for piece, same in itertools.groupby(pieces)]
    return ", ".join(f"{piece} x{n}" if n > 1 else piece for piece, n in counted)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and not value.replace("\n", " ").replace("\t", " ").isprintable():
        return "a file"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)
