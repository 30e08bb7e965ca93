"""Descriptor tables, counted strings, control codes, global flags and processes that ended, at the prompt.

Descriptors are those that x64 Windows loads; their layout is that of the Intel manual, volume 3, chapters 3 and 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edited import edited
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target

PCR, TABLE, GDT = 0xFFFFC3014F460000, 0xFFFF91894D629000, 0xFFFF91894D62A000
NT, MYFAULT = 0xFFFFF80062600000, 0xFFFFF80060DA0000
FILE_NAME = 0xFFFF91894E251A78

#: Selectors 0, 10 (kernel code), 18 (kernel data), 20, 28, 30, 33 (user code), 40 (TSS), 50.
SEGMENTS = (
    *(0, 0, 0x00209B0000000000, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x0020FB0000000000, 0),
    *(0x4F008B4710000067, 0x00000000FFFFC301, 0x0040F3007C00),
)


def gate(handler: int, level: int = 0, stack: int = 0) -> bytes:
    attributes = 0x8E00 | level << 13 | stack
    return struct.pack("<HHHHII", handler & 0xFFFF, 0x10, attributes, handler >> 16 & 0xFFFF, handler >> 32, 0)


@pytest.fixture(scope="module")
def with_tables(sample: Callable[..., Path], layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The sample with tables of processor 2: three vectors, of which one leads into a driver."""
    gates = bytearray(0x1000)
    fault, debug = (NT + (layouts.symbol(name) or 0) for name in ("KiPageFault", "KiBugCheckDispatch"))
    for vector, data in ((0xE, gate(fault)), (2, gate(debug, stack=3)), (0x51, gate(MYFAULT + 0x1000))):
        gates[16 * vector : 16 * vector + 16] = data
    interrupts = PCR + 0x180 + layouts.offset("_KPRCB", "InterruptObject")
    changes = {
        PCR + layouts.offset("_KPCR", "IdtBase"): TABLE.to_bytes(8, "little"),
        PCR + layouts.offset("_KPCR", "GdtBase"): GDT.to_bytes(8, "little"),
        TABLE: bytes(gates),
        GDT: struct.pack(f"<{len(SEGMENTS)}Q", *SEGMENTS),
        interrupts + 8 * 0x51: (0xFFFFC3014F480A00).to_bytes(8, "little"),
    }
    path = sample()
    place = tmp_path_factory.mktemp("tables") / "tables.dmp"
    return edited(Target.open(path), path, place, changes, offline=True)


def test_interrupt_gates(with_tables: Target) -> None:
    session = session_on(with_tables)
    everything = answer(session, "!idt -a")
    assert everything[:3] == ["", f"Dumping IDT: {TABLE:x}", ""]
    assert [line.split()[0] for line in everything[3:]] == ["02:", "0e:", "51:"]
    assert everything[3].endswith("nt!KiBugCheckDispatch\tStack = IST 3")
    assert everything[4].endswith("nt!KiPageFault")
    foreign = "51:\tfffff80060da1000 myfault+0x1000 (KINTERRUPT ffffc3014f480a00)\t<- not the kernel's"
    assert everything[5] == foreign
    assert answer(session, "!idt")[3:] == [foreign]
    assert answer(session, "!idt e")[3:] == everything[4:5]
    assert "the IDT has no vector 77" in answer(session, "!idt 77")[0]


def test_segments(with_tables: Target) -> None:
    """The listing of ``dg`` that the debugger gives for the descriptors of x64 Windows."""
    session = session_on(with_tables)
    assert answer(session, "dg 10 18")[2:] == [
        "---- ----------------- ----------------- ---------- - -- -- -- -- --------",
        "0010 00000000`00000000 00000000`00000000 Code RE Ac 0 Nb By P  Lo 0000029b",
        "0018 00000000`00000000 00000000`ffffffff Data RW Ac 0 Bg Pg P  Nl 00000c93",
    ]
    # As in a published session: the selector that was asked for.
    assert answer(session, "dg 0x33")[3] == "0033 00000000`00000000 00000000`00000000 Code RE Ac 3 Nb By P  Lo 000002fb"
    assert answer(session, "dg 40")[3] == "0040 ffffc301`4f471000 00000000`00000067 TSS32 Busy 0 Nb By P  Nl 0000008b"
    assert len(answer(session, "!gdt")) == 3 + 11
    assert answer(session, "dg 60")[-1] == "0060 Unable to get descriptor"
    assert answer(session, "dg 0 1000")[-1] == "no more than 256 selectors are shown at once"


