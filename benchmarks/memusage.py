"""Counting the page-frame database of a 64 GB machine (16.7 million entries, 768 MB), beside merely reading its bytes.

The dump is the demonstration's with that much memory and a database that is mapped in 2 MB pages, as Windows does it.
To keep the file small, 2 million entries (96 MB) stand in it, and the page tables map them eight times over: every part
of the database is read, translated and counted, but owners repeat. Of these entries 45 % are pages of processes, 30 %
of 4,000 mapped files, 15 % of the kernel's, 0.8 % page tables; the rest is free. Neighbours have nothing in common.

``read`` is the time to read the database through the virtual layer, in pieces of 1 MB, in the process that has counted
it; ``count`` is all of ``kdump.memusage`` from the opened dump to its last row, names of files and processes
included. Both in processor time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

from comparison import NotMeasured, Row, Values, alternate, at_most, peak_memory, progress, run_worker

_ENTRIES, _PATTERN = 1 << 24, 1 << 21
_ENTRY = 48
_FIRST = 0x100
_FILES = 4000
_ROUNDS = 3
_TIMES, _MEMORY_LIMIT = 6.0, 300
_MEGABYTE = 1 << 20
_PAGE, _LARGE_PAGE = 0x1000, 1 << 21

#: Where the pattern lies in physical memory, and which page frames are page tables of which level.
_PATTERN_FRAME = 0x400000
_TABLES, _DIRECTORIES, _POINTERS = range(0x1000, 0x5000), range(0x5000, 0x5040), range(0x5040, 0x5048)
#: Subsections and what belongs to them.
_SECTIONS, _SECTION_SIZE = 0xFFFF919000000000, 0x400


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "memusage.dmp"
    progress("writing a dump with the page-frame database of 64 GB")
    _write(path)
    found = alternate("memusage", _ROUNDS, {"count": functools.partial(run_worker, __file__, path)})["count"]

    def timed(what: str) -> Values | NotMeasured:
        return found if isinstance(found, NotMeasured) else {"seconds": found[what]}

    what = f"{_ENTRIES / 1e6:.1f} million page frames"
    table = [at_most(f"count {what} by list and owner", timed("count"), timed("read"), "reading them", _TIMES)]
    if not isinstance(found, NotMeasured):
        peak = found["peak"] / _MEGABYTE
        limit = f"< {_MEMORY_LIMIT} MB"
        table.append(Row(f"memory of all that, {what}", f"{peak:.0f} MB", "-", "-", limit, peak < _MEMORY_LIMIT))
    path.unlink()
    return table


# the dump ------------------------------------------------------------------------------------------------------------


def _write(path: Path) -> None:
    from kdump_sample import containers, paging
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    layouts = Layouts.load(kernel_table_path())
    scene = dataclasses.replace(high_irql_fault(), memory=((_FIRST, _ENTRIES),))
    machine = Machine(scene, layouts)
    work, physical = machine.work, machine.work.physical
    system = next(process for process in scene.processes if process.pid == 4)
    subsections = _sections(work)
    entries = _entries(layouts, scene, system.directory_table_base // _PAGE, subsections)
    data = entries.tobytes()
    for index in range(0, len(data), _PAGE):
        physical.pages[_PATTERN_FRAME + index // _PAGE] = bytearray(data[index : index + _PAGE])
    for frame in (*_DIRECTORIES, *_POINTERS):
        physical.claim(frame)
    database = scene.pfn_database
    start, end = database // _LARGE_PAGE, (database + (_FIRST + _ENTRIES) * _ENTRY - 1) // _LARGE_PAGE
    for number in range(end - start + 1):
        frame = _PATTERN_FRAME + number * 512 % (len(data) // _PAGE)
        work.memory.map_large(database + number * _LARGE_PAGE, frame, paging.KERNEL_DATA)
    work.memory.finish()
    containers.write(path, 6, make_contents(machine))


def _sections(work: Any) -> list[int]:
    """Control areas of mapped files; returns the addresses of their subsections."""
    found = []
    for number in range(_FILES):
        subsection = _SECTIONS + number * _SECTION_SIZE
        area, segment, file = subsection + 0x80, subsection + 0x140, subsection + 0x1C0
        work.structure("_SUBSECTION", subsection, {"ControlArea": area})
        work.structure("_CONTROL_AREA", area, {"Segment": segment, "FilePointer.Value": file | 0xF})
        work.structure("_SEGMENT", segment, {"ControlArea": area})
        work.structures.at("_FILE_OBJECT", file).unicode("FileName", f"\\Data\\file{number:05}.bin", file + 0x140)
        found.append(subsection)
    return found


def _entries(layouts: Any, scene: Any, top: int, subsections: list[int]) -> Any:
    """The pattern: entries of 48 bytes as rows of six numbers."""
    import numpy as np

    random = np.random.default_rng(64)
    entries = np.zeros((_PATTERN, _ENTRY // 8), np.uint64)

    def put(path: str, values: Any) -> None:
        field = layouts.field("_MMPFN", path)
        bit = field.offset % 8 * 8 + field.bit
        entries[:, field.offset // 8] |= np.asarray(values).astype(np.uint64) << np.uint64(bit)

    dice = random.random(_PATTERN)
    private, shared = dice < 0.45, (dice >= 0.45) & (dice < 0.75)
    kernel = (dice >= 0.75) & (dice < 0.90)
    frames = random.integers(_TABLES.start, _TABLES.stop, _PATTERN)
    user = random.integers(0x10000, 1 << 35, _PATTERN)
    starts = [scene.regions[name][0] >> 12 & (1 << 36) - 1 for name in ("NonPagedPool", "PagedPool", "SystemPtes")]
    system = random.choice(np.array(starts), _PATTERN) + random.integers(0, 1 << 16, _PATTERN)
    index = np.where(private, user, np.where(kernel, system, 0)).astype(np.uint64)
    for tables, above, step in ((_TABLES, _DIRECTORIES, 256), (_DIRECTORIES, _POINTERS, 8), (_POINTERS, None, 0)):
        here = slice(tables.start, tables.stop)
        private[here], shared[here], kernel[here] = True, False, False
        order = np.arange(len(tables))
        frames[here] = top if above is None else above.start + order // step
        # the PTE of a page table is in the page tables' own mapping
        pages = (np.uint64(scene.pte_base & (1 << 48) - 1) >> np.uint64(12)) + order.astype(np.uint64)
        index[here] = pages
    pte = np.uint64(scene.pte_base) + (index << np.uint64(3))
    put("PteAddress", np.where(private | kernel, pte, np.where(shared, np.uint64(0xFFFFD80249000000), np.uint64(0))))
    files = np.array(subsections, np.uint64)[random.integers(0, _FILES, _PATTERN)]
    put("OriginalPte.u.Long", np.where(shared, files << np.uint64(16) | np.uint64(0x420), np.uint64(0x80)))
    used = private | shared | kernel
    location = np.where(used, np.where(shared & (dice < 0.62), 2, np.where(private & (dice < 0.05), 3, 6)), 0)
    put("u3.e1.PageLocation", location)
    put("u3.ReferenceCount", location == 6)
    put("u2.ShareCount", np.where(location == 6, 1 + shared * (dice > 0.70), 0))
    put("u4.PteFrame", frames)
    put("u4.PrototypePte", shared)
    return entries


# what is timed --------------------------------------------------------------------------------------------------------


def _count(path: Path) -> Values:
    import volatility3_kdump
    from volatility3_kdump.views.memusage import memusage_grid

    target = volatility3_kdump.open(path)
    if target.nt is None or not target.modules:
        raise SystemExit("no symbols")
    memory, pointer = target.memory, target.symbol("MmPfnDatabase")
    database = memory.pointer(pointer or 0)
    if database is None:
        raise SystemExit("no page-frame database")
    with path.open("rb") as file:  # so that the pages of the file are in memory
        while file.read(_MEGABYTE):
            pass
    start = time.process_time()
    table = list(memusage_grid(target)._generator)
    found = {"count": time.process_time() - start, "peak": float(peak_memory())}
    total = next(cells[2] for _, cells in table if cells[1] == "TOTAL")
    files = sum(cells[0] == "mapped file" for _, cells in table)
    if total != _ENTRIES or files != _FILES:
        raise SystemExit(f"{total} entries and {files} files were counted")
    layer = target.context.layers[target.layer_name]
    first = (database + _FIRST * _ENTRY) & layer.address_mask
    start = time.process_time()
    for position in range(first, first + _ENTRIES * _ENTRY, _MEGABYTE):
        layer.read(position, min(_MEGABYTE, first + _ENTRIES * _ENTRY - position))
    return {**found, "read": time.process_time() - start}


if __name__ == "__main__":
    print(json.dumps(_count(Path(sys.argv[1]))))
