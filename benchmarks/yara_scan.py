"""Scanning every present kernel page with YARA, beside the host's ``yarascan.YaraScan``.

The dump is the demonstration's with 256 MB of memory more, in pages that lie all over physical memory, as those of pool
and drivers do: three quarters of it without gaps, a quarter with every fourth page absent; then the same amount in
pages of 2 MB, where there is little that could be done quicker than the library scans. Rules of four strings hit some
hundred pages. Both contenders open the dump and find the same hits with the same library; what is timed is the scan,
from the compiled rules to the last hit, with every module imported before: those of the host's plugin are as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comparison import Row, Values, alternate, faster, progress, run_worker

_ROUNDS = 3
#: The libraries, and what is asked for in pages of 4 KB. Over this dump yara-python itself needs 0.5 s of processor
#: time, more than a fifth of the 2 s that the host takes with it, and only idle processors let threads share that.
_FLOORS = {"yara-x": 5.0, "yara-python": 2.0}

_PAGE = 0x1000
_QUARTER = 64 << 20
_SMALL_PAGES, _LARGE_PAGES = "4 KB pages", "2 MB pages"
#: Where the pool lies: virtual addresses that nothing else in the made machine uses, and physical memory above its own.
_SCATTERED, _GAPPED, _LARGE = 0xFFFF920000000000, 0xFFFF920040000000, 0xFFFF920080000000
_FIRST_FRAME = 0x200000

_RULES = """
rule implant { strings: $a = "kdump-benchmark-implant" $b = { 6B 64 75 6D 70 [2-6] C0 FF EE } condition: any of them }
rule image { strings: $text = "This program cannot be run in DOS mode" nocase condition: $text }
rule address { strings: $url = /https?:\\/\\/[a-z0-9.]{4,32}\\/gate/ condition: $url }
"""
_PLANTED = (
    b"kdump-benchmark-implant",
    b"kdump\x01\x02\x03\xc0\xff\xee",
    b"http://contoso.example/gate",
    b"This program cannot be run in DOS mode",
)


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    table = []
    for kind in (_SMALL_PAGES, _LARGE_PAGES):
        path = directory / f"yara-{kind[0]}.dmp"
        progress(f"writing a dump with 256 MB in {kind}")
        _write(path, kind)
        for library, floor in _FLOORS.items():
            found = alternate(
                f"scan {kind} with {library}",
                _ROUNDS,
                {name: functools.partial(run_worker, __file__, name, path, library) for name in ("ours", "host")},
            )
            ours, host = found["ours"], found["host"]
            if (
                isinstance(ours, dict)
                and isinstance(host, dict)
                and (ours["hits"] != host["hits"] or not ours["count"])
            ):
                raise SystemExit(f"{library}: {ours['count']:.0f} and {host['count']:.0f} hits, which differ")
            asked = floor if kind == _SMALL_PAGES else None
            table.append(faster(f"scan 256 MB in {kind}, {library}", ours, host, "yarascan.YaraScan", asked))
    return table


# the dump ------------------------------------------------------------------------------------------------------------


def _write(path: Path, kind: str) -> None:
    from kdump_sample import containers, paging
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    machine = Machine(high_irql_fault(), Layouts.load(kernel_table_path()))
    memory, physical = machine.work.memory, machine.work.physical
    physical.installed = (*physical.installed, (_FIRST_FRAME, 1 << 18))
    choose = random.Random(0)
    data = choose.randbytes(1 << 20)

    def fill(pfn: int, number: int) -> None:
        start = number * 0x5F3 % (len(data) - _PAGE)
        page = bytearray(data[start : start + _PAGE])
        page[:8] = struct.pack("<Q", number)
        if number % 499 == 0:
            text = _PLANTED[number % len(_PLANTED)]
            page[0x340 : 0x340 + len(text)] = text
        physical.claim(pfn)[:] = page

    if kind == _LARGE_PAGES:
        for number in range(4 * _QUARTER >> 21):
            memory.map_large(_LARGE + (number << 21), _FIRST_FRAME + (number << 9), paging.KERNEL_DATA)
        for number in range(4 * _QUARTER // _PAGE):
            fill(_FIRST_FRAME + number, number)
    else:
        frames = choose.sample(range(_FIRST_FRAME, _FIRST_FRAME + 0x40000), 4 * _QUARTER // _PAGE)
        for number, pfn in enumerate(frames):
            fill(pfn, number)
            gapped = number - 3 * _QUARTER // _PAGE
            address = _SCATTERED + number * _PAGE if gapped < 0 else _GAPPED + (gapped + gapped // 3) * _PAGE
            memory.map(address, pfn, paging.KERNEL_DATA)
    memory.finish()
    containers.write(path, 6, make_contents(machine))


# the contenders -------------------------------------------------------------------------------------------------------


def _values(seconds: float, found: Iterable[tuple[int, str, str]]) -> Values:
    """The hits as a number that tells them apart, so that they can be compared across processes."""
    hits = sorted(set(found))
    digest = hashlib.sha256(repr(hits).encode()).digest()
    return {"seconds": seconds, "count": len(hits), "hits": float(int.from_bytes(digest[:6], "little"))}


def _ours(path: Path, library: str) -> Values:
    import numpy  # noqa: F401

    import volatility3_kdump
    from volatility3_kdump.findings.yara_rules import load_rules
    from volatility3_kdump.findings.yara_scan import scan
    from volatility3_kdump.layers.present import SIGN, present_memory

    target = volatility3_kdump.open(path)
    rules = load_rules(_RULES, library=library)
    mask = target.context.layers[target.layer_name].address_mask
    start = time.perf_counter()
    memory = present_memory(target.context.layers[target.layer_name], -SIGN, 0)
    if memory is None:
        raise SystemExit("no memory")
    found = list(scan(memory, [(-SIGN, 0)], rules))
    seconds = time.perf_counter() - start
    return _values(seconds, ((hit.address & mask, hit.rule.name, hit.string) for hit in found))


def _host(path: Path, library: str) -> Values:
    """The host's plugin, on our layers: its own do not read dumps of this type."""
    from volatility3.framework import interfaces
    from volatility3.plugins import yarascan

    import volatility3_kdump

    if library == "yara-python":
        import yara

        yarascan.USE_YARA_X = False
        yarascan.yara = yara
    elif not yarascan.USE_YARA_X:
        raise SystemExit("the host has no yara-x")
    target = volatility3_kdump.open(path)
    rules = path.with_suffix(".yar")
    rules.write_text(_RULES)
    context: Any = target.context
    place = interfaces.configuration.path_join("plugins", "YaraScan")
    context.config[interfaces.configuration.path_join(place, "primary")] = target.layer_name
    context.config[interfaces.configuration.path_join(place, "yara_file")] = rules.as_uri()
    plugin = yarascan.YaraScan(context, place)
    start = time.perf_counter()
    found = [(row[0], row[1], row[2]) for _, row in plugin._generator()]
    seconds = time.perf_counter() - start
    half = 1 << 47
    return _values(
        seconds, ((int(address), rule.rpartition(".")[2], string) for address, rule, string in found if address >= half)
    )


if __name__ == "__main__":
    worker = {"ours": _ours, "host": _host}[sys.argv[1]]
    print(json.dumps(worker(Path(sys.argv[2]), sys.argv[3])))
