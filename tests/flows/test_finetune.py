"""Fine-tuning by recipes, from our checkpoint and from one that the original wrote: it runs, saves, exports, loads."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.flows.commands import Commands
from uio2.model.checkpoint import layouts, t5x_files, tree
from uio2.model.config import ModelConfig
from uio2.pipeline.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
REFEXP = "--gin_file=configs/finetune/refexp.gin"
SHORT = (
    "--gin.TASKS={'refcoco_unc': 1.0}", "--gin.TEXT_INPUTS=20", "--gin.BATCH_SIZE=4", "--gin.STEPS=3",
    "--gin.LOG_EVERY=1", "--gin.WARMUP_STEPS=10", "--gin.tasks.RegisterSpec.check_examples=4", "--gin.EVAL_EVERY=0",
)  # fmt: skip
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"


@pytest.fixture(scope="module")
def store(tiny_run, tmp_path_factory) -> Path:
    """A store of this file's own that holds what the tiny run of the digits made."""
    root = tmp_path_factory.mktemp("finetune") / "store"
    shutil.copytree(Path(tiny_run.store) / "artifacts", root / "artifacts", copy_function=os.link)
    return root


def arrays(folder: Path, config: ModelConfig | None = None) -> dict[str, np.ndarray]:
    """Every parameter of a checkpoint by our name."""
    model = layouts.find(folder).load(config=config)
    return {name: np.asarray(array) for name, array in tree.flatten(model).items()}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


def test_a_fine_tune_of_the_digits_saves_exports_and_goes_on_in_every_layout(commands: Commands, store, tmp_path):
    out = tmp_path / "out"
    evaluated = ("--gin.EVAL_EVERY=2", "--gin.EVAL_EXAMPLES=4", "--gin.EVAL_BATCH_SIZE=4", "--gin.EVAL_BATCHES=1")
    recipe = (REFEXP, *SHORT, *evaluated, f"--gin.MODEL_DIR='{out}'")
    start = "--gin.INITIAL_CHECKPOINT='digits/train'"
    settings = {"UIO2_MLFLOW": "off"}
    done = commands.run("train", *recipe, start, "--json", store=store, settings=settings)
    assert done.status == 0, done.stderr
    result = done.json()
    assert result["checkpoint"] == str(out / "checkpoint_3")
    printed = done.stderr.index("train.TrainSpec.steps = 3")
    assert printed < done.stderr.index("register ")  # the recipe stands before anything that runs
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows if {"validation/loss", "validation/refexp/iou"} <= row.keys()] == [2, 3]
    assert "train.TrainSpec.steps = 3" in (out / "operative_config.gin").read_text()
    assert "train.TrainSpec.steps = 3" in (Path(result["uri"]) / "operative_config.gin").read_text()

    before, after = arrays(Store(store).newest("digits/train")[1] / "model"), arrays(out)
    moved = {name for name in after if not np.array_equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert any(name.startswith("decoder/") for name in moved)
    assert not any(name.startswith("image_vit/") for name in moved)
    chain = commands.run("lineage", "finetune/train", "--json", store=store)
    assert chain.status == 0, chain.stdout
    assert {"digits/train", "digits/raw", "digits/tokenizer"} <= {node["name"] for node in chain.json()["nodes"]}

    again = commands.run("train", *recipe, start, "--json", store=store, settings=settings)
    assert again.json()["reused"]
    other = commands.run("train", *recipe, start, "--gin.SEED=1", store=store, settings=settings)
    assert other.status == 2
    assert "holds a run of another recipe (-train.TrainSpec.seed = 0; +train.TrainSpec.seed = 1)" in other.stderr

    config = layouts.find(out).config()
    for layout in ("huggingface", "t5x"):
        made = commands.run("export", str(out), str(tmp_path / layout), "--layout", layout, store=store)
        assert made.status == 0, made.stderr
        assert same(arrays(tmp_path / layout, config), after)
    words = f"--tokenizer={out / 'checkpoint_3' / 'tokenizer.model'}"
    onward = commands.run(
        "train",
        REFEXP,
        *SHORT,
        f"--gin.INITIAL_CHECKPOINT='{tmp_path / 'huggingface'}'",
        words,
        "--dry_run",
        store=store,
    )
    assert onward.status == 0, onward.stderr
    assert "train       waits" in onward.stdout or "train       run" in onward.stdout


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference numbers are not beside the checkout")
def test_a_fine_tune_of_a_checkpoint_that_the_original_wrote(commands: Commands, store, tmp_path):
    from tests.model.test_huggingface_files import t5x_fixture_config

    with tarfile.open(GOLDEN / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    config = t5x_fixture_config(json.loads((GOLDEN / "t5x_checkpoint.json").read_text()))
    file = tmp_path / "config.json"
    file.write_text(config.to_json())
    words = f"--tokenizer={Store(store).newest('digits/tokenizer')[1]}"
    flags = ("train", REFEXP, *SHORT, words, f"--gin.MODEL='{file}'", "--gin.BATCH_SIZE=2", "--gin.STEPS=2")
    refused = commands.run(*flags, f"--gin.INITIAL_CHECKPOINT='{tmp_path / 'checkpoint_2'}'", store=store)
    assert refused.status == 2
    assert "the model's text_vocab_size is 1024" in refused.stderr

    # Its text table is shorter than the special pieces alone are many; the rest is as the original left it.
    target = dict(t5x_files.read_target(tmp_path / "checkpoint_2"))
    table = np.asarray(target["text_token_embedder/embedding"])
    target["text_token_embedder/embedding"] = np.concatenate([table, table])
    t5x_files.write(tmp_path / "wide", target)
    file.write_text(config.with_overrides({"text_vocab_size": 2048}).to_json())
    start, out = f"--gin.INITIAL_CHECKPOINT='{tmp_path / 'wide'}'", tmp_path / "out"
    done = commands.run(
        *flags, start, f"--gin.MODEL_DIR='{out}'", "--json", store=store, settings={"UIO2_MLFLOW": "off"}
    )
    assert done.status == 0, done.stderr
    made = layouts.find(out)
    assert made.config().input_modalities == ("text", "image")
    before = arrays(tmp_path / "wide", made.config())
    after = arrays(out)
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("image_vit/"))
    exported = commands.run("export", str(out), str(tmp_path / "t5x"), "--layout", "t5x", store=store)
    assert exported.status == 0, exported.stderr
    assert same(arrays(tmp_path / "t5x", made.config()), after)
    assert not same(before, after)
