"""Code in memory compared with the image file it came from (``!chkimg``).

Compared are the executable sections that are neither writable nor discarded after initialisation, as far as the dump
holds them, with the file relocated to the module's base. What Windows itself changes is told apart:

* the import address table and the pointers of control flow guard are left out (see
  :mod:`volatility3_kdump.images.image_files`)
* places that the image's dynamic value relocation table names: call sites that retpoline and import optimisation
  rewrite, and constants of the address space's layout. The table is part of the file; the rewritten instruction must be
  one that the kernel writes there
* hot patches: a jump in the padding in front of a function, and the short jump to it

Everything else is reported, code that the kernel is known to modify without a record of it included.

Layouts: IMAGE_LOAD_CONFIG_DIRECTORY64 and IMAGE_DYNAMIC_RELOCATION_TABLE in the Windows SDK's ``winnt.h``; rewritten
call sites in Microsoft's article "Mitigating Spectre variant 2 with Retpoline on Windows".
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.images.image_files import FileImage
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import PeImage

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Kinds of differences. The first two count as errors.
BIT, BYTES, HOT_PATCH, REWRITTEN, LAYOUT = "single bit", "bytes", "hot patch", "rewritten call", "address constant"
ERRORS = (BIT, BYTES)

_DISCARDABLE = 0x02000000
_LOAD_CONFIG = 10
#: IMAGE_LOAD_CONFIG_DIRECTORY64.DynamicValueRelocTableOffset and ...Section.
_TABLE_OFFSET, _TABLE_SECTION = 0xE0, 0xE4
#: IMAGE_DYNAMIC_RELOCATION_* with the bytes of a site: import call or jump, indirect call or jump, switch table jump.
_IMPORT, _INDIRECT, _SWITCH = 3, 4, 5
_SITES = {_IMPORT: (4, 12), _INDIRECT: (2, 7), _SWITCH: (2, 5)}
_FIRST_SYMBOL = 0x10000
_LARGEST_TABLE = 16 << 20
_MOST_SITES = 1 << 20
#: Finest grain at which a page is compared of which a part must not be, in bytes.
_GRAIN = 8
#: Differing bytes at most this far apart are one difference.
_GAP = 1
_MOST_SHOWN = 4096
#: What compilers fill the space between functions with.
_PADDING = (0x90, 0xCC, 0x00)
_SHORT_JUMP_BACK = {b"\xeb\xf9", b"\xeb\xf8", b"\xeb\xf0"}
_LONGEST_PATCH = 16


@dataclass(frozen=True)
class Difference:
    """A run of bytes that differ: where, what memory holds and what the file has, and what kind of change it is.

    ``symbol`` names the place. ``bit`` is the number of the one bit that differs (0 is the lowest), for that kind only.
    """

    address: int
    section: str
    memory: bytes
    file: bytes
    kind: str
    symbol: str | None
    bit: int | None = None
    note: str = ""

    @property
    def size(self) -> int:
        return len(self.memory)


@dataclass(frozen=True)
class ImageCheck:
    """A module compared with its file.

    ``file`` is its path, ``None`` where there is none; ``reason`` says why nothing could be compared. ``compared`` and
    ``size`` are bytes: of code that were compared, and of code that there is. ``truncated`` says that there are more
    differences than are listed.
    """

    module: Module
    file: str | None
    reason: str | None
    compared: int
    size: int
    differences: tuple[Difference, ...]
    truncated: bool = False

    @property
    def errors(self) -> list[Difference]:
        """The differences that nothing explains."""
        return [difference for difference in self.differences if difference.kind in ERRORS]


def check_image(target: Target, module: Module) -> ImageCheck:
    """Compare a module's code with its image file on the image path."""
    image = target.images.image_of(module)
    before = len(target.problems)
    file = image.image_file()
    if file is None:
        complaints = target.problems[before:]
        reason = complaints[-1] if complaints else f"no file for {module.image_name} on the image path"
        return ImageCheck(module, None, reason, 0, 0, ())
    sites = _Sites(file)
    compared = size = 0
    differences: list[Difference] = []
    truncated = False
    for section in file.headers.sections:
        if not section.executable or section.writable or section.characteristics & _DISCARDABLE:
            continue
        length = max(min(section.size, module.size - section.address), 0)
        size += length
        runs: list[tuple[int, bytes, bytes]] = []
        for start, held in image.pieces(section.address, length):
            for rva, memory, stored in _comparable(file, start, held):
                compared += len(memory)
                if memory != stored:
                    runs += _runs(rva, memory, stored)
        for rva, memory, stored in _joined(runs):
            if len(differences) >= _MOST_SHOWN:
                truncated = True
                break
            differences += _classified(target, module, file, section.name, (rva, memory, stored), sites)
    nothing = None if compared else "the dump holds none of its code"
    return ImageCheck(module, str(file.path), nothing, compared, size, tuple(differences), truncated)


