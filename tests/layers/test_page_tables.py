"""Page-table walks against a slow reference, and against entries made by hand from the manuals."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.archives import packing
from tests.layers.reference_walk import PAGE, SHIFTS, Machine
from volatility3_kdump.cpu import paging
from volatility3_kdump.cpu.paging import EntryForms
from volatility3_kdump.dump import BytesSource, open_dump
from volatility3_kdump.layers.page_tables import PHYSICAL, AddressSpace, Fault, PageTables, Place, Step

MODES = {
    "x86": paging.INTEL_32,
    "pae": paging.INTEL_PAE,
    "x64": paging.INTEL_4_LEVEL,
    "la57": paging.INTEL_5_LEVEL,
}
TABLE_FRAMES = range(0x40, 0x4A)
DATA_FRAMES = range(0x200, 0x208)
#: The machine has memory up to here, most of it not in the dump; large pages begin at frame 0x400.
HIGHEST = 0x7FFF


def address_space(machine: Machine, build: int = 19041) -> AddressSpace:
    """The package's view of a machine: a dump of all its memory, of whose highest page nothing but the frame counts."""
    memory = {**machine.memory, machine.highest: bytes(PAGE)}
    bits = 32 if machine.mode in ("x86", "pae") else 64
    data = packing.full(packing.runs_of(memory), bits, memory, MinorVersion=build)
    tables = PageTables(open_dump(BytesSource(bytes(data))))
    if machine.l1tf is not None and machine.mode != "x86":
        tables.learn = lambda: EntryForms(12, 5, 4, 1 << machine.l1tf if machine.l1tf else 0)
    files = {number: BytesSource(content) for number, content in machine.files.items()}
    return AddressSpace(tables, MODES[machine.mode], machine.root, files)


def answer(space: AddressSpace, address: int) -> tuple[int | None, int] | None:
    place = space.place(address)
    if isinstance(place, Fault):
        return None
    return None if place.which == PHYSICAL else place.which, place.base | address & place.size - 1


def compare(machine: Machine, addresses: list[int]) -> None:
    """Every way to walk gives what the reference gives."""
    space = address_space(machine)
    expected = {address: machine.translate(address) for address in addresses}
    for address, where in expected.items():
        assert answer(space, address) == where, f"{machine.mode} {address:#x}"
    physical = [where[1] if where is not None and where[0] is None else -1 for where in expected.values()]
    assert space.translate(np.array(addresses, np.uint64)).tolist() == physical
    frames = {*machine.memory, machine.highest}
    for address, where in expected.items():
        if where is not None and where[0] is None and where[1] // PAGE not in frames:
            where = None
        expected_run = [] if where is None else [(address & -PAGE, PAGE, where[1] & -PAGE, where[0])]
        assert runs(space, address & -PAGE, (address & -PAGE) + PAGE) == expected_run, f"{machine.mode} {address:#x}"


def runs(space: AddressSpace, low: int, high: int) -> list[tuple[int, int, int, int | None]]:
    """What a range maps: address, size, place, and the number of the paging file."""
    return [
        (start, size, place, None if which == PHYSICAL else which)
        for batch in space.batches(low, high)
        for start, size, place, which in zip(*(column.tolist() for column in batch), strict=True)
    ]


def any_entry(choose: random.Random, mode: str) -> int:
    """An entry of any form that leads to one of a few tables and pages, or nowhere."""
    frame = choose.choice([*list(TABLE_FRAMES) * 4, *DATA_FRAMES, 0x400, 0x600, HIGHEST, 0x7777, HIGHEST + 1])
    flags = choose.choice([*[0x063] * 6, 0x0E3, 0x860, 0x880, 0xC80, 0x480, 0x080, choose.getrandbits(12)])
    if mode == "x86":
        return choose.choice([frame << 12 | flags, frame << 12 | flags, choose.getrandbits(32), 0])
    # The bit against L1TF, frames beyond the machine's, reserved and ignored bits.
    above = choose.choice([*[0] * 12, 1 << 45, 1 << 44, 1 << 51, 1 << 52, 1 << 63, 0x7FF << 52, 3 << 44])
    paged = choose.randrange(6) << 32 | choose.randrange(4) << 12 | flags & ~0xC01 | choose.choice([0, 0, 1 << 45])
    # A prototype entry in one of the pages that the same tables map, if they do.
    proto = choose.choice([0xFFFFF80012345000, 0xFFFF800000000000, 0x80000000 << 16]) | choose.randrange(512) << 3
    prototype = (proto << 16 | flags & ~1 | 0x400) & (1 << 64) - 1
    mapped = frame << 12 | flags | above
    return choose.choice([*[mapped] * 10, paged, prototype, choose.getrandbits(64), 0])


