"""Stores on this machine in one process: a gs:// emulator, an s3:// one, and a web server that can misbehave.

Run as `python -m tests.remote.servers FOLDER`; prints the addresses as one line of JSON and serves until it is killed.
The web server shows FOLDER with index pages and ranges, without checksums, and below these names something else:

    /flaky/N/PATH    503 for the first N requests of a path, then PATH      /gone-dead/PATH   always 503
    /cut/PATH        half of what is asked for, once                        /signed/PATH      403 without ?sig=secret
    /whole/PATH      no ranges                                              /away/PATH        leads on to another host
"""

from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

seen: Counter[str] = Counter()


class Web(http.server.BaseHTTPRequestHandler):
    """Serves `folder`."""

    folder: Path
    protocol_version = "HTTP/1.1"
    # Header and body leave together: apart, the second waits for the first to be acknowledged.
    wbufsize = 1 << 20

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        seen[path] += 1
        mode, _, rest = unquote(path).lstrip("/").partition("/")
        if mode == "away":
            return self._answer(302, b"", Location=f"http://localhost:{self.server.server_port}/{rest}")
        if mode == "flaky":
            failures, _, rest = rest.partition("/")
            if seen[path] <= int(failures):
                return self._answer(503, b"busy")
        elif mode == "gone-dead":
            return self._answer(503, b"busy")
        elif mode == "signed" and query != "sig=secret":
            return self._answer(403, f"bad signature {query}".encode())
        elif mode not in ("signed", "cut", "whole"):
            mode, rest = "", unquote(path).lstrip("/")
        return self._file(self.folder / rest, mode, first=seen[path] <= 2)

    do_HEAD = do_GET

    def _file(self, file: Path, mode: str, *, first: bool) -> None:
        if file.is_dir():
            links = [f'<a href="{p.name}{"/" if p.is_dir() else ""}">{p.name}</a>' for p in sorted(file.iterdir())]
            page = "<html><a href='?C=N'>Name</a><a href='../'>up</a><a href='/etc/'>etc</a>" + "".join(links)
            return self._answer(200, page.encode())
        if not file.is_file():
            return self._answer(404, b"")
        data, asked = file.read_bytes(), self.headers.get("Range")
        if not asked or mode == "whole":
            return self._answer(200, data)
        start, _, end = asked.removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1]
        if mode == "cut" and first:
            # Promises all of it and hangs up in the middle.
            self._answer(206, part[: len(part) // 2], length=len(part))
            self.close_connection = True
            return None
        return self._answer(206, part, **{"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def _answer(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


def main() -> None:
    """Starts all three and waits."""
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket="lab")
    emulator.start()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Web,), {"folder": Path(sys.argv[1])}))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    host, port = moto.get_host_and_port()
    gs = emulator._api._httpd.socket.getsockname()[1]
    addresses = {
        "gs": f"http://127.0.0.1:{gs}",
        "s3": f"http://{host}:{port}",
        "web": f"http://127.0.0.1:{web.server_port}",
    }
    print(json.dumps(addresses), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
