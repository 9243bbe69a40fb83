"""Every task reads what its builder makes of the raw files in `../shared/data`: `uio2 tasks check all`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beam_jobs.builders import BUILDERS
from tests.beam_jobs.conftest import needs_shared, pointing, run_stage
from tests.tasks.shared_layouts import LAYOUTS
from uio2.cli.main import main
from uio2.tasks.families import all_tasks
from uio2.tasks.sources import DATASETS
from uio2.tasks.specs import TokenizerSpec
from uio2.tasks.tokenizer_stage import prompt_lines, train

# Of the images in shared data some are missing, and of the rows some have no text; all of them are counted.
TOLERANT = {"max_dropped_fraction": 0.5, "num_shards": 1}
OWN = {"coco": {"masks": True}}


def _build(name: str, folder: Path) -> str:
    """The TFDS directory of a dataset built from its layout below `folder`."""
    builder = BUILDERS[DATASETS[name].build]
    (folder / "layout").mkdir(parents=True)
    roots = LAYOUTS[name](folder / "layout")
    assert set(builder.required) <= set(roots) <= {*builder.required, *builder.optional}
    spec = builder.type.spec(**TOLERANT, **builder.settings, **OWN.get(name, {}))
    built = run_stage(builder.type, spec, folder, raw=pointing(folder / "raw", **roots))
    built.check_counts()
    return str(built.out / built.stats["tfds_dir"])


@pytest.mark.long
@needs_shared
def test_every_task_has_usable_examples_of_a_built_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    datasets = {name: f"--dataset={name}={_build(name, tmp_path / name)}" for name in DATASETS}
    words = prompt_lines(sorted({task.prompts for task in all_tasks().values()} - {""}))
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(train(list(words), spec=TokenizerSpec(vocab_size=1000)))
    sizes = {"text_inputs": 128, "image_size": (64, 64), "image_target_size": (64, 64)}
    common = ["--num_examples=4", "--json", f"--store={tmp_path}/store"]
    common += [f"--gin.tasks.RegisterSpec.{name}={value}" for name, value in sizes.items()]
    # Without a tokenizer and without a word in what it reads.
    assert main(["tasks", "check", "denoise_audio", datasets["audio"], *common]) == 0
    capsys.readouterr()
    code = main(["tasks", "check", "all", f"--tokenizer={tokenizer}", *datasets.values(), *common])
    told = capsys.readouterr()
    assert code == 0, told
    reports = {report["task"]: report for report in json.loads(told.out)}
    assert set(reports) == set(all_tasks())
    assert [name for name, report in reports.items() if not report["usable"]] == []
    assert {reason for report in reports.values() for reason in report["unusable"]} == set()
