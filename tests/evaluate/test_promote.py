"""The gate: a model passes for reasons that are written down, and fails for reasons that are too."""

from __future__ import annotations

import json

import pytest

from uio2.evaluate import promote
from uio2.evaluate.specs import PROMOTE, PromoteSpec
from uio2.pipeline.stage import StageError

from . import tiny


def report(folder, *, examples=None, **values):
    """A score artifact whose metrics have an interval of 0.05 either side and a baseline of 0.3.

    `examples` holds scores of `vqa/score` by example id.
    """
    folder.mkdir(parents=True)
    metrics = {
        key.replace("__", "/"): {"value": v, "low": v - 0.05, "high": v + 0.05, "baseline": 0.3, "n": 10}
        for key, v in values.items()
    }
    for key in metrics.keys() & {"wer/wer"}:
        metrics[key] |= {"less_is_better": True}
    for key in metrics.keys() & {"text/rouge_l"}:
        metrics[key] |= {"baseline": None}
    about = {"metrics": metrics, "tasks": {"vqa_coco_2017": {"prefix": "vqa"}}, "checkpoint": "c" * 64}
    (folder / "metrics.json").write_text(json.dumps(about))
    if examples:
        lines = [
            json.dumps({"task": "vqa_coco_2017", "example_id": example, "scores": {"score": score}})
            for example, score in examples.items()
        ]
        (folder / "per_example.jsonl").write_text("\n".join(lines) + "\n")
    return tiny.artifact(folder, kind="report", name="digits/score")


def decide(tmp_path, spec, *, champion=None, **values):
    inputs = {"train": tiny.write_checkpoint(tmp_path / "train"), "score": report(tmp_path / "score", **values)}
    if champion:
        inputs["champion"] = report(tmp_path / "champion", **champion)
    context = tiny.context(tmp_path / "promote", **inputs)
    stats = promote.run(spec, context)
    return stats, json.loads((context.out / "model.json").read_text())


def test_a_model_above_its_baseline_is_promoted(tmp_path):
    spec = PromoteSpec("m", min_value={"vqa/score": 0.8}, min_margin={"vqa/score": 0.4})
    stats, model = decide(tmp_path, spec, vqa__score=0.8)
    assert (stats["promoted"], stats["model_name"], stats["metrics"]["vqa/score"]["value"]) == (True, "m", 0.8)
    assert model["promoted"]
    assert [check["passed"] for check in model["checks"]] == [True, True]
    assert str(tmp_path) not in json.dumps(model)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (PromoteSpec("m", min_value={"vqa/score": 0.81}), "vqa/score: the value is 0.800, below 0.810"),
        # The value clears the margin, its interval does not.
        (PromoteSpec("m", min_margin={"vqa/score": 0.46}), "is 0.450, below 0.460"),
        (PromoteSpec("m", min_value={"refexp/acc": 0.1}), "refexp/acc was not measured"),
    ],
)
def test_a_model_that_fails_is_published_with_the_reason(tmp_path, spec, reason):
    stats, model = decide(tmp_path, spec, vqa__score=0.8)
    assert not stats["promoted"]
    assert not model["promoted"]
    assert reason in stats["reasons"][0]


@pytest.mark.parametrize(("allowed", "promoted"), [(0.1, True), (0.09, False)])
def test_a_guard_allows_only_so_much_of_a_fall(tmp_path, allowed, promoted):
    spec = PromoteSpec("m", max_fall={"vqa/score": allowed})
    stats, _ = decide(tmp_path, spec, champion={"vqa__score": 0.9}, vqa__score=0.8)
    assert stats["promoted"] is promoted
    assert stats["accepted"]
    assert stats["champion"] == "c" * 64


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (PromoteSpec("m", max_value={"wer/wer": 0.19}), "the value is 0.200, above 0.190"),
        # Between the baseline of 0.3 and the interval's upper end of 0.25.
        (PromoteSpec("m", min_margin={"wer/wer": 0.06}), "upper end below the baseline is 0.050, below 0.060"),
        (PromoteSpec("m", max_fall={"wer/wer": 0.04}), "further than the allowed fall"),
    ],
)
def test_of_an_error_less_is_better(tmp_path, spec, reason):
    stats, model = decide(tmp_path, spec, champion={"wer__wer": 0.15}, wer__wer=0.2)
    assert not stats["promoted"]
    assert reason in stats["reasons"][0]
    assert model["metrics"]["wer/wer"]["less_is_better"]
    easy = PromoteSpec("m", max_value={"wer/wer": 0.2}, min_margin={"wer/wer": 0.05}, max_fall={"wer/wer": 0.05})
    assert decide(tmp_path / "easy", easy, champion={"wer__wer": 0.15}, wer__wer=0.2)[0]["promoted"]


