"""The SQLite file of MLflow in a store: there with all its tables, or not there.

MLflow makes tables where it finds none, by dozens of migrations that take seconds. A process that is killed among them
leaves a file that no MLflow opens any more, so they are made under another name, and renamed.

    python -m uio2.pipeline.mlflow_database STORE COMMAND ...    # makes it, then becomes the command
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from uio2.pipeline.store import Store, locked

NAME = "mlflow.db"
UNFINISHED = f".{NAME}."


def database_uri(store: Store) -> str:
    """Where MLflow is, unless settings say otherwise."""
    return f"sqlite:///{store.root / NAME}"


def make_database(store: Store) -> None:
    """Makes the file, if it is not there; safe from several processes."""
    path = store.root / NAME
    if path.exists():
        return
    with locked(store, "mlflow-tables"):
        if path.exists():
            return
        for left in store.root.glob(f"{UNFINISHED}*"):
            left.unlink()
        unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}")
        _make_tables(unfinished, artifacts=store.folder("mlflow-artifacts").as_uri())
        unfinished.replace(path)


def _make_tables(path: Path, *, artifacts: str) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it otherwise prints a page
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{path}", artifacts).engine.dispose()


if __name__ == "__main__":
    make_database(Store(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
