"""Searching 1 GB of nonpaged pool for a tag and for requests, beside merely reading its bytes.

The dump is the demonstration's with one more gigabyte of nonpaged pool, mapped in pages of 2 MB as Windows does it. To
keep the file small 64 MB stand in it, and the page tables map them sixteen times over: every byte is translated, read
and compared. It is laid out in blocks of 64 bytes with headers of 2,000 tags; one block in 40,000 has the tag that is
searched for, and as many begin like a request that is none, so that the heaps are asked thousands of times.

``read`` is the time to read that pool through the virtual layer, in pieces of 1 MB, in the process that has searched
it; ``find`` is all of ``!poolfind``, ``irps`` all of ``!irpfind``, to the last line. All in processor time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

from comparison import NotMeasured, Row, Values, alternate, at_most, progress, run_worker

_SIZE, _PATTERN = 1 << 30, 64 << 20
_PAGE, _LARGE_PAGE, _MEGABYTE = 0x1000, 1 << 21, 1 << 20
_FRAME = 0x400000
#: Behind what the demonstration has in nonpaged pool.
_OFFSET = 0x40_0000_0000
_BLOCK, _TAGS, _EVERY = 64, 2000, 40_000
_ROUNDS, _TIMES = 3, 3.0


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "pool-search.dmp"
    progress("writing a dump with 1 GB of nonpaged pool")
    _write(path)
    found = alternate("pool search", _ROUNDS, {"search": functools.partial(run_worker, __file__, path)})["search"]

    def timed(what: str) -> Values | NotMeasured:
        return found if isinstance(found, NotMeasured) else {"seconds": found[what]}

    table = [
        at_most(f"{command} over 1 GB of pool", timed(what), timed("read"), "reading it", _TIMES)
        for command, what in (("!poolfind", "find"), ("!irpfind", "irps"))
    ]
    path.unlink()
    return table


def _write(path: Path) -> None:
    import numpy as np

    from kdump_sample import containers, paging
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    scene = dataclasses.replace(high_irql_fault(), memory=((0x100, 1 << 23),))
    machine = Machine(scene, Layouts.load(kernel_table_path()))
    work = machine.work
    random = np.random.default_rng(16)
    blocks = np.zeros((_PATTERN // _BLOCK, _BLOCK // 4), np.uint32)
    blocks[:, 4:] = random.integers(0, 1 << 32, (len(blocks), _BLOCK // 4 - 4), np.uint32)
    # _POOL_HEADER: PreviousSize, PoolIndex, BlockSize in units of 16 bytes, PoolType; then the tag.
    units = _BLOCK // 16
    blocks[:, 0] = units | units << 16 | 2 << 24
    blocks[:, 1] = random.choice(random.integers(0x20202020, 0x7A7A7A7A, _TAGS), len(blocks))
    for tag, first in ((b"Bnch", 7), (b"Irp ", 19)):
        blocks[first::_EVERY, 1] = int.from_bytes(tag, "little")
    data = blocks.tobytes()
    for index in range(0, len(data), _PAGE):
        work.physical.pages[_FRAME + index // _PAGE] = bytearray(data[index : index + _PAGE])
    start = _start(scene.regions["NonPagedPool"][0])
    for number in range(_SIZE // _LARGE_PAGE):
        frame = _FRAME + number * 512 % (len(data) // _PAGE)
        work.memory.map_large(start + number * _LARGE_PAGE, frame, paging.KERNEL_DATA)
    work.memory.finish()
    containers.write(path, 6, make_contents(machine))


def _start(region: int) -> int:
    return region + _OFFSET


def _worker(path: Path) -> Values:
    from volatility3_kdump.console.commands import execute
    from volatility3_kdump.console.session import Session
    from volatility3_kdump.options import Options
    from volatility3_kdump.windows.memory.kernel_regions import NONPAGED_POOL, ranges_of_kinds

    session = Session(Options(offline=True))
    session.open(str(path))
    target = session.target
    with path.open("rb") as file:  # so that the pages of the file are in memory
        while file.read(_MEGABYTE):
            pass

    def seconds(line: str, expected: str) -> float:
        start = time.process_time()
        lines = list(execute(session, line))
        taken = time.process_time() - start
        if not any(expected in shown for shown in lines):
            raise SystemExit(f"{line} did not show {expected}: {lines[-3:]}")
        return taken

    # What the first command of a session reads, whatever it is: symbols, processors, modules.
    seconds("!pool @rsp", "Pool page")
    found = {"find": seconds("!poolfind Bnch", "tag Bnch"), "irps": seconds("!irpfind", "IRPs found")}
    layer = target.context.layers[target.layer_name]
    region = min(low for low, _ in ranges_of_kinds(target, {NONPAGED_POOL}))
    first = _start(region) & layer.address_mask
    start = time.process_time()
    for position in range(first, first + _SIZE, _MEGABYTE):
        layer.read(position, _MEGABYTE)
    return {**found, "read": time.process_time() - start}


if __name__ == "__main__":
    print(json.dumps(_worker(Path(sys.argv[1]))))
