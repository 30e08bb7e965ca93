"""Rows of ``kdump.pte``: how an address is translated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from volatility3_kdump.target import Target
from volatility3_kdump.text.translation import flags, invalid_lines, literal_lines, pte_lines, vtop_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, HEX, POINTER, TEXT, Column, table
from volatility3_kdump.windows.memory.translation import Entry, Translation, literal_entries, translate

_VALID = 1


def _valid(entry: Entry) -> bool | None:
    return None if entry.value is None else bool(entry.value & _VALID)


def _says(entry: Entry) -> object:
    if entry.value is None:
        return None
    if entry.value & _VALID:
        return flags(entry)
    return "; ".join(line.strip() for line in invalid_lines(entry.invalid)) if entry.invalid is not None else BLANK


TRANSLATION = table(
    "kdump.pte",
    keys.ADDRESS(),
    Column("TableLevel", TEXT, "`PXE`, `PPE`, `PDE`, `PTE`; `result` in the last row", lambda entry: entry.name),
    Column("EntryAddress", POINTER, "where the entry lies in the map of page tables", lambda entry: entry.address),
    Column(
        "PhysicalAddress",
        HEX,
        "that of the entry; in the last row what the address translates to, or the offset in the paging file that "
        "`Notes` names",
        lambda entry: entry.physical,
    ),
    Column("Contents", HEX, "the bits of the entry", lambda entry: entry.value),
    Column("PageFrame", HEX, "page frame that a valid entry names", lambda entry: entry.frame),
    Column("Valid", FLAG, "whether the processor takes it", _valid),
    keys.TEXT(_says, "the flags of a valid entry as KD writes them; what an entry says that is not valid"),
    keys.NOTES(
        lambda entry: [
            "not in the dump" if entry.value is None else "",
            "maps a large page" if entry.large else "",
            "every entry of its table is the same: it counts as mapping nothing" if entry.filler else "",
        ]
    ),
)


def _rows(translation: Translation) -> Iterator[Row]:
    for entry in translation.entries:
        yield TRANSLATION.row(0, entry, Address=translation.address)
    where = "" if translation.page_file is None else f"in paging file {translation.page_file}"
    yield TRANSLATION.row(
        0, Address=translation.address, TableLevel="result", PhysicalAddress=translation.physical, Notes=[where]
    )


def pte_grid(target: Target, address: int, directory: int) -> KdumpGrid:
    """The entries of an address in the tables of a ``directory`` (``!pte``). Raises :class:`KdumpError`."""
    return _grid(target, address, directory, lambda translation: pte_lines(translation, target.memory.pointer_size))


def vtop_grid(target: Target, address: int, directory: int) -> KdumpGrid:
    """The same rows with the text of ``!vtop``."""
    return _grid(
        target, address, directory, lambda translation: vtop_lines(translation, directory, target.header.architecture)
    )


def _grid(target: Target, address: int, directory: int, lines: Callable[[Translation], Iterable[str]]) -> KdumpGrid:
    steps = translate(target, address, directory)
    return TRANSLATION.grid(_rows(steps), lambda: lines(steps))


def literal_text(target: Target, address: int) -> Iterator[str]:
    """The lines of ``!pte A 1``. Raises :class:`KdumpError`."""
    return literal_lines(literal_entries(target, address))
