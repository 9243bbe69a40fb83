"""`uio2 export`: a trained model in the layout that other programs read."""

from __future__ import annotations

import argparse
from typing import Any

from uio2.cli.options import add_command, print_json, store_of
from uio2.pipeline.stage import UsageError

LAYOUTS = ("native", "t5x", "huggingface")


def add(commands: Any) -> None:
    """Adds the command."""
    export = add_command(
        commands,
        "export",
        about="write a model as a T5X directory, a Hugging Face folder or in our own layout",
        details="""
            MODEL is a registered model, an artifact, a folder of any layout, or a repository of the hub: what
            INITIAL_CHECKPOINT takes.""",
        examples="""
            uio2 export digits@1 out --layout huggingface
            uio2 export finetune/train out/checkpoint_8000 --layout t5x
            uio2 export checkpoint_3000000 out --layout huggingface --config config.json""",
        handler=run_export,
    )
    export.add_argument("model", metavar="MODEL")
    export.add_argument("out", metavar="OUT", help="a folder that does not exist yet")
    export.add_argument("--layout", choices=LAYOUTS, default="huggingface", help="default: huggingface")
    export.add_argument("--config", metavar="MODEL_OR_FILE", help="preset or config.json; T5X directories need it")


def run_export(args: argparse.Namespace) -> int:
    """`uio2 export`."""
    from uio2.model.checkpoint import layouts
    from uio2.model.checkpoint.tree import CheckpointError
    from uio2.model.parts import ConfigError
    from uio2.train.model_choice import chosen, config_of
    from uio2.train.starting import find_start

    start = find_start(args.model, store=store_of(args))
    config = config_of(chosen(args.config)) if args.config else start.checkpoint.config()
    if config is None:
        raise UsageError(f"{args.model} is a T5X checkpoint, which holds no config: --config large, or a config.json")
    try:
        layouts.save(start.checkpoint.load(config=config, dtype=None), args.out, layout=args.layout)
    except (CheckpointError, ConfigError) as error:
        raise UsageError(f"export of {args.model} as {args.layout}: {error}") from error
    if args.json:
        print_json({"checkpoint": args.out, "layout": args.layout, "from": str(start.checkpoint.folder)})
    else:
        print(f"{args.out}: {args.layout}, from {start.checkpoint.folder}")
    return 0
