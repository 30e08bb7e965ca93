"""What a symbol server says, damaged: whole answers to the client, header and body."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.mutation import mutate
from tests.fuzz.running import Runner, fit_for_a_terminal
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.stores.servers import Servers
from volatility3_kdump.stores.transfers import Limits

NAME, KEY = "x.sys", "5F3A0C12e000"
BODY = (b"MZ" + bytes(range(256)) * 4)[:0x400]
LIMITS = Limits(connect=2.0, stall=0.5, total=2.0, attempts=1, backoff=0.0, size=1 << 16)


def response(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Talker:
    """Answers every request with the same bytes and hangs up."""

    def __init__(self) -> None:
        self.says = b""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(2)
                request = b""
                while b"\r\n\r\n" not in request and (data := client.recv(4096)):
                    request += data
                client.sendall(self.says)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talker]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = Talker()
    yield started
    started.close()


def answers(port: int) -> list[bytes]:
    here = f"http://127.0.0.1:{port}"
    return [
        response("200 OK", BODY),
        response("200 OK", gzip.compress(BODY), "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + BODY + b"\r\n0\r\n\r\n",
        response("302 Found", b"", f"Location: {here}/elsewhere/{NAME}"),
        response("200 OK", f"PATH:{here}/files/{NAME}".encode(), "Content-Type: text/plain"),
        response("200 OK", b"MSG: not here", "Content-Type: text/plain"),
        response("404 Not Found", b"<html>", "Content-Type: text/html"),
        response("503 Service Unavailable", b"", "Retry-After: 1"),
    ]


def ask(port: int, store: Path) -> tuple[Path | None, list[str]]:
    """Ask a server that nobody has asked before for one file."""

    def fits(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise KdumpError(f"{path}: another file")

    said: list[str] = []
    servers = Servers(LIMITS, offline=False)
    return servers.get(f"http://127.0.0.1:{port}", NAME, KEY, fits, store, said.append), said


def test_originals_are_understood(talker: Talker, tmp_path: Path) -> None:
    for number, original in enumerate(answers(talker.port)):
        talker.says = original
        file, said = ask(talker.port, tmp_path / str(number))
        assert (file is not None) == (number in (0, 1, 2)), (original, said)
        assert (file is None) == bool(said) or number == 6


def test_damaged(fuzz: Runner, talker: Talker, tmp_path: Path) -> None:
    store = tmp_path / "chosen" / "store"

    def feed(data: bytes) -> None:
        talker.says = data
        file, said = ask(talker.port, store)
        if file is not None:
            assert file == store / NAME / KEY / NAME and file.read_bytes() == BODY
            file.unlink()
        assert all(fit_for_a_terminal(printable(line)) for line in said)
        # Nothing beside the store, and nothing left in it.
        assert [path.name for path in (tmp_path / "chosen").iterdir()] in ([], ["store"])
        assert not [path for path in store.rglob("*") if path.is_file()]

    def damage(data: bytes, generator: random.Random) -> bytes:
        return mutate(data, generator, (0x20, 0x80))

    fuzz.run("symbol server", answers(talker.port), damage, feed, 40)