def random_machine(seed: int) -> tuple[Machine, list[int]]:
    """A machine whose tables lead to one another in any way, and addresses that go through their entries."""
    choose = random.Random(seed)
    mode = choose.choice(list(MODES))
    width, most = (4, 1024) if mode == "x86" else (8, 512)
    prototypes = [0xF80012345000, 0x800000000000]
    slots = [choose.randrange(most) for _ in range(4)]
    slots += [choose.choice(prototypes) >> shift & most - 1 for shift in SHIFTS[mode]]
    memory: dict[int, bytes] = {}
    for frame in TABLE_FRAMES:
        if choose.random() < 0.1:
            continue
        page = bytearray(PAGE)
        if choose.random() < 0.1:
            page = bytearray(any_entry(choose, mode).to_bytes(width, "little") * most)
        for slot in slots:
            if choose.random() < 0.9:
                page[slot * width : (slot + 1) * width] = any_entry(choose, mode).to_bytes(width, "little")
        if mode == "pae" and frame == TABLE_FRAMES[0]:
            page[:0x20] = b"".join((any_entry(choose, mode) & ~0x1E6).to_bytes(8, "little") for _ in range(4))
        memory[frame] = bytes(page)
    for frame in (*DATA_FRAMES, 0x400, 0x455, 0x600):
        memory[frame] = b"".join(any_entry(choose, "x64").to_bytes(8, "little") for _ in range(512))
    files = {1: bytes(range(256)) * 64, 2: memory.get(0x41, bytes(PAGE)) * 3}
    machine = Machine(mode, TABLE_FRAMES[0] << 12, memory, HIGHEST, choose.choice([0, 45, None]), files)
    addresses = []
    for _ in range(40):
        address = choose.randrange(PAGE)
        for shift in SHIFTS[mode]:
            index = choose.choice([*slots, *slots, choose.randrange(most)])
            address |= (index & 3 if mode == "pae" and shift == 30 else index) << shift
        addresses.append(address)
    return machine, addresses


@given(st.integers(0, (1 << 32) - 1))
@settings(max_examples=part(100), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_random_tables_as_the_reference_walks_them(seed: int) -> None:
    compare(*random_machine(seed))


# by hand --------------------------------------------------------------------------------------------------------------

BASE = 0xFFFF80004020 << 28 & (1 << 48) - 1


def chain(
    mode: str, entries: list[int], address: int, extra: dict[int, bytes] | None = None, **facts: object
) -> tuple[Machine, int]:
    """A machine whose tables 0x40, 0x41... hold one entry each on the way of an address."""
    width = 4 if mode == "x86" else 8
    memory: dict[int, bytes] = {}
    for number, (shift, entry) in enumerate(zip(SHIFTS[mode], entries, strict=False)):
        bits = 2 if mode == "pae" and shift == 30 else 10 if mode == "x86" else 9
        page = bytearray(PAGE)
        at = (address >> shift & (1 << bits) - 1) * width
        page[at : at + width] = entry.to_bytes(width, "little")
        memory[0x40 + number] = bytes(page)
    for frame in (0x55, 0x400, 0x401, 0x5FF, 0x7FF):
        memory[frame] = packing.page(frame)
    memory.update(extra or {})
    return Machine(mode, 0x40 << 12, memory, HIGHEST, **facts), address


def walked(mode: str, entries: list[int], address: int, **facts: object) -> tuple[int | None, int] | None:
    machine, address = chain(mode, entries, address, **facts)
    compare(machine, [address, address ^ 0x1000])
    return answer(address_space(machine), address)


ADDRESS = {"x86": 0x80345678, "pae": 0x80345678, "x64": 0xF80012345678, "la57": 0x1FFF80012345678}
#: Entries of the tables above the last: table 0x41, 0x42..., written and accessed.
ABOVE = {mode: [0x41000 + 0x1000 * number | 0x63 for number in range(len(SHIFTS[mode]) - 1)] for mode in MODES}
ABOVE["pae"][0] = 0x41001


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("entry", "frame"),
    [
        (0x55063, 0x55),  # valid
        (0x550E3, 0x55),  # bit 7 of a PTE selects its memory type
        (0x55860, 0x55),  # in transition, protection 3
        (0x55880, 0x55),  # in transition, read/write: protection 4 is bit 7
        (0x55C80, None),  # prototype and "transition": not a page in transition
        (0, None),  # zero
        (0x80, None),  # demand zero
        (0x7000063, None),  # the machine has that page frame, the dump does not
    ],
)
def test_entries_of_the_last_level(mode: str, entry: int, frame: int | None) -> None:
    machine, address = chain(mode, [*ABOVE[mode], entry], ADDRESS[mode])
    compare(machine, [address])
    space = address_space(machine)
    found = answer(space, address)
    if entry == 0x7000063:
        assert found == (None, 0x7000678)
        assert not list(space.batches())
    else:
        assert found == (None if frame is None else (None, frame << 12 | 0x678))


