"""ARM64 page tables: complete dumps whose memory is that of a real small dump, and descriptors by the Arm ARM."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.physical import PAGE, PhysicalMemory
from tests import arm64_machine as made
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.cpu import paging
from volatility3_kdump.dump import BytesSource, CrashDump, no_facts
from volatility3_kdump.dump.pagemap import RunPageMap
from volatility3_kdump.layers.page_tables import AddressSpace, Fault, PageTables, Place
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.translation import describe_invalid


@pytest.fixture(scope="module")
def machine(shared_data: Path) -> made.Machine:
    return made.arm64_machine(shared_data)


@pytest.fixture(scope="module")
def complete(machine: made.Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machine.dump(tmp_path_factory.mktemp("arm64") / "complete.dmp")


@pytest.fixture(scope="module")
def opened(complete: Path) -> Target:
    return volatility3_kdump.open(complete)


def test_the_real_dump_says_how_its_tables_lie(machine: made.Machine) -> None:
    """TTBR0_EL1, TTBR1_EL1 and TCR_EL1 that Windows saved in the KPRCB: one page with the tables of both halves."""
    nt, small = machine.small.nt, machine.small
    assert nt is not None and small.dump.triage is not None and small.dump.triage.prcb is not None
    data = small.dump.source.read(small.dump.triage.prcb.offset, 0x400)

    def register(name: str) -> int:
        place = nt.field("_KPRCB", f"ProcessorState.ArchState.{name}")
        return int.from_bytes(data[place.offset : place.offset + 8], "little")

    assert small.header.directory_table_base == made.ROOT
    assert register("Ttbr0_El1") & 0xFFFFFFFFFFFF == made.ROOT
    assert register("Ttbr1_El1") & 0xFFFFFFFFFFFF == made.ROOT + 0x800
    assert register("Tcr_El1") == made.TCR
    assert (made.TCR & 0x3F, made.TCR >> 16 & 0x3F, made.TCR >> 14 & 3, made.TCR >> 30 & 3) == (17, 17, 0, 2)


def test_entries_of_the_real_machine(machine: made.Machine) -> None:
    """The small dump holds pieces of the map of page tables: every kind of entry is there."""
    memory, mode = machine.small.memory, paging.ARM64_4_LEVEL
    # The kernel's own code lies in blocks of 2 MB, which follow one another in physical memory.
    places = [made.SELF_MAP + ((made.KERNEL & 0xFFFFFFFFFFFF) >> 12) * 8]
    (upper,) = (made.SELF_MAP + ((place & 0xFFFFFFFFFFFF) >> 12) * 8 for place in places)
    code, data = memory.pointer(upper + 8 * 2), memory.pointer(upper + 8 * 6)
    assert code is not None and data is not None
    assert mode.is_large(code, mode.levels[2]) and mode.is_large(data, mode.levels[2])
    assert mode.large_base(data, mode.levels[2]) - mode.large_base(code, mode.levels[2]) == 4 << 21
    frames = machine.small.dump.machine_frames
    small = machine.small
    for place, kind in (
        (0xFFFFA8D481B30D58, None),
        (0xFFFFA8D481B30D60, paging.PAGE_FILE),
        (0xFFFFA8D481B30D90, paging.PROTOTYPE),
        (0xFFFFA8FC01FAEF08, paging.TRANSITION),
    ):
        entry = memory.pointer(place)
        assert entry is not None
        if kind is None:
            assert entry & 3 == 3 and entry & mode.frame < 0x1_8000_0000
            continue
        invalid = describe_invalid(small, entry)
        assert (invalid.kind, invalid.unknown) == (kind, False)
        if kind == paging.PROTOTYPE:
            # A structure of the pool where the processes lie.
            assert invalid.prototype is not None and invalid.prototype >> 40 == 0xFFFFBB
        elif kind == paging.PAGE_FILE:
            # The paging file of compressed pages, and pages that follow one another.
            assert (invalid.page_file, invalid.protection_text) == (2, "4 - ReadWrite")
            following = describe_invalid(small, memory.pointer(place + 8) or 0)
            assert invalid.offset is not None and following.offset == invalid.offset + 1
        else:
            assert invalid.frame == 0x13BCBE and (not frames or invalid.frame < frames)


def test_everything_of_the_small_dump_is_read_through_the_tables(machine: made.Machine, opened: Target) -> None:
    assert (opened.header.architecture, opened.layer_name is not None, opened.problems) == ("arm64", True, [])
    pieces = [
        piece
        for piece in machine.small.memory.ranges(0, 1 << 64)
        if not made.KUSER <= piece[0] < made.KUSER + PAGE
        and piece[0] & -PAGE != made.KERNEL
        and not made.SELF_MAP <= piece[0] < made.SELF_MAP + (1 << 39)
    ]
    assert len(pieces) > 500
    for address, size in pieces:
        assert opened.memory.read(address, size) == machine.small.memory.read(address, size), hex(address)
    mapped = [
        page for start, size in opened.memory.ranges(1 << 63, 1 << 63) for page in range(start, start + size, PAGE)
    ]
    assert set(machine.frames) <= set(mapped)


@pytest.mark.thorough
def test_stacks_modules_and_verdict_are_those_of_the_small_dump(
    machine: made.Machine, complete: Path, shared_data: Path
) -> None:
    answers = []
    for path in (shared_data / "dumps" / made.DUMP, complete):
        session = Session()
        session.open(str(path))
        commands = ("k", "~*k", "r", ".bugcheck", "!analyze", "!irql", "!prcb")
        answers.append([line for command in commands for line in execute(session, command)])
    assert answers[0] == answers[1] and len(answers[0]) > 80
    target = volatility3_kdump.open(complete)
    names = [(module.base, module.size) for module in target.modules]
    assert names == [(module.base, module.size) for module in machine.small.modules]


def test_pte_leads_to_the_entries_by_the_map_of_page_tables(opened: Target, complete: Path) -> None:
    """The base of that map is the real dump's own (KDBG.PteBase)."""
    session = Session()
    session.open(str(complete))
    for address in (made.KUSER, made.KERNEL + 0x3000, opened.header.ps_active_process_head or 0):
        lines = list(execute(session, f"!pte {address:x}"))
        places = [int(cell.split()[0], 16) for cell in lines[1].split(" at ")[1:]]
        values = [int(cell.split()[0], 16) for cell in lines[2].split("contains ")[1:]]
        assert [opened.memory.pointer(place) for place in places] == values
    assert list(execute(session, f"!pte {made.KERNEL:x}"))[-1] == "LARGE PAGE pfn 80400"
    assert list(execute(session, f"!vtop 0 {made.KUSER:x}"))[-1].endswith(
        f"translates to physical address {_frame_of(opened, made.KUSER) << 12:x}."
    )


