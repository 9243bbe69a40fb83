"""Packing: of random length streams, of the original's stream, and as a feed of batches."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from tests.model.reference import GOLDEN, needs_golden
from tests.tiny import audio as tiny_audio
from uio2.tasks.feed import Feed
from uio2.tasks.mixture import make_mixture
from uio2.tasks.packing.feed import PackedFeed
from uio2.tasks.packing.measure import count_media, measure
from uio2.tasks.packing.pairs import pair_stream
from uio2.tasks.packing.sizes import Sizes
from uio2.tasks.packing.spec import ITEMS, PackingSpec
from uio2.tasks.packing.window import PackingError, pack_rows, pack_window, plan_windows
from uio2.tasks.specs import RegisterSpec

SPEC = PackingSpec("best_fit", decoder={"text": 512, "audio": 768, "image": 1280}, window_rows=256, groups=2)


def stream(count, seed, *, longest=800):
    """Text alone, pictures in, sound in, pictures out, sound out; odd lengths among them."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(5, count, p=[0.35, 0.4, 0.1, 0.1, 0.05])
    encoder = np.minimum(rng.lognormal(3.5, 1.0, count).astype(int) + 2, longest - 600)
    decoder = np.minimum(rng.lognormal(2.5, 1.0, count).astype(int), 500)
    items = np.zeros((count, len(ITEMS)), int)
    for number, name, tokens in ((1, "inputs/image", 256), (2, "inputs/audio", 128)):
        items[kind == number, ITEMS.index(name)] = 1
        encoder[kind == number] += tokens
    for number, name, tokens in ((3, "targets/image", 1024), (4, "targets/audio", 512)):
        items[kind == number, ITEMS.index(name)] = 1
        decoder[kind == number] = tokens
    return Sizes(encoder, decoder, items)


def rows_of(batch):
    return [list(row) for group in batch.groups for row in group]


@pytest.mark.parametrize("strategy", ["best_fit", "pairs"])
@pytest.mark.parametrize("seed", range(4))
def test_a_window_places_every_example_once_and_within_its_row(strategy, seed):
    spec = PackingSpec(strategy, decoder=SPEC.decoder, window_rows=256, groups=2)
    windows = plan_windows(stream(2000, 100 + seed), spec=spec, rows=16)
    sizes = stream(windows.positions, seed)
    batches = pack_window(sizes, spec=spec, windows=windows, seed=0, window=seed)
    assert len(batches) == windows.steps == 16
    assert sorted(np.concatenate([batch.members for batch in batches])) == list(range(windows.positions))
    for batch in batches:
        assert batch.encoder == 864
        assert batch.decoder in SPEC.decoder.values()
        assert [len(group) <= batch.rows and sum(map(len, group)) <= batch.places for group in batch.groups] == [
            True
        ] * 2
        for row in rows_of(batch):
            assert sizes.encoder[row].sum() <= batch.encoder
            assert sizes.decoder[row].sum() <= batch.decoder
            assert strategy == "best_fit" or len(row) <= 2
    assert {(batch.rows, batch.places) for batch in batches} == {(batches[0].rows, batches[0].places)}
    again = pack_window(sizes, spec=spec, windows=windows, seed=0, window=seed)
    assert again == batches


def test_batches_of_long_targets_are_apart_and_filled_with_short_ones():
    windows = plan_windows(stream(2000, 0), spec=SPEC, rows=16)
    sizes = stream(windows.positions, 1)
    batches = pack_window(sizes, spec=SPEC, windows=windows, seed=0, window=0)
    for batch in batches:
        pictures = [int(sizes.items[row, ITEMS.index("targets/image")].sum()) for row in rows_of(batch)]
        assert any(pictures) == (batch.decoder == 1280)
        assert max(pictures) <= 1
    assert sum(batch.decoder == 1280 for batch in batches) < len(batches)
    filled = [sizes.encoder[row].sum() for batch in batches for row in rows_of(batch)]
    assert np.mean(filled) > 0.9 * 864


