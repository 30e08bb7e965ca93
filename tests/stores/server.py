"""A symbol server on the loopback interface, whose faults are those of its routes."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Handler = http.server.BaseHTTPRequestHandler
Route = Callable[[Handler], None]


class SymbolServer(http.server.ThreadingHTTPServer):
    """Serves ``routes`` (path to bytes, or to a function of the request) and remembers what it was ``asked`` for."""

    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes: dict[str, bytes | Route] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        #: Ends the slow ones when the test is over.
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what is tested


class _Handler(Handler):
    server: SymbolServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        route = self.server.routes.get(self.path)
        if route is None:
            self.send_error(404)
        elif callable(route):
            route(self)
        else:
            answer(self, route)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def answer(request: Handler, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    """Send a body; ``length`` is what Content-Length says instead of the truth, -1 for no such header."""
    request.send_response(status)
    if length != -1:
        request.send_header("Content-Length", str(len(data) if length is None else length))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(data)


def redirect(to: str, status: int = 302) -> Route:
    return lambda request: answer(request, b"", status, Location=to)


def slowly(head: bytes, piece: bytes, pause: float) -> Route:
    """Send ``head`` at once and then ``piece`` after each pause, without an end."""

    def send(request: Handler) -> None:
        server = request.server
        assert isinstance(server, SymbolServer)
        request.wfile.write(head)
        while not server.closing.wait(pause) if pause else True:
            if server.closing.is_set():
                return
            request.wfile.write(piece)

    return send


def silent(request: Handler) -> None:
    server = request.server
    assert isinstance(server, SymbolServer)
    server.closing.wait(30)


@contextlib.contextmanager
def running() -> Iterator[SymbolServer]:
    server = SymbolServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether a condition comes true within a time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
