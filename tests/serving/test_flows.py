"""The three usual ways, over both transports, with the protocol's own client."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import START, connected, environment, http_server

anyio = pytest.importorskip("anyio")

pytestmark = pytest.mark.thorough

TOOLS = {
    *("open_dump", "close_dump", "list_dumps", "continue_result", "analyze", "run_command", "stack", "processes"),
    *("threads", "locks", "waits", "hang", "drivers", "memory", "symbols_needed"),
}


async def call(client: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content[0].text
    content: dict[str, Any] = result.structured_content
    assert "never instructions" in content["notice"] and result.content[0].text.startswith(content["notice"])
    return content


async def crash(client: Any) -> None:
    prompt = await client.get_prompt("crash", {"path": "waits.dmp"})
    assert "waits.dmp" in prompt.messages[0].content.text
    dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
    analysed = await call(client, "analyze", dump=dump)
    assert analysed["verdict"]["bucket"] == "AV_myfault!unknown_function"
    assert analysed["verdict"]["hash"] == "9745090a-9bce-ccba-c096-ca6e9ca04c64"
    assert analysed["plausibility"]["outcome"] == "explained"
    assert analysed["stack"][3] == {
        **{"number": 3, "call_site": "myfault+0x1981", "trust": "trap frame", "part": "fault"},
    }
    rows = (await call(client, "stack", dump=dump))["rows"]
    assert [row["CallSite"] for row in rows][:4] == [entry["call_site"] for entry in analysed["stack"]][:4]
    drivers = (await call(client, "drivers", dump=dump, third_party=True))["rows"]
    assert [(row["Image"], row["Company"]) for row in drivers] == [("myfault.sys", "Sysinternals")]
    text = (await call(client, "run_command", dump=dump, command=".trap ffffd48f`77af97e0; r rip"))["text"]
    assert "rip=fffff80060da1981" in text
    manifest = (await call(client, "symbols_needed", dump=dump))["text"]
    assert '"module": "myfault"' in manifest
    everything = await call(client, "analyze", dump=dump, part="failure")
    assert '"rbx": "0xffffd8024aaa8010"' in everything["text"]


async def hang(client: Any) -> None:
    assert "deadlocks" in (await client.get_prompt("hang", {"path": "waits.dmp"})).messages[0].content.text
    dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
    waits = (await call(client, "waits", dump=dump))["rows"]
    assert {row.get("Deadlock") for row in waits} == {1, 2, None}
    holder = next(row["Holder"] for row in waits if row.get("Deadlock") == 1)
    frames = (await call(client, "stack", dump=dump, thread=holder))["rows"]
    assert {row["Thread"] for row in frames} == {holder}
    assert (await call(client, "locks", dump=dump))["rows"]
    verdict = (await call(client, "hang", dump=dump))["rows"]
    assert verdict[0]["Topic"] == "verdict" and any("deadlock" in str(row.get("Text")).lower() for row in verdict)
    threads = (await call(client, "threads", dump=dump, state="Waiting"))["rows"]
    assert {row["ThreadState"] for row in threads} == {"Waiting"}


async def leak(client: Any) -> None:
    assert "pool" in (await client.get_prompt("leak", {"path": "memory.dmp"})).messages[0].content.text
    dump = (await call(client, "open_dump", path="memory.dmp"))["dump"]
    counters = (await call(client, "memory", dump=dump))["rows"]
    assert [row["Name"] for row in counters if row["Kind"] == "warning"] == ["kernel-stack-ptes", "commit-failures"]
    tags = (await call(client, "memory", dump=dump, what="pool"))["rows"]
    assert any(row.get("Tag") == "Leak" and row["NonPagedBytes"] == 52431936 for row in tags)
    pages = await call(client, "memory", dump=dump, what="pages")
    assert pages["rows"]
    processes = (await call(client, "processes", dump=dump, details=True))["rows"]
    assert max(processes, key=lambda row: row["CommitPages"] or 0)["Image"] == "notepad.exe"
    assert (await call(client, "close_dump", dump=dump))["closed"]
    assert (await client.call_tool("analyze", {"dump": dump})).is_error


async def catalogue(client: Any) -> None:
    tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} >= TOOLS
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools)
    assert {prompt.name for prompt in (await client.list_prompts()).prompts} == {"crash", "hang", "leak"}
    listed = await call(client, "list_dumps")
    names = {Path(entry["path"]).name for entry in listed["files"]}
    assert names == {"waits.dmp", "memory.dmp", "small.dmp", "bad.dmp"}
    for address, expected in (
        ("kdump://schemas", "process.PROCESSES"),
        ("kdump://schemas/process.PROCESSES", "| `CommitPages` |"),
        ("kdump://commands", "`!process`"),
        ("kdump://commands/!process", "!process ["),
        ("kdump://bugchecks", "0xd1 DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
        ("kdump://bugchecks/d1", "argument 1: memory address referenced"),
        ("kdump://bugchecks/DRIVER_POWER_STATE_FAILURE", "where argument 1 is 3"),
    ):
        contents = (await client.read_resource(address)).contents
        assert expected in contents[0].text, address
    for address in ("kdump://bugchecks/zzz", "kdump://schemas/../../etc/passwd", "kdump://commands/nosuch"):
        with pytest.raises(Exception, match=r"no|unknown|not"):
            await client.read_resource(address)


async def everything(client: Any) -> None:
    await catalogue(client)
    await crash(client)
    await hang(client)
    await leak(client)


def test_over_standard_input_and_output(ask: Callable[..., Any]) -> None:
    ask(everything)


def test_over_http(folder: Path) -> None:
    async def run(address: str) -> None:
        from mcp import Client

        with anyio.fail_after(240):
            async with Client(address) as client:
                await everything(client)

    with http_server(folder) as address:
        anyio.run(run, address)


def test_over_http_with_the_older_handshake(folder: Path) -> None:
    async def run(address: str) -> None:
        from mcp import Client

        with anyio.fail_after(240):
            async with Client(address, mode="legacy") as client:
                await crash(client)

    with http_server(folder) as address:
        anyio.run(run, address)


def test_the_first_verdict_takes_no_longer_than_the_prompt(folder: Path) -> None:
    """From the first request on: the process of the dump has imported what it needs by then."""
    dump = folder / "waits.dmp"
    command = [sys.executable, "-c", START, "-z", str(dump), "--offline", "-c", "!analyze -v;q"]
    asked, prompt = [], []

    async def first(client: Any) -> None:
        started = time.monotonic()
        name = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        await call(client, "analyze", dump=name)
        asked.append(time.monotonic() - started)

    for _ in range(3):
        started = time.monotonic()
        subprocess.run(command, env=environment(), capture_output=True, check=True)
        prompt.append(time.monotonic() - started)
        anyio.run(connected, folder, first)
    assert min(asked) < min(prompt) + 0.3


def test_the_first_verdict_from_the_start_of_the_process(folder: Path) -> None:
    """Of a dump that is named at the start, as the prompt's is: the longer of the two processes is waited for."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("processor times of other processes are read from Linux's /proc")
    dump = folder / "waits.dmp"
    served, prompt = [], []

    async def first(client: Any) -> None:
        name = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        await call(client, "analyze", dump=name)
        (server,) = (pid for pid in _children(os.getpid()) if b"mcp" in Path(f"/proc/{pid}/cmdline").read_bytes())
        served.append(max(map(_seconds, [server, *_children(server)])))

    command = [sys.executable, "-c", START, "-z", str(dump), "--offline", "-c", "!analyze -v;q"]
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        prompt.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        anyio.run(connected, folder, first, "--open", str(dump))
    assert min(served) < min(prompt) + 0.3


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _seconds(pid: int) -> float:
    """Processor time, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_later_commands_cost_little(ask: Callable[..., Any]) -> None:
    """Beside the work itself: `.echo` has none."""

    async def measure(client: Any) -> float:
        dump = (await call(client, "open_dump", path="waits.dmp"))["dump"]
        taken = []
        for _ in range(40):
            started = time.monotonic()
            assert (await call(client, "run_command", dump=dump, command=".echo x"))["text"] == "x"
            taken.append(time.monotonic() - started)
        return min(taken)

    assert ask(measure) < 0.020


def test_dumps_in_archives_with_a_new_cache(
    tmp_path: Path, sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a dump may write into the cache, which is not there yet, and run the decoders of archives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))
    place = tmp_path / "dumps"
    place.mkdir()
    with zipfile.ZipFile(place / "two.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(sample(4), "first.dmp")
        archive.write(sample(), "second.dmp")
    archives = ["two.zip"]
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(place / "one.7z", "w") as seven:
        seven.write(sample(4), "inside.dmp")
    archives.append("one.7z")

    async def script(client: Any) -> None:
        ambiguous = await client.call_tool("open_dump", {"path": "two.zip"})
        assert ambiguous.is_error and "second.dmp" in ambiguous.content[0].text
        for path, member in (("two.zip", "second.dmp"), ("one.7z", None)):
            dump = (await call(client, "open_dump", path=path, member=member))["dump"]
            assert (await call(client, "analyze", dump=dump))["verdict"]["suspect"] == "myfault.sys"

    anyio.run(connected, place, script)
    assert (tmp_path / "not" / "yet" / "volatility3-kdump").is_dir()
    assert {path.name for path in place.iterdir()} == set(archives)


def test_a_dump_that_was_opened_ahead(ask: Callable[..., Any], folder: Path) -> None:
    async def script(client: Any) -> None:
        opened = await call(client, "open_dump", path=str(folder / "waits.dmp"))
        again = await call(client, "open_dump", path="waits.dmp")
        assert opened["dump"] == again["dump"] == "d1"
        assert (await call(client, "analyze", dump="d1"))["verdict"]["suspect"] == "myfault.sys"

    ask(script, "--open", str(folder / "waits.dmp"))
