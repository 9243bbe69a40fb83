"""Puts a published dataset where the user wants it: `DIR/<name>/<version>`, dead letters, accounting and record.

One rename makes all of it visible, so a kill leaves nothing or everything at DIR. Files are hard links where the file
system allows, else copies; DIR is what the store holds and is not to be edited.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from beam_jobs import upload
from beam_jobs.build import link
from uio2.pipeline.artifact import RECORD, Artifact
from uio2.pipeline.places import is_remote
from uio2.pipeline.stage import StageError
from uio2.pipeline.store import read_record


def check_free(out: str | os.PathLike[str]) -> None:
    """StageError if something else than a dataset of ours is at `out`, a folder or a URL."""
    if is_remote(os.fspath(out)):
        upload.check_free(os.fspath(out))
        return
    folder = Path(out).expanduser()
    if not folder.exists() or (folder.is_dir() and (read_record(folder) or not any(folder.iterdir()))):
        return
    what = "a folder that holds other things" if folder.is_dir() else "a file"
    raise StageError(f"out = {folder}: {what}; give a new or empty folder, nothing is overwritten")


def export(artifact: Artifact, out: str | os.PathLike[str]) -> str:
    """Makes `out` the dataset; one that is there already, with the same bytes, stays. Returns where it is.

    Args:
      artifact: a published dataset.
      out: a folder, or an address on gs:// or s3:// (`upload`).

    Raises:
      StageError: something else is there, or another dataset.
    """
    if is_remote(os.fspath(out)):
        return upload.upload(artifact, os.fspath(out))
    folder = Path(out).expanduser().absolute()
    check_free(folder)
    if there := read_record(folder):
        if there["digest"] == artifact.digest:
            return str(folder)
        raise StageError(
            f"out = {folder}: holds {there['name']} with digest {there['digest'][:12]}, not {artifact.digest[:12]}; "
            "remove it or give another folder, nothing is overwritten"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary = folder.with_name(f"{_prefix(folder)}{secrets.token_hex(4)}")
    temporary.mkdir()
    # Held until the rename: a folder of this name that nobody holds was left by a kill.
    held = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        for path in sorted(artifact.path.rglob("*")):
            target = temporary / path.relative_to(artifact.path)
            if path.is_dir():
                target.mkdir()
            elif path.name == RECORD:
                shutil.copyfile(path, target)
            else:
                link(path, target)
        os.rename(temporary, folder)
    except OSError as e:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StageError(f"out = {folder}: cannot be written ({e.strerror}); give another folder") from e
    finally:
        os.close(held)
    return str(folder)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.part-"


def _sweep(folder: Path) -> None:
    for path in folder.parent.glob(f"{_prefix(folder)}*"):
        held = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(held)
