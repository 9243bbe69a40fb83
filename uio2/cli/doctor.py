"""`doctor`: what is installed, what devices JAX sees, where the store is, and what is wrong, with the fix."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uio2.cli.options import add_command, print_json, store_of
from uio2.pipeline.process import PACKAGE_ROOT
from uio2.pipeline.stage import StageError
from uio2.pipeline.store import Store

SHOWN = ("jax", "flax", "tensorflow", "seqio", "apache-beam", "prefect", "mlflow", "gin-config", "sentencepiece")
LOCK = PACKAGE_ROOT / "requirements.lock"
LOW_DISK_GB = 2.0
ASK_JAX = "import jax, json; print(json.dumps([[d.platform, d.device_kind] for d in jax.devices()]))"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong and how to mend it."""

    what: str
    fix: str


def add(commands: Any) -> None:
    """Adds the command."""
    add_command(
        commands,
        "doctor",
        about="check the installation, the devices and the store",
        details="Exit status 1 if something is wrong.",
        examples="uio2 doctor\nuio2 doctor --json",
        handler=run_doctor,
    )


def run_doctor(args: argparse.Namespace) -> int:
    """`uio2 doctor`."""
    store = store_of(args)
    facts, problems = examine(store)
    if args.json:
        print_json({**facts, "problems": [dataclasses.asdict(problem) for problem in problems]})
        return 1 if problems else 0
    for key, value in facts.items():
        if isinstance(value, dict):
            value = "  ".join(f"{name} {text}" for name, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{key:<10} {value}")
    for problem in problems:
        print(f"WRONG      {problem.what}\n           fix: {problem.fix}")
    print("nothing wrong" if not problems else f"{len(problems)} wrong")
    return 1 if problems else 0


def examine(store: Store) -> tuple[dict[str, Any], list[Problem]]:
    """(facts for `doctor`, problems)."""
    problems = [*_python_problems(), *_lock_problems(), *_store_problems(store)]
    devices, device_problems = _devices()
    facts = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "packages": {name: _installed(name) or "missing" for name in SHOWN},
        "devices": devices,
        "store": str(store.root),
        "disk_free": f"{_free_gb(store):.1f} GB",
        "services": _services(store) or ["none running"],
    }
    return facts, [*problems, *device_problems]


def _python_problems() -> Iterator[Problem]:
    if not (3, 12) <= sys.version_info[:2] <= (3, 13):
        what = f"Python {platform.python_version()} is not supported; 3.12 and 3.13 are"
        yield Problem(what, "make the environment anew with: make setup")


def _installed(name: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _lock_problems() -> Iterator[Problem]:
    """Every package whose version differs from the lock; none outside a checkout."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if not LOCK.exists():
        return
    import importlib.metadata

    there = {canonicalize_name(d.metadata["Name"] or ""): d.version for d in importlib.metadata.distributions()}
    wrong = []
    for line in re.findall(r"^[A-Za-z0-9][^\s\\]*==[^\\\n]*", LOCK.read_text(), flags=re.MULTILINE):
        requirement = Requirement(line.strip())
        version = there.get(canonicalize_name(requirement.name))
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and (version is None or not requirement.specifier.contains(version, prereleases=True)):
            wrong.append(f"{requirement.name} {version or 'missing'}, lock {requirement.specifier}")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        what = f"{len(wrong)} packages differ from {LOCK.name}: {'; '.join(wrong[:8])}{more}"
        yield Problem(what, f"install the lock: {sys.executable} -m pip install --require-hashes -r {LOCK.name}")


def _store_problems(store: Store) -> Iterator[Problem]:
    try:
        store.prepare()
    except StageError as error:
        yield Problem(str(error), "choose a folder you may write to")
        return
    if _free_gb(store) < LOW_DISK_GB:
        yield Problem(
            f"only {_free_gb(store):.1f} GB free for the store {store.root}", "free some space, or use --store"
        )


def _devices() -> tuple[list[str], list[Problem]]:
    """Asked in a child process: a broken accelerator driver may hang or abort."""
    try:
        answer = subprocess.run([sys.executable, "-c", ASK_JAX], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return [], [Problem("JAX did not list its devices within 120 s", "try JAX_PLATFORMS=cpu")]
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        return [], [
            Problem(f"JAX cannot list its devices: {last}", "try JAX_PLATFORMS=cpu; check the installed jaxlib")
        ]
    pairs = json.loads(answer.stdout.strip().splitlines()[-1])
    return [f"{kind} ({place})" for place, kind in pairs], []


def _free_gb(store: Store) -> float:
    path = next(path for path in (store.root, *store.root.parents) if path.exists())
    return shutil.disk_usage(path).free / 1e9


def _services(store: Store) -> list[str]:
    from uio2.pipeline import services

    found = [services.running(store, name) for name in services.NAMES]
    return [f"{service.name} {service.url}" for service in found if service and Path(service.log).exists()]
