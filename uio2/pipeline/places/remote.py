"""Files on gs://, s3://, https:// and hf://, through fsspec: what there is, what identifies it, ranges of its bytes.

Errors of the network are tried again (`ATTEMPTS`, pauses from `PAUSE_S` doubling) and then end the build: a store that
is out of reach must never look like missing files. What a signed URL is signed with stays out of every record and
message: `public(url)` cuts the query off and keeps it in the environment variable `UIO2_URL_QUERIES`, which the stages'
processes inherit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import json
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from uio2.pipeline.stage import StageError, UsageError

SCHEMES = ("gs", "s3", "https", "hf")
QUERIES = "UIO2_URL_QUERIES"
ATTEMPTS = 5
PAUSE_S = 0.5
# A server that sends whole files alone is borne with up to this size.
WHOLE = 64 << 20
_PACKAGES = {"gs": ("gcsfs", "cloud"), "s3": ("s3fs", "cloud"), "https": ("aiohttp", "pipeline"),
             "hf": ("huggingface_hub", "hub")}  # fmt: skip
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_TRIED_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_URL_QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>)]*")


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file of a listing.

    Attributes:
      size: bytes.
      checksum: what the store knows its content by: `md5:...`, `crc32c:...`, `etag:...`, `sha256:...` or `git:...`; ""
        where it keeps nothing.
      modified: when it was changed, as the store says it; "" where it does not.
    """

    size: int
    checksum: str
    modified: str = ""


def is_remote(text: str) -> bool:
    """Whether a source is named by a URL; a local path may hold one further on."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """`gs`, `s3`, `https` or `hf`.

    Raises:
      UsageError: another scheme; plain http of another machine.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    host = urllib.parse.urlsplit(url).hostname or ""
    if scheme == "http" and host in _LOCAL_HOSTS:
        return "https"
    if scheme not in SCHEMES or not rest.strip("/"):
        shown = ", ".join(f"{s}://" for s in SCHEMES)
        why = "plain http is read from this machine alone" if scheme == "http" else "not a source that can be read"
        raise UsageError(f"{hidden(url)}: {why}; expected a local path or {shown}")
    return scheme


def public(url: str) -> str:
    """The URL without its query, which is kept in the environment for reading.

    Raises:
      UsageError: a password in the URL, or a scheme that is not read.
    """
    scheme, parts = scheme_of(url), urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(f"{parts.hostname}: a user or password in a URL would be recorded; give a signed URL instead")
    if scheme != "https":
        return url
    bare = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    if parts.query:
        os.environ[QUERIES] = json.dumps({**_queries(), bare: parts.query})
    return bare


def hidden(text: str) -> str:
    """A text without the queries of the URLs in it, and without those that are kept."""
    text = _URL_QUERY.sub(r"\1", text)
    for query in _queries().values():
        text = text.replace(query, "...")
    return re.sub(r"://[^/\s@]+@", "://", text)


def _queries() -> Mapping[str, str]:
    return json.loads(os.environ.get(QUERIES, "{}"))


def signed(url: str) -> str:
    """The URL as it is asked for."""
    kept = _queries()
    best = max((k for k in kept if url == k or url.startswith(k.rstrip("/") + "/")), key=len, default=None)
    # What is escaped already stays so.
    quoted = urllib.parse.quote(url, safe="%/:=&~+!$,;'@()*[]")
    return quoted if best is None else f"{quoted}?{kept[best]}"


def listing(url: str) -> dict[str, Entry]:
    """All files at or below a URL by relative name, asked for anew; {"": entry} where it is a file.

    On https:// a folder is a URL that ends in a slash and whose server shows an index page.

    Raises:
      UsageError: nothing is there, or it may not be listed.
      StageError: the store cannot be reached.
    """
    scheme = scheme_of(url)
    if scheme == "https":
        from uio2.pipeline.places import web

        return _tried(url, lambda: web.listing(url, file_system("https")))
    files, path = file_system(scheme), url.partition("://")[2].strip("/")
    return _tried(url, lambda: _objects(files, path, scheme))


def _objects(files: Any, path: str, scheme: str) -> dict[str, Entry]:
    files.invalidate_cache()
    info = files.info(path)
    if info["type"] == "file":
        return {"": _entry(info, scheme)}
    found = files.find(path, detail=True)
    base = info["name"].rstrip("/") + "/"
    entries = {}
    for name, item in sorted(found.items()):
        if item["type"] == "file" and name.startswith(base) and not name.endswith("/"):
            entries[name[len(base) :]] = _entry(item, scheme)
    return entries


