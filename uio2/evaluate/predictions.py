"""Prediction files, format version 2: what a model said about each example, readable without the model.

    predictions.json                              {"format", "version", "tasks": {task: {"rows", "shards"}}}
    <task>/predictions-00000-of-00003.jsonl       line 1 the header, then one row per example
    <task>/predictions-00000-of-00003/12.png      the picture (or .npz, the spectrogram) of the example of index 12

Header: `format` = "uio2-predictions", `version` = 2, `task`, `split`, `shard`, `num_shards`, `rows`, `first_index`,
`decoding` {"method", ...} as in `uio2.evaluate.decoding`, `checkpoint` and `tokenizer` (artifact digests), `input_size`
[height, width] of the model's canvas in pixels.

Row:

| key | value |
|---|---|
| example_id | string, unique in the task |
| index | position in the task's evaluation order, 0, 1, ... without gaps |
| task | the header's |
| prompt | text the model was given |
| text | its output, special pieces as `<extra_id_k>`, up to the end marker |
| tokens | the output's token ids, up to the end marker |
| logprob | sum of the tokens' log-probabilities, end marker included, 5 decimals |
| targets | list of accepted answers; for VQA all annotators', for captions all references |
| image_id | id in the dataset |
| image_info | the 11 numbers that place the source image on the canvas (`uio2.tasks.locations.undo_box`) |
| true_box | `[y1, x1, y2, x2]` in source pixels, or null: the answer (referring expression) or question (box class) |
| question | what was asked in the dataset's own words: a question, an expression; empty where there is none |
| truth | object: what else the answer is scored against (`uio2.evaluate.truth`) |
| media | path, from the task's folder, of the picture or spectrogram that is the answer; null where it is a text |

Version 1 had neither `truth` nor `media`; its files are read as if both were empty.

A reader accepts a set only if it holds exactly one row per example. Shards appear by rename, `predictions.json` last.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uio2.pipeline.atomic import write_text

FORMAT = "uio2-predictions"
VERSION = 2
READABLE = (1, 2)
INDEX = "predictions.json"


class PredictionsError(Exception):
    """A prediction file that is missing, damaged, of another version, or without exactly one row per example."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One row; the fields are described in the module's docstring."""

    example_id: str
    index: int
    task: str
    prompt: str
    text: str
    tokens: tuple[int, ...]
    logprob: float
    targets: tuple[str, ...]
    image_id: int
    image_info: tuple[float, ...]
    true_box: tuple[float, float, float, float] | None = None
    question: str = ""
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    media: str | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, version: int) -> Prediction:
        """A row of a file of this format version; KeyError or TypeError if it is none."""
        row = {"truth": {}, "media": None, **row} if version == 1 else row
        fields = {f.name: row[f.name] for f in dataclasses.fields(cls)}
        for name in ("tokens", "targets", "image_info", "true_box"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Header:
    """The first line of a shard; the fields are described in the module's docstring."""

    task: str
    split: str
    shard: int
    num_shards: int
    rows: int
    first_index: int
    decoding: Mapping[str, Any]
    checkpoint: str
    tokenizer: str
    input_size: tuple[int, int]

    @classmethod
    def from_json(cls, line: Mapping[str, Any], *, path: Path) -> Header:
        """The header in a parsed first line; PredictionsError if it is of another format or version."""
        if line.get("format") != FORMAT or line.get("version") not in READABLE:
            raise PredictionsError(
                f"{path}: format {line.get('format')!r} version {line.get('version')!r}; this program reads "
                f"{FORMAT!r} version 1 and {VERSION}. Run `uio2 predict` again"
            )
        fields = {f.name: line[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**fields, "input_size": tuple(fields["input_size"])})


@dataclasses.dataclass(frozen=True)
class TaskPredictions:
    """All rows of one task in evaluation order, the header of its first shard, and the folder of its media."""

    header: Header
    rows: tuple[Prediction, ...]
    folder: Path


def shard_name(shard: int, num_shards: int) -> str:
    """File name of a shard."""
    return f"{shard_stem(shard, num_shards)}.jsonl"


def shard_stem(shard: int, num_shards: int) -> str:
    """The same without its ending: the folder of the shard's media."""
    return f"predictions-{shard:05d}-of-{num_shards:05d}"


def write_shard(folder: Path, *, header: Header, rows: Sequence[Prediction]) -> Path:
    """Writes one shard below `folder/<task>` through a rename and returns its path."""
    path = folder / header.task / shard_name(header.shard, header.num_shards)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"format": FORMAT, "version": VERSION, **dataclasses.asdict(header)}, *map(dataclasses.asdict, rows)]
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    return path


