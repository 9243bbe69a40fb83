"""Mixtures by name, wherever rates name tasks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import seqio

from tests.tiny import texts
from uio2.pipeline.stage import StageError
from uio2.pipeline.store import Store
from uio2.tasks.families import all_tasks
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import MixtureError, make_mixture
from uio2.tasks.mixtures import MIXTURES, shares
from uio2.tasks.registry import register
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task_list import mixture_rows, rows

FLAN = ("flan2_flan2021", "flan2_t0", "flan2_niv2", "flan2_cot", "flan2_dialog")
RECIPE = RegisterSpec(rates={"flan2": 1.0}, input_modalities=("text",), text_inputs=48, text_targets=48)


@pytest.mark.parametrize("name", MIXTURES)
def test_every_task_of_a_mixture_exists(name):
    found = shares(name)
    assert sum(found.values()) == pytest.approx(1)
    missing = found.keys() - all_tasks().keys()
    assert not missing


def test_a_mixture_shares_its_rate_and_adds_to_what_is_named_beside_it():
    recipe = RegisterSpec(rates={"refexp": 2.0, "refcoco_unc": 1.0, "vqa_coco_2017": 5})
    assert set(recipe.rates) == {"refcoco_unc", "refcoco_plus_unc", "refcocog_google", "vqa_coco_2017"}
    assert recipe.rates["vqa_coco_2017"] == 5
    assert sum(recipe.rates.values()) == pytest.approx(8)
    assert recipe.rates["refcoco_unc"] == pytest.approx(1 + recipe.rates["refcoco_plus_unc"])
    assert dataclasses.replace(recipe).rates == recipe.rates


@pytest.mark.parametrize(("name", "hint"), [("refexpp", "did you mean 'refexp'"), ("flan2_cto", "'flan2_cot'")])
def test_unknown_names_come_with_a_suggestion(name, hint):
    with pytest.raises(StageError, match=rf"RegisterSpec\.rates: .*{name}.*{hint}"):
        RegisterSpec(rates={name: 1.0})


@pytest.fixture(scope="module")
def two_of_five(tmp_path_factory):
    at = tmp_path_factory.mktemp("flan")
    return {name: texts.build(at, name=name) for name in ("flan2_t0", "flan2_cot")}


def test_missing_data_is_an_error_that_says_what_to_build(two_of_five, tokenizer):
    with pytest.raises(MixtureError, match=r"'flan2_niv2' needs the dataset.*uio2 build flan-niv2.*leave_out"):
        make_mixture(RECIPE, datasets=two_of_five, tokenizer=tokenizer)


def test_a_part_of_a_mixture_when_asked_for(two_of_five, tokenizer):
    recipe = dataclasses.replace(RECIPE, missing_data="leave_out")
    mixture = make_mixture(recipe, datasets=two_of_five, tokenizer=tokenizer)
    assert sorted(mixture.tasks) == ["flan2_cot", "flan2_t0"]
    batch = next(Feed(mixture, seed=0).batches(batch_size=4))
    assert batch["targets/text/mask"].any(axis=1).all()
    with pytest.raises(MixtureError, match=r"no task of RegisterSpec\.rates has its data"):
        make_mixture(recipe, datasets={}, tokenizer=tokenizer)


def test_the_list_says_how_much_of_a_mixture_is_built(two_of_five, tmp_path):
    store, given = Store(tmp_path), {name: str(path) for name, path in two_of_five.items()}
    (row,) = [row for row in mixture_rows(rows(store, given=given)) if row["mixture"] == "flan2"]
    assert row["built"] == "2 of 5 tasks"
    assert not row["ready"]
    rest = dict.fromkeys(FLAN, "somewhere")
    assert [row["ready"] for row in mixture_rows(rows(store, given=rest))] == [name == "flan2" for name in MIXTURES]


def test_seqio_knows_the_mixtures_that_are_whole(two_of_five, tokenizer, tmp_path):
    rest = {name: texts.build(tmp_path, name=name) for name in FLAN if name not in two_of_five}
    register(RECIPE, datasets=two_of_five | rest, tokenizer=tokenizer)
    found = seqio.get_mixture_or_task("flan2")
    assert {task.name for task in found.tasks} == set(FLAN)
    lengths = {"inputs/text/tokens": 48, "targets/text/tokens": 48, "is_training": True}
    ds = found.get_dataset(sequence_length=lengths, split="train", shuffle=False, num_epochs=None)
    assert all(np.any(example["targets/text/tokens"] > 1) for example in ds.take(8).as_numpy_iterator())
    assert "refexp" not in {task.name for task in found.tasks}
