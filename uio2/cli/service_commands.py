"""`up` and `down`: the MLflow and Prefect pages on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import Any

from uio2.cli.options import add_command, print_json, store_of


def add(commands: Any) -> None:
    """Adds the commands."""
    add_command(
        commands,
        "up",
        about="start the MLflow and Prefect pages on localhost and print their addresses",
        details="Their state is in the store; both stay until `uio2 down`. Asked again, it prints the running ones.",
        examples="uio2 up\nuio2 up --json",
        handler=run_up,
    )
    add_command(
        commands,
        "down",
        about="stop the pages that `uio2 up` started",
        examples="uio2 down",
        handler=run_down,
    )


def run_up(args: argparse.Namespace) -> int:
    """`uio2 up`."""
    from uio2.pipeline import services

    store = store_of(args).prepare()
    started = time.monotonic()
    found = [services.start(store, name) for name in services.NAMES]
    print(f"starting {' and '.join(services.NAMES)} ...", file=sys.stderr, flush=True)
    try:
        for service in found:
            services.wait_ready(service)
    except BaseException:
        for service in found:
            services.stop(store, service.name)
        raise
    if args.json:
        print_json({service.name: {**dataclasses.asdict(service), "url": service.url} for service in found})
        return 0
    for service in found:
        print(f"{service.name:<8} {service.url}")
    print(f"ready in {time.monotonic() - started:.0f} s; stop with: uio2 down")
    return 0


def run_down(args: argparse.Namespace) -> int:
    """`uio2 down`."""
    from uio2.pipeline import services

    store = store_of(args)
    stopped = [service for name in services.NAMES if (service := services.stop(store, name))]
    if args.json:
        print_json({"stopped": [service.name for service in stopped]})
    else:
        print(
            "".join(f"stopped {service.name} ({service.url})\n" for service in stopped) or "nothing was running\n",
            end="",
        )
    return 0
