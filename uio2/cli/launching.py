"""The options of `uio2 train` that say where it runs, and the launchers they mean."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Store

TRAINED_BY = "train"  # the type of stage that runs elsewhere; what prepares data stays here
# Variables of this process that also decide how a training is laid out in pods.
PASSED_ON = ("UIO2_PLAN", "UIO2_MESH", "UIO2_PROFILE")
DRY_RUN = "dry-run0"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    group = parser.add_argument_group("where the training runs (recipes only; UIO2_PLAN and UIO2_MESH say how)")
    group.add_argument("--launcher", choices=["local", "processes", "k8s"], default="local", help="a child process, "
                       "several of this machine, or a JobSet on GKE (default: local)")  # fmt: skip
    group.add_argument("--processes", type=int, default=2, metavar="N", help="of --launcher processes (default: 2)")
    group.add_argument("--topology", metavar="TYPE:CHIPS", help="TPU slice, like v5e:4x8 or v4:2x2x4")
    group.add_argument("--slices", type=int, default=1, metavar="N", help="slices that train as one (default: 1)")
    group.add_argument("--image", default="", help="container image with this project installed")
    group.add_argument("--claim", default="", metavar="NAME", help="persistent volume claim that holds the store")
    group.add_argument("--namespace", default="default")
    group.add_argument("--service_account", default="", metavar="NAME")
    group.add_argument("--spot", action="store_true", help="nodes that may be taken away at any time")
    group.add_argument("--restarts", type=int, default=3, metavar="N", help="after failures (default: 3)")
    group.add_argument("--node_selector", action="append", default=[], metavar="LABEL=VALUE", help="may be repeated")


def launchers(args: argparse.Namespace, store: Store) -> dict[str, Any]:
    """Launcher by stage type, for the runner."""
    from uio2.pipeline.launch.launcher import LocalProcesses

    if args.launcher == "processes":
        return {TRAINED_BY: LocalProcesses(args.processes)}
    if args.launcher == "k8s":
        from uio2.pipeline.launch.cluster import Cluster
        from uio2.pipeline.launch.kubernetes import KubernetesJobSet

        cluster = Cluster.from_environment(namespace=args.namespace)
        return {TRAINED_BY: KubernetesJobSet(_settings(args, store), cluster)}
    return {}


def devices(args: argparse.Namespace, store: Store) -> int:
    """Over how many devices the training will split its batches."""
    from uio2.train.execution import Execution

    if mesh := Execution.from_environment().mesh:
        return mesh["data"] * mesh["fsdp"]
    if args.launcher == "k8s":
        settings = _settings(args, store)
        return settings.slices * settings.slice.chips
    return _local_devices() * (args.processes if args.launcher == "processes" else 1)


def manifest_text(args: argparse.Namespace, store: Store) -> str:
    """The JobSet as YAML, with the name of an attempt that there is not."""
    import yaml

    from uio2.pipeline.launch.kubernetes import manifest_of

    attempt = Path(store.root) / ".tmp" / f"{'0' * 16}-{DRY_RUN}"
    return yaml.safe_dump(manifest_of(_settings(args, store), stage=TRAINED_BY, attempt=attempt), sort_keys=False)


def _settings(args: argparse.Namespace, store: Store) -> Any:
    from uio2.pipeline.launch.jobset import JobSetSettings
    from uio2.pipeline.launch.topology import Slice

    if not args.topology:
        raise UsageError("--launcher k8s needs --topology TYPE:CHIPS, like v5e:4x8")
    selector = dict(item.split("=", 1) for item in args.node_selector if "=" in item)
    if len(selector) < len(args.node_selector):
        raise UsageError(f"--node_selector {args.node_selector}: expected LABEL=VALUE, each label once")
    return JobSetSettings(
        slice=Slice.parse(args.topology), image=args.image, claim=args.claim, mount=str(store.root),
        slices=args.slices, namespace=args.namespace, service_account=args.service_account, spot=args.spot,
        restarts=args.restarts, node_selector=selector,
        environment={name: os.environ[name] for name in PASSED_ON if os.environ.get(name)},
    )  # fmt: skip


def _local_devices() -> int:
    """How many devices JAX sees here, asked in a process of its own: whoever takes a TPU keeps it."""
    code = "import jax; print(jax.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise UsageError(f"JAX finds no device: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return int(done.stdout.split()[-1])
