"""VMware: a .vmem file with the state of the machine beside it (.vmss, .vmsn), or state files that hold the memory.

The state file has groups of tagged values: ``memory`` says where regions of the file belong, ``cpu`` has the registers
of each virtual processor. Layout: ``vmware_vmss.h`` and ``vmware_vmss.c`` of the crash utility, which VMware wrote.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from volatility3_kdump.captures.capture import Capture, page_map
from volatility3_kdump.cpu.state import ProcessorState
from volatility3_kdump.dump import FileSource, Segment, Source
from volatility3_kdump.errors import CorruptDump, KdumpError, UnsupportedDump
from volatility3_kdump.files import FileFailure, open_file

#: Of checkpoints with 64-bit sizes; the first byte of older ones is d0.
MAGICS = (b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe")
OLD_MAGIC = b"\xd0\xbe\xd2\xbe"
SUFFIX, STATE_SUFFIXES = ".vmem", (".vmss", ".vmsn")
_HEADER, _GROUP, _BLOCK = struct.Struct("<4sII"), struct.Struct("<64sQQ"), struct.Struct("<QQH")
_MOST_GROUPS, _MOST_TAGS, _MOST_REGIONS, _MOST_PROCESSORS = 1024, 1 << 18, 1024, 4096
_BLOCK_SIZES, _COMPRESSED = (0x3E, 0x3F), 0x3E
#: Bytes of a tag with its name, indices and the head of a block, at most; of a value.
_LONGEST_TAG, _LONGEST_VALUE = 2 + 255 + 12 + 0x3F, 512
_PAGE = 0x1000
#: Above so much memory a machine has a hole below 4 GB, and the file has none.
_BELOW_HOLE = 3 << 30

_GENERAL = ("rax", "rcx", "rdx", "rbx", "rbp", "rsp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))


class _Tag(NamedTuple):
    """A value by name and indices; of a block its place, and how many bytes it unpacks to."""

    name: str
    indices: tuple[int, ...]
    value: bytes
    place: int
    size: int
    memory_size: int
    compressed: bool


class _State(NamedTuple):
    """The tags of a state file by group; ``cut`` says where it ends too early."""

    memory: list[_Tag]
    cpu: list[_Tag]
    cut: str | None


def read_state(source: Source, path: Path | None) -> Capture:
    """The machine of a state file: its memory is in it, or in the .vmem file beside it."""
    tags = _tags(source)
    block = next((tag for tag in tags.memory if tag.name == "Memory" and tag.memory_size), None)
    if block is not None:
        if block.compressed:
            raise UnsupportedDump("the memory in this VMware state file is compressed: resume and suspend it again")
        return _capture(source, block.place, min(block.size, block.memory_size), tags)
    memory = path.with_suffix(SUFFIX) if path is not None else None
    if memory is None:
        raise UnsupportedDump("this is a VMware state file without memory: give the .vmem file beside it")
    try:
        open_file(memory).close()
        file = FileSource(memory)
    except (FileFailure, OSError) as error:
        raise UnsupportedDump(
            f"this is a VMware state file without memory, and {memory.name} beside it cannot be opened"
        ) from error
    return _capture(file, 0, file.size, tags)


def read_vmem(source: Source, path: Path) -> Capture:
    """The machine of a .vmem file, with the state file beside it if there is one."""
    warnings = []
    for suffix in STATE_SUFFIXES:
        beside = path.with_suffix(suffix)
        try:
            open_file(beside).close()
            state = FileSource(beside)
        except (FileFailure, OSError):
            continue
        try:
            return _capture(source, 0, source.size, _tags(state))
        except KdumpError as error:
            warnings.append(f"{beside.name} beside it is of no use: {error}")
    without = "; memory above 3 GB is not where it belongs" if source.size > _BELOW_HOLE else ""
    if not warnings:
        warnings.append(
            f"no state file ({' or '.join(path.with_suffix(suffix).name for suffix in STATE_SUFFIXES)}) beside it: no "
            f"registers{without}"
        )
    pages = page_map(source, [Segment(0, 0, source.size)], "bytes of the .vmem file", warnings)
    return Capture("VMware memory file", source, pages, (), "the .vmss or .vmsn file is not beside it")


def _capture(source: Source, begin: int, size: int, tags: _State) -> Capture:
    regions = _regions(tags)
    ranges = [Segment(ppn * _PAGE, begin + page * _PAGE, count * _PAGE) for page, ppn, count in regions]
    told = [tags.cut] if tags.cut else []
    pages = page_map(source, ranges or [Segment(0, begin, size)], "regions of the VMware machine", told)
    states = tuple(_processors(tags.cpu))
    why = "" if states else "the VMware state file holds no registers that are understood here"
    return Capture("VMware memory file", source, pages, states, why)


def _tags(source: Source) -> _State:
    """The tags of the two groups that matter."""
    head = source.read(0, _HEADER.size)
    if head[:4] == OLD_MAGIC:
        raise UnsupportedDump("a VMware state file of the old 32-bit form, which is not read")
    if len(head) < _HEADER.size or head[:4] not in MAGICS:
        raise CorruptDump("no header of a VMware state file")
    _, _, count = _HEADER.unpack(head)
    tags: dict[str, list[_Tag]] = {"memory": [], "cpu": []}
    cut = None
    data = source.read(_HEADER.size, min(count, _MOST_GROUPS) * _GROUP.size)
    for place in range(0, len(data) - _GROUP.size + 1, _GROUP.size):
        name, position, _ = _GROUP.unpack_from(data, place)
        group = name.split(b"\0")[0].decode("latin-1")
        if group in tags:
            try:
                for tag in _tags_of(source, position):
                    tags[group].append(tag)
            except EOFError:
                cut = f"the VMware state file ends at {source.size:#x}, inside its group {group}: it is truncated"
    if not tags["memory"]:
        raise CorruptDump(cut or "the VMware state file has no group of its memory: it is damaged")
    return _State(tags["memory"], tags["cpu"], cut)


def _tags_of(source: Source, position: int) -> Iterator[_Tag]:
    """The tags of a group. Raises ``EOFError`` where the file ends within."""
    for _ in range(_MOST_TAGS):
        head = source.read(position, _LONGEST_TAG)
        if len(head) < 2:
            raise EOFError
        if head[:2] == b"\0\0":
            return
        kind, length = head[0] & 0x3F, head[1]
        count = head[0] >> 6
        at = 2 + length + 4 * count
        if at > len(head):
            raise EOFError
        name = head[2 : 2 + length].decode("latin-1")
        indices = struct.unpack_from(f"<{count}I", head, 2 + length)
        if kind not in _BLOCK_SIZES:
            if at + kind > len(head):
                raise EOFError
            yield _Tag(name, indices, head[at : at + kind], position + at, kind, 0, False)
            position += at + kind
            continue
        if at + _BLOCK.size > len(head):
            raise EOFError
        size, memory_size, padding = _BLOCK.unpack_from(head, at)
        place = position + at + _BLOCK.size + padding
        if place + size > source.size:
            raise EOFError
        value = source.read(place, size) if size <= _LONGEST_VALUE else b""
        yield _Tag(name, indices, value, place, size, memory_size, kind == _COMPRESSED)
        position = place + size


def _regions(state: _State) -> list[tuple[int, int, int]]:
    """Page in the file, page frame and pages of each region; none where the memory lies in one."""
    values = {(tag.name, tag.indices): int.from_bytes(tag.value, "little") for tag in state.memory if tag.value}
    count = values.get(("regionsCount", ()), 0)
    if count > _MOST_REGIONS:
        raise CorruptDump(f"the VMware state file claims {count:,} regions of memory: it is damaged")
    regions = []
    for index in range(count):
        keys = [(name, (index,)) for name in ("regionPageNum", "regionPPN", "regionSize")]
        if not all(key in values for key in keys):
            raise CorruptDump(state.cut or f"the VMware state file does not say where region {index} of {count} lies")
        page, frame, pages = (values[key] for key in keys)
        regions.append((page, frame, pages))
    return regions


def _processors(tags: list[_Tag]) -> Iterator[ProcessorState]:
    registers: dict[int, dict[str, int]] = {}
    control: dict[int, dict[int, int]] = {}
    tables: dict[int, int] = {}
    for tag in tags:
        if not tag.indices or not tag.value:
            continue
        number, *rest = tag.indices
        own, value = registers.setdefault(number, {}), int.from_bytes(tag.value[:8], "little")
        if tag.name in _GENERAL or tag.name == "rip":
            own[tag.name] = value
        elif tag.name in ("eflags", "EFLAGS"):
            # The one has the flags of arithmetic, the other those of the system.
            own["eflags"] = own.get("eflags", 0) | value & 0xFFFFFFFF
        elif tag.name == "gpregs" and len(tag.value) == 8 * len(_GENERAL):
            own.update(zip(_GENERAL, struct.unpack(f"<{len(_GENERAL)}Q", tag.value), strict=True))
        elif tag.name == "CR64" and rest:
            control.setdefault(number, {})[rest[0]] = value
        elif tag.name == "CR64" and len(tag.value) >= 40:
            control[number] = dict(enumerate(struct.unpack_from("<5Q", tag.value)))
        elif tag.name == "IDTR" and rest:
            # Limit, low and high half of the base.
            if rest[0] in (1, 2):
                tables[number] = tables.get(number, 0) | value << 32 * (rest[0] - 1)
        elif tag.name == "IDTR" and len(tag.value) >= 10:
            tables[number] = int.from_bytes(tag.value[2:10], "little")
    for number in sorted(registers)[:_MOST_PROCESSORS]:
        own = registers[number]
        if "rip" in own and "rsp" in own:
            yield ProcessorState(
                number,
                f"VMware state of processor {number}",
                own,
                control.get(number, {}),
                idt_base=tables.get(number),
            )