def write_index(folder: Path, *, tasks: Mapping[str, Mapping[str, int]]) -> None:
    """Writes `predictions.json`, the mark that all shards are there."""
    index = {"format": FORMAT, "version": VERSION, "tasks": tasks}
    write_text(folder / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")


def read_shard(path: Path) -> tuple[Header, list[Prediction]]:
    """Header and rows of one shard; PredictionsError if it is cut short, damaged or of another version."""
    number = 0
    try:
        with open(path, encoding="utf-8") as f:
            parsed = []
            for line in f:
                number += 1
                parsed.append(json.loads(line))
        header = Header.from_json(parsed[0], path=path)
        version = parsed[0]["version"]
        rows = [Prediction.from_json(row, version=version) for row in parsed[1:]]
    except FileNotFoundError as error:
        raise PredictionsError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise PredictionsError(f"{path}, line {max(number, 1)}: not a prediction file ({error!r})") from error
    if len(rows) != header.rows:
        raise PredictionsError(f"{path} holds {len(rows)} rows, its header says {header.rows}")
    return header, rows


def read_index(folder: Path) -> dict[str, dict[str, int]]:
    """`{task: {"rows", "shards"}}` of a set of predictions, in the order of their names."""
    try:
        index = json.loads((folder / INDEX).read_text())
        if index["format"] != FORMAT or index["version"] not in READABLE:
            raise PredictionsError(
                f"{folder / INDEX} is version {index['version']!r}, this program reads 1 and {VERSION}. Run "
                "`uio2 predict` again"
            )
        return {task: index["tasks"][task] for task in sorted(index["tasks"])}
    except FileNotFoundError as error:
        raise PredictionsError(f"{folder / INDEX} is missing; give the folder that `uio2 predict` wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PredictionsError(f"{folder / INDEX} is not an index of predictions ({error!r})") from error


def read_task(folder: Path, *, task: str) -> TaskPredictions:
    """Every row of one task; PredictionsError unless each example has exactly one."""
    expected = read_index(folder).get(task)
    if expected is None:
        raise PredictionsError(f"{folder} holds no predictions of task {task!r}")
    headers: list[Header] = []
    rows: list[Prediction] = []
    for shard in range(expected["shards"]):
        path = folder / task / shard_name(shard, expected["shards"])
        header, found = read_shard(path)
        _check_header(header, headers, shard=shard, num_shards=expected["shards"], task=task, path=path)
        headers.append(header)
        rows += found
    _check_rows(rows, expected=expected["rows"], task=task)
    return TaskPredictions(headers[0], tuple(rows), folder / task)


def read_part(folder: Path, *, task: str, shard: int, num_shards: int) -> TaskPredictions:
    """The rows of one shard alone; PredictionsError if it is not this shard."""
    path = folder / task / shard_name(shard, num_shards)
    header, rows = read_shard(path)
    _check_header(header, (), shard=shard, num_shards=num_shards, task=task, path=path)
    return TaskPredictions(header, tuple(rows), folder / task)


def check_parts(headers: Sequence[Header], *, places: Sequence[tuple[int, str]], expected: int, folder: Path) -> None:
    """The checks of `read_task` on shards that were read one by one.

    Args:
      headers: of all shards, in order.
      places: index and example id of every row, in order.
      expected: rows as the index of the set says.
      folder: of the set.
    """
    for shard, header in enumerate(headers):
        path = folder / header.task / shard_name(shard, len(headers))
        _check_header(
            header, headers[:1] if shard else (), shard=shard, num_shards=len(headers), task=header.task, path=path
        )
    _check_places(places, expected=expected, task=headers[0].task)


def read_all(folder: Path) -> Iterator[TaskPredictions]:
    """The predictions of each task in turn."""
    for task in read_index(folder):
        yield read_task(folder, task=task)


def _check_header(
    header: Header, earlier: Sequence[Header], *, shard: int, num_shards: int, task: str, path: Path
) -> None:
    said = (header.task, header.shard, header.num_shards)
    if said != (task, shard, num_shards):
        raise PredictionsError(
            f"{path}: its header says (task, shard, of) = {said}, expected {(task, shard, num_shards)}"
        )
    if earlier:
        same = ("split", "decoding", "checkpoint", "tokenizer", "input_size")
        differ = [name for name in same if getattr(header, name) != getattr(earlier[0], name)]
        if differ:
            raise PredictionsError(f"{path} differs from the first shard in {differ}: the shards are of different runs")


def _check_rows(rows: Sequence[Prediction], *, expected: int, task: str) -> None:
    for position, row in enumerate(rows):
        if row.task != task:
            raise PredictionsError(f"task {task!r}: row {position} is of task {row.task!r}")
    _check_places([(row.index, row.example_id) for row in rows], expected=expected, task=task)


def _check_places(places: Sequence[tuple[int, str]], *, expected: int, task: str) -> None:
    if len(places) != expected:
        raise PredictionsError(f"task {task!r}: {len(places)} rows, the index says {expected}")
    seen: set[str] = set()
    for position, (index, example) in enumerate(places):
        if index != position:
            raise PredictionsError(f"task {task!r}: row {position} has index {index}; rows are missing or repeated")
        if example in seen:
            raise PredictionsError(f"task {task!r}: example {example!r} has more than one row")
        seen.add(example)