@pytest.mark.parametrize("mode", MODES)
def test_a_directory_entry_in_transition_is_no_large_page(mode: str) -> None:
    """volatility3 518, 581: valid 0, transition 1, protection 4 = read/write, which is bit 7."""
    entries = [*ABOVE[mode], 0x55063]
    entries[-2] = entries[-2] & ~0xFFF | 0x880
    assert walked(mode, entries, ADDRESS[mode]) == (None, 0x55678)


@pytest.mark.parametrize("mode", ["x64", "la57"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_tables_of_every_level_in_transition(mode: str, level: int) -> None:
    entries = [*ABOVE[mode], 0x55063]
    entries[level] = entries[level] & ~0xFFF | 0x880 | 1 << 45
    assert walked(mode, entries, ADDRESS[mode]) == (None, 0x55678)


@pytest.mark.parametrize(
    ("mode", "depth", "entry", "physical"),
    [
        ("x86", 0, 0x4000E3, 0x745678),
        ("x86", 0, 0x4010E3, 0x745678),  # the PAT's bit
        ("x86", 0, 0x4020E3, 0x100745678),  # PSE-36: bits 13 to 20 are address bits 32 to 39
        ("x86", 0, 0x6000E3, None),  # bit 21 is reserved
        ("pae", 1, 0x4000E3, 0x545678),
        ("pae", 1, 0x4010E3, 0x545678),
        ("pae", 1, 0x4020E3, None),
        ("pae", 1, 0x4000E3 | 1 << 62, None),
        ("pae", 0, 0x410E1, None),  # bits 5 to 8 of the pointer table
        ("x64", 2, 0x4000E3, 0x545678),
        ("x64", 2, 0x4010E3 | 0xFFF << 52, 0x545678),
        ("x64", 2, 0x4100E3, None),  # bits 13 to 20 are reserved
        ("x64", 1, 0x400000E3, 0x52345678),
        ("x64", 1, 0x402000E3, None),
        ("x64", 0, 0x410E3, None),  # bit 7 of a PML4E is reserved
        ("la57", 0, 0x410E3, None),
        ("la57", 1, 0x420E3, None),
        ("la57", 2, 0x400000E3, 0x52345678),
    ],
)
def test_large_pages_and_reserved_bits(mode: str, depth: int, entry: int, physical: int | None) -> None:
    entries = [*ABOVE[mode][:depth], entry]
    if physical is None:
        entries = [*entries, *[*ABOVE[mode], 0x55063][depth + 1 :]]
    assert walked(mode, entries, ADDRESS[mode]) == (None if physical is None else (None, physical))


@pytest.mark.parametrize("mode", ["pae", "x64", "la57"])
def test_frames_beyond_the_machine(mode: str) -> None:
    """A valid entry is taken at its word; in transition one bit above all memory is the kernel's, two are none."""
    upper = ABOVE[mode]
    assert walked(mode, [*upper, 0x55063 | 1 << 46], ADDRESS[mode]) == (None, 1 << 46 | 0x55678)
    assert walked(mode, [*upper, 0x55880 | 1 << 46], ADDRESS[mode]) == (None, 0x55678)
    assert walked(mode, [*upper, 0x55880 | 1 << 46 | 1 << 45], ADDRESS[mode]) is None
    # A pointer into the kernel's half is no page in transition.
    assert walked(mode, [*upper, 0xFFFF800000055880], ADDRESS[mode]) is None


def test_paging_files() -> None:
    files = {2: b"".join(packing.page(number) for number in range(8))}
    entry = 5 << 32 | 2 << 12 | 4 << 5
    upper = ABOVE["x64"]
    assert walked("x64", [*upper, entry], ADDRESS["x64"], files=files) == (2, 0x5678)
    assert walked("x64", [*upper, entry | 1 << 45], ADDRESS["x64"], files=files, l1tf=45) == (2, 0x5678)
    # Set before the kernel would have set it: the swizzle bit says so.
    assert walked("x64", [*upper, entry | 1 << 45 | 1 << 4], ADDRESS["x64"], files=files, l1tf=45) is None
    # Where the kernel's mask is not known, the bit may be part of the offset or not.
    assert walked("x64", [*upper, entry | 1 << 45], ADDRESS["x64"], files=files, l1tf=None) is None
    assert walked("x64", [*upper, 3 << 32 | 2 << 12], ADDRESS["x64"], files=files, l1tf=None) == (2, 0x3678)
    for absent in (9 << 32 | 2 << 12, 5 << 32 | 3 << 12):
        assert walked("x64", [*upper, absent], ADDRESS["x64"], files=files) is None
    machine, address = chain("x64", [*upper, 5 << 32 | 3 << 12], ADDRESS["x64"], files=files)
    fault = address_space(machine).place(address)
    assert isinstance(fault, Fault) and fault.paged_out and fault.page_file == (3, 5)


def test_a_page_table_in_a_paging_file() -> None:
    table = bytearray(PAGE)
    struct.pack_into("<Q", table, 8 * (ADDRESS["x64"] >> 12 & 511), 0x55063)
    entries = [*ABOVE["x64"][:2], 3 << 32 | 1 << 12 | 4 << 5]
    files = {1: bytes(3 * PAGE) + bytes(table)}
    assert walked("x64", entries, ADDRESS["x64"], files=files) == (None, 0x55678)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0x55063, (None, 0x55678)),
        (0x55880, (None, 0x55678)),
        (5 << 32 | 2 << 12 | 4 << 5, (2, 0x5678)),
        (0xFFFFD80212340400, None),  # a subsection: in a file, not in memory
        (4 << 5, None),
        (0, None),
    ],
)
def test_prototype_entries(value: int, expected: tuple[int | None, int] | None) -> None:
    """The entry of the address names one in paged pool, which another way through the tables maps."""
    proto = ADDRESS["x64"] ^ 0x3000
    files = {2: b"".join(packing.page(number) for number in range(8))}
    for l1tf, change in ((0, 0), (45, 1 << 45)):
        pool = proto & -PAGE | 0x7F8 | 0xFFFF << 48
        entry = (pool << 16 & (1 << 64) - 1) | 1 << 10 | 1 << 7
        # The bit is set where it was not, and the swizzle bit where it was.
        if change:
            entry = entry | 1 << 4 if entry & change else entry | change
        machine, address = chain("x64", [*ABOVE["x64"], entry], ADDRESS["x64"], files=files, l1tf=l1tf)
        table = bytearray(machine.memory[0x43])
        struct.pack_into("<Q", table, 8 * (proto >> 12 & 511), 0x56063)
        page = bytearray(PAGE)
        struct.pack_into("<Q", page, 0x7F8, value)
        machine.memory = {**machine.memory, 0x43: bytes(table), 0x56: bytes(page)}
        compare(machine, [address, proto])
        assert answer(address_space(machine), address) == expected


