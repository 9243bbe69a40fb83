"""`build-vqa-options`: A-OKVQA's layout and plainer ones, grouped by image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beam_jobs.specs import BUILD_VQA_OPTIONS, VqaOptionsSpec
from tests.beam_jobs.conftest import at, lines, picture, run_stage


def _asked(name: str, **changes: Any) -> dict[str, Any]:
    row = {"split": "val", "image_id": 25, "question_id": name, "question": "What is it?",
           "choices": ["cat", "dog", "sun", "sea"], "correct_choice_idx": 1}  # fmt: skip
    return {**row, **changes}


def _raw(folder: Path, rows: list[Any], *, name: str = "aokvqa_v1p0_val.json") -> Path:
    picture(folder / "images" / "val2017" / "000000000025.jpg")
    picture(folder / "images" / "own.png")
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / name).write_text(json.dumps(rows))
    return folder


def test_questions_of_an_image_come_together(tmp_path: Path):
    raw = _raw(tmp_path / "raw", [_asked("22MexNkBPpdZGX6sxbxVBH"), _asked("7", question="And?", choices=["a", "b"])])
    rows = [{"id": 3, "image": "own.png", "question": "Which?", "options": "left|right", "answer": "right"}]
    lines(raw / "annotations" / "train.jsonl", rows)
    built = run_stage(BUILD_VQA_OPTIONS, VqaOptionsSpec(), tmp_path, raw=at(raw))
    (example,) = built.examples("validation")
    assert example["image/id"] == 25
    asked = example["questions"]
    options = [[o.decode() for o in row] for row in asked["options"].to_list()]
    found = {q.decode(): (o, int(a)) for q, o, a in zip(asked["question"], options, asked["answer"], strict=True)}
    assert found == {"What is it?": (["cat", "dog", "sun", "sea"], 1), "And?": (["a", "b"], 1)}
    assert 7 in example["questions"]["id"]
    (own,) = built.examples("train")
    assert (own["questions"]["id"].tolist(), own["questions"]["answer"].tolist()) == ([3], [1])
    assert run_stage(BUILD_VQA_OPTIONS, VqaOptionsSpec(), tmp_path / "b", raw=at(raw)).shards() == built.shards()


def test_bad_questions_become_dead_letters(tmp_path: Path):
    rows = [
        _asked("1"),
        _asked("1", question="Twice?"),
        _asked("2", correct_choice_idx=4),
        _asked("3", correct_choice_idx=None),
        _asked("4", choices=["only"]),
        _asked("5", question=""),
        _asked("6", image_id=99),
        _asked("7", correct_choice_idx=True),
        _asked("8", choices="cat"),
    ]
    spec = VqaOptionsSpec(max_dropped_fraction=0.95)
    built = run_stage(BUILD_VQA_OPTIONS, spec, tmp_path, raw=at(_raw(tmp_path / "raw", rows)))
    assert built.stats["records"]["question"]["dropped"] == {
        "bad_answer": 2,
        "duplicate_id": 1,
        "empty_text": 1,
        "image:image_missing": 1,
        "no_answer": 1,
        "too_few_options": 2,
    }
    built.check_counts()
    assert built.stats["splits"] == {"validation": 1}


def test_the_test_split_has_no_answers_and_is_no_fault(tmp_path: Path):
    raw = _raw(tmp_path / "raw", [_asked("1")])
    rows = [_asked(str(n), split="test", correct_choice_idx=None) for n in range(50)]
    (raw / "annotations" / "aokvqa_v1p0_test.json").write_text(json.dumps(rows))
    built = run_stage(BUILD_VQA_OPTIONS, VqaOptionsSpec(), tmp_path, raw=at(raw))
    assert built.stats["records"]["question"]["dropped"] == {"no_answer": 50}
