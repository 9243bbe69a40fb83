"""Stage `build-instructions`: one example per instruction with its response: Alpaca, Dolly, FLAN and their like.

    key: text    instruction: text    context: text    response: text    source: text (name of the sub-task)

Sources are tables (`beam_jobs.tables`) with the columns of any of these: `instruction, input, output` (Alpaca),
`instruction, context, response, category` (Dolly), `inputs, targets, task_name` (FLAN), `prompt, completion` (T0). A
row with `instances` (Alpaca's seed tasks) is one example per instance.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import sources, tables
from beam_jobs.build import build_as
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.job import Info, Record, Row
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_INSTRUCTIONS, InstructionsSpec
from beam_jobs.table_job import Parsed, TableFile, TableJob, table_files
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext

INSTRUCTION = ("instruction", "inputs", "inputs_pretokenized", "prompt", "question")
CONTEXT = ("context", "input")
RESPONSE = ("response", "output", "targets", "targets_pretokenized", "completion", "answer")
SOURCE = ("category", "task_name", "_task_name", "template", "name")
# Which sub-mixture of FLAN v2 a row belongs to, and how published copies spell each.
MIXTURE = ("_task_source", "task_source")
MIXTURES = {
    "flan2_flan2021": ("flan2021", "flan"),
    "flan2_t0": ("t0", "p3"),
    "flan2_niv2": ("niv2", "natinst"),
    "flan2_cot": ("cot",),
    "flan2_dialog": ("dialog",),
}
# Marks that exports of tokenised text leave at the end of a response.
_ENDS = ("<|endoftext|>", "</s>")
EXPECTED = "JSON, JSON lines, CSV, TSV or Parquet with an instruction (or inputs, prompt) and a response in each row"
DESCRIPTION = "Instructions with optional context and their responses."


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructionsJob(TableJob):
    """Settings and paths of one build; `mixtures` are the spellings of the wanted sub-mixture, () for all rows."""

    mixtures: tuple[str, ...]
    record_kind: str = "instruction"
    row_kind: str = "instruction"

    def items(self, source: TableFile) -> Iterator[tables.Item]:
        for index, item in tables.rows(source.path):
            if isinstance(item, Mapping) and isinstance(item.get("instances"), list):
                yield from ((index, _instance(item, number)) for number in range(len(item["instances"])))
            else:
                yield index, item

    def read(self, source: TableFile) -> Iterator[Row | Letter | Info]:
        others: Counter[str] = Counter()
        for item in super().read(source):
            if isinstance(item, Row) and not self._wanted(mixture := item.value["value"].pop("mixture")):
                others[mixture] += 1
            else:
                yield item
        if others:
            # One letter for all of them: such tables hold tens of millions of rows.
            told = ", ".join(f"{n} of {name}" for name, n in sorted(others.items()))
            drops = {"instruction": others.total()}
            yield Letter(source.name, "instruction", "read", "other_mixture", told, source.name, drops, fault=False)

    def _wanted(self, mixture: str) -> bool:
        plain = "".join(c for c in mixture.lower() if c.isalnum())
        return not mixture or not self.mixtures or any(plain.startswith(name) for name in self.mixtures)

    def parse(self, row: Mapping[str, Any], source: TableFile, index: int) -> Parsed:
        value = {
            "instruction": tables.text_of(row, INSTRUCTION),
            "context": tables.text_of(row, CONTEXT, required=False),
            "response": _without_end(tables.text_of(row, RESPONSE)),
            "source": tables.text_of(row, SOURCE, required=False),
            "mixture": tables.text_of(row, MIXTURE, required=False),
        }
        return Parsed(f"{source.name}:{index}{row.get('#instance', '')}", value)

    def encode(self, record: Record) -> bytes:
        return Example(strings={"key": [record.key], **{k: [v] for k, v in record.value.items()}}).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {"instruction": 1}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        f = tfds.features
        return f.FeaturesDict({k: f.Text() for k in ("key", "instruction", "context", "response", "source")})


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_INSTRUCTIONS, options)


def job_of(spec: InstructionsSpec, roots: Mapping[str, AnyPlace]) -> InstructionsJob:
    """The job of a recipe on the files of `roots`."""
    text = sources.required(roots, "text", wanted_by=f"build of {spec.dataset}")
    return InstructionsJob(
        files=table_files(text, role="text", expected=EXPECTED),
        validation_fraction=spec.validation_fraction,
        name=spec.dataset,
        mixtures=MIXTURES.get(spec.dataset, ()),
    )


def run(spec: InstructionsSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds the dataset `spec.dataset` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _instance(row: Mapping[str, Any], number: int) -> Mapping[str, Any] | BadRecord:
    instance = row["instances"][number]
    if not isinstance(instance, Mapping):
        return BadRecord("not_an_object", f"instances holds a {type(instance).__name__}; expected objects")
    return {**row, **instance, "#instance": f".{number}" if number else ""}


def _without_end(text: str) -> str:
    for end in _ENDS:
        text = text.removesuffix(end).rstrip()
    if not text:
        raise BadRecord("empty_text", "the response holds nothing but an end mark")
    return text
