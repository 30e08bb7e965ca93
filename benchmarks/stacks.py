"""Stack backtraces of 5,000 waiting threads of 12 frames each, and names for their addresses.

The threads are those of one more process in the sample dump: half of them wait in a driver for a device, half in the
window manager, each on a stack of its own. What is timed: from a thread's address to its frames (thread object, switch
frame, unwinding through the images' own unwind data, the name of every frame). Images and symbol
tables are prepared by a first walk that does not count, as listings of all threads walk many stacks with them. The
addresses of the batch are random ones in the kernel's image, nearly all different; its time is the best of three.
Times are processor time: all of this computes, and the other load of a machine would add to the time that passes.

The peer is the same step, from registers to the caller's registers, as a plugin of the host would do it: the entry of
the function table by bisection, the unwind information and its codes, and the values on the stack, all as objects of
the host's on its layer (``context.object``). It takes a few threads, because it is slow.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparison import NotMeasured, Row, Values, alternate, progress, run_worker

_THREADS, _FRAMES = 5000, 12
_PEER_THREADS = 50
_ROUNDS = 5
_FRAMES_PER_SECOND = 30_000
_ADDRESSES = 100_000
_PASSES = 3
_MICROSECOND = 1e-6

#: Where the threads and their stacks lie in the made machine: memory that nothing else there uses.
_PROCESS, _FIRST_THREAD, _FIRST_STACK = 0xFFFF919000000080, 0xFFFF919000010080, 0xFFFFD49000007000
_THREAD_STRIDE, _STACK_STRIDE = 0x1000, 0x8000


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and measure."""
    path = directory / "threads.dmp"
    progress(f"writing a dump with {_THREADS} threads")
    _write(path)
    found = alternate(
        "stacks",
        _ROUNDS,
        {
            "ours": functools.partial(run_worker, __file__, "ours", path),
            "objects": functools.partial(run_worker, __file__, "objects", path),
        },
    )
    ours, peer = found["ours"], found["objects"]
    what = f"stacks of {_THREADS:,} threads of {_FRAMES} frames"
    if isinstance(ours, NotMeasured):
        return [Row(what, f"not measured: {ours}", "-", "-", "-", None)]
    named, lookup = ours["named"], ours["lookup"]
    shown, ratio = f"objects not measured: {peer}", "-"
    if not isinstance(peer, NotMeasured):
        shown, ratio = f"objects {1 / peer['unwound']:,.0f} frames/s", f"{peer['unwound'] / named:.0f}x faster"
    floor = f">= {_FRAMES_PER_SECOND:,}/s"
    return [
        Row(f"{what}, with names", f"{1 / named:,.0f} frames/s", shown, ratio, floor, 1 / named >= _FRAMES_PER_SECOND),
        Row(
            f"nearest symbol of {_ADDRESSES:,} addresses, in a batch",
            f"{lookup * 1e6:.2f} us each",
            "-",
            "-",
            "< 1 us each",
            lookup < _MICROSECOND,
        ),
    ]


# the dump ------------------------------------------------------------------------------------------------------------


def _write(path: Path, threads: int = _THREADS) -> None:
    """The demonstration with a process of many waiting threads."""
    from kdump_sample import containers
    from kdump_sample.contents import make_contents
    from kdump_sample.machine import Machine
    from kdump_sample.myfault import high_irql_fault
    from kdump_sample.stacks import Frame
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.tables import kernel_table_path

    scene = high_irql_fault()
    notepad = next(process for process in scene.processes if process.image == "notepad.exe")
    (pattern,) = notepad.threads
    entry, *_ = pattern.frames
    switch = pattern.frames[-4:]
    in_driver = ("NtDeviceIoControlFile", "IopXxxControlFile", "IopSynchronousServiceTail", "IofCallDriver")
    in_driver += ("myfault!DeviceControl", "myfault!DoFault", "KeWaitForSingleObject")
    in_windows = ("win32k!NtUserMsgWaitForMultipleObjectsEx", "win32kfull!NtUserMsgWaitForMultipleObjectsEx")
    in_windows += ("win32kfull!xxxMsgWaitForMultipleObjectsEx", "NtWaitForSingleObject", "ObWaitForSingleObject")
    in_windows += ("ObWaitForMultipleObjects", "KeWaitForMultipleObjects")
    shapes = [(entry, *map(Frame, names), *switch) for names in (in_driver, in_windows)]
    made = tuple(
        dataclasses.replace(
            pattern,
            address=_FIRST_THREAD + number * _THREAD_STRIDE,
            tid=0x10000 + 4 * number,
            stack_base=_FIRST_STACK + number * _STACK_STRIDE,
            frames=shapes[number % len(shapes)],
            wait_objects=(),
        )
        for number in range(threads)
    )
    crowd = dataclasses.replace(
        notepad, address=_PROCESS, pid=0x2000, image="crowd.exe", vad_root=0, threads=made, command_line=""
    )
    scene = dataclasses.replace(scene, processes=(*scene.processes, crowd))
    containers.write(path, 6, make_contents(Machine(scene, Layouts.load(kernel_table_path()))))