def test_budgets_of_a_batch_hold():
    budget = {"inputs/image": 40, "targets/image": 8}
    free = PackingSpec("best_fit", decoder=SPEC.decoder, window_rows=512)
    spec = dataclasses.replace(free, budget=budget)
    windows = plan_windows(stream(2000, 0), spec=spec, rows=32)
    assert windows.positions < plan_windows(stream(2000, 0), spec=free, rows=32).positions
    for seed in range(1, 4):
        sizes = stream(windows.positions, seed)
        for batch in pack_window(sizes, spec=spec, windows=windows, seed=0, window=0):
            for name, most in budget.items():
                assert sizes.items[batch.members, ITEMS.index(name)].sum() <= most


def test_a_window_that_holds_more_gets_larger_batches():
    windows = plan_windows(stream(2000, 0), spec=SPEC, rows=16)
    sizes = stream(2 * windows.positions, 1)
    batches = pack_window(sizes, spec=SPEC, windows=windows, seed=0, window=0)
    assert len(batches) == windows.steps
    assert sorted(np.concatenate([batch.members for batch in batches])) == list(range(2 * windows.positions))
    assert batches[0].rows > windows.rows // 2


@pytest.mark.parametrize("strategy", ["best_fit", "pairs"])
def test_an_example_longer_than_a_row_gets_a_longer_row(strategy):
    spec = PackingSpec(strategy, decoder={"text": 512}, window_rows=4)
    sizes = stream(20, 0)
    long = Sizes(np.append(sizes.encoder, 1000), np.append(np.minimum(sizes.decoder, 500), 5),
                 np.zeros((21, len(ITEMS)), int))  # fmt: skip
    windows = plan_windows(long, spec=spec, rows=2)
    batches = pack_window(long, spec=spec, windows=windows, seed=0, window=0)
    assert sorted(np.concatenate([batch.members for batch in batches])) == list(range(21))
    assert [1024 if 20 in batch.members else 864 for batch in batches] == [batch.encoder for batch in batches]
    assert [20] in [row for batch in batches for row in rows_of(batch)]


def test_too_few_examples_for_the_batches_are_refused():
    windows = plan_windows(stream(2000, 0), spec=SPEC, rows=16)
    with pytest.raises(PackingError, match=r"5 examples make . rows for 16 batches; raise PackingSpec.window_rows"):
        pack_window(stream(5, 1), spec=SPEC, windows=windows, seed=0, window=0)


@needs_golden
@pytest.mark.parametrize("pool", [5, 10])
def test_pairs_are_the_originals(pool):
    golden, sizes = golden_stream()
    found = pair_stream(sizes, encoder=864, decoder=1280, pool=pool)
    expected = golden[f"pairs_pool{pool}"]
    assert [[row[0] + 1, row[1] + 1 if len(row) > 1 else 0] for row in found] == expected


@needs_golden
def test_best_fit_needs_no_more_rows_than_any_packing_of_the_originals_stream():
    _, sizes = golden_stream()
    rows = pack_rows(sizes, spec=PackingSpec("best_fit", decoder={"text": 1280}))
    assert sorted(example for row in rows for example in row.members) == list(range(60))
    assert len(rows) == 31  # the bound of `benchmarks.packing`; the original's pairs take 34


def golden_stream():
    golden = json.loads((GOLDEN / "preprocessing.json").read_text())["packing"]
    lengths = np.array(golden["input_len"]), np.array(golden["target_len"])
    return golden, Sizes(*lengths, np.zeros((60, len(ITEMS)), int))


@pytest.fixture(scope="module")
def feed(mixture):
    packing = PackingSpec("best_fit", encoder=256, decoder={"text": 96}, window_rows=24, groups=2)
    return PackedFeed(mixture, packing=packing, rows=8, latents={}, seed=3)


@pytest.fixture(scope="module")
def batches(feed):
    return list(itertools.islice(feed.batches(), 7))


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_packed_batches_hold_the_examples_of_the_plain_feed(feed, batches, mixture):
    assert feed.windows.steps == 3
    plain = Feed(mixture, seed=3).batches(batch_size=feed.windows.positions)
    for window, expected in zip((0, 1), plain, strict=False):
        mine = batches[3 * window : 3 * window + 3]
        for key in ("inputs/text/tokens", "targets/text/targets", "inputs/image/input"):
            found = np.concatenate([batch[key][batch["packing/row"].reshape(-1) >= 0] for batch in mine])
            assert sorted(map(bytes, found)) == sorted(map(bytes, expected[key]))


