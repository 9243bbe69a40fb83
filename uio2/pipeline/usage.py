"""What a running stage takes of its machine, as metrics: `system/...` in its MLflow run, on the page of that name.

The stage's own process samples, so that it is measured where it runs; the figures go the way of all metrics and so wait
on disk while MLflow is away. MLflow's own variables apply: MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns it off,
MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is the seconds between two samples (10). A sample costs a millisecond, with
NVIDIA GPUs a call of `nvidia-smi`, which is another process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping

import psutil

ENABLED, INTERVAL = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
EVERY_S = 10.0
_MB = 1e6
_GPU = ("utilization.gpu", "memory.used", "memory.total", "power.draw")

Metric = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def sampled(metric: Metric) -> Iterator[None]:
    """Samples until it is left; the first sample comes after one interval."""
    if os.environ.get(ENABLED, "").lower() in ("false", "0", "off"):
        yield
        return
    done = threading.Event()
    arguments = (metric, done, float(os.environ.get(INTERVAL, "") or EVERY_S))
    thread = threading.Thread(target=_sample, args=arguments, name="usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)


def _sample(metric: Metric, done: threading.Event, every: float) -> None:
    psutil.cpu_percent()  # the first call begins what the next one measures
    number = 0
    while not done.wait(every):
        metric(number, usage() | gpus())
        number += 1


def usage() -> dict[str, float]:
    """Of the machine, and the memory of this process and its children."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / _MB,
        "system/system_memory_usage_percentage": memory.percent,
        "system/stage_memory_usage_megabytes": _family_memory() / _MB,
    }


def _family_memory() -> int:
    found, me = 0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            found += process.memory_info().rss
    return found


def gpus() -> dict[str, float]:
    """Of every NVIDIA GPU here; empty without any."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    options = [f"--query-gpu=index,{','.join(_GPU)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run([command, *options], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, float] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        with contextlib.suppress(ValueError):  # "[N/A]"
            index, busy, used, total, power = (float(value) for value in line.split(","))
            found |= {
                f"system/gpu_{int(index)}_utilization_percentage": busy,
                f"system/gpu_{int(index)}_memory_usage_megabytes": used * 2**20 / _MB,
                f"system/gpu_{int(index)}_memory_usage_percentage": 100 * used / total,
                f"system/gpu_{int(index)}_power_usage_watts": power,
            }
    return found
