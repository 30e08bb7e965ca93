"""Page table entries of an address, against the layers that translate it and against the dump's own self-map."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from tests.archives import packing
from tests.layers import paging
from tests.prompt import answer, session_over
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.translation import invalid_lines, pte_lines, vtop_lines
from volatility3_kdump.windows.memory.translation import describe_invalid, directory_of, translate

NT = 0xFFFFF80062600000
SMALL = {"x64": 0x7FF712345000, "la57": 0x00FF7F7123456000, "pae": 0x12345000, "x86": 0x12345000}
LARGE = {"x64": 0xFFFFF80012200000, "la57": 0xFFFFF80012200000, "pae": 0xC0200000, "x86": 0xC0400000}


def machine(path: Path, mode: str) -> tuple[Target, paging.Tables]:
    """A dump in a paging mode that maps a small and a large page."""
    width = 4 if mode in ("x86", "pae") else 8
    tables = paging.Tables(mode, 0x40, 0x50)
    for pfn, address in zip((0x30, 0x31, 0x32), (*paging.HEADS[width], paging.SHARED_DATA[width]), strict=True):
        tables.map(address & ~0xFFF, pfn)
    tables.map(SMALL[mode], 0x33)
    tables.map(LARGE[mode], 0x800, large=True)
    memory = {**paging.kernel_pages(width), **{pfn: bytes(page) for pfn, page in tables.memory.items()}}
    memory[0x33] = b"\x33" * 0x1000
    values = paging.machine(mode)[1]
    path.write_bytes(packing.full(packing.runs_of(memory), 8 * width, memory, **values))
    return volatility3_kdump.open(path), tables


@pytest.mark.parametrize(
    ("mode", "names", "large_size"),
    [
        ("x64", ["PXE", "PPE", "PDE", "PTE"], 0x200000),
        ("la57", ["PML5E", "PXE", "PPE", "PDE", "PTE"], 0x200000),
        ("pae", ["PPE", "PDE", "PTE"], 0x200000),
        ("x86", ["PDE", "PTE"], 0x400000),
    ],
)
def test_each_paging_mode(tmp_path: Path, mode: str, names: list[str], large_size: int) -> None:
    target, _ = machine(tmp_path / "made.dmp", mode)
    found = translate(target, SMALL[mode] + 0x123)
    assert [entry.name for entry in found.entries] == names
    assert (found.physical, found.page_size) == (0x33123, 0x1000)
    assert found.entries[-1].frame == 0x33
    large = translate(target, LARGE[mode] + 0x12345)
    assert [entry.name for entry in large.entries] == names[:-1]
    assert (large.physical, large.page_size, large.entries[-1].large) == (0x812345, large_size, True)
    layer = target.context.layers[target.layer_name]
    for address in (SMALL[mode] + 0x123, LARGE[mode] + 0x12345, *paging.HEADS[4 if mode in ("x86", "pae") else 8]):
        assert translate(target, address).physical == layer._translate(address & layer.address_mask)[0]
    nowhere = translate(target, SMALL[mode] + 0x1000)
    assert nowhere.physical is None
    assert nowhere.entries[-1].invalid is not None
    assert nowhere.entries[-1].invalid.kind == "zero"
    assert list(vtop_lines(nowhere, 0x40000, "x64"))[-1].endswith(" translation fails.")


def test_addresses_of_the_sample_against_its_layer_and_its_self_map(sample, isf_path: Path) -> None:
    target = volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path)
    layer = target.context.layers[target.layer_name]
    assert target.header_context is not None
    addresses = [target.modules[0].base, target.header_context.sp, target.symbol("PsInitialSystemProcess")]
    for address in addresses:
        found = translate(target, address)
        assert found.physical == layer._translate(address & layer.address_mask)[0]
        for entry in found.entries:
            assert entry.value == target.physical_memory.unsigned(entry.physical, 8)
            if target.symbol("MmPteBase") is not None:
                assert target.memory.unsigned(entry.address, 8) == entry.value


@pytest.fixture(scope="module")
def session(sample) -> Session:
    return session_over(sample())


def test_kd_columns(session: Session) -> None:
    found = translate(session.target, NT, directory_of(session.target, session.current.process))
    frames = [entry.frame for entry in found.entries]
    base = session.target.memory.unsigned(session.target.symbol("MmPteBase"), 8)
    pte = base + (NT >> 12 & 0xFFFFFFFFF) * 8
    lines = answer(session, "!pte nt")
    assert lines[0] == "                                           VA fffff80062600000"
    assert (
        re.fullmatch(r"PXE at \w{16}    PPE at \w{16}    PDE at \w{16}    PTE at (\w{16})", lines[1])[1]
        == f"{pte:016X}"
    )
    assert lines[2].startswith(f"contains {found.entries[0].value:016X}  contains {found.entries[1].value:016X}  ")
    # No execute, read only, global, accessed: the headers of the image.
    letters = ["---DA--KWEV", "---DA--KWEV", "---DA--KWEV", "-G--A--KR-V"]
    assert lines[3] == "  ".join(f"pfn {frame:<9x} {flags}" for frame, flags in zip(frames, letters, strict=True))
    # The page that the crash was about is paged out.
    assert answer(session, "!pte $bug_param1")[4:] == [" PageFile:  0", " Offset: 2a31c", " Protect: 4 - ReadWrite"]
    assert answer(session, "!pte")[0].startswith("!pte needs ADDRESS, a virtual address")


def test_vtop(session: Session) -> None:
    directory = directory_of(session.target, session.current.process)
    physical = session.target.context.layers[session.target.layer_name]._translate(NT & (1 << 48) - 1)[0]
    lines = answer(session, "!vtop 0 nt")
    assert lines[0] == f"Amd64VtoP: Virt fffff80062600000, pagedir {directory:016x}"
    assert lines[-2:] == [
        f"Amd64VtoP: Mapped phys {physical:016x}",
        f"Virtual address fffff80062600000 translates to physical address {physical:x}.",
    ]
    assert answer(session, f"!vtop {directory:x} nt") == lines == answer(session, "!vtop nt")
    assert answer(session, "!vtop 0")[-1] == "Virtual address 0 translation fails."


def test_physical_memory(session: Session) -> None:
    physical = translate(session.target, NT).physical
    assert answer(session, f"!db {physical:x} L10") == [
        f"#{physical:8x} 4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ.............."
    ]
    assert answer(session, f"!dd {physical:x} L4") == [f"#{physical:8x} 00905a4d 00000003 00000004 0000ffff"]
    assert answer(session, "!dq 3fffffff0000 L1") == ["#3fffffff0000 ????????`????????"]
    assert answer(session, "!dd") == ["!dd needs a physical address or range"]
    assert answer(session, "!dd ffffffff`00000000")[0].endswith("is no physical address: it has more than 52 bits")


def test_regions(session: Session) -> None:
    lines = answer(session, "!address myfault+1981")
    assert lines[0] == "Usage:                  image of myfault.sys"
    assert "Base Address:           fffff800`60da0000" in lines
    assert "Region Size:            00000000`00009000" in lines
    assert (
        answer(session, "!address 0")[-1] == "Contents:               not mapped, or its page table is not in the dump"
    )


def test_a_table_that_is_not_in_the_dump(tmp_path: Path) -> None:
    target, tables = machine(tmp_path / "made.dmp", "x64")
    first = translate(target, SMALL["x64"]).entries[0]
    assert first.frame in tables.memory
    memory = {pfn: bytes(page) for pfn, page in tables.memory.items() if pfn != first.frame}
    memory |= paging.kernel_pages(8)
    values = paging.machine("x64")[1]
    path = tmp_path / "torn.dmp"
    path.write_bytes(packing.full(packing.runs_of(memory), 64, memory, **values))
    found = translate(volatility3_kdump.open(path), SMALL["x64"])
    assert (len(found.entries), found.entries[-1].value, found.physical) == (2, None, None)
    lines = list(pte_lines(found))
    assert lines[2] == f"contains {first.value:016X}  contains ????????????????"
    assert lines[-1] == f"the page table at physical address {first.frame << 12:x} is not in the dump"


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (0, [" Zero: the entry was never built"]),
        # A page in transition: frame 12345, ReadWrite; the swizzle bit says that nothing is inverted.
        (0x12345 << 12 | 1 << 11 | 1 << 4 | 4 << 5, [" Transition: 12345", " Protect: 4 - ReadWrite"]),
        (
            0x1234 << 32 | 2 << 12 | 1 << 4 | 3 << 5,
            [" PageFile:  2", " Offset: 1234", " Protect: 3 - ExecuteRead"],
        ),
        (
            0xFFFFD80212345678 << 16 & (1 << 64) - 1 | 1 << 10 | 1 << 4,
            [" Proto: FFFFD80212345678", " Protect: 0 - NoAccess"],
        ),
        # With the swizzle bit clear a bit may have been set that the kernel's InvalidPteMask tells, which is not here.
        (
            0xFFFFD80212345678 << 16 & (1 << 64) - 1 | 1 << 10,
            [
                " Proto: ? (the bit that the kernel sets in entries that are not valid is not known)",
                " Protect: 0 - NoAccess",
            ],
        ),
        # The bit lies above all memory, so that a page frame shows without it (volatility3 475).
        (0x200012345 << 12 | 1 << 11 | 4 << 5, [" Transition: 12345", " Protect: 4 - ReadWrite"]),
        (0xFFFFFFFF00000400, [" Proto: by the VAD", " Protect: 0 - NoAccess"]),
        (4 << 5, [" DemandZero", " Protect: 4 - ReadWrite"]),
        ((0x10 | 4) << 5 | 1 << 4, [" DemandZero", " Protect: 14 - ReadWrite Guard"]),
    ],
)
def test_entries_that_are_not_valid(session: Session, value: int, lines: list[str]) -> None:
    assert list(invalid_lines(describe_invalid(session.target, value))) == lines


@given(st.integers(0, (1 << 64) - 1).map(lambda value: value & ~1))
def test_any_entry_says_something(session: Session, value: int) -> None:
    assert list(invalid_lines(describe_invalid(session.target, value)))


def test_small_memory_dumps_have_no_page_tables(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    with pytest.raises(KdumpError, match="a small memory dump holds no page tables"):
        translate(target, target.modules[0].base)


def test_entries_by_their_address_and_ranges(session: Session) -> None:
    """An address in the map of page tables is taken for an entry; a second number is a range, or says so."""
    lines = answer(session, "!pte nt")
    entry = lines[1].rpartition(" at ")[2]
    assert answer(session, f"!pte {entry.lower()}") == lines
    literal = answer(session, f"!pte {entry.lower()} 1")
    assert literal[0] == f"{f'PDE at {entry}':<27}PTE at {entry}"
    contents, meaning = (line[81:] for line in lines[2:4])
    assert [line[27:] for line in literal[1:3]] == [contents, meaning]
    pages = answer(session, "!pte nt nt+1fff")
    assert [line.split()[-1] for line in pages if " VA " in line] == [
        f"{session.target.kernel.base + 0x1000 * page:016x}" for page in range(2)
    ]
    assert answer(session, "!pte 0 ffff`ffffffff")[0].startswith("!pte: a range of ")