def test_rows_are_filled_and_never_beyond_their_length(batches):
    for batch in batches:
        assert batch["packing/lengths"].tolist() == [[256, 96]] * 2
        for side, length in (("inputs", 256), ("targets", 96)):
            taken = sum(v.sum(axis=1) for k, v in batch.items() if k.startswith(side) and k.endswith("/mask"))
            for group, rows in zip(taken.reshape(2, -1), batch["packing/row"], strict=True):
                tokens = np.bincount(rows[rows >= 0], weights=group[rows >= 0], minlength=4)
                assert tokens.max() <= length
                assert not group[rows < 0].any()
        counts = [np.bincount(rows[rows >= 0], minlength=4) for rows in batch["packing/row"]]
        np.testing.assert_array_equal(counts, batch["packing/examples"])


def test_examples_carry_the_number_of_their_task(feed, batches, mixture):
    for step in (0, 4):
        numbers = batches[step]["task"][batches[step]["packing/row"].reshape(-1) >= 0]
        assert [feed.tasks[number] for number in numbers] == [found["task"] for found in feed.describe(step)]
    plain = Feed(mixture, seed=3)
    batch = next(plain.batches(batch_size=8, start_step=2, num_hosts=2, host=1))
    described = plain.describe(np.arange(20, 24))
    assert [plain.tasks[number] for number in batch["task"]] == [found["task"] for found in described]


def half(batch, host):
    """The groups of one of two hosts."""
    return {key: np.split(value, 2)[host] for key, value in batch.items()}


def test_any_step_can_be_the_first_of_a_host(feed, batches):
    for batch, expected in zip(feed.batches(start_step=4, num_hosts=2, host=0), batches[4:], strict=False):
        assert_equal(batch, half(expected, 0))


def test_a_far_step_is_reached_at_once_and_hosts_share_it(feed):
    whole = next(itertools.islice(feed.batches(start_step=100_000), 1))
    part = next(itertools.islice(feed.batches(start_step=100_000, num_hosts=2, host=1), 1))
    assert_equal(part, half(whole, 1))


def test_lengths_without_pixels_are_those_of_the_masks(datasets, tokenizer, tmp_path):
    latents = {"audio_history": 4}
    recipe = RegisterSpec(
        rates={"audio_caption": 1.0, "image_caption_coco_2017": 1.0}, image_size=(96, 96), text_inputs=24,
        text_targets=8, input_modalities=("text", "image", "audio", "audio_history"), num_audio_segments=2,
        image_input_samples=20, augment=True,
    )  # fmt: skip
    data = {"coco": datasets["coco"], "audio": tiny_audio.build(tmp_path, seconds=10.5)}
    mixture = make_mixture(recipe, datasets=data, tokenizer=tokenizer)
    feed = Feed(mixture, seed=0)
    stream = feed.examples(
        lambda: iter([np.arange(16)]), then=lambda e: count_media(e, recipe=recipe, latents=latents)
    ).ragged_batch(16)
    sizes = Sizes.of(measure(next(iter(stream)), vocabulary=mixture.vocabulary, recipe=recipe).numpy())
    batch = next(feed.batches(batch_size=16))
    heard = batch["inputs/audio_history/mask"].any(axis=2).sum(axis=1)
    flat = sum(batch[f"inputs/{kind}/mask"].sum(axis=1) for kind in ("text", "image", "audio"))
    np.testing.assert_array_equal(sizes.encoder, flat + 4 * heard)
    np.testing.assert_array_equal(sizes.decoder, batch["targets/text/mask"].sum(axis=1))
    for name in ("inputs/image", "inputs/audio"):
        np.testing.assert_array_equal(sizes.items[:, ITEMS.index(name)], batch[f"{name}/mask"].any(axis=1))
    np.testing.assert_array_equal(sizes.items[:, ITEMS.index("inputs/audio_history")], heard)
    assert 0 < heard.sum() < 32
