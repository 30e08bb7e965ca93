"""Made machines with the stacks that they hold, and copies of dumps with memory changed or taken away."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import volatility3_kdump
from kdump_sample import containers
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.scene import Scene
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target

PAGE = 0x1000


def write_scene(path: Path, scene: Scene, layouts: Layouts, dump_type: int = 6) -> Machine:
    """Write a dump of a scene; the machine says what lies where in it."""
    machine = Machine(scene, layouts)
    containers.write(path, dump_type, make_contents(machine))
    return machine


def calls_on_stack(machine: Machine, thread: int) -> list[tuple[int, int]]:
    """(Child-SP, instruction pointer) of the frames that the maker put on a thread's stack, innermost first."""
    return [(placed.child_sp, placed.ip) for placed in reversed(machine.processes.frames[thread])]


def file_offset(target: Target, address: int) -> int:
    """Where the byte at a virtual address lies in the file."""
    layer = target.context.layers[target.layer_name]
    physical, _, _ = layer._translate(address & layer.address_mask)
    offset = target.dump.pages.offset_of(physical >> 12)
    assert offset is not None, f"{address:#x} is not in the dump"
    return offset + (physical & 0xFFF)


def page_table_entry(target: Target, address: int) -> int:
    """The address of the page table entry of a small page, through the kernel's self-map."""
    base = target.memory.unsigned(target.symbol("MmPteBase"), 8)
    assert base is not None
    return base + ((address & 0xFFFFFFFFFFFF) >> 12) * 8


def edited(
    target: Target,
    source: Path,
    path: Path,
    changes: Mapping[int, bytes] | None = None,
    absent: Iterable[int] = (),
    **options: Any,
) -> Target:
    """Open a copy of a dump with the bytes at some virtual addresses changed, and the pages of others paged out.

    ``target`` is ``source`` opened; ``options`` are those of :func:`volatility3_kdump.open`.
    """
    data = bytearray(source.read_bytes())
    entries = {page_table_entry(target, address): struct.pack("<Q", 0) for address in absent}
    for address, content in {**(changes or {}), **entries}.items():
        position = 0
        while position < len(content):
            size = min(len(content) - position, PAGE - (address + position) % PAGE)
            start = file_offset(target, address + position)
            data[start : start + size] = content[position : position + size]
            position += size
    path.write_bytes(data)
    return volatility3_kdump.open(path, **options)