def _entry(info: Mapping[str, Any], scheme: str) -> Entry:
    checksum = ""
    if scheme == "gs":
        # Objects composed of parts have no MD5.
        checksum = f"md5:{info['md5Hash']}" if info.get("md5Hash") else f"crc32c:{info.get('crc32c', '')}"
    elif scheme == "s3":
        checksum = f"etag:{info.get('ETag', '').strip(chr(34))}"
    elif scheme == "hf":
        large = info.get("lfs")
        sha = large.get("sha256") if isinstance(large, Mapping) else getattr(large, "sha256", None)
        checksum = f"sha256:{sha}" if sha else f"git:{info.get('blob_id', '')}"
    return Entry(int(info["size"] or 0), "" if checksum.endswith(":") else checksum, str(info.get("updated", "")))


class RemoteRanges:
    """A remote file."""

    def __init__(self, url: str, *, size: int):
        self._url = url
        self.size = size

    def read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        return b"" if end <= start else _tried(self._url, lambda: self._read(start, end))

    def _read(self, start: int, end: int) -> bytes:
        scheme = scheme_of(self._url)
        name = signed(self._url) if scheme == "https" else self._url.partition("://")[2]
        data = file_system(scheme).cat_file(name, start=start, end=end)
        if len(data) == end - start:
            return data
        if len(data) == self.size <= WHOLE:
            return data[start:end]
        if len(data) == self.size:
            raise _Refused("its server sends whole files only; fetch the file and give the local copy")
        raise ConnectionError(f"{len(data)} bytes came of {end - start}")


def sha256(url: str, *, size: int) -> str:
    """Hex sha256 of a remote file, every byte read."""
    digest, ranges, step = hashlib.sha256(), RemoteRanges(url, size=size), 16 << 20
    for start in range(0, size, step):
        digest.update(ranges.read(start, start + step))
    return digest.hexdigest()


@functools.cache
def file_system(scheme: str) -> Any:
    """The fsspec file system of a scheme, without a cache of listings."""
    try:
        if scheme == "https":
            from uio2.pipeline.places import web

            return web.file_system()
        if scheme == "hf":
            import huggingface_hub

            endpoint = os.environ.get("HF_ENDPOINT")
            return huggingface_hub.HfFileSystem(endpoint, use_listings_cache=False, skip_instance_cache=True)
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as e:
        package, extra = _PACKAGES[scheme]
        raise StageError(f"{scheme}:// needs the package {package}; install uio2[{extra}]") from e


class _Refused(Exception):
    """An answer that will not change."""


def _tried[T](url: str, call: Callable[[], T]) -> T:
    """The result of a call to a store; errors that may pass are waited out.

    Raises:
      UsageError: there is no such file, or it may not be read.
      StageError: anything else, with the store's own words.
    """
    shown = hidden(url)
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except Exception as raised:
            e = _cause(raised)
        told, status = hidden(f"{type(e).__name__}: {e}").split("\n")[0][:300], _status(e)
        if isinstance(e, StageError):
            problem: StageError = e
        elif isinstance(e, _Refused):
            problem = StageError(f"{shown}: {e}")
        elif isinstance(e, FileNotFoundError) or status == 404:
            problem = UsageError(f"{shown}: no such file or folder; check the address")
        elif _passes(e, status):
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
                continue
            problem = StageError(f"{shown}: cannot be read, tried {ATTEMPTS} times ({told}); run again later")
        elif isinstance(e, PermissionError) or status in (401, 403):
            problem = UsageError(f"{shown}: may not be read with the credentials at hand ({told})")
        else:
            problem = StageError(f"{shown}: cannot be read ({told})")
        # The chain would show the URL with its query in a log.
        raise problem from None
    raise AssertionError("unreachable")


def _cause(error: BaseException) -> BaseException:
    """What fsspec turned into "not found": an error of the network, perhaps."""
    cause = error.__cause__
    return _cause(cause) if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) else error


def _status(error: BaseException) -> int:
    """The HTTP status an exception of any of the libraries carries, 0 without one."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    told = (getattr(error, "status", None), getattr(error, "code", None), getattr(response, "status_code", None))
    return next((int(str(value)) for value in told if str(value).isdigit()), 0)


def _passes(error: BaseException, status: int) -> bool:
    if status:
        return status in _TRIED_AGAIN
    if isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError)):
        return True
    # Of libraries that need not be installed; told by the names of what they raise.
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"ClientConnectionError", "ClientPayloadError", "EndpointConnectionError", "HTTPClientError",
                         "ConnectTimeout", "ReadTimeout", "TransportError", "RemoteProtocolError"})  # fmt: skip
