"""Accounts of executions: what one `uio2 run`, or one run of a flow, was asked for and how it ended.

    executions/<id>.json   pipeline, status, started, updated, planned stages, what each gave, config as text

The id stands in the record of every artifact that an execution made; MLflow's parent runs are made from these files.
An execution holds a lock of its id while it lives, so one that says "running" without anybody holding it was killed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from uio2.pipeline.lease import Lease
from uio2.pipeline.store import Store, write_json

RUNNING, KILLED = "running", "killed"
FOLDER = "executions"


def new_id(pipeline: str) -> str:
    """An id that sorts by time."""
    return f"{pipeline}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def lease_of(store: Store, execution: str) -> Lease:
    """Held by the process that runs it; not yet taken."""
    return Lease(store.folder("locks") / f"run-{execution}.lock")


def write_account(store: Store, execution: str, value: Mapping[str, Any]) -> None:
    """Rewrites an account."""
    write_json(store.folder(FOLDER) / f"{execution}.json", dict(value))


def read_account(store: Store, execution: str) -> dict[str, Any] | None:
    """The account of an execution; None if it has none."""
    try:
        return json.loads((store.root / FOLDER / f"{execution}.json").read_text())
    except FileNotFoundError:
        return None


def executions(store: Store) -> list[str]:
    """The ids of all executions, by name."""
    return sorted(path.stem for path in (store.root / FOLDER).glob("*.json"))


def ended(store: Store, execution: str) -> str:
    """How an execution ended; "running" while it does, "killed" if whoever ran it is gone."""
    account = read_account(store, execution)
    if account is None or account["status"] != RUNNING:
        return account["status"] if account else KILLED
    lease = lease_of(store, execution)
    if not lease.try_acquire():
        return RUNNING
    with lease:
        account = read_account(store, execution) or account  # it may have ended meanwhile
        if account["status"] == RUNNING:
            account["status"] = KILLED
            write_account(store, execution, account)
        lease.path.unlink(missing_ok=True)
    return account["status"]
