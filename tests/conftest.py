"""Settings of the whole suite."""

import os

import pytest

from uio2.cli.lean_imports import keep_extras_from_keras

# Most of the model's test time is LLVM optimising programs that run once: without it the same tests take about 0.6 of
# the time. XLA's own passes still run; benchmarks and the pipelines of users keep the default.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

keep_extras_from_keras()  # as in the processes of stages

# Longest first, so that the workers end together; the rest in the order of their names.
LONGEST = (
    "flows/test_digits_killed",
    "flows/test_deployments",
    "flows/test_digits.py",
    "flows/test_finetune",
    "pipeline/test_outage",
    "flows/test_coco",
    "goldens/",
    "train/",
    "model/test_sharding",
    "model/test_parity_forward",
    "model/test_parity_variants",
    "model/test_huggingface_files",
    "model/test_codecs",
    "model/test_assembly",
    "model/test_generate",
    "tasks/test_packing",
    "tasks/test_stages",
    "tasks/test_determinism",
    "tasks/test_picture_answers",
    "tasks/test_bad_input",
    "evaluate/",
    "beam_jobs/test_coco.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    name = item.location[0].removeprefix("tests/")
    return next((place for place, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))
