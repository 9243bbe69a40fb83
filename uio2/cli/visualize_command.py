"""`uio2 visualize`: a page of examples as the model receives them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uio2.cli.options import add_command, print_json, store_of
from uio2.cli.task_commands import add_data_options, given_datasets
from uio2.pipeline.stage import UsageError


def add(commands: Any) -> None:
    """Adds the command."""
    visualize = add_command(
        commands,
        "visualize",
        about="make a page of what the model receives of a task, after all stages of preprocessing",
        details="""
            Pictures without their normalisation and with what is masked dimmed, boxes and points drawn, spectrograms
            with sound made from them, tokens by kind, targets with what counts in the loss. `--split train` shows
            examples as training draws them; other splits show evaluation's. The page is one file and loads nothing.""",
        examples="""
            uio2 visualize refcoco_unc refcoco.html
            uio2 visualize vqa_coco_2017,image_caption_coco_2017 pages --split train --num_examples 16
            uio2 visualize refexp packed.html --packing best_fit --packing_rows 864,64
            uio2 visualize audio_caption audio.html --gin.tasks.RegisterSpec.num_audio_segments=2 --serve""",
        handler=run_visualize,
    )
    visualize.add_argument("tasks", metavar="TASK_OR_MIXTURE", help="a task, or several joined by commas")
    visualize.add_argument("out", metavar="OUT", help="the page (.html), or a folder to write TASK-SPLIT.html into")
    visualize.add_argument("--split", default="validation", help="train, validation (default) or another the data has")
    visualize.add_argument("--num_examples", type=int, default=12, metavar="N", help="examples in all (default 12)")
    visualize.add_argument("--start", type=int, default=0, metavar="N", help="skip so many examples")
    visualize.add_argument("--seed", type=int, default=0, help="of training's order and draws")
    visualize.add_argument("--packing", choices=["best_fit", "pairs"], help="the first rows of a packed training batch")
    visualize.add_argument("--packing_rows", metavar="ENCODER,DECODER", default="864,512",
                           help="tokens of a packed row (default 864,512)")  # fmt: skip
    visualize.add_argument("--no-masks", action="store_true", help="leave out what dims masked patches")
    visualize.add_argument("--max_mb", type=float, default=32.0, metavar="MB", help="longest page (default 32)")
    visualize.add_argument("--serve", nargs="?", type=int, const=0, metavar="PORT", help="show the page on localhost "
                           "until Ctrl-C; any free port unless given")  # fmt: skip
    add_data_options(visualize)


def run_visualize(args: argparse.Namespace) -> int:
    """`uio2 visualize`."""
    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    if not names or args.num_examples < 1 or args.start < 0:
        raise UsageError(f"visualize {args.tasks!r} --num_examples {args.num_examples} --start {args.start}: expected "
                         "a task, 1 or more examples and a start of 0 or more")  # fmt: skip
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    page = _page(args, names)
    out = Path(args.out)
    if out.suffix != ".html":
        out /= f"{'+'.join(names)}-{args.split}.html"
    from uio2.tasks.visualize.page import write

    write(page, out)
    mean, most = page.bytes_per_example
    if args.json:
        print_json({"page": str(out), "bytes": len(page.html.encode()), "examples": page.examples,
                    "left_out": page.left_out, "bytes_per_example": {"mean": mean, "most": most}})  # fmt: skip
    else:
        print(f"{out}: {page.examples} examples, {len(page.html) / 2**20:.1f} MB, {mean / 2**10:.0f} KB an example "
              f"(most {most / 2**10:.0f} KB)")  # fmt: skip
    if page.left_out:
        print(f"{page.left_out} examples had no place; raise --max_mb {args.max_mb:g}", file=sys.stderr)
    if args.serve is not None:
        _serve(page.html, args.serve)
    return 0


def _page(args: argparse.Namespace, names: list[str]) -> Any:
    from uio2.tasks.families import TaskError
    from uio2.tasks.mixture import MixtureError
    from uio2.tasks.task_check import TaskData
    from uio2.tasks.visualize.cards import Example, Style
    from uio2.tasks.visualize.page import build
    from uio2.tasks.visualize.source import evaluation_examples, packed_examples, training_examples

    data = TaskData(store_of(args), datasets=given_datasets(args), tokenizer=args.tokenizer, gin_files=args.gin_file,
                    bindings=args.gin_bindings)  # fmt: skip
    try:
        mixture = data.mixture(dict.fromkeys(names, 1.0))
        packing = None
        found: Iterable[Example]
        if args.packing:
            about = f"the first rows of a packed training batch ({args.packing}, rows of {args.packing_rows} tokens)"
            spec = _packing(args)
            found, packing = packed_examples(mixture, packing=spec, count=args.num_examples, seed=args.seed)
        elif args.split == "train":
            about = f"training examples as drawn with seed {args.seed}"
            found = training_examples(mixture, count=args.num_examples, seed=args.seed, start=args.start)
        else:
            about = f"evaluation examples of {args.split}"
            found = evaluation_examples(mixture, split=args.split, count=args.num_examples, start=args.start)
        style = Style(mixture.recipe, mixture.vocabulary, masks=not args.no_masks)
        return build(found, title=", ".join(names), about=f"What the model receives: {about}",
                     style=style, max_bytes=int(args.max_mb * 2**20), packing=packing)  # fmt: skip
    except (TaskError, MixtureError) as error:
        raise UsageError(str(error)) from error


def _packing(args: argparse.Namespace) -> Any:
    from uio2.tasks.packing.spec import PackingSpec

    try:
        encoder, decoder = (int(part) for part in args.packing_rows.split(","))
    except ValueError as error:
        raise UsageError(f"--packing_rows {args.packing_rows}: expected ENCODER,DECODER, two numbers") from error
    decoders = dict.fromkeys(("text", "image", "audio"), decoder)
    return PackingSpec(args.packing, encoder=encoder, decoder=decoders, window_rows=32)


def _serve(html: str, port: int) -> None:
    from uio2.tasks.visualize.serve import PageServer

    try:
        server = PageServer(html, port=port)
    except OSError as error:
        raise UsageError(f"--serve {port}: {error}; leave the port out to take any that is free") from error
    print(f"{server.url}  (Ctrl-C ends it)", flush=True)
    server.run()
