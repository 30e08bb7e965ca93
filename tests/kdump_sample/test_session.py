"""The sample shows every number of the published WinDbg session.

Rows are those of the session's STACK_TEXT and ``!process ADDRESS 7``. Memory is read by kdmp-parser, names come from
the symbol table of the session's own kernel.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.isf import load_table_file

BASE = 0xFFFFF80062600000

CRASH = """
ffffd48f77af9698 fffff80062a09169 000000000000000a ffffd8024aaa8010 0000000000000002 0000000000000000 nt!KeBugCheckEx
ffffd48f77af96a0 fffff80062a05469 00007ff8f16ecc00 0000000000000000 0000000000000f4d 0000000000000000 nt!KiBugCheckDispatch+0x69
ffffd48f77af97e0 fffff80060da1981 0000000000000000 ffffd48f77af99c8 0000000000000000 0000000000000000 nt!KiPageFault+0x469
ffffd48f77af9970 fffff80060da1d3d 00000000c85c00f0 000001e35fb24550 00000000000000f0 0000000000000000 myfault+0x1981
ffffd48f77af99a0 fffff80060da1ea1 ffff91894ed94d70 0000000000000000 0000000000000000 fffff80062bf5e51 myfault+0x1d3d
ffffd48f77af9ae0 fffff8006288f865 ffff91894ed94d70 0000000000000001 ffffd48f77af9ec0 0000000000000001 myfault+0x1ea1
ffffd48f77af9b40 fffff80062c75328 ffffd48f77af9ec0 ffff91894ed94d70 0000000000000001 fffff80000000000 nt!IofCallDriver+0x55
ffffd48f77af9b80 fffff80062c74bf5 0000000000000000 ffffd48f77af9ec0 0000000000000000 ffffd48f77af9ec0 nt!IopSynchronousServiceTail+0x1a8
ffffd48f77af9c20 fffff80062c745f6 0000000000000000 0000000000000000 0000000000000000 0000000000000000 nt!IopXxxControlFile+0x5e5
ffffd48f77af9d60 fffff80062a08bb5 00000000fffffffc ffff512100000000 0000000000000001 000001e35f5e99a0 nt!NtDeviceIoControlFile+0x56
ffffd48f77af9dd0 00007ff8f16ece54 - - - - nt!KiSystemServiceCopyEnd+0x25
"""  # noqa: E501

NOTEPAD = """
ffffd48f777beb10 fffff8006280c970 nt!KiSwapContext+0x76
ffffd48f777bec50 fffff8006280be9f nt!KiSwapThread+0x500
ffffd48f777bed00 fffff800628805ce nt!KiCommitThreadWait+0x14f
ffffd48f777beda0 fffff80062c6f620 nt!KeWaitForMultipleObjects+0x2be
ffffd48f777beeb0 ffffeccbd0c3798d nt!ObWaitForMultipleObjects+0x2f0
ffffd48f777bf3b0 ffffeccbd0b46c5e win32kfull!xxxMsgWaitForMultipleObjectsEx+0xd9
ffffd48f777bf460 ffffeccbd15d6fd0 win32kfull!NtUserMsgWaitForMultipleObjectsEx+0x3fe
- fffff80062a08bb5 win32k!NtUserMsgWaitForMultipleObjectsEx+0x20
ffffd48f777bfdd0 00007ff8eed7a104 nt!KiSystemServiceCopyEnd+0x25
"""

#: Frames that end in a machine frame, with the distance from their Child-SP to the trap frame.
TRAPS = {"nt!KiPageFault+0x469": 0, "nt!KiSystemServiceCopyEnd+0x25": 0x70}

NOTEPAD_PROCESS = 0xFFFF9189527E9080
NOTEPAD_THREAD = 0xFFFF91895309D080


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def layouts(session_kernel: Path) -> Layouts:
    return load_table_file(session_kernel)


@pytest.fixture(scope="module")
def header(sample: Callable[..., Path]) -> bytes:
    return sample(6).read_bytes()[:0x2000]


def kernel_name(layouts: Layouts, address: int) -> str:
    found = layouts.nearest(address - BASE)
    assert found is not None
    return f"nt!{found[0]}" + (f"+{found[1]:#x}" if found[1] else "")


def test_crash_stack(memory: Any) -> None:
    table = rows(CRASH)
    for row, following in itertools.pairwise(table):
        child_sp, return_address = int(row[0], 16), int(row[1], 16)
        next_sp = int(following[0], 16)
        if row[-1] in TRAPS:
            trap_frame = child_sp + TRAPS[row[-1]]
            assert memory.word(trap_frame + 0x168) == return_address
            assert memory.word(trap_frame + 0x180) == next_sp
        else:
            assert memory.word(next_sp - 8) == return_address
        assert memory.words(next_sp, 4) == [int(value, 16) for value in row[2:6]], row[-1]
    trap_frame = int(table[-1][0], 16) + 0x70
    assert memory.word(trap_frame + 0x168) == int(table[-1][1], 16)
    assert memory.word(trap_frame + 0x180) == 0x7AE6BDE8D8


def test_waiting_stack(memory: Any, layouts: Layouts) -> None:
    kernel_stack = memory.word(NOTEPAD_THREAD + layouts.offset("_KTHREAD", "KernelStack"))
    assert kernel_stack == 0xFFFFD48F777BEAD0
    table = rows(NOTEPAD)
    assert kernel_stack + 0x40 == int(table[0][0], 16)
    assert kernel_name(layouts, memory.word(kernel_stack + 0x38)) == table[0][-1]
    for row, following in itertools.pairwise(table):
        if following[0] != "-":
            assert memory.word(int(following[0], 16) - 8) == int(row[1], 16)
    trap_frame = int(table[-1][0], 16) + 0x70
    assert memory.word(trap_frame + 0x168) == 0x00007FF8EED7A104
    assert memory.word(trap_frame + 0x180) == 0x000000BB6F17E2D8


@pytest.mark.parametrize("text", [CRASH, NOTEPAD])
def test_names(text: str, layouts: Layouts) -> None:
    """A frame's name is that of the return address in the row above it."""
    for row, following in itertools.pairwise(rows(text)):
        if following[-1].startswith("nt!"):
            assert kernel_name(layouts, int(row[1], 16)) == following[-1]