def _addresses(threads: int) -> Iterator[int]:
    return (_FIRST_THREAD + number * _THREAD_STRIDE for number in range(threads))


# ours ----------------------------------------------------------------------------------------------------------------


def _ours(path: Path) -> Values:
    """The worker: walk every stack, and look many addresses up."""
    import volatility3_kdump
    from volatility3_kdump.windows.stacks.walker import walk_threads, walker

    target = volatility3_kdump.open(path)
    stacks = walker(target)
    for _ in walk_threads(stacks, _addresses(2)):
        pass
    start = time.process_time()
    for _, stack in walk_threads(stacks, _addresses(_THREADS)):
        if len(stack.frames) != _FRAMES or not stack.complete or not stack.trusted:
            raise SystemExit(f"not the stack that was made: {stack}")
    named = (time.process_time() - start) / (_THREADS * _FRAMES)
    choose = random.Random(0)
    kernel = target.modules[0]
    places = [kernel.base + choose.randrange(0x1000, kernel.size) for _ in range(_ADDRESSES)]
    lookups = []
    for _ in range(_PASSES):
        start = time.process_time()
        names = target.names.lookup_many(places)
        lookups.append(time.process_time() - start)
        if None in names:
            raise SystemExit("addresses in the kernel without a name")
    return {"named": named, "lookup": min(lookups) / len(places)}


# the peer ------------------------------------------------------------------------------------------------------------


def _objects(path: Path) -> Values:
    """The worker: unwind the stacks of a few threads by objects of the host."""
    import volatility3_kdump
    from volatility3_kdump.windows.stacks.starts import thread_start
    from volatility3_kdump.windows.stacks.walker import walker

    target = volatility3_kdump.open(path)
    unwinder = _ObjectUnwinder(target, path.with_suffix(".isf.json"))
    kernel_stack = target.nt.offset("_KTHREAD", "KernelStack")
    starts = []
    for thread in _addresses(_PEER_THREADS):
        # As ours: the switch frame holds rbp and the return address, and ends where the caller's frame begins.
        frame = target.memory.pointer(thread + kernel_stack)
        starts.append(({5: target.memory.pointer(frame + 0x30), 4: frame + 0x40}, target.memory.pointer(frame + 0x38)))
    wanted = []
    walked = walker(target)
    for thread in _addresses(_PEER_THREADS):
        wanted.append([frame.ip for frame in walked.walk(thread_start(target, thread)).frames])
    unwinder.walk(dict(starts[0][0]), starts[0][1])
    start = time.process_time()
    found = [unwinder.walk(dict(registers), ip) for registers, ip in starts]
    seconds = time.process_time() - start
    if found != wanted:
        raise SystemExit("the unwinders disagree about the stacks")
    return {"unwound": seconds / sum(map(len, found))}


