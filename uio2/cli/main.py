"""`uio2`: reads the command line, runs one command, turns every failure into one message and an exit status.

Exit status: 0 well, 1 a stage failed or a check found something wrong, 2 the command line or configuration cannot be
meant, 130 stopped by Ctrl-C. Commands import what they need when they run, so `--help` costs a tenth of a second.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence

from uio2.cli import (
    build_command,
    compare_command,
    doctor,
    evaluate_command,
    export_command,
    hardware_command,
    inspect_commands,
    model_commands,
    run_commands,
    service_commands,
    task_commands,
    train_command,
    visualize_command,
)
from uio2.pipeline.artifact import ArtifactError
from uio2.pipeline.process import Cancelled
from uio2.pipeline.stage import StageError, UsageError

EPILOG = """\
examples:
  uio2 run digits                              the whole pipeline on the embedded digits
  uio2 plan digits --gin.STEPS=20              what would run, and which field changed
  uio2 run coco --images train2017 --annotations annotations
  uio2 train --gin_file=configs/models/large.gin --gin_file=configs/finetune/refexp.gin
  uio2 score --pipeline digits                 one stage, with all it needs
  uio2 evaluate --gin_file=configs/evaluate/refexp.gin --checkpoint digits@1
  uio2 lineage digits@1                        from a model back to raw files
  uio2 compare digits@1 digits@2               which is better, in what, and why
  uio2 models                                  registered versions, and which is champion
  uio2 build alpaca --source alpaca.json       one dataset
  uio2 tasks                                   the tasks, and the data each needs
  uio2 visualize refcoco_unc page.html         what the model receives of a task

uio2 COMMAND --help shows the options and examples of a command."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="uio2",
        description="Raw multimodal data to an evaluated, registered, traceable Unified-IO 2 model.",
        epilog=textwrap.dedent(EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    run_commands.add(commands)
    train_command.add(commands)
    hardware_command.add(commands)
    evaluate_command.add(commands)
    export_command.add(commands)
    build_command.add(commands)
    inspect_commands.add(commands)
    compare_command.add(commands)
    model_commands.add(commands)
    service_commands.add(commands)
    task_commands.add(commands)
    visualize_command.add(commands)
    doctor.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _run(arguments)
    except (KeyboardInterrupt, Cancelled):
        return _say("stopped; run the same command again to go on", status=130, debug=debug)
    except UsageError as error:
        return _say(f"error: {error}", status=2, debug=debug)
    except (StageError, ArtifactError) as error:
        return _say(f"error: {error}", status=1, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        return 1
    except Exception as error:  # the named boundary of the program
        text = f"internal error: {type(error).__name__}: {error}; run with --debug for the traceback"
        return _say(text, status=1, debug=debug)


def _run(arguments: list[str]) -> int:
    if any(argument.startswith("--gin.") for argument in arguments):
        from uio2.pipeline.gin_arguments import split_gin_arguments

        arguments, bindings = split_gin_arguments(arguments)
    else:
        bindings = []
    args = parser().parse_args(arguments)
    if bindings and not hasattr(args, "gin_file"):
        raise UsageError(f"this command takes no gin bindings; remove --gin.{bindings[0]}")
    args.gin_bindings = bindings
    return args.handler(args)


def _say(text: str, *, status: int, debug: bool) -> int:
    if debug and status != 130:
        traceback.print_exc()
    print(f"uio2: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