def test_calls_stand_in_front_of_return_addresses(memory: Any) -> None:
    for row in [*rows(CRASH)[:2], *rows(CRASH)[3:-1], *rows(NOTEPAD)[:-1]]:
        address = int(row[1], 16)
        before = memory.read(address - 6, 6)
        assert before[1] == 0xE8 or before[:2] == b"\xff\x15" or before[-2] == 0xFF, row


def test_trap_frame(memory: Any) -> None:
    frame = memory.read(0xFFFFD48F77AF97E0, 0x190)
    expected = {
        0x30: 0xC85C00F0,
        0x38: 0xFFFFD80241E00340,
        0x40: 0x890,
        0x48: 0xFFFFD8024ABBDC80,
        0x50: 0,
        0x58: 0xFFFFD80241E002C0,
        0x60: 0xFFFFD8024AA9BFF0,
        0x140: 0,
        0x148: 0,
        0x150: 0,
        0x158: 2,
        0x168: 0xFFFFF80060DA1981,
        0x180: 0xFFFFD48F77AF9970,
    }
    assert {offset: struct.unpack_from("<Q", frame, offset)[0] for offset in expected} == expected
    # up ei ng nz na pe nc, I/O privilege level 0
    flags = struct.unpack_from("<I", frame, 0x178)[0]
    names = {10: 0, 9: 1, 7: 1, 6: 0, 4: 0, 2: 1, 0: 0, 11: 0, 12: 0, 13: 0, 1: 1}
    assert {bit: flags >> bit & 1 for bit in names} == names
    assert struct.unpack_from("<H", frame, 0x170)[0] == 0x10
    assert memory.read(0xFFFFF80060DA1981, 2) == b"\x8b\x03"


def test_true_rbx_is_in_the_exception_frame(memory: Any) -> None:
    """What ``.trap`` cannot show: KiBugCheckDispatch saved rbx, the address that was read, at KEXCEPTION_FRAME+100."""
    assert memory.word(0xFFFFD48F77AF96A0 + 0x100) == 0xFFFFD8024AAA8010
    assert memory.try_read(0xFFFFD8024AAA8010, 8) is None


