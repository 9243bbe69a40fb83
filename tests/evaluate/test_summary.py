"""The table's rows, and that reading them costs no heavy import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from uio2.evaluate.summary import HEADINGS, MetricRow, read_rows


def test_cells_fit_the_headings(scored):
    for row in read_rows(scored["score"].path):
        assert len(row.cells()) == len(HEADINGS)
    row = MetricRow("vqa/score", 0.81234, 0.7, 0.9, 0.25, 60)
    assert row.cells() == ("vqa/score", "0.812", "0.700 .. 0.900", "0.250", "60")
    assert row.above_baseline
    row = MetricRow("depth/rmse", 0.8, 0.7, 0.9, None, 60, less_is_better=True)
    assert row.cells()[3] == "none"
    assert not MetricRow("wer/wer", 0.8, 0.7, 0.9, 0.85, 60, less_is_better=True).above_baseline


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.json is missing"):
        read_rows(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="no 'metrics'"):
        read_rows(tmp_path)


def test_specs_and_summary_stay_light():
    code = (
        "import sys, uio2.evaluate.summary, uio2.evaluate.specs, uio2.evaluate.predictions\n"
        "print([m for m in ('numpy', 'tensorflow', 'jax', 'jinja2', 'seqio', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
