"""The child process in which one stage runs: `python -m uio2.cli.child JOB.json`.

It ends with the runner (PR_SET_PDEATHSIG), reports progress on the descriptor named in the environment, writes metric
lines to a file, and leaves `result.json`: the stats, or one clear message. The traceback goes into the result, from
where the runner puts it into the log; it is printed only for `--debug`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from uio2.cli.lean_imports import keep_extras_from_keras
from uio2.pipeline.artifact import ArtifactError, canonical_json
from uio2.pipeline.guard import die_with
from uio2.pipeline.job import EVENTS_VARIABLE, METRICS, Job, Result
from uio2.pipeline.stage import StageContext, StageError
from uio2.pipeline.usage import sampled

EVENT_EVERY_S = 0.5
EXPECTED = (StageError, ArtifactError, ValueError, OSError)  # their text is written for people


class Reports:
    """The `progress` and `metric` functions of a stage's context."""

    def __init__(self, *, metrics: Path, events: int | None):
        self._metrics = open(metrics, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        self._events = events
        self._sent = 0.0
        self._lock = threading.Lock()

    def progress(self, done: int, total: int, text: str) -> None:
        """Sends an event, at most two a second (the last one of a count always)."""
        now = time.monotonic()
        if self._events is not None and (now - self._sent >= EVENT_EVERY_S or done == total):
            self._sent = now
            event = json.dumps({"done": int(done), "total": int(total), "text": str(text)}) + "\n"
            try:
                os.write(self._events, event.encode())
            except BrokenPipeError:
                self._events = None

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one JSON line."""
        row = {"step": int(step), "time": round(time.time(), 3), "values": {k: float(v) for k, v in values.items()}}
        with self._lock:  # the machine's use is sampled in a thread
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()


def run_job(job: Job) -> Result:
    """Runs the stage of a job; an exception becomes the message of the result."""
    descriptor = os.environ.pop(EVENTS_VARIABLE, None)
    reports = Reports(metrics=Path(job.metrics), events=int(descriptor) if descriptor else None)
    try:
        for entry in job.path:
            if entry not in sys.path:
                sys.path.append(entry)
        spec = job.load_spec()
        module, _, function = job.run.partition(":")
        run = getattr(__import__(module, fromlist=[function]), function)
        context = StageContext(
            inputs=job.load_inputs(),
            out=Path(job.attempt) / "out",
            work=Path(job.work),
            progress=reports.progress,
            metric=reports.metric,
            logs=Path(job.metrics.removesuffix(METRICS)),
        )
        with sampled(reports.metric):
            stats = dict(run(spec, context) or {})
        canonical_json(stats)  # a value that is not JSON, or NaN, fails here and not when the record is written
        return Result(stats=stats, peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    except Exception as error:  # the named boundary: every failure of a stage becomes one message
        return Result(error=message_of(error), traceback=traceback.format_exc())


def message_of(error: Exception) -> str:
    """One message for a person: the text of an expected error; type, text and place of any other."""
    if isinstance(error, EXPECTED) and str(error):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def main() -> int:
    """Runs the job named on the command line; exit status 0 or 1."""
    job = Job.read(Path(sys.argv[1]))
    if job.parent:  # 0: the runner is on another machine
        die_with(job.parent)
    keep_extras_from_keras()
    result = run_job(job)
    result.write(Path(job.attempt))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of TensorFlow or Beam can hang at interpreter shutdown; the result is on disk, so leave at once.
    os._exit(0 if result.stats is not None else 1)


if __name__ == "__main__":
    main()
