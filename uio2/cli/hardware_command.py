"""`uio2 plan-hardware`: would a training fit chips that are not here, how long would it take, what would it cost."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from uio2.cli.options import add_command, console_of, print_json, store_of
from uio2.pipeline.stage import UsageError

if TYPE_CHECKING:
    from uio2.train.hardware.forecast import Forecast
    from uio2.train.hardware.question import Question

WORD = "plan-hardware"


def add(commands: Any) -> None:
    """Adds the command."""
    plan = add_command(
        commands,
        WORD,
        about="say whether a training fits TPUs or GPUs that are not here, how long it takes and what it costs",
        details="""
            Compiles the real training step of a recipe with the compiler of those chips (`make hardware` installs
            them) and reads memory from the program. What does not fit gets the smallest change that does. Neither data
            nor a checkpoint is needed. Exit status 1 if it does not fit.""",
        examples="""
            uio2 plan-hardware --gin_file=configs/models/large.gin --gin_file=configs/finetune/refexp.gin \\
                --topology v5e:4x8 --plan fsdp
            uio2 plan-hardware --gin_file=configs/models/xl.gin --gin_file=configs/finetune/refexp.gin \\
                --topology h200:8 --plan fsdp_tensor --mesh fsdp=4,tensor=2 --mfu 0.35 --price 3.5 --json
            uio2 plan-hardware --gin_file=configs/models/xxl.gin --gin_file=configs/finetune/refexp.gin \\
                --topology v4:2x2x4 --plan fsdp --no_compile""",
        handler=run_plan,
    )
    plan.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="v5e:4x8, v4:2x2x4, v5p:2x2x4, "
                      "v6e:4x4, h100:8, h200:8; cpu:8 pretends")  # fmt: skip
    plan.add_argument("--plan", default="", help="as UIO2_PLAN (default: that, else data)")
    plan.add_argument("--mesh", default="", metavar="SIZES", help="as UIO2_MESH, like fsdp=8,tensor=4 (default: that, "
                      "else all on one axis)")  # fmt: skip
    plan.add_argument("--mfu", type=float, default=0.4, help="share of the bf16 peak to expect (default: 0.4)")
    plan.add_argument("--price", type=float, metavar="USD", help="per chip-hour (default: a list price)")
    plan.add_argument("--no_compile", action="store_true", help="only what follows from shapes: seconds, no compiler")
    plan.add_argument("--tries", type=int, default=4, metavar="N", help="changes to compile, if it does not fit "
                      "(default: 4; 0 for no suggestion)")  # fmt: skip
    plan.add_argument("--limit", type=float, default=1800, metavar="S", help="longest compilation (default: 1800)")
    gin = plan.add_argument_group("the recipe")
    gin.add_argument("--gin_file", action="append", default=[], metavar="FILE")
    gin.add_argument("--gin.NAME=VALUE", action="store_true", dest="_gin", help="bind one value; may be repeated")


def run_plan(args: argparse.Namespace) -> int:
    """`uio2 plan-hardware`."""
    from uio2.train.hardware.forecast import TOO_LARGE

    first = look(args, question_of(args))
    change = None
    if first.verdict == TOO_LARGE and first.question.compiles and args.tries > 0:
        from uio2.train.hardware.suggest import find

        change = find(first, look=lambda question: look(args, question), tries=args.tries)
    if args.json:
        fits = None if change is None else {"options": change[0].options, **change[1].to_json()}
        print_json({**first.to_json(), "change_that_fits": fits})
    else:
        print(first.text())
        if change is not None:
            print(f"fits with {change[0].options}\n\n{change[1].text()}")
        elif first.verdict == TOO_LARGE and first.question.compiles and args.tries > 0:
            print(f"none of {args.tries} changes fits; try more with --tries, LoRA, or a smaller BATCH_SIZE")
    return 1 if first.verdict == TOO_LARGE else 0


def question_of(args: argparse.Namespace) -> Question:
    """What the command line asks; UsageError where that cannot be meant or no compiler is there."""
    from flows.finetune import settings
    from uio2.train.execution import MESH, PLAN, Execution
    from uio2.train.hardware.chips import Topology
    from uio2.train.hardware.compiler import INSTALL, folder, has_compiler
    from uio2.train.hardware.question import Question

    if not 0 < args.mfu <= 1:
        raise UsageError(f"--mfu {args.mfu}: expected more than 0 and at most 1")
    if args.price is not None and args.price < 0:
        raise UsageError(f"--price {args.price}: expected 0 or more")
    topology = Topology.parse(args.topology)
    asked = {name: value for name, value in ((PLAN, args.plan), (MESH, args.mesh)) if value}
    where = Execution.from_environment() if not asked else Execution.from_environment(asked)
    found = settings(args.gin_file, args.gin_bindings, store=store_of(args))
    if found.train.packing.packs:
        raise UsageError(f"PACKING is {found.train.packing.strategy!r}: the shapes of packed batches follow from the "
                         "data; plan without, --gin.PACKING=\"'none'\"")  # fmt: skip
    compiles = not args.no_compile and has_compiler(topology)
    if not compiles and not args.no_compile:
        print(f"uio2: no compiler for {topology.chip.name} in {folder(topology)}: `{INSTALL}` installs it; here is "
              "what follows from shapes", file=sys.stderr)  # fmt: skip
    return Question(found.register, found.train, topology.text, where.plan, where.mesh, compiles)


def look(args: argparse.Namespace, question: Question) -> Forecast:
    """The forecast for one question, with a line of progress every five seconds."""
    from uio2.train.hardware.chips import Topology
    from uio2.train.hardware.compiler import ask
    from uio2.train.hardware.forecast import Forecast

    console = console_of(args)
    what = f"{question.topology}, remat {question.train.model_config['remat']}, {question.train.step.microbatches} " \
           f"part(s)"  # fmt: skip
    doing = "compiling for" if question.compiles else "tracing for"
    answer = ask(
        question, limit_s=args.limit, on_wait=lambda spent: console.line(WORD, f"{doing} {what}: {spent:.0f} s")
    )
    chip = Topology.parse(question.topology).chip
    return Forecast(question, answer, args.mfu, chip.price if args.price is None else args.price)
