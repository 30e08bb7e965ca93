"""Writes a made machine as what responders' tools and hypervisors make: memory images that are no crash dumps.

The machine is that of a scene with what such images show besides: interrupt tables that lead into the kernel, the block
by which Windows starts processors, and the System process's page tables where Windows has them.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdump_sample import context
from kdump_sample.code import REGISTERS
from kdump_sample.containers import write
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.physical import PAGE, PhysicalMemory
from kdump_sample.scene import Record, Scene, Variable
from kdump_sample.scenes import DEFAULT, make_scene
from volatility3_kdump.layout import Layouts

#: Where Windows 10 has the page tables of the System process.
_SYSTEM_TABLES = 0x1AD000
_IDT, _GDT, _TSS = 0x10000, 0x10FB0, 0x11000
_HANDLERS = {0: "KiDivideErrorFault", 3: "KiBreakpointTrap", 14: "KiPageFault"}
_KERNEL_CODE = 0x10
_INTERRUPT_GATE = 0x8E
_START_PAGE = 0x13000
_SELECTORS = ("cs", "ds", "es", "fs", "gs", "ss")
_CONTROL = (0x80050033, 0, 0, 0, 0x3506F8)


@dataclass(frozen=True)
class Processor:
    """What a hypervisor saves of a processor: its CONTEXT, CR3, and the address of its KPCR.

    ``leads`` is the segment register whose base is that address: FS of a 32-bit Windows.
    """

    context: bytes
    directory: int
    region: int
    leads: str = "gs"

    def register(self, name: str) -> int:
        """A general register, rip or rflags."""
        if name == "eflags":
            return int(struct.unpack_from("<I", self.context, 0x44)[0])
        return int(struct.unpack_from("<Q", self.context, 0x78 + 8 * (*REGISTERS, "rip").index(name))[0])

    def selector(self, name: str) -> int:
        """A segment register."""
        return int(
            struct.unpack_from("<H", self.context, 0x38 + 2 * ("cs", "ds", "es", "fs", "gs", "ss").index(name))[0]
        )


@dataclass(frozen=True)
class Image:
    """Pages and processors of a machine."""

    physical: PhysicalMemory
    processors: tuple[Processor, ...]

    def ranges(self) -> list[tuple[int, bytes]]:
        """Stretches of pages: physical address and bytes."""
        pages = self.physical.pages
        return [
            (first * PAGE, b"".join(pages[pfn] for pfn in range(first, first + count)))
            for first, count in self.physical.runs()
        ]


def image_scene(name: str, layouts: Layouts, running: bool = False) -> Scene:
    """A scene with what images show besides. ``running`` has the kernel not record any bug check."""
    scene = make_scene(name, layouts)
    table = bytearray(PAGE)
    for vector, handler in _HANDLERS.items():
        rva = layouts.symbol(handler) or layouts.symbol("KeBugCheckEx") or 0
        address = scene.kernel_base + rva
        struct.pack_into(
            "<HHBBHII",
            table,
            16 * vector,
            address & 0xFFFF,
            _KERNEL_CODE,
            0,
            _INTERRUPT_GATE,
            address >> 16 & 0xFFFF,
            address >> 32,
            0,
        )
    system, *others = scene.processes
    return dataclasses.replace(
        scene,
        processes=(dataclasses.replace(system, directory_table_base=_SYSTEM_TABLES), *others),
        records=(*scene.records, *(Record(entry.pcr + _IDT, bytes(table)) for entry in scene.processors)),
        variables=(*scene.variables, *((Variable("KiBugCheckData", 0, 40),) if running else ())),
    )


def image_machine(name: str, layouts: Layouts, running: bool = False) -> Machine:
    """A machine as images show it."""
    machine = Machine(image_scene(name, layouts, running), layouts)
    page = machine.work.physical.claim(_START_PAGE // PAGE)
    struct.pack_into("<Q", page, 0, 0x00000001000600E9)
    struct.pack_into("<Q", page, 0x70, machine.work.required("KeBugCheckEx") & ~3)
    struct.pack_into("<Q", page, 0xA0, _SYSTEM_TABLES)
    return machine


def image_of(machine: Machine) -> Image:
    """Pages and processors of a machine."""
    made = machine.processors
    tables = machine.work.structures
    processors = []
    for number, entry in enumerate(machine.scene.processors):
        record = machine.work.memory.read(made.contexts[number], context.SIZE)
        field = tables.at("_KPRCB", made.blocks[number]).place("ProcessorState.SpecialRegisters.Cr3")
        directory = machine.work.memory.read(field or 0, 8)
        assert record is not None and directory is not None
        processors.append(Processor(record, int.from_bytes(directory, "little"), entry.pcr))
    return Image(machine.work.physical, tuple(processors))


def write_image(
    path: Path, kind: str, layouts: Layouts, name: str = DEFAULT, running: bool = False, dump_type: int = 1
) -> None:
    """Write the machine of a scene as an image of one of :data:`KINDS`, or as the crash dump to compare with."""
    machine = image_machine(name, layouts, running)
    if kind == "dump":
        write(path, dump_type, make_contents(machine))
    else:
        KINDS[kind](path, image_of(machine))


def _raw(path: Path, image: Image) -> None:
    """A sparse file: what lies between the stretches reads as zeros."""
    with path.open("wb") as stream:
        for address, data in image.ranges():
            stream.seek(address)
            stream.write(data)
        stream.truncate((image.physical.highest_pfn + 1) * PAGE)


def _lime(path: Path, image: Image) -> None:
    with path.open("wb") as stream:
        for address, data in image.ranges():
            stream.write(struct.pack("<4sIQQQ", b"EMiL", 1, address, address + len(data) - 1, 0))
            stream.write(data)


def _elf(path: Path, image: Image) -> None:
    """As QEMU writes it: a segment of notes, then one for each stretch of memory."""
    notes = b"".join(map(_prstatus, range(len(image.processors)), image.processors))
    notes += b"".join(map(_qemu_note, image.processors))
    path.write_bytes(elf_core(notes, image.ranges()))


def elf_core(notes: bytes, ranges: Sequence[tuple[int, bytes]], machine: int = 62, flags: int = 0) -> bytes:
    """A 64-bit ELF core file: a segment of notes, then one for each range (address, bytes) with these ``p_flags``.

    ``machine`` is its ``e_machine``. The layout is that of the ELF specification.
    """
    begin = 0x40 + 0x38 * (len(ranges) + 1)
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 0x40, 0, 0, 0x40, 0x38, len(ranges) + 1, 0, 0, 0)
    programs = [struct.pack("<IIQQQQQQ", 4, 0, begin, 0, 0, len(notes), len(notes), 0)]
    offset = begin + len(notes)
    for address, data in ranges:
        programs.append(struct.pack("<IIQQQQQQ", 1, flags, offset, 0, address, len(data), len(data), 0))
        offset += len(data)
    return b"".join((header, *programs, notes, *(data for _, data in ranges)))


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    named = name + b"\0"
    padded = named + bytes(-len(named) % 4)
    return struct.pack("<III", len(named), len(data), kind) + padded + data + bytes(-len(data) % 4)


def _prstatus(number: int, processor: Processor) -> bytes:
    """NT_PRSTATUS of x86-64 Linux: the registers in the order of ``struct user_regs_struct``."""
    take = processor.register
    order = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split()
    values = [*map(take, order), 0, take("rip"), processor.selector("cs"), take("eflags"), take("rsp")]
    values += [processor.selector("ss"), 0, processor.region, *map(processor.selector, ("ds", "es", "fs", "gs"))]
    body = bytes(32) + struct.pack("<I", number + 1) + bytes(76) + struct.pack("<27Q", *values) + bytes(8)
    return _note(b"CORE", 1, body)


def _qemu_note(processor: Processor) -> bytes:
    """QEMUCPUState, version 1, with KERNEL_GS_BASE."""
    order = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags".split()
    region = processor.region
    segments = [
        (processor.selector(name), region if name == processor.leads else 0)
        for name in ("cs", "ds", "es", "fs", "gs", "ss")
    ]
    segments += [(0, 0), (0x40, region + _TSS), (0, region + _GDT), (0, region + _IDT)]
    control = (*_CONTROL[:3], processor.directory, _CONTROL[4])
    body = struct.pack("<18Q", *map(processor.register, order))
    body += b"".join(struct.pack("<IIIIQ", selector, 0xFFFF, 0, 0, base) for selector, base in segments)
    body += struct.pack("<5QQ", *control, 0)
    return _note(b"QEMU", 0, struct.pack("<II", 1, len(body) + 8) + body)


def _avml(path: Path, image: Image) -> None:
    """Ranges as in LiME, each a snappy stream: a chunk for each 64 KB."""
    with path.open("wb") as stream:
        for address, data in image.ranges():
            packed = b"\xff\x06\0\0sNaPpY"
            for first in range(0, len(data), _SNAPPY_CHUNK):
                piece = data[first : first + _SNAPPY_CHUNK]
                block = _snappy_block(piece)
                packed += struct.pack("<I", 4 + len(block) << 8) + struct.pack("<I", _masked_checksum(piece)) + block
            stream.write(struct.pack("<4sIQQQ", b"AVML", 2, address, address + len(data), 0))
            stream.write(packed + struct.pack("<Q", len(packed)))


def _snappy_block(data: bytes) -> bytes:
    """A block of snappy: its length as a varint, literals, and copies of one byte where bytes repeat."""
    size, head = len(data), b""
    while size >= 0x80:
        head, size = head + bytes((size & 0x7F | 0x80,)), size >> 7
    parts = [head, bytes((size,))]
    done = 0
    for run in _SNAPPY_RUN.finditer(data):
        first, last = run.span()
        parts.append(_snappy_literal(data[done : first + 1]))
        full, rest = divmod(last - first - 1, 64)
        parts.append(struct.pack("<BH", 63 << 2 | 2, 1) * full)
        if rest:
            parts.append(struct.pack("<BH", rest - 1 << 2 | 2, 1))
        done = last
    if done < len(data):
        parts.append(_snappy_literal(data[done:]))
    return b"".join(parts)


def _snappy_literal(data: bytes) -> bytes:
    return struct.pack("<BH", 61 << 2, len(data) - 1) + data


def _masked_checksum(data: bytes) -> int:
    """CRC-32C, rotated and moved as snappy's framing format has it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc_table()
