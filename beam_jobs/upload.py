"""Puts a published dataset on gs:// or s3://.

A store has no rename of folders, so the record is the marker: it is uploaded last, and until then a note says whose
files these are. An upload that was stopped goes on: what is there with the right checksum stays.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from beam_jobs import work_files
from uio2.pipeline.artifact import RECORD, Artifact
from uio2.pipeline.places.remote import Entry, file_system, hidden, listing, scheme_of
from uio2.pipeline.stage import StageError, UsageError

NOTE = "uploading.json"


def check_free(url: str) -> str:
    """The URL without a slash at its end; StageError if something else than a dataset of ours is there."""
    url = work_files.check_writable(url, what="out")
    there = _there(url)
    if there and RECORD not in there and NOTE not in there:
        raise StageError(
            f"out = {url}: holds other things ({', '.join(sorted(there)[:3])}); give a new address, nothing is "
            "overwritten"
        )
    return url


def upload(artifact: Artifact, url: str) -> str:
    """Makes what is below `url` the dataset; one that is there already, with the same bytes, stays.

    Raises:
      StageError: something else is there, or another dataset, or it cannot be written.
    """
    url = check_free(url)
    there = _there(url)
    files, base = file_system(scheme_of(url)), url.partition("://")[2]
    for name in (RECORD, NOTE):
        with _told(url):
            found = json.loads(files.cat_file(f"{base}/{name}"))["digest"] if name in there else artifact.digest
        if found != artifact.digest:
            raise StageError(
                f"out = {url}: holds {'' if name == RECORD else 'a part of '}a dataset with digest {found[:12]}, not "
                f"{artifact.digest[:12]}; remove it or give another address, nothing is overwritten"
            )
    if RECORD in there:
        return url
    with _told(url):
        files.pipe_file(f"{base}/{NOTE}", json.dumps({"digest": artifact.digest}).encode())
        for path in sorted(p for p in artifact.path.rglob("*") if not p.is_dir() and p.name != RECORD):
            name = path.relative_to(artifact.path).as_posix()
            if name not in there or not _same(path, there[name]):
                files.put_file(str(path), f"{base}/{name}")
        files.pipe_file(f"{base}/{RECORD}", (artifact.path / RECORD).read_bytes())
        files.rm_file(f"{base}/{NOTE}")
    return url


def _there(url: str) -> Mapping[str, Entry]:
    try:
        return listing(url)
    except UsageError as e:
        if "no such file" in str(e):
            return {}
        raise


def _same(path: Path, entry: Entry) -> bool:
    """Whether a store says that it has these bytes; of what it got in parts it does not say so."""
    if entry.size != path.stat().st_size:
        return False
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "md5")
    return entry.checksum in (f"md5:{base64.b64encode(digest.digest()).decode()}", f"etag:{digest.hexdigest()}")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Says where, of errors that a store or its client raises."""
    try:
        yield
    except StageError:
        raise
    except Exception as e:
        told = hidden(f"{type(e).__name__}: {e}").split("\n")[0][:300]
        raise StageError(
            f"out = {url}: cannot be written ({told}). The dataset is in the store; run the same command again, what "
            "was uploaded stays"
        ) from e
