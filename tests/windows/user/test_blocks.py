"""PEB, environment, TEB and loaded modules on every kernel layout, beside the host's own reading of the same dump."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import user_stacks as scene
from tests.host import host_kernel
from tests.output import rows_of
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.user_mode import peb_grid, teb_grid
from volatility3_kdump.windows.listing.processes import ProcessChoice
from volatility3_kdump.windows.user.blocks import read_process_block, read_thread_block
from volatility3_kdump.windows.user.loader import INITIALIZATION, MEMORY, user_modules
from volatility3_kdump.windows.user.spaces import user_space

Sample = Callable[..., Path]


@pytest.fixture
def target(isf_path: Path, sample: Sample) -> Target:
    return volatility3_kdump.open(sample(1, isf_path, "user-stacks"), isf_file=isf_path)


def test_process_block(target: Target) -> None:
    block = read_process_block(user_space(target, scene.PROCESS))
    assert (block.address, block.values["image_base"], block.values["debugged"]) == (0xC74F000000, scene.PROGRAM, 0)
    assert block.texts["command_line"] == scene.COMMAND_LINE
    assert block.texts["image_file"] == "C:\\Program Files\\Contoso\\service.exe"
    assert (block.environment, block.environment_whole) == (scene.ENVIRONMENT, True)
    assert block.variable("PATH") == "C:\\Windows\\system32;C:\\Windows"
    assert block.variable("nothing") is None


def test_the_host_reads_the_same_environment_and_modules(isf_path: Path, sample: Sample) -> None:
    """``windows.envars`` and ``windows.dlllist`` are made from these methods of the host's EPROCESS."""
    path = sample(1, isf_path, "user-stacks")
    target = volatility3_kdump.open(path, isf_file=isf_path)
    kernel = host_kernel(path, isf_path)
    theirs = kernel.object("_EPROCESS", offset=scene.PROCESS, absolute=True)
    assert int(theirs.UniqueProcessId) == scene.PID
    layer = theirs.add_process_layer()
    space = user_space(target, scene.PROCESS)
    block = read_process_block(space)
    # Theirs leaves out names that begin with the sign.
    assert [f"{name}={value}" for name, value in theirs.environment_variables()] == [
        entry for entry in block.environment or () if entry[0] != "="
    ]
    modules = user_modules(space)
    assert modules.problems == ()
    listed = [
        (int(entry.DllBase), int(entry.SizeOfImage), entry.BaseDllName.get_string(), entry.FullDllName.get_string())
        for entry in theirs.load_order_modules()
    ]
    assert layer and listed
    assert [(module.base, module.size, module.name, module.path) for module in modules.modules] == listed


def test_orders_of_the_loader(target: Target) -> None:
    space = user_space(target, scene.PROCESS)
    bases = [dll.base for dll in scene.DLLS]
    assert [module.base for module in user_modules(space, MEMORY).modules] == bases
    assert [module.base for module in user_modules(space, INITIALIZATION).modules] == bases[1:]
    assert {module.timestamp for module in user_modules(space).modules} == {scene.DLLS[0].timestamp}


def test_thread_block(target: Target) -> None:
    block = read_thread_block(user_space(target, scene.PROCESS), 0xC74F001000)
    assert (block.values["pid"], block.values["tid"]) == (scene.PID, scene.TIDS[0])
    assert (block.values["stack_base"], block.values["last_error"]) == (scene.USER_STACKS[0], scene.LAST_ERROR)
    assert block.values["last_status"] == scene.LAST_STATUS


def test_why_there_is_no_user_mode(sample: Sample) -> None:
    kernel = volatility3_kdump.open(sample(6, None, "user-stacks"))
    space = user_space(kernel, scene.PROCESS)
    with pytest.raises(KdumpError, match=r"the PEB at c74f000000: user page c74f000000 is not in the dump"):
        read_process_block(space)
    with pytest.raises(KdumpError, match="System 4 has no user mode"):
        user_space(kernel, 0xFFFF91894C27A040)
    small = volatility3_kdump.open(sample(4, None, "user-stacks"))
    with pytest.raises(KdumpError, match="a small memory dump holds no user mode"):
        user_space(small, 0xFFFF91895301A080)


def test_rows(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(1, None, "user-stacks"))
    rows = [row for _, row in rows_of(peb_grid(target, ProcessChoice(pids=[scene.PID])))]
    assert (rows[0]["Kind"], rows[0]["CommandLine"], rows[0]["BeingDebugged"]) == ("process", scene.COMMAND_LINE, False)
    variables = [(row["Name"], row["Text"]) for row in rows if row["Kind"] == "variable"]
    assert variables == [("=::", "::\\"), *(tuple(entry.split("=", 1)) for entry in scene.ENVIRONMENT[1:])]
    modules = [(row["Name"], row["KnownBy"]) for row in rows if row["Kind"] == "module"]
    assert modules == [(dll.name, "loader") for dll in scene.DLLS]
    threads = [row for _, row in rows_of(teb_grid(target, ProcessChoice(pids=[scene.PID])))]
    assert [(row["Tid"], row["LastErrorName"], row["LastStatusName"]) for row in threads] == [
        (tid, "ERROR_ACCESS_DENIED", "STATUS_ACCESS_DENIED") for tid in scene.TIDS
    ]
    everything = [row for _, row in rows_of(peb_grid(target, ProcessChoice()))]
    notes = {row["Image"]: row["Notes"] for row in everything if row["Kind"] == "process"}
    assert notes["System"] == "System 4 has no user mode"
    assert notes["smss.exe"].startswith("the PEB at 6d4c3e1000: user page 6d4c3e1000 is not mapped")


def test_commands(sample: Sample) -> None:
    session = session_over(sample(1, None, "user-stacks"))

    def shown(line: str) -> list[str]:
        return list(execute(session, line))

    shown(f".process /p {scene.PROCESS:x}; .thread {scene.THREADS[0]:x}")
    block = shown("!peb")
    assert block[0] == "PEB at 000000c74f000000"
    assert "    CommandLine:  '\"C:\\Program Files\\Contoso\\service.exe\" -run 7'" in block
    assert "        windir=C:\\Windows" in block
    # Of the example in Microsoft's page: base, time stamp, its time, path.
    assert "        7ff7c1a00000 4e5d1c2b Tue Aug 30 17:21:47 2011 C:\\Program Files\\Contoso\\service.exe" in block
    thread = shown("!teb")
    assert (thread[0], thread[2]) == ("TEB at 000000c74f001000", "    StackBase:            000000c74f200000")
    assert "    ClientId:             0000000000001f44 . 0000000000001f48" in thread
    assert shown("!gle") == [
        "LastErrorValue: (Win32) 0x5 (5) - ERROR_ACCESS_DENIED",
        "LastStatusValue: (NTSTATUS) 0xc0000022 (3221225506) - STATUS_ACCESS_DENIED",
    ]
    one = shown("!dlls -c 7ff8f169d014")
    assert one[1] == "0x0000021a5d300400: C:\\Windows\\System32\\ntdll.dll"
    assert "             LDRP_IMAGE_DLL" in one
    assert shown("!dlls -c 1000") == [f"{session.target.name}: no module found: none is like that"]
