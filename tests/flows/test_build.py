"""Datasets by name: every one that a task names can be built, and what is asked for wrongly is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.builders import BUILDERS
from flows.build import pipeline_of
from uio2.pipeline.stage import UsageError
from uio2.tasks.sources import DATASETS


@pytest.mark.parametrize("need", DATASETS.values(), ids=lambda need: need.build)
def test_what_uio2_tasks_says_to_run_makes_that_dataset(need, tmp_path: Path):
    sources = {role: str(tmp_path) for role in BUILDERS[need.build].required}
    raw, build = pipeline_of([need.build], sources).stages
    assert build.name == need.stage
    assert (build.inputs, set(raw.inputs)) == ({"raw": raw}, set(sources))
    if hasattr(build.spec, "dataset") and "text" in sources:
        assert build.spec.dataset == need.name


def test_a_single_source_needs_no_name_and_gin_has_the_last_word():
    _, build = pipeline_of(["alpaca"], {"": "a.json"}, bindings=["data.InstructionsSpec.num_shards=3"]).stages
    assert (build.spec.dataset, build.spec.num_shards) == ("alpaca", 3)
    bindings = ["data.RefCocoSpec.split_by='umd'"]
    _, build = pipeline_of(["refcocog"], {"images": "i", "refer": "r"}, bindings=bindings).stages
    assert (build.spec.dataset, build.spec.split_by) == ("refcocog", "umd")


@pytest.mark.parametrize(
    ("names", "sources", "message"),
    [
        (["alpacca"], {}, "no dataset 'alpacca'; did you mean 'alpaca'"),
        (["image-depth"], {"images": "i"}, "needs --images PATH --depth PATH; --depth is missing"),
        (["alpaca"], {"text": "t", "images": "i"}, "takes no --images; it takes --text PATH"),
        (["image-depth"], {"": "i"}, "--source i: image-depth needs --images PATH --depth PATH; say which it is"),
    ],
)
def test_sources_that_do_not_fit(names, sources, message):
    with pytest.raises(UsageError, match=message):
        pipeline_of(names, sources)
