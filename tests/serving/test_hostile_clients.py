"""Clients that ask for what is not theirs, send garbage, ask for too much, or leave in the middle."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serving.conftest import arguments_of, environment, http_server
from tests.serving.test_flows import call

anyio = pytest.importorskip("anyio")

pytestmark = pytest.mark.thorough


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result
    text: str = result.content[0].text
    assert "Traceback" not in text and text.count("\n") <= 3
    return text


def test_files_outside_of_the_folders(ask: Callable[..., Any], folder: Path) -> None:
    async def script(client: Any) -> None:
        for path in (
            *("/etc/passwd", "../../../../etc/passwd", f"{folder}/../x.dmp", "leads-out.dmp", "/proc/self/environ"),
            *("folder-leads-out/secret.dmp", f"{folder}/folder-leads-out/secret.dmp", "/etc/nosuch", f"{folder}2/x"),
        ):
            assert "outside of the folders" in await refused(client, "open_dump", path=path)
        for path in ("nosuch.dmp", str(folder)):
            assert "no such file in the folders" in await refused(client, "open_dump", path=path)
        assert "is not the name of a file" in await refused(client, "open_dump", path="x\0y")
        assert "bad.dmp" in await refused(client, "open_dump", path="bad.dmp")
        assert (await call(client, "open_dump", path="waits.dmp"))["dump"]

    ask(script)


def test_commands_that_touch_files_or_run_programs(ask: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    async def script(client: Any) -> None:
        dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        for command in (
            *(f".logopen {tmp_path}/x", f"k; .logappend {tmp_path}/x", f".opendump {folder}/small.dmp", ".shell id"),
            *(f"$<{tmp_path}/s", f"$$><{tmp_path}/s", f"k;$$>a<{tmp_path}/s", f".writemem {tmp_path}/x nt L1000", "q"),
            *(f".sympath srv*{tmp_path}*https://msdl.microsoft.com/download/symbols", ".sympath+ /etc", ".exepath /"),
            *(".sympath https://evil.example/symbols", f".symfix {tmp_path}", "||0s", ".LOGOPEN /tmp/x"),
        ):
            answer = await client.call_tool("run_command", {"dump": dump, "command": command})
            assert answer.is_error, (command, answer.content[0].text)
        assert "srv" not in (await call(client, "run_command", dump=dump, command=".sympath"))["text"]
        assert "nt!KeBugCheckEx" in (await call(client, "run_command", dump=dump, command="k"))["text"]

    ask(script)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_result_of_two_gigabytes_comes_in_pages(ask: Callable[..., Any]) -> None:
    async def script(client: Any) -> None:
        dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        assert "page_size" in await refused(
            client, "run_command", dump=dump, command="db 0 L?80000000", page_size=2_000_000_000
        )
        started = time.monotonic()
        page = await call(client, "run_command", dump=dump, command="db 0 L?80000000", page_size=5000)
        assert len(page["text"]) <= 5000 and time.monotonic() - started < 20
        following = await call(client, "continue_result", more=page["more"], page_size=5000)
        last, first = page["text"].splitlines()[-1], following["text"].splitlines()[0]
        assert int(first[:17].replace("`", ""), 16) == int(last[:17].replace("`", ""), 16) + 16
        for token in ("d1.t.nosuch", "d9.t.x", "", "....", page["more"] + "x"):
            assert await refused(client, "continue_result", more=token)

    ask(script)


def test_a_call_that_takes_too_long_is_stopped(ask: Callable[..., Any]) -> None:
    async def script(client: Any) -> None:
        dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        started = time.monotonic()
        # Nothing of it is shown until all of it is looked through.
        page = await client.call_tool(
            "run_command", {"dump": dump, "command": "s -d 0 L?fffffffffffffff 12345678;" * 50}
        )
        assert time.monotonic() - started < 60
        assert page.is_error or page.structured_content is not None
        # The same session goes on, or a new one in its place.
        assert (await call(client, "analyze", dump=dump))["verdict"]["suspect"] == "myfault.sys"

    ask(script, "--time-limit", "3")


def test_several_dumps_at_once(ask: Callable[..., Any]) -> None:
    async def script(client: Any) -> None:
        names: dict[str, str] = {}

        async def opened(path: str) -> None:
            names[path] = (await call(client, "open_dump", path=path))["dump"]
            assert (await call(client, "analyze", dump=names[path]))["bug_check"]["base_code"] == "0xd1"

        async with anyio.create_task_group() as tasks:
            for path in ("waits.dmp", "memory.dmp", "small.dmp"):
                tasks.start_soon(opened, path)
        assert len(set(names.values())) == 3
        assert "2 dumps are open already" not in str(names)
        await call(client, "run_command", dump=names["waits.dmp"], command="n 10")
        radix = (await call(client, "run_command", dump=names["memory.dmp"], command="n"))["text"]
        assert "16" in radix  # the sessions are apart

    ask(script)


def test_more_dumps_than_may_be_open(ask: Callable[..., Any]) -> None:
    async def script(client: Any) -> None:
        dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        assert "1 dumps are open already" in await refused(client, "open_dump", path="memory.dmp")
        await call(client, "close_dump", dump=dump)
        assert (await call(client, "open_dump", path="memory.dmp"))["dump"]

    ask(script, "--dumps", "1")


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments_of(folder)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def say(process: subprocess.Popen[bytes], **message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def handshake(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    parameters = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    say(process, id=1, method="initialize", params=parameters)
    assert json.loads(process.stdout.readline())["id"] == 1
    say(process, method="notifications/initialized")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
def test_a_client_that_leaves_in_the_middle_leaves_no_process(folder: Path) -> None:
    process = start(folder)
    assert process.stdin is not None and process.stdout is not None
    handshake(process)
    say(process, id=2, method="tools/call", params={"name": "open_dump", "arguments": {"path": "waits.dmp"}})
    assert b"d1" in process.stdout.readline()
    command = {"name": "run_command", "arguments": {"dump": "d1", "command": "s -d 0 L?fffffffffffffff 12345678;" * 50}}
    say(process, id=3, method="tools/call", params=command)
    time.sleep(1)
    children = children_of(process.pid)
    assert children
    process.stdin.close()
    process.stdout.close()
    process.wait(30)
    assert gone(children)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
def test_a_dump_whose_process_dies_is_opened_anew(folder: Path) -> None:
    process = start(folder)
    assert process.stdin is not None and process.stdout is not None
    handshake(process)

    def asked(number: int, name: str, **arguments: Any) -> dict[str, Any]:
        assert process.stdout is not None
        say(process, id=number, method="tools/call", params={"name": name, "arguments": arguments})
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        assert answer["id"] == number
        result: dict[str, Any] = answer["result"]
        return result

    asked(2, "open_dump", path="waits.dmp")
    asked(3, "run_command", dump="d1", command="n 10")
    for child in children_of(process.pid):
        os.kill(child, signal.SIGKILL)
    # The first call may still reach the process, or find that it has gone.
    again = asked(4, "run_command", dump="d1", command="n")
    if again.get("isError"):
        assert "the process of the dump has ended" in again["content"][0]["text"]
        again = asked(5, "run_command", dump="d1", command="n")
    assert "opened anew" in again["structuredContent"]["note"] and "16" in again["structuredContent"]["text"]
    process.stdin.close()
    process.stdout.close()
    assert process.wait(30) == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
def test_a_server_that_is_killed_leaves_no_process(folder: Path) -> None:
    process = start(folder)
    assert process.stdin is not None and process.stdout is not None
    handshake(process)
    children = children_of(process.pid)
    assert children
    process.kill()
    process.wait(30)
    process.stdin.close()
    process.stdout.close()
    assert gone(children)


def test_garbage_ends_nothing(folder: Path) -> None:
    process = start(folder)
    assert process.stdin is not None and process.stdout is not None
    for rubbish in (b"\n", b"garbage\n", b"{\n", b'{"jsonrpc": "2.0"}\n', b"\xff\xfe\0\0\n", b"[" * 5000 + b"\n"):
        process.stdin.write(rubbish)
    process.stdin.flush()
    handshake(process)
    for arguments in ({}, {"path": 5}, {"path": None}, {"path": "x" * 10_000}, {"dump": []}):
        say(process, id=2, method="tools/call", params={"name": "open_dump", "arguments": arguments})
        answer = json.loads(process.stdout.readline())
        while answer.get("id") != 2:
            answer = json.loads(process.stdout.readline())
        assert answer.get("result", {}).get("isError") or "error" in answer
        assert "Traceback" not in json.dumps(answer)
    say(process, id=3, method="tools/call", params={"name": "nosuch", "arguments": {}})
    assert json.loads(process.stdout.readline())["id"] == 3
    say(process, id=4, method="tools/call", params={"name": "open_dump", "arguments": {"path": "waits.dmp"}})
    assert "d1" in process.stdout.readline().decode()
    process.stdin.close()
    process.stdout.close()
    assert process.wait(30) == 0


def test_http_refuses_names_and_pages_of_others(folder: Path) -> None:
    """DNS rebinding: a page of evil.example whose name leads to loopback."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}

    def status(address: str, **more: str) -> int:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=20)
        try:
            connection.putrequest("POST", parts.path, skip_host=True)
            sent = {"Host": f"127.0.0.1:{parts.port}", **headers, "Content-Length": str(len(body)), **more}
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(body.encode())
            return connection.getresponse().status
        finally:
            connection.close()

    with http_server(folder) as address:
        port = urlsplit(address).port
        assert address == f"http://127.0.0.1:{port}/mcp"
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1:1", ""):
            assert status(address, Host=host) in (400, 421), host
        for origin in ("http://evil.example", "null", "https://127.0.0.1.evil.example", f"http://evil.example:{port}"):
            assert status(address, Origin=origin) == 403, origin
        assert status(address, Origin=f"http://localhost:{port}") not in (403, 421)
        assert status(address, **{"Content-Length": str(1 << 40)}) == 413


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system who listens")
def test_http_listens_on_loopback_only(folder: Path) -> None:
    with http_server(folder) as address:
        port = urlsplit(address).port or 0
        listening = [
            line.split()[1]
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ]
    assert listening == [f"0100007F:{port:04X}"]