def test_header(header: bytes, memory: Any) -> None:
    assert struct.unpack_from("<II", header, 8) == (0xF, 19041)
    assert struct.unpack_from("<Q", header, 0x20)[0] == 0xFFFFF8006322A230
    assert struct.unpack_from("<III", header, 0x30) == (0x8664, 3, 0xD1)
    assert struct.unpack_from("<4Q", header, 0x40) == (0xFFFFD8024AAA8010, 2, 0, 0xFFFFF80060DA1981)
    assert struct.unpack_from("<II", header, 0x1040) == (1, 0x110)
    time = datetime(1601, 1, 1) + timedelta(microseconds=struct.unpack_from("<Q", header, 0xFA8)[0] // 10)
    assert time.strftime("%a %b %e %H:%M:%S.%f %Y")[:-8] == "Thu Oct  7 11:33:12.945"
    assert timedelta(milliseconds=struct.unpack_from("<Q", header, 0x1030)[0] // 10_000) == timedelta(seconds=54.755)
    # a field that the kernel never sets keeps the fill
    assert header[0x60:0x80] == header[0x88:0xA8] == b"PAGE" * 8


def test_header_context(header: bytes) -> None:
    context = header[0x348:]
    rcx, rdx, rbx, rsp, rbp = struct.unpack_from("<5Q", context, 0x80)
    assert (rcx, rdx, rsp) == (0xA, 0xFFFFD8024AAA8010, 0xFFFFD48F77AF9698)
    assert rbx == 0xFFFFD8024AAA8010
    assert rbp == 0xFFFFD48F77AF97E0 + 0x80
    assert struct.unpack_from("<QQ", context, 0xB8) == (2, 0)
    assert struct.unpack_from("<Q", context, 0xF8)[0] == BASE + 0x3F71C0
    assert struct.unpack_from("<I", context, 0x30)[0] == 0x10000F


def test_bug_check_data(memory: Any, layouts: Layouts) -> None:
    address = layouts.symbol("KiBugCheckData")
    assert address is not None
    assert memory.words(BASE + address, 5) == [0xD1, 0xFFFFD8024AAA8010, 2, 0, 0xFFFFF80060DA1981]


def test_versions(memory: Any, layouts: Layouts) -> None:
    lab = layouts.symbol("NtBuildLabEx")
    assert lab is not None
    assert memory.read(BASE + lab, 44).startswith(b"19041.1.amd64fre.vb_release.191206-1406\0")
    shared = 0xFFFFF78000000000
    assert struct.unpack_from("<II", memory.read(shared + 0x26C, 8)) == (10, 0)
    low, high, again = struct.unpack("<Iii", memory.read(shared + 0x20, 12))
    assert (high << 32 | low) == -9 * 3600 * 10_000_000
    assert high == again


def test_notepad_process(memory: Any, layouts: Layouts) -> None:
    values = {
        "UniqueProcessId": 0x1E90,
        "InheritedFromUniqueProcessId": 0x15E8,
        "Peb": 0xBB6F2AC000,
        "Pcb.DirectoryTableBase": 0x1D822D000,
        "ObjectTable": 0xFFFFD80249EB8040,
        "VadRoot.Root": 0xFFFF918953A30A20,
        "VadCount": 285,
        "CloneRoot.Root": 0,
        "NumberOfPrivatePages": 2175,
        "ModifiedPageCount": 340,
        "NumberOfLockedPages": 2,
        "DeviceMap": 0xFFFFD80247FE8CF0,
        "Vm.Instance.WorkingSetSize": 11788,
        "Vm.Instance.MinimumWorkingSetSize": 50,
        "Vm.Instance.MaximumWorkingSetSize": 345,
        "Vm.Instance.PeakWorkingSetSize": 11793,
        "Vm.Instance.PageFaultCount": 14745,
        "Vm.Instance.Flags.MemoryPriority": 0,
        "Pcb.BasePriority": 8,
        "Pcb.UserTime": 0,
        "Pcb.KernelTime": 0,
        "CommitCharge": 3452,
        "ImageFileName": b"notepad.exe\0\0\0\0",
        "ProcessQuotaUsage": struct.pack("<QQ", 39648, 430688),
    }
    assert _fields(memory, layouts, "_EPROCESS", NOTEPAD_PROCESS, values) == values
    others = _fields(memory, layouts, "_EPROCESS", NOTEPAD_PROCESS, ["Token.Value", "VirtualSize", "PeakVirtualSize"])
    assert others["Token.Value"] & ~0xF == 0xFFFFD8024A19C770
    assert (others["VirtualSize"] >> 20, others["PeakVirtualSize"] >> 20) == (2101500, 2101501)
    handles = layouts.offset("_HANDLE_TABLE", "FreeLists") + layouts.offset("_HANDLE_TABLE_FREE_LIST", "HandleCount")
    # one free list for each processor counts its share of the handles
    stride = layouts.size_of("_HANDLE_TABLE_FREE_LIST")
    counts = [memory.word(values["ObjectTable"] + handles + index * stride) & 0xFFFFFFFF for index in range(3)]
    assert sum(counts) == 817
    session = memory.word(NOTEPAD_PROCESS + layouts.offset("_EPROCESS", "Session"))
    assert memory.word(session + layouts.offset("_MM_SESSION_SPACE", "SessionId")) & 0xFFFFFFFF == 2


def test_notepad_elapsed_time(header: bytes, memory: Any, layouts: Layouts) -> None:
    created = memory.word(NOTEPAD_PROCESS + layouts.offset("_EPROCESS", "CreateTime"))
    crashed = struct.unpack_from("<Q", header, 0xFA8)[0]
    assert (crashed - created) // 10_000 == 47378


def test_notepad_thread(memory: Any, layouts: Layouts) -> None:
    values = {
        "Cid.UniqueProcess": 0x1E90,
        "Cid.UniqueThread": 0x1E94,
        "Tcb.Teb": 0xBB6F2AD000,
        "Tcb.Win32Thread": 0xFFFF9189523D0FC0,
        "Tcb.State": 5,
        "Tcb.WaitReason": 6,
        "Tcb.WaitMode": 1,
        "Tcb.Alertable": 0,
        "Tcb.Process": NOTEPAD_PROCESS,
        "Tcb.WaitTime": 3492,
        "Tcb.ContextSwitches": 10798,
        "Tcb.IdealProcessor": 2,
        "Win32StartAddress": 0x7FF7E2E85A30,
        "Tcb.InitialStack": 0xFFFFD48F777BFFD0,
        "Tcb.StackBase": 0xFFFFD48F777C0000,
        "Tcb.StackLimit": 0xFFFFD48F777BA000,
        "Tcb.Priority": 10,
        "Tcb.BasePriority": 8,
        "Tcb.PriorityDecrement": 0,
        "ThreadIoPriority": 2,
        "ThreadPagePriority": 5,
        "Tcb.WaitBlockCount": 2,
    }
    assert _fields(memory, layouts, "_ETHREAD", NOTEPAD_THREAD, values) == values
    increment = layouts.symbol("KeMaximumIncrement")
    assert increment is not None
    times = _fields(
        memory, layouts, "_ETHREAD", NOTEPAD_THREAD, ["Tcb.UserTime", "Tcb.KernelTime", "Tcb.WaitBlockList"]
    )
    unit = struct.unpack("<I", memory.read(BASE + increment, 4))[0]
    assert (times["Tcb.UserTime"] * unit // 10_000, times["Tcb.KernelTime"] * unit // 10_000) == (140, 328)
    ticks = struct.unpack("<Q", memory.read(0xFFFFF78000000320, 8))[0]
    assert (ticks - 3492, (ticks - 3492) * unit // 10_000) == (12, 187)
    blocks = [times["Tcb.WaitBlockList"] + index * layouts.size_of("_KWAIT_BLOCK") for index in range(2)]
    objects = [memory.word(block + layouts.offset("_KWAIT_BLOCK", "Object")) for block in blocks]
    assert objects == [0xFFFF918953118260, 0xFFFF918952D83D80]
    assert [memory.read(address, 1)[0] for address in objects] == [1, 4]


def test_crashing_process(memory: Any, layouts: Layouts, header: bytes) -> None:
    """Processor 2 runs a thread of notmyfault64.exe, whose full name is 16 characters long."""
    table = layouts.symbol("KiProcessorBlock")
    assert table is not None
    block = memory.words(BASE + table, 3)[2]
    thread = memory.word(block + layouts.offset("_KPRCB", "CurrentThread"))
    process = memory.word(thread + layouts.offset("_KTHREAD", "ApcState.Process"))
    names = _fields(
        memory, layouts, "_EPROCESS", process, ["ImageFileName", "SeAuditProcessCreationInfo.ImageFileName"]
    )
    assert names["ImageFileName"] == b"notmyfault64.e\0"
    length, _, _, buffer = struct.unpack("<HHIQ", memory.read(names["SeAuditProcessCreationInfo.ImageFileName"], 16))
    assert memory.read(buffer, length).decode("utf-16-le").split("\\")[-1] == "notmyfault64.exe"
    directory = memory.word(process + layouts.offset("_EPROCESS", "Pcb.DirectoryTableBase"))
    assert directory == struct.unpack_from("<Q", header, 0x10)[0]
    context = memory.word(block + layouts.offset("_KPRCB", "Context"))
    assert memory.read(context, 0x4D0) == header[0x348 : 0x348 + 0x4D0]


def _fields(memory: Any, layouts: Layouts, type_name: str, address: int, names: Any) -> dict[str, Any]:
    data = memory.read(address, layouts.size_of(type_name))
    found = {}
    for name in names:
        reader = layouts.reader(type_name, value=name)
        found[name] = reader.unpack(data).value
    return found
