"""Any pipeline as a Prefect flow: one task per stage, each calling the stage runner.

Prefect orders the stages and keeps the run for its page; what is cached, leased and published is decided by the store.
With `uio2 up` the flow reports to that server; otherwise to a private one (about 10 s to start) that lives as long as
this process and writes to the same database, so the run is on the page later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from uio2.pipeline import services
from uio2.pipeline.execution import Execution
from uio2.pipeline.store import Store


@contextlib.contextmanager
def prefect_api(store: Store) -> Iterator[str]:
    """The URL of a Prefect API: that of `uio2 up`, or of a private server for the duration."""
    found = services.running(store, "prefect")
    if found:
        services.wait_ready(found)
        yield f"{found.url}/api"
        return
    service, process = services.start_private_prefect(store)
    try:
        services.wait_ready(service, timeout=180)
        yield f"{service.url}/api"
    finally:
        process.terminate()
        process.wait(timeout=10)


def run_flow(execution: Execution, *, parallel: int = 1) -> None:
    """Runs the stages of an execution as a flow, at most `parallel` at once.

    The first failure ends the flow: stages that run go on to their end, the rest do not start. Raises what the
    stage raised.
    """
    store = execution.runner.store
    execution.runner.console.line("prefect", "starting")
    with prefect_api(store) as api_url:
        os.environ.update(services.prefect_settings(store, api_url=api_url))
        execution.account("running")
        try:
            try:
                _flow_of(execution, parallel=parallel)()
            finally:
                _drain()
        except BaseException as error:
            execution.account("failed" if isinstance(error, Exception) else "stopped")
            raise
        execution.account("finished")


def _drain() -> None:
    """Sends what Prefect still has queued (task states, log lines) while the server is there to take it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)


def _flow_of(execution: Execution, *, parallel: int) -> Any:
    """The flow object; Prefect is imported here, after its settings are in the environment."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.stages import run_stages

    task_runner: Any = ThreadPoolTaskRunner(max_workers=parallel)

    @flow(
        name=execution.pipeline.name,
        task_runner=task_runner,
        persist_result=False,
        validate_parameters=False,
    )
    def pipeline() -> None:
        run_stages(execution)

    return pipeline