def test_a_published_table(with_tables: Target, layouts: Layouts) -> None:
    """The words of a GDT and what ``dg 0 60`` showed of them, as a hypervisor's test has both.

    The debugger cut the base of the TSS to 32 bits.
    """
    words = (
        *(0, 0, 0x00209B0000000000, 0x0040930000000000, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x0020FB0000000000, 0),
        *(0x71008BE7B0000067, 0x00000000FFFFF805, 0x0040F30000003C00),
    )
    table = patched(with_tables, {GDT: struct.pack(f"<{len(words)}Q", *words)})
    assert answer(session_on(table), "dg 0 60")[3:] == [
        "0000 00000000`00000000 00000000`00000000 <Reserved> 0 Nb By Np Nl 00000000",
        "0008 00000000`00000000 00000000`00000000 <Reserved> 0 Nb By Np Nl 00000000",
        "0010 00000000`00000000 00000000`00000000 Code RE Ac 0 Nb By P  Lo 0000029b",
        "0018 00000000`00000000 00000000`00000000 Data RW Ac 0 Bg By P  Nl 00000493",
        "0020 00000000`00000000 00000000`ffffffff Code RE Ac 3 Bg Pg P  Nl 00000cfb",
        "0028 00000000`00000000 00000000`ffffffff Data RW Ac 3 Bg Pg P  Nl 00000cf3",
        "0030 00000000`00000000 00000000`00000000 Code RE Ac 3 Nb By P  Lo 000002fb",
        "0038 00000000`00000000 00000000`00000000 <Reserved> 0 Nb By Np Nl 00000000",
        "0040 fffff805`71e7b000 00000000`00000067 TSS32 Busy 0 Nb By P  Nl 0000008b",
        "0048 00000000`0000ffff 00000000`0000f805 <Reserved> 0 Nb By Np Nl 00000000",
        "0050 00000000`00000000 00000000`00003c00 Data RW Ac 3 Bg By P  Nl 000004f3",
        "0058 Unable to get descriptor",
        "0060 Unable to get descriptor",
    ]


def test_tables_that_are_not_in_the_dump(session: Session) -> None:
    assert "the IDT of processor 2 at" in answer(session, "!idt -a")[0]


def test_counted_strings(session: Session) -> None:
    (line,) = answer(session, f"!ustr {FILE_NAME:x}")
    assert line.startswith("Unicode String(38,40) at ffffd802")
    assert line.endswith(": \\Users\\user\\Desktop")
    assert answer(session, f"!str {FILE_NAME:x}")[0].startswith("String(38,40) at ")


def test_a_control_code(session: Session) -> None:
    """IOCTL_STORAGE_QUERY_PROPERTY of ntddstor.h, and NotMyFault's."""
    assert answer(session, "!ioctldecode 2d1400") == [
        "IOCTL           : 0x2d1400",
        "Device Type     : 0x2d",
        "Method          : 0x0 METHOD_BUFFERED",
        "Access          : 0x0 FILE_ANY_ACCESS",
        "Function        : 0x500",
    ]
    code = answer(session, "!ioctldecode ffff91894ed94d70")[0].rpartition("0x")[2]
    assert f" {int(code, 16):08x} " in "\n".join(answer(session, "!irp ffff91894ed94d70"))


def test_global_flags(session: Session, sample: Callable[..., Path], tmp_path: Path) -> None:
    """The example of the documentation: 0x4400."""
    address = session.target.variable("NtGlobalFlag", "NtGlobalFlag")
    if address is None or session.target.memory.unsigned(address, 4) is None:
        pytest.skip("nt!NtGlobalFlag is not in the sample")
    changes = {address: (0x4400).to_bytes(4, "little")}
    other = session_on(edited(session.target, sample(), tmp_path / "changed.dmp", changes, offline=True))
    assert answer(other, "!gflag") == [
        f"NtGlobalFlag at {address:x}",
        "Current NtGlobalFlag contents: 0x00004400",
        "    ptg - Enable pool tagging",
        "    otl - Maintain a list of objects for each type",
    ]


def test_processes_that_ended(sample: Callable[..., Path], session: Session) -> None:
    lines = answer(session_on(Target.open(sample(scene="waits"))), "!zombies")
    assert [line.split()[-1] for line in lines if line.startswith("0x")] == ["exited.exe"]
    assert answer(session, "!zombies") == ["No process in the list has ended"]


@pytest.mark.parametrize(
    "line", ["!idt -q", "!gdt -q", "dg -q", "!ustr -q", "!ioctldecode -q", "!gflag -q", "!zombies -q", "dg", "!ustr"]
)
def test_what_is_refused(session: Session, line: str) -> None:
    (shown,) = answer(session, line)
    assert "knows no option -q" in shown or "needs" in shown