def _comparable(file: FileImage, rva: int, held: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The parts of a piece of memory that the file has an opinion on, as (RVA, bytes in memory, bytes of the file)."""
    stored = file.read(rva, len(held))
    if stored is not None:
        yield rva, held, stored
    elif len(held) > _GRAIN:
        half = len(held) // 2 // _GRAIN * _GRAIN or _GRAIN
        yield from _comparable(file, rva, held[:half])
        yield from _comparable(file, rva + half, held[half:])


def _runs(rva: int, memory: bytes, stored: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The runs of differing bytes."""
    start = None
    for index in range(len(memory) + 1):
        differs = index < len(memory) and memory[index] != stored[index]
        if differs and start is None:
            start = index
        elif not differs and start is not None:
            yield rva + start, memory[start:index], stored[start:index]
            start = None


def _joined(runs: list[tuple[int, bytes, bytes]]) -> Iterator[tuple[int, bytes, bytes]]:
    """Runs that touch, as they do where a difference crosses a page, as one."""
    pending: tuple[int, bytes, bytes] | None = None
    for rva, memory, stored in runs:
        if pending is not None and pending[0] + len(pending[1]) == rva:
            pending = pending[0], pending[1] + memory, pending[2] + stored
        else:
            if pending is not None:
                yield pending
            pending = rva, memory, stored
    if pending is not None:
        yield pending


def _classified(
    target: Target, module: Module, file: FileImage, section: str, run: tuple[int, bytes, bytes], sites: _Sites
) -> list[Difference]:
    """A run as one difference; or as two, where the padding's jump and the function's first bytes are one run."""
    rva, memory, stored = run
    if memory[-2:] in _SHORT_JUMP_BACK and 2 < len(memory) <= 7:
        cut = len(memory) - 2
        parts = ((rva, memory[:cut], stored[:cut]), (rva + cut, memory[cut:], stored[cut:]))
        both = [_classify(target, module, file, section, *part, sites) for part in parts]
        if all(difference.kind == HOT_PATCH for difference in both):
            return both
    return [_classify(target, module, file, section, rva, memory, stored, sites)]


def _classify(
    target: Target,
    module: Module,
    file: FileImage,
    section: str,
    rva: int,
    memory: bytes,
    stored: bytes,
    sites: _Sites,
) -> Difference:
    address = module.base + rva
    name = target.name_of(address)

    def difference(kind: str, note: str = "", bit: int | None = None) -> Difference:
        return Difference(address, section, memory, stored, kind, name, bit, note)

    explained = sites.explain(rva, len(memory), lambda at, size: target.memory.read(module.base + at, size))
    if explained is not None:
        return difference(*explained)
    patch = _hot_patch(target, module, file, rva, memory, stored)
    if patch is not None:
        return difference(HOT_PATCH, patch)
    changed = [a ^ b for a, b in zip(memory, stored, strict=True)]
    if len(changed) == 1 and changed[0].bit_count() == 1:
        bit = changed[0].bit_length() - 1
        return difference(BIT, f"bit {bit} is {'set' if memory[0] & changed[0] else 'clear'} in memory", bit)
    return difference(BYTES, f"{sum(value.bit_count() for value in changed)} bits")


def _hot_patch(target: Target, module: Module, file: FileImage, rva: int, memory: bytes, stored: bytes) -> str | None:
    """What a hot patch does, if this is one: the jump in front of a function, or the short jump at its first byte.

    The bytes of a jump that equal the padding do not differ, so the instruction is read from memory as a whole.
    """
    read = target.memory.read
    for back in range(5):
        start = rva - back
        code = read(module.base + start, 5)
        origin = file.read(start, 5)
        if code is None or origin is None or code[0] != 0xE9 or rva + len(memory) > start + 5:
            continue
        if any(byte not in _PADDING for byte in origin) or len(set(origin)) > 1:
            continue
        goal = module.base + start + 5 + struct.unpack("<i", code[1:])[0]
        return f"jump to {target.name_of(goal) or hex(goal)} in the padding before a function"
    if memory[:2] in _SHORT_JUMP_BACK and len(memory) <= 2:
        code = read(module.base + rva - 5, 5)
        origin = file.read(rva - 5, 5)
        if code and origin and code[0] == 0xE9 and all(byte in _PADDING for byte in origin):
            return "short jump to the patch in front of the function"
    return None


class _Sites:
    """The places that an image's dynamic value relocation table names."""

    def __init__(self, file: FileImage) -> None:
        ranges = sorted(set(_table_sites(file)))
        self._starts = [start for start, _, _ in ranges]
        self._ranges = ranges

    def explain(self, rva: int, size: int, read: Callable[[int, int], bytes | None]) -> tuple[str, str] | None:
        """(kind, note) of a difference that lies in one of the places and looks as the kernel leaves it."""
        last = bisect.bisect_right(self._starts, rva)
        for start, stop, kind in self._ranges[max(last - 4, 0) : last]:
            if not (start <= rva and rva + size <= stop):
                continue
            if kind == 0:
                return LAYOUT, "constant of the address space's layout, set as the image was loaded"
            code = read(start, stop - start)
            if code is not None and _is_rewritten(code, kind):
                return REWRITTEN, "call site that the kernel rewrites (retpoline, import optimisation)"
        return None


def _is_rewritten(code: bytes, kind: int) -> bool:
    """Whether a rewritten site starts with an instruction that the kernel writes there."""
    plain = code[1:] if code[0] & 0xF0 == 0x40 else code
    direct = plain[:1] in (b"\xe8", b"\xe9")
    if kind != _IMPORT:
        return direct
    # mov r10,[import]; call or jmp to the retpoline: 4C 8B 15 rel32 E8/E9 rel32
    return direct or (code[:3] == b"\x4c\x8b\x15" and code[7:8] in (b"\xe8", b"\xe9"))


def _table_sites(file: FileImage) -> Iterator[tuple[int, int, int]]:
    """(start, end, kind) of each place; kind 0 is a constant. Nothing where there is no table or it makes no sense."""
    table = _dynamic_table(file, file.headers)
    if table is None:
        return
    position, count = 0, 0
    while position + 12 <= len(table):
        symbol, size = struct.unpack_from("<QI", table, position)
        position += 12
        end = min(position + size, len(table))
        while position + 8 <= end and count < _MOST_SITES:
            page, block = struct.unpack_from("<II", table, position)
            if block < 8 or position + block > end:
                break
            for site in _block_sites(symbol, page, table[position + 8 : position + block]):
                count += 1
                yield site
            position += block
        position = end


def _block_sites(symbol: int, page: int, data: bytes) -> Iterator[tuple[int, int, int]]:
    if symbol in _SITES:
        width, length = _SITES[symbol]
        for offset in range(0, len(data) - width + 1, width):
            value = int.from_bytes(data[offset : offset + width], "little")
            start = page + (value & 0xFFF)
            # An entry of zero pads the block, except at the start of its page.
            if value or offset == 0:
                yield start, start + length, symbol
    elif symbol >= _FIRST_SYMBOL:
        for (entry,) in struct.iter_unpack("<H", data[: len(data) // 2 * 2]):
            if entry >> 12 == 10:
                yield page + (entry & 0xFFF), page + (entry & 0xFFF) + 8, 0


def _dynamic_table(file: FileImage, headers: PeImage) -> bytes | None:
    """The entries of an IMAGE_DYNAMIC_RELOCATION_TABLE of version 1."""
    config = headers.directory(_LOAD_CONFIG)
    size = file.read(config[0], 4) if config is not None and file.width == 8 else None
    if config is None or size is None or int.from_bytes(size, "little") < _TABLE_SECTION + 2:
        return None
    where = file.read(config[0] + _TABLE_OFFSET, 6)
    offset, section = struct.unpack("<IH", where) if where else (0, 0)
    if not offset or not 1 <= section <= len(headers.sections):
        return None
    start = headers.sections[section - 1].address + offset
    head = file.read(start, 8)
    version, length = struct.unpack("<II", head) if head else (0, 0)
    return file.read(start + 8, min(length, _LARGEST_TABLE)) if version == 1 and length else None