class _ObjectUnwinder:
    """Steps of unwinding, written with the objects that the host offers for structures."""

    def __init__(self, target: Any, table: Path) -> None:
        from volatility3.framework.symbols import intermed

        table.write_text(json.dumps(_UNWIND_TYPES))
        self._context = target.context
        self._layer = target.layer_name
        self._mask = target.context.layers[target.layer_name].address_mask
        types = intermed.IntermediateSymbolTable(target.context, "bench.types", "unwind", table.as_uri())
        target.context.symbol_space.append(types)
        self._images = [(module.base, module.size, *self._table(target, module)) for module in target.modules]

    @staticmethod
    def _table(target: Any, module: Any) -> tuple[int, int]:
        """Address and number of entries of an image's function table."""
        rva, size = target.images.headers_of(module).directory(3) or (0, 0)
        return module.base + rva, size // 12

    def _object(self, type_name: str, address: int) -> Any:
        return self._context.object(f"unwind!{type_name}", self._layer, address & self._mask)

    def walk(self, registers: dict[int, int], ip: int) -> list[int]:
        """The instruction pointers of a stack, by the numbers and values of its first registers."""
        found = [ip]
        while ip >> 63:
            ip = self._step(registers, ip)
            found.append(ip)
        return found

    def _step(self, registers: dict[int, int], ip: int) -> int:
        base, _, table, count = next(image for image in self._images if image[0] <= ip < image[0] + image[1])
        info = self._info(base, table, count, ip - base)
        frame = registers[4]
        if int(info.FrameRegister):
            frame = registers[int(info.FrameRegister)] - 16 * int(info.FrameOffset)
        registers[4] = frame
        codes = info.UnwindCode
        codes.count = int(info.CountOfCodes)
        index = 0
        while index < codes.count:
            code = codes[index]
            operation, number = int(code.UnwindOp), int(code.OpInfo)
            index += 1
            if operation == 0:
                registers[number] = int(self._object("unsigned long long", registers[4]))
                registers[4] += 8
            elif operation == 1:
                registers[4] += 8 * self._slot(codes[index])
                index += 1
            elif operation == 2:
                registers[4] += 8 * number + 8
            elif operation == 4:
                registers[number] = int(self._object("unsigned long long", frame + 8 * self._slot(codes[index])))
                index += 1
            elif operation == 8:
                index += 1
            elif operation == 10:
                frame = registers[4] + 8 * number
                registers[4] = int(self._object("unsigned long long", frame + 24))
                return int(self._object("unsigned long long", frame))
        back = int(self._object("unsigned long long", registers[4]))
        registers[4] += 8
        return back

    @staticmethod
    def _slot(code: Any) -> int:
        return int(code.CodeOffset) | int(code.UnwindOp) << 8 | int(code.OpInfo) << 12

    def _info(self, base: int, table: int, count: int, rva: int) -> Any:
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            entry = self._object("_RUNTIME_FUNCTION", table + 12 * middle)
            if rva < entry.BeginAddress:
                high = middle
            elif rva >= entry.EndAddress:
                low = middle + 1
            else:
                return self._object("_UNWIND_INFO", base + int(entry.UnwindInfoAddress))
        raise SystemExit(f"no function at {base + rva:#x}")


def _base_type(size: int) -> dict[str, object]:
    return {"size": size, "signed": False, "kind": "int", "endian": "little"}


def _field(offset: int, kind: dict[str, object]) -> dict[str, object]:
    return {"offset": offset, "type": kind}


def _bits(position: int, length: int) -> dict[str, object]:
    return {"kind": "bitfield", "bit_position": position, "bit_length": length, "type": _BYTE}


_BYTE: dict[str, object] = {"kind": "base", "name": "unsigned char"}
_DWORD: dict[str, object] = {"kind": "base", "name": "unsigned long"}

#: RUNTIME_FUNCTION, UNWIND_INFO and UNWIND_CODE of the x64 exception handling documentation, as a table for the host.
_UNWIND_TYPES: dict[str, object] = {
    "metadata": {"format": "6.2.0", "producer": {"name": "benchmark", "version": "1", "datetime": "2024-01-01"}},
    "base_types": {
        "unsigned char": {**_base_type(1), "kind": "char"},
        "unsigned long": _base_type(4),
        "unsigned long long": _base_type(8),
        "pointer": _base_type(8),
        "void": {**_base_type(0), "kind": "void"},
    },
    "enums": {},
    "symbols": {},
    "user_types": {
        "_RUNTIME_FUNCTION": {
            "kind": "struct",
            "size": 12,
            "fields": {
                "BeginAddress": _field(0, _DWORD),
                "EndAddress": _field(4, _DWORD),
                "UnwindInfoAddress": _field(8, _DWORD),
            },
        },
        "_UNWIND_CODE": {
            "kind": "struct",
            "size": 2,
            "fields": {
                "CodeOffset": _field(0, _BYTE),
                "UnwindOp": _field(1, _bits(0, 4)),
                "OpInfo": _field(1, _bits(4, 4)),
            },
        },
        "_UNWIND_INFO": {
            "kind": "struct",
            "size": 4,
            "fields": {
                "Version": _field(0, _bits(0, 3)),
                "Flags": _field(0, _bits(3, 5)),
                "SizeOfProlog": _field(1, _BYTE),
                "CountOfCodes": _field(2, _BYTE),
                "FrameRegister": _field(3, _bits(0, 4)),
                "FrameOffset": _field(3, _bits(4, 4)),
                "UnwindCode": _field(
                    4, {"kind": "array", "count": 1, "subtype": {"kind": "struct", "name": "_UNWIND_CODE"}}
                ),
            },
        },
    },
}


if __name__ == "__main__":
    print(json.dumps({"ours": _ours, "objects": _objects}[sys.argv[1]](Path(sys.argv[2]))))