def right(share, *, number=200):
    """Examples of which this share is right, the same ones first."""
    return {f"e{i}": float(i < share * number) for i in range(number)}


@pytest.mark.parametrize(
    ("ours", "theirs", "promoted", "words"),
    [
        # Intervals overlap all the while: only the pairs can tell.
        (right(0.80), right(0.75), True, "significantly better (paired test on 200 examples: p = 0.00"),
        (right(0.80), right(0.79), False, "better, not significantly (paired test on 200 examples: p = 0.5"),
        (right(0.75), right(0.80), False, "worse (paired test"),
        (right(0.80), right(0.80), False, "no different (paired test"),
        (right(0.80), right(0.75, number=100), False, "by intervals, for they were scored on other examples"),
        (right(0.99), None, False, "by intervals, for one of the scores has no figures of single examples"),
    ],
)
def test_a_challenger_must_be_better_than_chance_allows(tmp_path, ours, theirs, promoted, words):
    def side(examples):
        return {"vqa__score": sum(examples.values()) / len(examples) if examples else 0.95, "examples": examples}

    stats, model = decide(tmp_path, PromoteSpec("m", improve="vqa/score"), champion=side(theirs), **side(ours))
    assert (stats["promoted"], stats["accepted"]) == (promoted, True)
    assert words in stats["reasons"][0]
    evidence = model["checks"][0]["evidence"]
    assert (evidence["gain"] > 0) == (stats["metrics"]["vqa/score"]["value"] > model_value(tmp_path / "champion"))


def model_value(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]["vqa/score"]["value"]


def test_intervals_apart_are_an_improvement_and_of_an_error_less_is(tmp_path):
    spec = PromoteSpec("m", improve="wer/wer")
    assert decide(tmp_path / "a", spec, champion={"wer__wer": 0.31}, wer__wer=0.2)[0]["promoted"]
    assert not decide(tmp_path / "b", spec, champion={"wer__wer": 0.29}, wer__wer=0.2)[0]["promoted"]
    assert not decide(tmp_path / "c", spec, champion={"wer__wer": 0.2}, wer__wer=0.31)[0]["promoted"]
    assert (
        "not measured of the champion"
        in decide(tmp_path / "d", spec, champion={"vqa__score": 0.2}, wer__wer=0.1)[0]["reasons"][0]
    )
    first, model = decide(tmp_path / "e", spec, wer__wer=0.3)
    assert first["promoted"]
    assert (first["champion"], model["champion"]) == ("", None)
    assert "no champion" in first["reasons"][0]


def test_a_margin_needs_a_baseline(tmp_path):
    stats, _ = decide(tmp_path, PromoteSpec("m", min_margin={"text/rouge_l": 0.0}), text__rouge_l=0.9)
    assert "has no baseline" in stats["reasons"][0]
    assert decide(tmp_path / "b", PromoteSpec("m", min_value={"text/rouge_l": 0.9}), text__rouge_l=0.9)[0]["promoted"]


def test_without_a_champion_guards_do_not_ask(tmp_path):
    stats, model = decide(tmp_path, PromoteSpec("m", max_fall={"vqa/score": 0.0}), vqa__score=0.1)
    assert stats["promoted"]
    assert model["champion"] is None


def test_a_model_needs_a_name():
    for name in ("", "a/b", "..", "m@1"):
        with pytest.raises(StageError, match="model_name"):
            PromoteSpec(name)
    assert PROMOTE.registers_model
