"""Values in order on disk: all of them, once, whatever the sizes of runs and however many writers there were."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from beam_jobs.runs import RunWriter, merged


@pytest.mark.parametrize(("run_bytes", "most_runs"), [(1 << 20, 128), (2_000, 128), (2_000, 4)])
def test_parts_come_back_in_order_and_whole(tmp_path: Path, run_bytes: int, most_runs: int):
    draws = random.Random(0)
    values = [(n % 3, draws.randbytes(2), draws.randbytes(draws.randrange(200))) for n in range(3000)]
    writers = [RunWriter(str(tmp_path), run_bytes=run_bytes, most_runs=most_runs) for _ in range(2)]
    for n, value in enumerate(values):
        writers[n % 2].add(*value)
    slices = [found for writer in writers for found in writer.finish()]
    for part in range(3):
        assert list(merged(place for p, place in slices if p == part)) == sorted(v[1:] for v in values if v[0] == part)
    assert len(list(tmp_path.iterdir())) <= 2 * most_runs


def test_nothing_in_nothing_out(tmp_path: Path):
    assert list(RunWriter(str(tmp_path)).finish()) == []
