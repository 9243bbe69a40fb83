"""The stages of an execution as tasks of the Prefect flow that calls `run_stages`.

Prefect orders the tasks, tries a failed one again and keeps what they tell for its page: log lines, progress, and one
artifact per stage with what it made, how long it took and its figures, or the end of its log. What is cached, leased
and published is decided by the store; only names, digests and URIs cross into Prefect.
"""

from __future__ import annotations

import threading
from typing import Any

from flows.pages import failed_page, key_of, stage_page
from uio2.pipeline.execution import Execution
from uio2.pipeline.stage import Stage, StageError
from uio2.pipeline.stopping import stoppable

RETRY_AFTER_S = 2.0


def run_stages(execution: Execution, *, attempts: int = 1) -> list[dict[str, str]]:
    """Runs the stages as tasks of the current flow; returns name, version, digest and URI of each artifact.

    A stage that fails is tried `attempts` times in all. The first that fails for good ends the flow: stages that run go
    on to their end, the rest do not start. Raises what the stage raised.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    by_name = {stage.name: stage for stage in execution.stages}
    stopped = threading.Event()

    def run_stage(name: str) -> dict[str, str]:
        if stopped.is_set():
            raise StageError(f"stage {name} was not started: another stage failed")
        try:
            return _run_one(execution, by_name[name])
        except BaseException as error:
            if not isinstance(error, Exception) or _last_attempt(attempts):
                stopped.set()
            raise

    made: Any = task(
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=attempts - 1,
        retry_delay_seconds=RETRY_AFTER_S,
    )(run_stage)
    futures: dict[str, Any] = {}
    with stoppable(execution.runner):  # inside the flow: Prefect puts its own signal handler around it
        for stage in execution.stages:
            needed = [futures[value.name] for value in stage.inputs.values() if isinstance(value, Stage)]
            futures[stage.name] = made.with_options(name=stage.name).submit(stage.name, wait_for=needed)
        for future in futures.values():
            future.wait()
    return [future.result() for future in futures.values()]  # in order, so the cause comes before what it stopped


def _last_attempt(attempts: int) -> bool:
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return context is None or context.task_run.run_count >= attempts


def _run_one(execution: Execution, stage: Stage) -> dict[str, str]:
    """One stage inside its task."""
    from prefect import get_run_logger
    from prefect.artifacts import create_markdown_artifact

    console = execution.runner.console
    console.listen(stage.name, get_run_logger().info)
    progress = _ProgressPage(execution, stage)
    console.watch(stage.name, progress.show)
    key = key_of(execution.pipeline.name, stage.name)
    try:
        run = execution.run_stage(stage)
    except Exception as error:
        page = failed_page(execution, stage, error)
        create_markdown_artifact(page, key=key, description=f"{stage.name} failed")
        raise
    finally:
        console.listen(stage.name, None)
        console.watch(stage.name, None)
    progress.finish()
    create_markdown_artifact(stage_page(execution, stage, run), key=key, description=f"what {stage.name} made")
    artifact = run.artifact
    return {"name": artifact.name, "version": artifact.version, "digest": artifact.digest, "uri": artifact.uri}


class _ProgressPage:
    """A stage's progress on its page, from the first report on; called in the task's own thread."""

    def __init__(self, execution: Execution, stage: Stage):
        self._key = f"{key_of(execution.pipeline.name, stage.name)}-progress"
        self._artifact: Any = None

    def show(self, done: int, total: int, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        share = round(100.0 * min(done / total, 1.0), 1) if total else 0.0
        if self._artifact is None:
            self._artifact = create_progress_artifact(share, key=self._key, description=text)
        else:
            update_progress_artifact(self._artifact, progress=share, description=text)

    def finish(self) -> None:
        """Full, if it was shown at all."""
        if self._artifact is not None:
            self.show(1, 1, "done")
