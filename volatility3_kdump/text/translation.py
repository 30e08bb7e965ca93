"""Page table entries in the columns of KD's ``!pte`` and the lines of ``!vtop``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.cpu.paging import (
    DEMAND_ZERO,
    NO_EXECUTE,
    PAGE_FILE,
    PROTOTYPE,
    TRANSITION,
    USER,
    VALID,
    WRITE,
    ZERO,
)
from volatility3_kdump.windows.memory.translation import Entry, Invalid, Translation

_COLUMN = 27
#: Bit of a valid entry, its letter, and what stands there when it is clear, in KD's order.
_FLAGS = ((9, "C", "-"), (8, "G", "-"), (7, "L", "-"), (6, "D", "-"), (5, "A", "-"), (4, "N", "-"), (3, "T", "-"))
#: Bits of ARM64 (_MMPTE_HARDWARE of its kernels) for the same letters; those for caching have none. The processor's
#: bits say not global, not large and not dirty.
_ARM64_COPY, _ARM64_LOCAL, _ARM64_SMALL, _ARM64_CLEAN, _ARM64_ACCESSED = 1 << 56, 1 << 11, 1 << 1, 1 << 7, 1 << 10
_ARM64_USER, _ARM64_NO_KERNEL_CODE, _ARM64_NO_USER_CODE, _ARM64_WRITABLE = 1 << 6, 1 << 53, 1 << 54, 1 << 55
_UNKNOWN = "? (the bit that the kernel sets in entries that are not valid is not known)"


def flags(entry: Entry) -> str:
    """The bits of a valid entry as letters: ``---DA--KWEV``. The large-page bit of a last-level entry is the PAT's."""
    value = entry.value or 0
    if entry.arm64:
        return _arm64_flags(entry, value)
    letters = "".join(
        letter if value >> bit & 1 and (letter != "L" or entry.large) else clear for bit, letter, clear in _FLAGS
    )
    execute = "-" if value & NO_EXECUTE else "E"
    return f"{letters}{'U' if value & USER else 'K'}{'W' if value & WRITE else 'R'}{execute}V"


def _arm64_flags(entry: Entry, value: int) -> str:
    user = bool(value & _ARM64_USER)
    letters = (
        ("C", value & _ARM64_COPY),
        ("G", not value & _ARM64_LOCAL),
        ("L", entry.large),
        ("D", not value & _ARM64_CLEAN),
        ("A", value & _ARM64_ACCESSED),
    )
    written = "".join(letter if there else "-" for letter, there in letters) + "--"
    writable = value & _ARM64_WRITABLE or not value & _ARM64_CLEAN
    closed = value & (_ARM64_NO_USER_CODE if user else _ARM64_NO_KERNEL_CODE)
    return f"{written}{'U' if user else 'K'}{'W' if writable else 'R'}{'-' if closed else 'E'}V"


def pte_lines(translation: Translation, size: int = 8) -> Iterator[str]:
    """The lines of ``!pte``: addresses, contents and meaning of every level, then what the last one says."""
    digits = 2 * size
    entries = translation.entries
    yield f"{'':43}VA {translation.address & ((1 << 8 * size) - 1):0{digits}x}"
    yield _row(f"{entry.name} at {_place(entry)}" for entry in entries)
    yield _row(f"contains {_contents(entry)}" for entry in entries)
    yield _row(_meaning(entry) for entry in entries)
    last = entries[-1]
    if last.large and translation.physical is not None:
        yield f"LARGE PAGE pfn {translation.physical >> 12:x}"
    if last.value is None:
        yield f"the page table at physical address {last.physical & ~0xFFF:x} is not in the dump"
    elif last.filler:
        yield "every entry of this table is the same: it fills unused space, and counts as mapping nothing"
    elif last.value & VALID and translation.physical is None:
        yield "reserved bits are set in this entry: it maps nothing"
    if last.invalid is not None:
        yield from invalid_lines(last.invalid)