def _frame_of(target: Target, address: int) -> int:
    layer = target.context.layers[target.layer_name]
    place = layer.address_space.place(address & 0xFFFFFFFFFFFF)
    assert isinstance(place, Place)
    return place.base >> 12


# descriptors ----------------------------------------------------------------------------------------------------------

_ADDRESS = 0x123456789000
_SHIFTS = (39, 30, 21, 12)


def _space(values: tuple[int, ...]) -> AddressSpace:
    """The entries on the way of one address, from level 0 down: tables in the page frames 1 to 4."""
    pages = bytearray(8 * PAGE)
    for level, value in enumerate(values):
        place = (level + 1) * PAGE + (_ADDRESS >> _SHIFTS[level] & 0x1FF) * 8
        struct.pack_into("<Q", pages, place, value)
    import array

    held = RunPageMap(array.array("Q", [0]), array.array("Q", [8]), array.array("Q", [0]), 0, 8, ())
    tables = PageTables(CrashDump(BytesSource(bytes(pages)), no_facts("test"), held, None))
    return AddressSpace(tables, paging.ARM64_4_LEVEL, PAGE)


_TABLES = tuple((number << 12) | 3 for number in (2, 3, 4))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ((*_TABLES, 0x0060_0000_0000_5703), (0x5000, PAGE)),
        # Attributes above bit 47 are no address.
        ((*_TABLES, 0xFFEF_0000_0000_5703), (0x5000, PAGE)),
        # Level 3 knows no blocks: bit 1 clear is reserved.
        ((*_TABLES, 0x5701), None),
        ((*_TABLES, 0x5702), None),
        # A block of 2 MB, of 1 GB; its low address bits are none.
        ((*_TABLES[:2], 0x4060_0701), (0x4060_0000, 1 << 21)),
        ((*_TABLES[:1], 0x8000_0701), (0x8000_0000, 1 << 30)),
        # Level 0 knows none with this granule.
        ((0x8000_0701,), None),
        # In transition: bit 11 without bits 0 and 10; bits above all memory name no page.
        ((*_TABLES, 0x5800), (0x5000, PAGE)),
        ((*_TABLES, 0x5800 | 1 << 45), None),
        # Accessed or not, it is mapped: Windows ages pages by that bit.
        ((*_TABLES, 0x5303), (0x5000, PAGE)),
    ],
)
def test_descriptors(entries: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    import numpy as np

    space = _space(entries)
    place = space.walk(_ADDRESS)
    if expected is None:
        assert isinstance(place, Fault)
    else:
        assert isinstance(place, Place) and (place.base, place.size) == expected
    (translated,) = space.translate(np.array([_ADDRESS], np.uint64)).tolist()
    assert translated == (-1 if expected is None else expected[0] + (_ADDRESS & expected[1] - 1))


def test_the_host_is_told_that_this_is_no_x64(opened: Target) -> None:
    assert opened.context.layers[opened.layer_name].metadata["architecture"] == "AArch64"


def test_a_root_that_leads_nowhere_is_said(machine: made.Machine, tmp_path: Path) -> None:
    broken = made.Machine(PhysicalMemory({}, machine.memory.installed), machine.tables, machine.small)
    broken.memory.pages = {frame: page for frame, page in machine.memory.pages.items() if frame != made.ROOT // PAGE}
    target = volatility3_kdump.open(broken.dump(tmp_path / "rootless.dmp"))
    assert target.layer_name is None
    assert "page frame 0x946aa) is not in the dump: no address can be translated" in target.problems[0]
