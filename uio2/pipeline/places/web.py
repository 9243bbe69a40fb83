"""Files over https: one client that follows no redirect to another host, and folders by their index pages.

A redirect could lead to a machine that only this one can reach, and the bytes would be taken for the source's.
"""

from __future__ import annotations

import html.parser
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from uio2.pipeline.places import remote
from uio2.pipeline.stage import StageError, UsageError

MOST_FILES = 1_000_000
_PAGE = 64 << 20
_HEADS_AT_ONCE = 8


def file_system() -> Any:
    """fsspec's file system with our client."""
    from fsspec.implementations.http import HTTPFileSystem

    return HTTPFileSystem(
        get_client=_client, encoded=True, headers={"Accept-Encoding": "identity"}, skip_instance_cache=True
    )


async def _client(**kwargs: Any) -> Any:
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_same_host)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return aiohttp.ClientSession(trace_configs=[trace], timeout=timeout, **kwargs)


async def _same_host(session: Any, context: Any, params: Any) -> None:
    target = urllib.parse.urljoin(str(params.url), params.response.headers.get("Location", ""))
    old, new = urllib.parse.urlsplit(str(params.url)), urllib.parse.urlsplit(target)
    if (old.scheme, old.netloc) != (new.scheme, new.netloc):
        raise StageError(
            f"{remote.hidden(str(params.url))}: leads on to {new.scheme}://{new.netloc}, another host; "
            "give the final address if you trust it"
        )


def listing(url: str, files: Any) -> dict[str, remote.Entry]:
    """Files at or below a URL by relative name; a URL that ends in a slash is a folder with an index page."""
    if not url.endswith("/"):
        return {"": _entry(files, url)}
    urls = list(_below(url, files))
    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        entries = list(pool.map(lambda u: _entry(files, u), urls))
    named = {urllib.parse.unquote(u.removeprefix(url)): entry for u, entry in zip(urls, entries, strict=True)}
    return dict(sorted(named.items()))


def _below(root: str, files: Any) -> Iterator[str]:
    """Addresses of the files that index pages link to, all below `root`; links that lead elsewhere are passed over."""
    waiting, seen, count = [root], {root}, 0
    while waiting:
        page = waiting.pop()
        text = files.cat_file(remote.signed(page))
        if len(text) > _PAGE or b"<" not in text[:4096]:
            raise UsageError(f"{page}: shows no index page, so its files are unknown; give an archive or single files")
        parser = _Links()
        parser.feed(text.decode("utf-8", "replace"))
        for link in parser.found:
            target = urllib.parse.urljoin(page, link)
            name = urllib.parse.unquote(target.removeprefix(root))
            if not target.startswith(page) or target in seen or "?" in target or "#" in target or ".." in name:
                continue
            seen.add(target)
            count += 1
            if count > MOST_FILES:
                raise UsageError(f"{root}: more than {MOST_FILES:,} links; give an archive instead")
            if target.endswith("/"):
                waiting.append(target)
            else:
                yield target


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


def _entry(files: Any, url: str) -> remote.Entry:
    info = files.info(remote.signed(url))
    if info.get("size") is None:
        raise StageError(f"{url}: its server does not say how long it is; fetch the file and give the local copy")
    etag = info.get("ETag", "")
    # A weak one says that two contents mean the same, not that they are the same.
    checksum = f"etag:{etag.strip(chr(34))}" if etag and not etag.startswith("W/") else ""
    return remote.Entry(int(info["size"]), checksum, info.get("Last-Modified", ""))
