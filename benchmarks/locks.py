"""``kdump.locks`` over 30,000 resources, beside merely reading the bytes of those resources.

The dump is the demonstration's with 30,000 resources in nonpaged pool, each in a block of 0x80 bytes, linked in random
order, as their owners come and go; one in a thousand is held, and a thread waits for one in three thousand. Read are
the 0x68 bytes of each resource through the same virtual layer, by addresses known beforehand; what is timed of ours is
every line of the text, wait chains included. Opening the dump and the first use of symbols come before.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from comparison import Row, Values, alternate, at_most, progress, run_worker

_COUNT, _SIZE, _STRIDE = 30_000, 0x68, 0x80
_POOL = 0xFFFF918970000000
_HELD, _WAITED = 1000, 3000
_ROUNDS = 3
_LIMIT = 3.0
#: A pass over the resources is short: the least of several is taken.
_PASSES = 5


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "locks.dmp"
    progress(f"writing a dump with {_COUNT:,} resources")
    _write(path)
    found = alternate(
        "locks",
        _ROUNDS,
        {
            "ours": functools.partial(run_worker, __file__, "ours", path),
            "reading": functools.partial(run_worker, __file__, "reading", path),
        },
    )
    return [at_most(f"locks, {_COUNT:,} resources", found["ours"], found["reading"], "reading them alone", _LIMIT)]


def _places() -> list[int]:
    places = [_POOL + index * _STRIDE for index in range(_COUNT)]
    random.Random(1).shuffle(places)
    return places


def _write(path: Path) -> None:
    from kdump_sample import containers
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from kdump_sample.scene import Process, Resource, Thread
    from kdump_sample.scenes import make_scene
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    layouts = Layouts.load(kernel_table_path())
    scene = make_scene("locks", layouts)
    pattern = scene.processes[0].threads[-1]
    owner = high_irql_fault().processes[1].threads[0].address
    waiters: list[Thread] = []
    resources: list[Resource] = []
    for index, place in enumerate(_places()):
        waiting: tuple[int, ...] = ()
        if index % _WAITED == 0:
            number = len(waiters)
            waiters.append(
                dataclasses.replace(
                    pattern,
                    address=0xFFFF918968000080 + number * 0x1000,
                    tid=0x3004 + 4 * number,
                    stack_base=0xFFFFD48F7A000000 + number * 0x8000,
                )
            )
            waiting = (waiters[-1].address,)
        held = index % _HELD == 0
        resources.append(
            Resource(place, ((owner, 1),) if held else (), held, exclusive_waiters=waiting, contention=index % 7)
        )
    system: Process = scene.processes[0]
    system = dataclasses.replace(system, threads=(*system.threads[:1], *waiters))
    scene = dataclasses.replace(scene, processes=(system, *scene.processes[1:]), resources=tuple(resources))
    containers.write(path, 6, make_contents(Machine(scene, layouts)))


# the contenders -------------------------------------------------------------------------------------------------------


def _least(work: Callable[[], object]) -> Values:
    taken = []
    for _ in range(_PASSES):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return {"seconds": min(taken)}


def _ours(path: Path) -> Values:
    import volatility3_kdump
    from volatility3_kdump.views.locks import locks_grid

    target = volatility3_kdump.open(path)

    def show() -> None:
        lines = list(locks_grid(target).kd_lines())
        expected = f"{_COUNT} total locks, {_COUNT // _HELD} locks currently held"
        if expected not in lines or sum("waits for the resource" in line for line in lines) != _COUNT // _WAITED:
            raise SystemExit("not every resource was found")

    return _least(show)


def _reading(path: Path) -> Values:
    import volatility3_kdump

    target = volatility3_kdump.open(path)
    read, places = target.memory.read, _places()

    def every() -> None:
        if any(read(place, _SIZE) is None for place in places):
            raise SystemExit("a resource is not in the dump")

    return _least(every)


if __name__ == "__main__":
    worker = {"ours": _ours, "reading": _reading}[sys.argv[1]]
    print(json.dumps(worker(Path(sys.argv[2]))))
