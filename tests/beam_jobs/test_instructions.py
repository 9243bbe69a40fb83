"""`build-instructions`: one schema from the field's spellings, and no row lost on the way."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from beam_jobs.specs import BUILD_INSTRUCTIONS, InstructionsSpec
from tests.beam_jobs.conftest import SHARED, Built, at, lines, needs_shared, pointing, run_stage
from uio2.pipeline.stage import StageError

ALPACA = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}\nand {n}"} for n in range(30)]
DOLLY = [{"instruction": "Why?", "context": "A text.", "response": "Because.", "category": "closed_qa"}]
FLAN = [
    {"inputs": "Premise: a. Is b?", "targets": "yes", "_task_source": "Flan2021", "_task_name": "anli_r1"},
    {"inputs": "Who wrote it?", "targets": "She.", "_task_source": "P3", "_task_name": "adversarial_qa"},
    {"inputs": "And then?", "targets": "Then.", "_task_source": "T0", "_task_name": "quail"},
]


def _text(folder: Path) -> Path:
    (folder / "text").mkdir(parents=True)
    return folder / "text"


def _values(built: Built) -> set[tuple[str, ...]]:
    fields = ("instruction", "context", "response", "source")
    return {
        tuple(e[name].decode() for name in fields) for split in built.stats["splits"] for e in built.examples(split)
    }


def test_alpaca_keeps_every_text_and_holds_some_back_by_hash(tmp_path: Path):
    (_text(tmp_path / "raw") / "alpaca.json").write_text(json.dumps(ALPACA))
    spec = InstructionsSpec(validation_fraction=0.3)
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path / "a", raw=at(tmp_path / "raw"))
    assert _values(built) == {(r["instruction"], "", r["output"], "") for r in ALPACA}
    assert 2 <= built.stats["splits"]["validation"] <= 18
    assert built.stats["dataset"] == "alpaca"
    again = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path / "b", raw=at(tmp_path / "raw"))
    assert again.shards() == built.shards()


def test_every_kind_of_table_gives_the_same_texts(tmp_path: Path):
    text = _text(tmp_path / "raw")
    lines(text / "rows.jsonl", DOLLY)
    (text / "packed.jsonl.gz").write_bytes(gzip.compress((json.dumps(DOLLY[0] | {"instruction": "gz?"})).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([DOLLY[0] | {"instruction": "pq?"}]), text / "p.parquet")
    (text / "t.csv").write_text('instruction,context,response\ncsv?,"a, b",c\n')
    (text / "t.tsv").write_text('instruction\tcontext\tresponse\ntsv?\tsaid "a\tc\n')
    spec = InstructionsSpec(dataset="dolly", validation_fraction=0.0)
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path, raw=at(tmp_path / "raw"))
    rows = {("A text.", "Because.", "closed_qa")}
    assert _values(built) == {
        *((question, *rest) for question in ("Why?", "gz?", "pq?") for rest in rows),
        ("csv?", "a, b", "c", ""),
        ("tsv?", 'said "a', "c", ""),
    }


def test_a_sub_mixture_takes_its_own_rows_and_counts_the_others(tmp_path: Path):
    lines(_text(tmp_path / "raw") / "flan_train.jsonl", FLAN)
    spec = InstructionsSpec(dataset="flan2_t0")
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert {value[3] for value in _values(built)} == {"adversarial_qa", "quail"}
    (letter,) = built.letters()
    assert (letter["reason"], letter["error"], letter["fault"]) == ("other_mixture", "1 of Flan2021", False)
    built.check_counts()
    assert built.stats["records"]["instruction"]["in"] == 3


def test_bad_rows_become_dead_letters(tmp_path: Path):
    text = _text(tmp_path / "raw")
    good = json.dumps(ALPACA[0]).encode()
    bad = [b"{broken", b"[1]", b'{"instruction": "a", "output": " "}', b'{"input": "a"}',
           b'{"instruction": "\\ud83d", "output": "b"}', b'{"instruction": "\xff", "output": "b"}',
           b'{"instruction": ["a"], "output": "b"}']  # fmt: skip
    (text / "a.jsonl").write_bytes(b"\n".join([*bad, b"", good]))
    (text / "b.csv").write_text('instruction,output\na,b\nonly one\n1,2,3\n"x"y,z\nlast,"never closed')
    spec = InstructionsSpec(max_dropped_fraction=0.95)
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert built.reasons() == {
        "a.jsonl:0": "not_json",
        "a.jsonl:1": "not_an_object",
        "a.jsonl:2": "empty_text",
        "a.jsonl:3": "missing_field",
        "a.jsonl:4": "bad_text",
        "a.jsonl:5": "bad_text",
        "a.jsonl:6": "wrong_type",
        "b.csv:2": "cell_count",
        "b.csv:3": "cell_count",
        "b.csv:4": "bad_csv",
        "b.csv:5": "bad_csv",
    }
    built.check_counts()


def test_limit_and_shards(tmp_path: Path):
    lines(_text(tmp_path / "raw") / "train.jsonl", ALPACA)
    spec = InstructionsSpec(limit=7, num_shards=3)
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path, raw=at(tmp_path / "raw"))
    assert built.stats["splits"] == {"train": 7}
    assert built.stats["records"]["instruction"] == {"in": 30, "written": 7, "dropped": {}, "over_limit": 23}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"data": [', "expected a list of rows, or a row per line|cut short"),
        ("a.parquet", b"PAR1 not", "not a readable Parquet file"),
        ("a.json.gz", b"no gzip", "cannot be read to the end"),
        ("a.txt", b"text", "no table in it; expected JSON"),
    ],
)
def test_a_file_that_is_no_table_is_an_error(tmp_path: Path, name: str, content: bytes, message: str):
    (_text(tmp_path / "raw") / name).write_bytes(content)
    with pytest.raises(StageError, match=message):
        run_stage(BUILD_INSTRUCTIONS, InstructionsSpec(), tmp_path, raw=at(tmp_path / "raw"))


@needs_shared
def test_real_instructions(tmp_path: Path):
    folder = SHARED / "text_mini"
    alpaca = pointing(tmp_path / "alpaca", text=folder / "alpaca_en.json")
    built = run_stage(BUILD_INSTRUCTIONS, InstructionsSpec(), tmp_path / "a", raw=alpaca)
    assert built.stats["records"]["instruction"]["written"] == 666
    seeds = pointing(tmp_path / "seeds", text=folder / "alpaca_seed_tasks.jsonl")
    built = run_stage(BUILD_INSTRUCTIONS, InstructionsSpec(), tmp_path / "b", raw=seeds)
    assert built.stats["records"]["instruction"]["written"] == 175
    flan = pointing(tmp_path / "flan", text=folder / "t0_flan_style.jsonl")
    spec = InstructionsSpec(dataset="flan2_t0", max_dropped_fraction=0.05)
    built = run_stage(BUILD_INSTRUCTIONS, spec, tmp_path / "c", raw=flan)
    # 20 of its 585 responses hold an end mark alone.
    assert built.stats["records"]["instruction"]["dropped"] == {"empty_text": 20}
    assert not any("endoftext" in value[2] for value in _values(built))