def test_prototype_entries_that_lead_nowhere() -> None:
    for entry in (
        0xFFFFFFFF00000480,  # by the VAD
        0x0000012345678000 << 16 & (1 << 64) - 1 | 0x480,  # no kernel address
        (ADDRESS["x64"] | 0xFFFF << 48) << 16 & (1 << 64) - 1 | 0x400,  # itself
        (0xFFFF900000000004 << 16) & (1 << 64) - 1 | 0x400,  # not aligned
    ):
        assert walked("x64", [*ABOVE["x64"], entry], ADDRESS["x64"]) is None


def test_a_table_whose_entries_are_all_equal_maps_nothing() -> None:
    machine, address = chain("x64", ABOVE["x64"], ADDRESS["x64"], {0x43: struct.pack("<Q", 0x55063) * 512})
    compare(machine, [address, address ^ 0x5000])
    space = address_space(machine)
    assert answer(space, address) is None
    steps: list[Step] = []
    space.walk(address, steps)
    assert [(step.value, step.filler) for step in steps[-1:]] == [(0x55063, True)]


def test_tables_that_are_not_there() -> None:
    for gone in range(4):
        machine, address = chain("x64", [*ABOVE["x64"], 0x55063], ADDRESS["x64"])
        machine.memory = {frame: page for frame, page in machine.memory.items() if frame != 0x40 + gone}
        compare(machine, [address])
        fault = address_space(machine).place(address)
        assert isinstance(fault, Fault) and fault.bits == (48, 39, 30, 21)[gone]
    for root in (0, 0x999000, 0xFFFFFFFFFF000):
        machine, address = chain("x64", [*ABOVE["x64"], 0x55063], ADDRESS["x64"])
        machine.root = root
        compare(machine, [address])


