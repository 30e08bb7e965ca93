"""Page tables: mapping a process whose pages are absent, translating a million addresses, and one at a time.

The dump is the demonstration's as a kernel dump (DumpType 6), with a process whose page tables, which are in the dump,
map 4 GB of user pages, which are not. ``windows.memmap`` asks its layer for all that a process maps. The million
addresses are random ones of what the kernel maps in 64 MB of pages that are all over physical memory: the host
translates them one by one, as it has no other way, and both agree on every one. Contenders read the same dump through
the same physical layer.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from comparison import Row, Values, alternate, faster, progress, run_worker

_PAGE = 0x1000
_ABSENT_PAGES = (4 << 30) // _PAGE
_ADDRESSES = 1_000_000
_KERNEL_PAGES = (64 << 20) // _PAGE
_SCATTERED, _FIRST_FRAME = 0xFFFF920000000000, 0x200000
_USER_START = 0x10000000000
_MASK = (1 << 48) - 1


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "tables.dmp"
    progress("writing a dump whose page tables map 4 GB of absent pages")
    path.with_suffix(".json").write_text(json.dumps(_write(path)))
    table = []
    for what, subject, floor, rounds in (
        ("map a process with 4 GB of absent pages", "map", 43.0, 1),
        ("translate 1,000,000 random kernel addresses", "many", 20.0, 1),
        ("translate 100,000 of them one at a time", "one", 1.0, 2),
    ):
        found = alternate(
            what, rounds, {who: functools.partial(run_worker, __file__, subject, who, path) for who in ("ours", "host")}
        )
        ours, host = found["ours"], found["host"]
        if isinstance(ours, dict) and isinstance(host, dict) and ours["sum"] != host["sum"]:
            raise SystemExit(f"{what}: the answers differ")
        table.append(faster(what, ours, host, "host's layer", floor))
    return table


def _write(path: Path) -> int:
    """Write the dump; returns the directory base of the process."""
    from kdump_sample import containers, paging
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    machine = Machine(high_irql_fault(), Layouts.load(kernel_table_path()))
    memory, physical = machine.work.memory, machine.work.physical
    physical.installed = (*physical.installed, (_FIRST_FRAME, 2 * _ABSENT_PAGES))
    process: int = machine.scene.processes[-1].directory_table_base
    for number in range(_ABSENT_PAGES):
        address = _USER_START + number * _PAGE
        memory.map(address, _FIRST_FRAME + number, paging.USER_DATA, process)
    choose = random.Random(0)
    first = _FIRST_FRAME + _ABSENT_PAGES
    for number, pfn in enumerate(choose.sample(range(first, first + 4 * _KERNEL_PAGES), _KERNEL_PAGES)):
        physical.claim(pfn)
        memory.map(_SCATTERED + number * _PAGE, pfn, paging.KERNEL_DATA)
    memory.finish()
    containers.write(path, 6, make_contents(machine))
    return process


def _layer(who: str, path: Path, root: int) -> Any:
    """The layer over the page tables at a physical address: ours or the host's, over our physical layer."""
    from volatility3.framework import contexts
    from volatility3.framework.layers import intel, physical

    from volatility3_kdump.layers.crash import KdumpCrash64Layer
    from volatility3_kdump.layers.translation import KdumpIntel32eLayer

    context = contexts.Context()
    context.config["file.location"] = path.resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    context.add_layer(KdumpCrash64Layer(context, "dump", "dump"))
    context.config["virtual.memory_layer"] = "dump"
    context.config["virtual.page_map_offset"] = root
    layer = (KdumpIntel32eLayer if who == "ours" else intel.WindowsIntel32e)(context, "virtual", "virtual")
    context.add_layer(layer)
    return layer


def _measure(subject: str, who: str, path: Path) -> Values:
    import numpy as np

    root = json.loads(path.with_suffix(".json").read_text())
    layer = _layer(who, path, root)
    choose = random.Random(1)
    if subject == "map":
        # What both map of the user's half: the large pages of the kernel's are not all there.
        start = time.perf_counter()
        mapped = list(layer.mapping(0, 1 << 47, ignore_errors=True))
        return {"seconds": time.perf_counter() - start, "sum": float(zlib.crc32(repr(mapped).encode()))}
    addresses = [
        (_SCATTERED + choose.randrange(_KERNEL_PAGES * _PAGE)) & _MASK
        for _ in range(_ADDRESSES if subject == "many" else _ADDRESSES // 10)
    ]
    if subject == "many" and who == "ours":
        wanted = np.array(addresses, np.uint64)
        start = time.perf_counter()
        found = layer.translate_many(wanted)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "sum": float(int(found.sum()) & 0xFFFFFFFFFFFF)}
    translate = layer._translate
    start = time.perf_counter()
    total = 0
    for address in addresses:
        total += translate(address)[0]
    return {"seconds": time.perf_counter() - start, "sum": float(total & 0xFFFFFFFFFFFF)}


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