def literal_lines(entries: Sequence[Entry]) -> Iterator[str]:
    """``!pte A 1``: one entry as that of a page and as that of a table."""
    yield _row(f"{entry.name} at {_place(entry)}" for entry in entries)
    yield _row(f"contains {_contents(entry)}" for entry in entries)
    yield _row(_meaning(entry) for entry in entries)
    if entries[-1].invalid is not None:
        yield from invalid_lines(entries[-1].invalid)


def _row(cells: Iterator[str]) -> str:
    return "".join(f"{cell:<{_COLUMN}}" for cell in cells).rstrip()


def _place(entry: Entry) -> str:
    """The entry's address in the map of page tables, else its physical address, marked as such."""
    return f"#{entry.physical:X}" if entry.address is None else f"{entry.address:016X}"


def _contents(entry: Entry) -> str:
    return "?" * (2 * entry.size) if entry.value is None else f"{entry.value:0{2 * entry.size}X}"


def _meaning(entry: Entry) -> str:
    if entry.value is None:
        return "not in the dump"
    if not entry.value & VALID:
        return "not valid"
    return f"pfn {entry.frame:<9x} {flags(entry)}"


def invalid_lines(invalid: Invalid) -> Iterator[str]:
    """What an entry that is not valid says."""
    if invalid.kind == ZERO:
        yield " Zero: the entry was never built"
        return
    if invalid.kind == PROTOTYPE:
        if invalid.unknown:
            yield f" Proto: {_UNKNOWN}"
        else:
            where = "by the VAD" if invalid.prototype is None else f"{invalid.prototype:016X}"
            yield f" Proto: {where}"
    elif invalid.kind == TRANSITION:
        if invalid.frame is None:
            yield " Transition: ? (the entry names no page frame that the machine has)"
        else:
            yield f" Transition: {invalid.frame:x}"
    elif invalid.kind == PAGE_FILE and invalid.offset is None:
        yield f" PageFile: {_UNKNOWN}"
    elif invalid.kind == PAGE_FILE:
        yield f" PageFile: {invalid.page_file:2x}"
        yield f" Offset: {invalid.offset:x}"
    elif invalid.kind == DEMAND_ZERO:
        yield " DemandZero"
    yield f" Protect: {invalid.protection_text}"


def vtop_lines(translation: Translation, directory: int, architecture: str) -> Iterator[str]:
    """The lines of ``!vtop``."""
    wide = architecture != "x86"
    prefix = {"x64": "Amd64VtoP", "arm64": "Arm64VtoP"}.get(architecture, "X86VtoP")
    address = translation.address if wide else translation.address & 0xFFFFFFFF
    yield f"{prefix}: Virt {address:0{16 if wide else 8}x}, pagedir {directory:016x}"
    for entry in translation.entries:
        yield f"{prefix}: {entry.processor_name} {entry.physical:016x}"
    last = translation.entries[-1]
    if translation.physical is not None and translation.page_file is not None:
        yield f"{prefix}: offset {translation.physical:x} in paging file {translation.page_file}"
    elif translation.physical is not None:
        if last.invalid is not None and last.invalid.kind == PROTOTYPE:
            yield f"{prefix}: by its prototype PTE"
        if last.large:
            yield f"{prefix}: Large page mapped phys {translation.physical:016x}"
        else:
            yield f"{prefix}: Mapped phys {translation.physical:016x}"
        yield f"Virtual address {address:x} translates to physical address {translation.physical:x}."
    elif last.value is None:
        yield f"{prefix}: the page table at {last.physical & ~0xFFF:x} is not in the dump"
        yield f"Virtual address {address:x} translation fails."
    elif last.filler:
        yield f"{prefix}: every entry of this table is the same: it counts as mapping nothing"
        yield f"Virtual address {address:x} translation fails."
    else:
        yield f"{prefix}: {last.processor_name} {last.value:016x} is not valid"
        yield f"Virtual address {address:x} translation fails."