_SNAPPY_CHUNK = 0x10000
_SNAPPY_RUN = re.compile(rb"(.)\1{7,}", re.DOTALL)


def _kdump(path: Path, image: Image) -> None:
    """As QEMU writes kdump-zlib: flattened, with the same notes as its ELF files."""
    pages = image.physical.pages
    frames = image.physical.highest_pfn + 1
    notes = b"".join(map(_prstatus, range(len(image.processors)), image.processors))
    notes += b"".join(map(_qemu_note, image.processors))
    half = -(-frames // 8 // PAGE)
    blocks = 2 * half
    bitmap = bytearray(half * PAGE)
    for pfn in pages:
        bitmap[pfn >> 3] |= 1 << (pfn & 7)
    head = bytearray(PAGE)
    struct.pack_into("<8si", head, 0, b"KDUMP   ", 6)
    struct.pack_into("<IiIII", head, 428, PAGE, 1, blocks, min(frames, 0xFFFFFFFF), 0)
    sub = bytearray(PAGE)
    struct.pack_into("<Qii", sub, 0, 0, 1, 0)
    struct.pack_into("<QQ", sub, 48, 2 * PAGE - len(notes) - len(notes) % 4, len(notes))
    begin = PAGE - len(notes) - len(notes) % 4
    sub[begin : begin + len(notes)] = notes
    struct.pack_into("<Q", sub, 96, frames)
    descriptors, body = [], []
    table = (2 + blocks) * PAGE
    offset = table + 24 * len(pages)
    for pfn in sorted(pages):
        packed = zlib.compress(bytes(pages[pfn]), 1)
        flags = 1 if len(packed) < PAGE else 0
        packed = packed if flags else bytes(pages[pfn])
        descriptors.append(struct.pack("<qIIQ", offset, len(packed), flags, 0))
        body.append(packed)
        offset += len(packed)
    plain = [(0, bytes(head)), (PAGE, bytes(sub)), (2 * PAGE, bytes(bitmap) * 2)]
    plain += [(table, b"".join(descriptors)), (table + 24 * len(pages), b"".join(body))]
    with path.open("wb") as stream:
        stream.write(struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(PAGE, b"\0"))
        for place, data in plain:
            stream.write(struct.pack(">qq", place, len(data)) + data)
        stream.write(struct.pack(">qq", -1, -1))


def _vmware(path: Path, image: Image) -> None:
    """A .vmem file, and beside it the .vmss file with regions and registers."""
    ranges = image.ranges()
    path.write_bytes(b"".join(data for _, data in ranges))
    memory = [_tag("regionsCount", (), len(ranges), 4)]
    page = 0
    for index, (address, data) in enumerate(ranges):
        values = {"regionPageNum": page, "regionPPN": address // PAGE, "regionSize": len(data) // PAGE}
        memory += [_tag(name, (index,), value, 4) for name, value in values.items()]
        page += len(data) // PAGE
    processors = [_tag("cpu:numVCPUs", (), len(image.processors), 4)]
    for number, entry in enumerate(image.processors):
        processors += [_tag(name, (number,), entry.register(name), 8) for name in (*REGISTERS, "rip")]
        processors.append(_tag("eflags", (number,), entry.register("eflags"), 4))
        control = (*_CONTROL[:3], entry.directory, _CONTROL[4])
        processors += [_tag("CR64", (number, index), value, 8) for index, value in enumerate(control)]
        table = entry.region + _IDT
        processors += [_tag("IDTR", (number, 1), table & 0xFFFFFFFF, 4), _tag("IDTR", (number, 2), table >> 32, 4)]
    groups = {b"memory": b"".join(memory) + b"\0\0", b"cpu": b"".join(processors) + b"\0\0"}
    position = 12 + 80 * len(groups)
    state = struct.pack("<4sII", b"\xd2\xbe\xd2\xbe", 8, len(groups))
    for name, data in groups.items():
        state += struct.pack("<64sQQ", name, position, len(data))
        position += len(data)
    path.with_suffix(".vmss").write_bytes(state + b"".join(groups.values()))


def _tag(name: str, indices: tuple[int, ...], value: int, size: int) -> bytes:
    head = bytes((size | len(indices) << 6, len(name))) + name.encode()
    return head + struct.pack(f"<{len(indices)}I", *indices) + value.to_bytes(size, "little")


KINDS: dict[str, Callable[[Path, Image], None]] = {
    "raw": _raw,
    "lime": _lime,
    "avml": _avml,
    "elf": _elf,
    "kdump": _kdump,
    "vmem": _vmware,
}


def kinds() -> Sequence[str]:
    """The kinds of images."""
    return tuple(KINDS)
