"""A server over a folder of dumps, and the protocol's own client to ask it.

``ask``    ``ask(script)``: run an asynchronous function of a client that is connected over standard input and output
``folder`` the folder that the server may read: ``waits.dmp``, ``memory.dmp``, ``small.dmp``, a link that leads out
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

anyio = pytest.importorskip("anyio")
pytest.importorskip("mcp")

CHECKOUT = Path(__file__).resolve().parents[2]
START = "import sys; from volatility3_kdump.cli import main; sys.exit(main(sys.argv[1:]))"
Script = Callable[[Any], Awaitable[Any]]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "KDUMP_OFFLINE": "1"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, sample: Callable[..., Path]) -> Path:
    place = tmp_path_factory.mktemp("dumps")
    shutil.copy(sample(scene="waits"), place / "waits.dmp")
    shutil.copy(sample(scene="memory"), place / "memory.dmp")
    shutil.copy(sample(4), place / "small.dmp")
    (place / "bad.dmp").write_bytes(b"PAGEDU64" + bytes(64))
    outside = tmp_path_factory.mktemp("outside") / "secret.dmp"
    shutil.copy(sample(4), outside)
    (place / "leads-out.dmp").symlink_to(outside)
    (place / "folder-leads-out").symlink_to(outside.parent)
    return place


def arguments_of(folder: Path, *more: str) -> list[str]:
    return ["-c", START, "mcp", "--root", str(folder), "--offline", *more]


async def connected(folder: Path, script: Script, *more: str) -> Any:
    """What a script gives when its client is connected to a new server."""
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    parameters = StdioServerParameters(command=sys.executable, args=arguments_of(folder, *more), env=environment())
    with open(os.devnull, "w") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            return await script(client)


@pytest.fixture
def ask(folder: Path) -> Callable[..., Any]:
    def run(script: Script, *more: str) -> Any:
        async def limited() -> Any:
            with anyio.fail_after(240):
                return await connected(folder, script, *more)

        return anyio.run(limited)

    return run


@contextlib.contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """The address of a server over HTTP."""
    process = subprocess.Popen(
        [sys.executable, *arguments_of(folder, "--http", "0")],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        address = next((found[0] for line in process.stderr if (found := re.search(r"http://\S+", line))), None)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        assert address is not None
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