def test_garbage_over_http_ends_nothing(folder: Path) -> None:
    """Bytes that are no HTTP, types and bodies that are no messages, sessions that never were: refused, not a crash."""
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    usual = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    first = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start}).encode()

    with http_server(folder) as address:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 0

        def status(body: bytes, method: str = "POST", **more: str) -> int:
            connection = http.client.HTTPConnection(host, port, timeout=20)
            try:
                sent = {**usual, **{name.replace("_", "-"): value for name, value in more.items()}}
                connection.request(method, parts.path, body, sent)
                answer = connection.getresponse()
                assert b"Traceback" not in answer.read()
                return answer.status
            finally:
                connection.close()

        for rubbish in (b"\x16\x03\x01\xff\0" * 50 + b"\r\n\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n"):
            with socket.create_connection((host, port), 20) as connection:
                connection.sendall(rubbish)
                assert connection.recv(100).startswith(b"HTTP/1.1 400")
        assert status(message, Content_Type="text/plain") == 400
        assert status(message, Accept="image/png") == 406
        assert status(message) == 400  # no session
        assert status(message, Mcp_Session_Id="x") == 404
        for body in (b"\xff\xfe{", b"[" * 200_000, b"[]", b"null"):
            assert status(body) == 400, body[:10]
        assert status(message, "PUT") == 405 and status(b"", "DELETE") == 400
        assert status(b'"' + b"a" * (6 << 20) + b'"') == 413
        assert status(first) == 200
