"""Listing 300 processes and 5,000 threads, beside the host's ``windows.pslist`` and ``windows.threads``.

The dump is the demonstration's with 290 more processes, whose threads all wait as Notepad does, on 12 frames in three
modules. Every contender lists them in a process of its own, on the same layers and symbol table; what is timed is from
the plugin's ``run`` to its last row. Opening the dump and reading the symbol table come before, and are shown apart.

``detail 7`` is every line of ``-r windbg kdump.process --detail 7``, against walking the same stacks and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comparison import NotMeasured, Row, Values, alternate, at_most, faster, progress, run_worker

_PROCESSES, _THREADS = 300, 5000
_ROUNDS = 3
_LIST_FLOOR, _THREADS_FLOOR, _DETAIL_LIMIT = 3.0, 10.0, 3.0

#: Where the processes, threads and stacks lie in the made machine: memory that nothing else there uses.
_PROCESS, _THREAD, _STACK = 0xFFFF919000000080, 0xFFFF919100000080, 0xFFFFD49000007000
_PROCESS_STRIDE, _THREAD_STRIDE, _STACK_STRIDE = 0x1000, 0x1000, 0x8000
#: Every 256th entry of the table of ids is reserved.
_RESERVED = 0x400


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "processes.dmp"
    progress(f"writing a dump with {_PROCESSES} processes and {_THREADS:,} threads")
    write(path)
    found = alternate(
        "processes",
        _ROUNDS,
        {
            "ours": functools.partial(run_worker, __file__, "ours", path),
            "host": functools.partial(run_worker, __file__, "host", path),
        },
    )
    ours, host = found["ours"], found["host"]

    def timed(values: Values | NotMeasured, what: str) -> Values | NotMeasured:
        return values if isinstance(values, NotMeasured) else {"seconds": values[what]}

    processes, threads = f"{_PROCESSES} processes", f"{_THREADS:,} threads"
    return [
        faster(f"open the dump and its symbols, {processes}", timed(ours, "open"), timed(host, "open"), "host"),
        faster(f"list {processes}", timed(ours, "list"), timed(host, "list"), "windows.pslist", _LIST_FLOOR),
        faster(f"list {threads}", timed(ours, "threads"), timed(host, "threads"), "windows.threads", _THREADS_FLOOR),
        at_most(
            f"{processes} with {threads} and their stacks (detail 7)",
            timed(ours, "detail"),
            timed(ours, "unwind"),
            "unwinding alone",
            _DETAIL_LIMIT,
        ),
    ]


# the dump ------------------------------------------------------------------------------------------------------------


def _ids() -> Iterator[int]:
    return (value for value in itertools.count(0x3000, 4) if value % _RESERVED)


def write(path: Path) -> None:
    """The demonstration with many more processes and threads."""
    from kdump_sample import containers
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    scene = high_irql_fault()
    notepad = next(process for process in scene.processes if process.image == "notepad.exe")
    (pattern,) = notepad.threads
    more = _PROCESSES - len(scene.processes)
    threads = _THREADS - sum(len(process.threads) for process in scene.processes)
    ids = _ids()
    made = []
    for number in range(more):
        own = range(threads * number // more, threads * (number + 1) // more)
        made.append(
            dataclasses.replace(
                notepad,
                address=_PROCESS + number * _PROCESS_STRIDE,
                pid=next(ids),
                image=f"worker{number}.exe",
                directory_table_base=0x118000000 + number * 0x1000,
                handle_table=0xFFFFD80250000040 + number * 0x1000,
                vad_root=0,
                command_line="",
                threads=tuple(
                    dataclasses.replace(
                        pattern,
                        address=_THREAD + index * _THREAD_STRIDE,
                        tid=next(ids),
                        stack_base=_STACK + index * _STACK_STRIDE,
                    )
                    for index in own
                ),
            )
        )
    scene = dataclasses.replace(scene, processes=(*scene.processes, *made))
    containers.write(path, 6, make_contents(Machine(scene, Layouts.load(kernel_table_path()))))


# the contenders -------------------------------------------------------------------------------------------------------


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _count(grid: Any, expected: int) -> None:
    """Make every row of a table."""
    found = sum(1 for _ in grid._generator)
    if found != expected:
        raise SystemExit(f"{found} rows, not {expected}")


def _ours(path: Path) -> Values:
    import volatility3_kdump
    from volatility3_kdump.views.process import process_grid
    from volatility3_kdump.views.thread import thread_grid
    from volatility3_kdump.windows.listing.processes import ProcessChoice
    from volatility3_kdump.windows.listing.threads import ThreadChoice
    from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
    from volatility3_kdump.windows.processes.processes import process_reader
    from volatility3_kdump.windows.processes.threads import thread_reader
    from volatility3_kdump.windows.stacks.walker import StackWalker, walk_threads, walker

    start = time.process_time()
    target = volatility3_kdump.open(path)
    if process_reader(target) is None or thread_reader(target) is None:
        raise SystemExit("no symbols")
    found = {"open": time.process_time() - start}
    found["list"] = _seconds(lambda: _count(process_grid(target, ProcessChoice(), 0), _PROCESSES))
    found["threads"] = _seconds(lambda: _count(thread_grid(target, ThreadChoice(everything=True), False), _THREADS))
    threads = [thread for process in process_addresses(target) for thread in thread_addresses(target, process)]
    # What images and names are needed is found by a first walk.
    stacks = walker(target)
    for thread in threads[:20]:
        for _ in walk_threads(stacks, iter([thread])):
            pass

    def unwind() -> None:
        for _, stack in walk_threads(StackWalker(target), iter(threads)):
            if not stack.frames:
                raise SystemExit(f"no stack: {stack.end}")

    found["unwind"] = _seconds(unwind)
    lines = []
    found["detail"] = _seconds(lambda: lines.extend(process_grid(target, ProcessChoice(), 7).kd_lines()))
    if sum(line.startswith("        THREAD ") for line in lines) != _THREADS:
        raise SystemExit("not every thread was shown")
    return found


def _host(path: Path) -> Values:
    """The host's plugins, on the layers that the dump has here as well: its own do not read dumps of this type."""
    from volatility3.framework import interfaces
    from volatility3.plugins.windows import pslist, threads

    import volatility3_kdump

    types = _host_table(path.with_suffix(".types.json"))
    start = time.process_time()
    target = volatility3_kdump.open(path)
    context, layer = target.context, target.layer_name
    kernel = target.kernel
    if kernel is None:
        raise SystemExit("no kernel")
    base = kernel.base & context.layers[layer].address_mask
    _add_symbols(context, types)
    context.layers[layer].config["kernel_virtual_offset"] = base
    context.module("nt", layer, base)
    found = {"open": time.process_time() - start}
    join = interfaces.configuration.path_join
    for what, plugin, expected in (("list", pslist.PsList, _PROCESSES), ("threads", threads.Threads, _THREADS)):
        place = join("plugins", plugin.__name__)
        for requirement in plugin.get_requirements():
            if getattr(requirement, "default", None) is not None:
                context.config[join(place, requirement.name)] = requirement.default
        context.config[join(place, "kernel")] = "nt"
        context.config[join(place, "kernel", "layer_name")] = layer
        context.config[join(place, "kernel", "symbol_table_name")] = "nt"
        context.config[join(place, "kernel", "offset")] = base
        found[what] = _seconds(lambda: _count(plugin(context, place).run(), expected))  # noqa: B023
    return found


def _add_symbols(context: Any, table: Path) -> None:
    from volatility3.framework.symbols import windows as symbols

    context.symbol_space.append(
        symbols.WindowsKernelIntermedSymbols(context, "symbols", "nt", isf_url=table.as_uri(), validate=False)
    )


def _host_table(path: Path) -> Path:
    """The symbol table that the package ships, with the types that the host insists on and its plugins here do not use.

    It says which ones by its errors.
    """
    import lzma

    from volatility3.framework import contexts

    from volatility3_kdump.tables import kernel_table_path

    document = json.loads(lzma.decompress(Path(kernel_table_path()).read_bytes()))
    while True:
        path.write_text(json.dumps(document))
        try:
            _add_symbols(contexts.Context(), path)
        except ValueError as error:
            _, _, name = str(error).rpartition(": ")
            if not name or name in document["user_types"]:
                raise
            document["user_types"][name] = {"kind": "struct", "size": 8, "fields": {}}
            continue
        return path


if __name__ == "__main__":
    worker = {"ours": _ours, "host": _host}[sys.argv[1]]
    print(json.dumps(worker(Path(sys.argv[2]))))
