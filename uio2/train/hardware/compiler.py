"""Asks a process of its own: compilers of other hardware may crash, wait for ever or take devices, and stay in it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from uio2.pipeline.process import PACKAGE_ROOT, child_environment
from uio2.pipeline.stage import StageError
from uio2.train.hardware.chips import CPU, GPU, TPU, Topology
from uio2.train.hardware.question import Answer, Question

FOLDER = "UIO2_COMPILERS"  # variable: where the compilers are, if not in `.uv/hardware`
INSTALL = "make hardware"
# Module of the package, by platform.
_MODULES = {TPU: "libtpu", GPU: "jax_plugins/xla_cuda12"}
EVERY_S = 5.0


def folder(topology: Topology) -> Path:
    """Where `make hardware` installs the compiler for these chips; one each, so that no process sees the others."""
    return Path(os.environ.get(FOLDER) or PACKAGE_ROOT / ".uv" / "hardware") / topology.chip.platform


def has_compiler(topology: Topology) -> bool:
    """Whether there is a compiler for it."""
    if topology.chip.platform == CPU:
        return True
    module = _MODULES[topology.chip.platform]
    return (folder(topology) / module).is_dir() or importlib.util.find_spec(module.partition("/")[0]) is not None


def ask(question: Question, *, limit_s: float, on_wait: Callable[[float], None]) -> Answer:
    """The answer of a process of its own.

    Args:
      question: what to compile.
      limit_s: seconds after which it is stopped.
      on_wait: called every five seconds with those that went by.

    Raises:
      StageError: it failed, or took too long.
    """
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "uio2.train.hardware.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=_environment(Topology.parse(question.topology)),
    )  # fmt: skip
    try:
        text: str | None = json.dumps(question.to_json())
        while True:
            try:
                out, err = child.communicate(text, timeout=EVERY_S)
                break
            except subprocess.TimeoutExpired:
                text, spent = None, time.monotonic() - began
                if spent > limit_s:
                    raise StageError(f"compiling for {question.topology} took more than {limit_s:.0f} s; give it "
                                     "longer with --limit, or leave it out with --no_compile") from None  # fmt: skip
                on_wait(spent)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return _parsed(question, child.returncode, out, err)


def _parsed(question: Question, status: int, out: str, err: str) -> Answer:
    lines = out.strip().splitlines()
    if status or not lines:
        told = [line for line in err.strip().splitlines() if "Error" in line or "error" in line]
        last = (told or err.strip().splitlines() or ["no message"])[-1]
        raise StageError(f"compiling for {question.topology} failed (status {status}): {last[:600]}")
    values = json.loads(lines[-1])
    if "error" in values:
        raise StageError(values["error"])
    return Answer(**values)


def _environment(topology: Topology) -> dict[str, str]:
    base = child_environment(Path(os.environ.get("TMPDIR", "/tmp")), cache=Path("/nonexistent"))
    base.pop("JAX_COMPILATION_CACHE_DIR", None)  # programs of other hardware are of no use here
    base["JAX_PLATFORMS"] = "cpu"  # the process itself takes no accelerator that may be here
    if topology.chip.platform == CPU:
        return base | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
                                    f"--xla_force_host_platform_device_count={topology.devices}"}  # fmt: skip
    base["PYTHONPATH"] = os.pathsep.join([base["PYTHONPATH"], str(folder(topology))])
    if topology.chip.platform == TPU:
        # No questions to a metadata server; another process may hold libtpu at the same time.
        base |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    return base
