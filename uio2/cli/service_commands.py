"""`up` and `down`: the MLflow and Prefect pages, the worker and the deployments on this machine."""

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
        about="start the MLflow and Prefect pages and a worker on localhost, and register the deployments",
        details="""
            Their state is in the store; all stay until `uio2 down`. Asked again, it prints the running ones. The
            deployments are those of prefect.yaml: `prefect deployment run build-coco -p images=... `.""",
        examples="uio2 up\nuio2 up --json",
        handler=run_up,
    )
    add_command(
        commands,
        "down",
        about="stop the pages and the worker that `uio2 up` started",
        examples="uio2 down",
        handler=run_down,
    )


def run_up(args: argparse.Namespace) -> int:
    """`uio2 up`."""
    from flows.register import deploy
    from uio2.pipeline import services

    store = store_of(args).prepare()
    started = time.monotonic()
    before = {name for name in services.NAMES if services.running(store, name)}
    found = [services.start(store, name) for name in services.PAGES]
    print(f"starting {', '.join(services.PAGES)} and worker ...", file=sys.stderr, flush=True)
    try:
        for service in found:
            services.wait_ready(service)
        names = deploy(store)
        found.append(services.start(store, "worker"))
        services.wait_ready(found[-1])
    except BaseException:
        for name in services.NAMES:
            if name not in before:
                services.stop(store, name)
        raise
    if args.json:
        pages = {service.name: {**dataclasses.asdict(service), "url": service.url} for service in found}
        print_json({**pages, "deployments": names})
        return 0
    for service in found:
        print(f"{service.name:<8} {service.url}")
    print(f"deployments: {', '.join(names)}")
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
