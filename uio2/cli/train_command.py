"""`uio2 train`: by a recipe, in the habit of T5X; or, without one, the train stage of a pipeline."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uio2.cli import launching
from uio2.cli.options import add_command, add_stage_options, print_json, store_of
from uio2.cli.run_commands import execute, run_word
from uio2.cli.task_commands import given_datasets
from uio2.pipeline.stage import UsageError

if TYPE_CHECKING:
    from flows.finetune import Ready
    from uio2.pipeline.store import Store


def add(commands: Any) -> None:
    """Adds the command."""
    train = add_command(
        commands,
        "train",
        about="train a model: by a recipe, or as the train stage of a pipeline, with everything it needs",
        details="""
            A recipe is a file of configs/finetune or configs/pretrain, or your own; a file of configs/models says which
            model. INITIAL_CHECKPOINT takes an artifact or model of the store, a T5X directory, a Hugging Face folder or
            repository. Datasets come from the store (`uio2 build`) or from --dataset. What cannot work is said before
            anything starts. Texts need quotes of their own: --gin.MODEL_DIR="'out'".""",
        examples="""
            uio2 train --gin_file=configs/models/large.gin --gin_file=configs/finetune/refexp.gin \\
                --gin.INITIAL_CHECKPOINT="'checkpoint_3000000'" --gin.TOKENIZER="'tokenizer.model'" \\
                --gin.MODEL_DIR="'out'" --gin.BATCH_SIZE=8
            uio2 train --gin_file=configs/finetune/vqa.gin --gin.INITIAL_CHECKPOINT="'digits@1'" \\
                --gin.TEXT_INPUTS=40 --gin.STEPS=200 --dry_run
            uio2 train --gin_file=configs/models/tiny.gin --gin_file=configs/pretrain/text_denoising.gin \\
                --dataset alpaca=DIR
            uio2 train --profile 20:5
            uio2 train --pipeline digits --gin.STEPS=20
            uio2 train --stage vision-tower""",
        handler=run_train,
    )
    recipe = train.add_argument_group("recipes")
    recipe.add_argument("--dataset", action="append", default=[], metavar="NAME=DIR", help="TFDS directory of a "
                        "dataset (default: the newest of the store)")  # fmt: skip
    recipe.add_argument("--tokenizer", metavar="FILE", help="as TOKENIZER: a SentencePiece model (default: the "
                        "checkpoint's own, or one trained on the data)")  # fmt: skip
    recipe.add_argument("--dry_run", action="store_true", help="check everything, print the resolved recipe and what "
                        "would run, and stop")  # fmt: skip
    train.add_argument("--profile", metavar="START:STEPS", help="trace so many steps from step START on, and say where "
                       "the trace is (also UIO2_PROFILE, for any command that trains)")  # fmt: skip
    launching.add_options(train)
    add_stage_options(train)


def run_train(args: argparse.Namespace) -> int:
    """`uio2 train`."""
    from flows.finetune import is_recipe
    from uio2.train.execution import PROFILE, profile_window

    if args.profile:
        profile_window(args.profile)
        os.environ[PROFILE] = args.profile
    if args.pipeline or args.stage or not is_recipe(args.gin_file, args.gin_bindings):
        unused = [name for name in ("dataset", "tokenizer", "dry_run") if getattr(args, name)]
        unused += ["launcher"] if args.launcher != "local" else []
        if unused:
            raise UsageError(f"--{unused[0]} is for recipes: add --gin_file=configs/finetune/NAME.gin")
        return run_word(args, "train")
    return _run_recipe(args)


def _run_recipe(args: argparse.Namespace) -> int:
    store = store_of(args)
    ready = prepare(args, store)
    print(ready.text, file=sys.stderr, flush=True)
    if args.dry_run:
        return _show_plan(args, ready, store)
    if ready.model_dir:
        from uio2.train.model_dir import claim

        claim(ready.model_dir, ready.text)
    store.prepare()
    done = execute(args, ready.pipeline, launchers=launching.launchers(args, store))
    artifact = done["train"].artifact
    result = dataclasses.asdict(artifact) | {"reused": done["train"].reused, "checkpoint": str(artifact.path / "model")}
    if ready.model_dir:
        result["checkpoint"] = str(_deliver(ready, done, store))
    if args.json:
        print_json(result)
        return 0
    print(f"{artifact.name}@{artifact.version}  digest {artifact.digest[:12]}\n  {result['checkpoint']}")
    figures = {k: v for k, v in artifact.stats.items() if isinstance(v, (int, float, str, bool))}
    print("".join(f"  {key}: {value}\n" for key, value in figures.items()), end="")
    return 0


def prepare(args: argparse.Namespace, store: Store) -> Ready:
    """Resolves the recipe of a command line and checks that it can work; UsageError lists all that is wrong."""
    from flows.finetune import prepared

    bindings = [*args.gin_bindings, *([f"TOKENIZER={args.tokenizer!r}"] if args.tokenizer else [])]
    return prepared(
        args.gin_file, bindings, store=store, given=given_datasets(args), devices=launching.devices(args, store)
    )


def _show_plan(args: argparse.Namespace, ready: Ready, store: Store) -> int:
    from uio2.pipeline.plan import plan

    plans = plan(ready.pipeline, store=store.prepare())
    if args.launcher == "k8s":
        print(launching.manifest_text(args, store), end="")
        return 0
    if args.json:
        stages = [{"stage": item.stage, "status": item.status, "reason": item.reason} for item in plans]
        print_json({"config": ready.text, "stages": stages})
        return 0
    for item in plans:
        print(f"{item.stage:<12}{item.status:<8}{item.reason}")
    return 0


def _deliver(ready: Ready, done: dict[str, Any], store: Store) -> Path:
    from uio2.pipeline.sources import source_artifact
    from uio2.pipeline.stage import Source
    from uio2.tasks.pieces import tokenizer_file
    from uio2.train.model_dir import deliver

    assert ready.model_dir is not None
    given = next(s for s in ready.pipeline.stages if s.name == "train").inputs["tokenizer"]
    words = (
        source_artifact(given, store=store, name="tokenizer")
        if isinstance(given, Source)
        else done["tokenizer"].artifact
    )
    return deliver(done["train"].artifact, ready.model_dir, tokenizer=tokenizer_file(words.path))
