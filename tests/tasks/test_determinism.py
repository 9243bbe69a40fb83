"""The batch of a step: the same after any restart and for any number of hosts, with tasks of several modalities."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time

import numpy as np
import pytest

from tests.tiny import audio as tiny_audio
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import make_mixture
from uio2.tasks.specs import RegisterSpec

RECIPE = RegisterSpec(
    rates={"audio_caption": 1.0, "refcoco_unc": 2.0}, image_size=(64, 64),
    text_inputs=32, text_targets=32, input_modalities=("text", "image", "audio", "audio_history"), num_audio_segments=1,
    image_input_samples=0.5, augment=True, resize="random",
)  # fmt: skip
BATCH, STEPS = 8, 4


@pytest.fixture(scope="module")
def mixture(datasets, tokenizer, tmp_path_factory):
    clips = tiny_audio.build(tmp_path_factory.mktemp("clips"), seconds=6.0)
    return make_mixture(RECIPE, datasets={**datasets, "audio": clips}, tokenizer=tokenizer)


def batches(mixture, count, **options):
    feed = Feed(mixture, seed=options.pop("seed", 7))
    return list(itertools.islice(feed.batches(batch_size=BATCH, **options), count))


def digest(batch):
    found = hashlib.sha256()
    for key in sorted(batch):
        found.update(f"{key} {batch[key].dtype} {batch[key].shape}".encode())
        found.update(np.ascontiguousarray(batch[key]).tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(mixture):
    return batches(mixture, STEPS)


def test_steps_and_seeds_differ(mixture, undisturbed):
    other = batches(mixture, 1, seed=8)
    assert len({digest(batch) for batch in undisturbed + other}) == STEPS + 1


def test_a_restart_goes_on_with_the_same_batches(mixture, undisturbed):
    again = batches(mixture, STEPS - 1, start_step=1)
    assert [digest(batch) for batch in again] == [digest(batch) for batch in undisturbed[1:]]


@pytest.mark.parametrize(("hosts", "host"), [(2, 0), (2, 1), (4, 2)])
def test_a_host_has_its_rows_of_the_batches_of_one(mixture, undisturbed, hosts, host):
    rows = slice(host * BATCH // hosts, (host + 1) * BATCH // hosts)
    expected = [{key: value[rows] for key, value in batch.items()} for batch in undisturbed]
    found = batches(mixture, STEPS, num_hosts=hosts, host=host)
    assert [digest(batch) for batch in found] == [digest(batch) for batch in expected]


def test_a_far_step_costs_no_more_than_the_first(mixture):
    alone = dataclasses.replace(mixture, recipe=dataclasses.replace(RECIPE, rates={"refcoco_unc": 1.0}))
    before = time.process_time()
    batches(alone, 1)
    near = time.process_time() - before
    far = batches(alone, 2, start_step=100_000 - 1)
    assert time.process_time() - before < 4 * near + 2  # 800,000 examples lie before it
    assert digest(far[1]) == digest(batches(alone, 1, start_step=100_000)[0])