def test_the_top_table_of_pae_ends_before_its_page_does() -> None:
    """It has four entries, may lie anywhere in the low 4 GB, and the page behind it need not be there."""
    machine, address = chain("pae", [0x41001, 0x42063, 0x55063], ADDRESS["pae"])
    top = machine.memory[0x40][:0x20]
    machine.memory = {**machine.memory, 0x40: bytes(0xFE0) + top}
    machine.root = 0x40FE0
    compare(machine, [address])
    assert answer(address_space(machine), address) == (None, 0x55678)


def test_a_large_page_over_holes() -> None:
    machine, address = chain("x64", [*ABOVE["x64"][:2], 0x4000E3], ADDRESS["x64"])
    start = address & -(1 << 21)
    ((addresses, sizes, places, _),) = list(address_space(machine).batches())
    assert addresses.tolist() == [start, start + 0x1FF000]
    assert (sizes.tolist(), places.tolist()) == ([0x2000, 0x1000], [0x400000, 0x5FF000])
    # Cut to the range that is asked for.
    ((addresses, sizes, places, _),) = list(address_space(machine).batches(start + 0x800, start + 0x1100))
    assert (addresses.tolist(), sizes.tolist(), places.tolist()) == ([start + 0x800], [0x900], [0x400800])


def test_what_symbols_say_is_asked_for_once_it_is_needed() -> None:
    """An entry that needs them is not settled as long as they are not loaded."""
    files = {2: b"".join(packing.page(number) for number in range(8))}
    entry = 5 << 32 | 2 << 12 | 4 << 5 | 1 << 45
    machine, address = chain("x64", [*ABOVE["x64"], entry], ADDRESS["x64"], files=files, l1tf=None)
    space = address_space(machine)
    answers: Iterator[EntryForms | None] = iter([None, None, EntryForms(12, 5, 4, 1 << 45)])
    space.tables.learn = lambda: next(answers)
    assert isinstance(space.place(address), Fault)
    assert isinstance(space.place(address), Fault)
    place = space.place(address)
    assert isinstance(place, Place) and (place.which, place.base) == (2, 0x5000)
    assert space.place(address) == place
    assert next(answers, "none left") == "none left"


def test_kernels_before_17763_are_not_guessed_at() -> None:
    """Their paging file number moved with an update: without symbols such an entry gives no page."""
    files = {number: b"".join(packing.page(page) for page in range(8)) for number in range(16)}
    machine, address = chain("x64", [*ABOVE["x64"], 5 << 32 | 2 << 12], ADDRESS["x64"], files=files, l1tf=None)
    assert isinstance(address_space(machine, 17134).place(address), Fault)
    assert isinstance(address_space(machine, 17763).place(address), Place)


# other readers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump_type", [1, 5, 6])
def test_kdmp_parser_translates_the_same(dump_type: int, sample: Callable[..., Path]) -> None:
    """Every page that the dump maps, and as many addresses near them; where it answers, so does this, and the same."""
    import kdmp_parser

    parser = kdmp_parser.KernelDumpParser(sample(dump_type))
    target = volatility3_kdump.open(sample(dump_type))
    space = target.context.layers[target.layer_name].address_space
    choose = random.Random(dump_type)
    answered = 0
    for start, size, place, _ in runs(space, 0, 1 << 48):
        for address in (start, start + choose.randrange(size), start ^ 1 << choose.randrange(12, 40)):
            theirs = parser.translate_virtual(address | (0xFFFF << 48 if address >> 47 else 0))
            own = answer(space, address)
            if start <= address < start + size:
                assert own == (None, place + address - start)
            if theirs is not None:
                assert own == (None, theirs), hex(address)
                answered += 1
    assert answered > 500
