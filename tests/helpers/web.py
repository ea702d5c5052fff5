"""A web server of this machine that answers as it is told and remembers what it was asked."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = bytes | int | str | Callable[[BaseHTTPRequestHandler], Any]
"""A body, a status, the place of a redirect, or what writes the answer itself or gives one of these."""


@dataclass
class Web:
    """The answers of a server by the path without its query, and the requests it got."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def url(self, path: str = "", user: str = "") -> str:
        """Return the URL of a path."""
        return f"http://{user}127.0.0.1:{self.port}{path}"


@contextmanager
def serving() -> Iterator[Web]:
    """Run a server while the block runs."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.asked.append(self.path)
            answer = web.answers.get(self.path.partition("?")[0], 404)
            answer = answer(self) if callable(answer) else answer
            if answer is None:
                return
            body = answer if isinstance(answer, bytes) else b""
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if body else None
            self.send_response(206 if part else 200 if body else 302 if isinstance(answer, str) else int(answer))
            if isinstance(answer, str):
                self.send_header("Location", answer)
            if body:
                self.send_header("Accept-Ranges", "bytes")
            if part:
                self.send_header("Content-Range", f"bytes {part[1]}-{part[2]}/{len(body)}")
                body = body[int(part[1]) : int(part[2]) + 1]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
