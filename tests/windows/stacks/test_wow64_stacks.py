"""Both halves of the stacks of 32-bit processes, on every kernel layout that has them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import user_stacks as scene
from tests.host import ADDRESS, host_kernel
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.target import Target
from volatility3_kdump.windows.stacks.frames import Stack
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.user.loader import narrow_peb, user_modules
from volatility3_kdump.windows.user.spaces import user_space

Sample = Callable[..., Path]

NATIVE = [
    "ntdll!NtWaitForSingleObject+0x14",
    "wow64!Wow64SystemServiceEx+0x155",
    "wow64cpu!ServiceNoTurbo+0xb",
    "wow64cpu!BTCpuSimulate+0x19",
    "wow64!RunCpuSimulation+0xd",
]
NARROW = ["ntdll_77a00000!NtWaitForSingleObject+0xc", "kernel32!WaitFor32+0xb", "old!Main32+0xb"]


def _stack(target: Target, thread: int) -> Stack:
    return walker(target).walk_from(thread_start, thread)


def _in_user_mode(stack: Stack) -> list[str]:
    return [str(frame.name) for frame in stack.frames if frame.sp is not None and not frame.sp >> 63]


def test_both_halves(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(1, isf_path, "wow64-stacks"), isf_file=isf_path)
    stack = _stack(target, scene.NARROW_THREADS[0])
    assert _in_user_mode(stack) == [*NATIVE, *NARROW]
    assert (stack.end, stack.complete) == ("start of the thread", True)
    boundary = next(frame for frame in stack.frames if str(frame.name) == NATIVE[-1])
    # The 32-bit code is no caller of the 64-bit code's.
    assert boundary.return_address is None
    narrow = stack.frames[boundary.number + 1 :]
    assert [(frame.ip, frame.trust) for frame in narrow] == [
        (scene.NARROW_IP, "context"),
        (scene.KERNEL32_32 + 0x2000B, "frame pointer"),
        (scene.OLD + 0x150B, "frame pointer"),
    ]
    # Just behind the return address, where the arguments are.
    assert narrow[0].sp == 0x19F000 and narrow[1].sp == 0x19F004
    assert any("WOW64 CPU area" in remark for remark in stack.remarks)


def test_32_bit_code_that_was_interrupted(sample: Sample) -> None:
    stack = _stack(volatility3_kdump.open(sample(1, None, "wow64-stacks")), scene.NARROW_THREADS[1])
    assert _in_user_mode(stack) == ["old!Main32+0x6", "old!Main32+0xb"]
    kernel = next(frame for frame in stack.frames if frame.trap_frame)
    assert kernel.return_address == scene.OLD + 0x1506
    assert [frame.trust for frame in stack.frames[-2:]] == ["trap frame", "frame pointer"]


@pytest.mark.newest_host
def test_the_host_finds_the_same_32_bit_block(isf_path: Path, sample: Sample) -> None:
    path = sample(1, isf_path, "wow64-stacks")
    target = volatility3_kdump.open(path, isf_file=isf_path)
    theirs = host_kernel(path, isf_path).object("_EPROCESS", offset=scene.NARROW_PROCESS & ADDRESS, absolute=True)
    assert theirs.get_is_wow64()
    space = user_space(target, scene.NARROW_PROCESS)
    assert narrow_peb(space) == int(theirs.get_peb32().vol.offset) == 0x2E1000
    # Theirs are read with the types of an x86 kernel.
    listed = [
        (int(entry.DllBase), int(entry.SizeOfImage), entry.BaseDllName.get_string(), entry.FullDllName.get_string())
        for entry in theirs.load_order_modules()
    ]
    ours = user_modules(space).modules
    assert [(module.base, module.size, module.name, module.path) for module in ours] == listed


def test_modules_of_both_loaders(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(1, isf_path, "wow64-stacks"), isf_file=isf_path)
    listing = user_modules(user_space(target, scene.NARROW_PROCESS))
    assert listing.problems == ()
    assert [(module.name, module.base, module.size, module.path, module.narrow) for module in listing.modules] == [
        (dll.name, dll.base, dll.size, dll.path, dll.narrow) for dll in scene.NARROW_DLLS
    ]


def test_an_area_that_is_none_is_said(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(1, None, "wow64-stacks"))
    # ContextFlags of another architecture.
    area = 0x2F1000 + 0x10000
    space = user_space(target, scene.NARROW_PROCESS)
    read = space.memory.read
    flags = struct.pack("<I", 0x100007)

    def other(address: int, size: int) -> bytes | None:
        data = read(address, size)
        if data is not None and address == area + 4:
            return flags + data[4:]
        return data

    space.memory.read = other  # type: ignore[method-assign]
    stack = _stack(target, scene.NARROW_THREADS[0])
    assert _in_user_mode(stack) == NATIVE
    assert not stack.complete
    assert "the 32-bit half: the WOW64 CPU area at 301000: ContextFlags 0x00100007" in stack.end


def test_commands(sample: Sample) -> None:
    session = session_over(sample(1, None, "wow64-stacks"))
    list(execute(session, f".process /p {scene.NARROW_PROCESS:x}; .thread {scene.NARROW_THREADS[0]:x}"))
    listed = list(execute(session, "lm u"))
    assert sum("SysWOW64" in line for line in listed) == 2
    assert listed[1] == "00000000`00400000 00000000`00412000   old.exe     C:\\Old\\old.exe"
    block = list(execute(session, "!teb"))
    assert block[:3] == [
        "Wow64 TEB32 at 002f3000",
        "    ExceptionList:        00000000",
        "    StackBase:            0019f200",
    ]
    assert "TEB at 00000000002f1000" in block
    assert "    Wow64: modules of the 32-bit loader" in list(execute(session, "!peb"))
