"""One page on this machine alone: any other path, method or host name is refused."""

from __future__ import annotations

import http.server
import threading

ADDRESS = "127.0.0.1"


class PageServer:
    """Serves one HTML document at `/` of 127.0.0.1; bound when made.

    Attributes:
      url: where the page is.
    """

    def __init__(self, html: str, *, port: int = 0) -> None:
        """Port 0 takes any that is free.

        Raises:
          OSError: the port is taken.
        """
        self._server = http.server.ThreadingHTTPServer((ADDRESS, port), _handler(html.encode()))
        self.url = f"http://{ADDRESS}:{self._server.server_port}/"

    def run(self) -> None:
        """Serves until Ctrl-C or `close`."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self._server.server_close()

    def start(self) -> threading.Thread:
        """Serves in a thread."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Ends `run` in another thread."""
        self._server.shutdown()


def _handler(body: bytes) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A foreign name that resolves to this machine would let another site's script read the page.
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (ADDRESS, "localhost") or self.path != "/":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing: the terminal belongs to the command."""

    return Handler
