"""The training feed by position, the evaluation feed by example."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from uio2.pipeline.stage import StageError
from uio2.tasks import locations
from uio2.tasks.eval_feed import count_eval_examples, eval_examples
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import MixtureError, make_mixture
from uio2.tasks.order import Schedule, hash64, locate, uniforms
from uio2.tasks.specs import FIRST_TASKS


def take(feed, count, **options):
    batches = feed.batches(**options)
    return list(itertools.islice(batches, count))


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_batches_have_the_contract_shapes(mixture):
    feed = Feed(mixture, seed=3)
    batch = take(feed, 1, batch_size=8)[0]
    shapes = {k: (v.shape, str(v.dtype)) for k, v in batch.items()}
    ints = {f"inputs/text/{k}": ((8, 48), "int32") for k in ("tokens", "mask", "pos_ids")}
    ints |= {f"targets/text/{k}": ((8, 48), "int32") for k in ("inputs", "targets", "mask", "pos_ids", "segment_ids")}
    ints |= {f"inputs/image/{k}": ((8, 36), "int32") for k in ("mask", "pos_ids")}
    assert shapes == ints | {"inputs/image/input": ((8, 36, 768), "float32"), "task": ((8,), "int32")}
    assert (batch["targets/text/mask"].sum(1) > 1).all()
    assert feed.stats.examples == 8


def test_a_batch_that_hosts_cannot_share_is_refused(mixture):
    with pytest.raises(MixtureError, match="multiple of num_hosts"):
        take(Feed(mixture, seed=3), 1, batch_size=9, num_hosts=2)


def test_every_record_is_visited_once_per_epoch():
    size = 37
    epochs, rows = locate(np.arange(3 * size), size=size, seed=1, task="t")
    for epoch in range(3):
        assert sorted(rows[epochs == epoch]) == list(range(size))
    assert rows[:size].tolist() != rows[size : 2 * size].tolist()


def test_schedule_keeps_the_rates_and_counts_each_task_on():
    schedule = Schedule({"a": 1.0, "b": 0.25, "off": 0.0}, seed=0)
    tasks, ordinals = schedule.at(np.arange(5000))
    assert schedule.tasks == ["a", "b"]
    assert np.bincount(tasks).tolist() == [4000, 1000]
    for task in (0, 1):
        assert ordinals[tasks == task].tolist() == list(range((tasks == task).sum()))
    again, _ = schedule.at(np.arange(4321, 4400))
    np.testing.assert_array_equal(again, tasks[4321:4400])


def test_draws_are_uniform_and_independent():
    draws = uniforms(7, 1, 0, np.arange(20_000), count=4)
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.01)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert len(np.unique(hash64(np.arange(100_000)))) == 100_000


def test_augmented_images_keep_their_box(mixture):
    recipe = dataclasses.replace(mixture.recipe, augment=True, rates={"refcoco_unc": 1.0})
    augmented = dataclasses.replace(mixture, recipe=recipe)
    for batch in take(Feed(augmented, seed=0), 6, batch_size=8):
        for tokens in batch["targets/text/targets"]:
            top, left, bottom, right = locations.tokens_to_values(tokens, base_size=mixture.vocabulary.base_size)
            assert bottom >= top
            assert right >= left
            assert tokens[4] == 1


@pytest.mark.parametrize("task", FIRST_TASKS)
def test_evaluation_sees_each_example_once(mixture, task):
    batches = list(eval_examples(mixture, task=task, batch_size=8))
    rows = [row for b in batches for row in b.metadata]
    assert len(rows) == sum(b.valid.sum() for b in batches) == count_eval_examples(mixture, task=task)
    assert len({row["example_id"] for row in rows}) == len(rows)
    assert {b.batch["inputs/text/tokens"].shape for b in batches} == {(8, 48)}
    assert not batches[-1].valid.all() or len(rows) % 8 == 0
    for row in rows:
        assert row["task"] == task
        assert row["prompt"].startswith("[Text] [S] ")
        assert row["target"] in row["all_targets"]
        assert (row["box"] is not None) == (task.startswith(("box", "ref")))


def test_evaluation_can_start_and_end_in_the_middle(mixture):
    task = "box_classification_coco_2017"  # several examples of a record
    rows = [row for b in eval_examples(mixture, task=task, batch_size=8) for row in b.metadata]
    tail = [r for b in eval_examples(mixture, task=task, batch_size=8, start=5, limit=8) for r in b.metadata]
    assert tail == rows[5:8]


def test_evaluation_texts(mixture):
    vqa = [r for b in eval_examples(mixture, task="vqa_coco_2017", batch_size=16) for r in b.metadata]
    assert len(vqa[0]["all_targets"]) == 10
    assert vqa[0]["target"] != "dark"
    assert vqa[0]["target"].islower()
    caption = next(iter(eval_examples(mixture, task="image_caption_coco_2017", batch_size=2))).metadata[0]
    assert len(caption["all_targets"]) == 3
    for row in (r for b in eval_examples(mixture, task="refcoco_unc", batch_size=16) for r in b.metadata):
        box = locations.parse_boxes(row["target"], size=(96, 96))[0]
        np.testing.assert_allclose(locations.undo_box(box, image_info=row["image_info"]), row["box"], atol=0.25)
        assert row["prompt"] == row["prompt"].lower().replace("[text] [s] find", "[Text] [S] Find")


def test_crowds_and_bare_records_are_passed_over(mixture):
    counts = {name: mixture.counts(name, "train") for name in mixture.tasks}
    assert (counts["image_caption_coco_2017"] > 0).sum() == 24
    assert (counts["vqa_coco_2017"] > 0).sum() == 24
    assert (counts["box_classification_coco_2017"] <= 2).all()
    assert (counts["box_classification_coco_2017"] == 0).sum() == 6
    assert (counts["refcoco_unc"] > 0).all()


def test_missing_dataset_or_unknown_task_is_named(datasets, tokenizer, mixture):
    with pytest.raises(MixtureError, match="needs the dataset 'refcoco'"):
        make_mixture(mixture.recipe, datasets={"coco": datasets["coco"]}, tokenizer=tokenizer)
    with pytest.raises(StageError, match="no task or mixture 'vqa_coco_2071'; did you mean 'vqa_coco_2017'"):
        dataclasses.replace(mixture.recipe, rates={"vqa_coco_2071": 1})
