"""Images of loaded modules: what the dump's memory holds of them, completed from image files.

Small memory dumps hold no code but the bytes around the crash, and no dump holds what was paged out. Read-only sections
of the module's own file have the same content. A file is used only if its TimeDateStamp and SizeOfImage are the
module's (the identity that symbol stores go by), with relocations applied for the load address. Left out, because
memory differs from the file there: writable sections, the import address table, and the pointers that the loader fills
in for control flow guard. Not known here are code bytes that the kernel patches as it loads an image (retpoline).

Layouts: PE format specification; IMAGE_LOAD_CONFIG_DIRECTORY in the Windows SDK's ``winnt.h``.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import PeImage, parse_headers
from volatility3_kdump.memory import PAGE_SIZE, Memory
from volatility3_kdump.stores.paths import SearchPath, safe_file_name

if TYPE_CHECKING:
    import pefile

Pieces = Callable[[int, int], Iterable[tuple[int, bytes]]]

_KERNEL_FILES = ("ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe")
#: Of these, those of 64-bit systems.
_KERNEL_FILES_64 = _KERNEL_FILES[:2]
#: The crash dump stack is a second copy of the disk drivers, under names with this prefix.
_DUMP_STACK = "dump_"
_LARGEST_FILE = 1 << 30
_LONGEST_READ = 1 << 28

_MACHINES_64 = (0x8664, 0xAA64)
_BASE_RELOCATION, _LOAD_CONFIG, _IMPORT_ADDRESSES = 5, 10, 12
_RELOCATIONS_STRIPPED = 1
_WRITABLE = 0x80000000
_ABSOLUTE, _HIGH, _LOW, _HIGHLOW, _DIR64 = 0, 1, 2, 3, 10
#: Width in bytes of what each type of relocation changes.
_WIDTHS = {_HIGH: 2, _LOW: 2, _HIGHLOW: 4, _DIR64: 8}
#: IMAGE_LOAD_CONFIG_DIRECTORY: offsets of the addresses of variables that the loader sets: SecurityCookie,
#: GuardCFCheckFunctionPointer, GuardCFDispatchFunctionPointer, and the later ones of 64-bit images (return flow guard,
#: XFG, cast guard, memcpy guard).
_LOADER_VARIABLES = {
    8: (0x58, 0x70, 0x78, 0xD8, 0xE8, 0x118, 0x120, 0x128, 0x130, 0x138),
    4: (0x3C, 0x48, 0x4C),
}


class ImageRefused(KdumpError):
    """An image file that does not belong to the module, or cannot be used for it."""


class ModuleImage:
    """The image of one loaded module. Offsets are RVAs, in bytes from the module's base.

    The image path is searched when a read first misses memory.
    """

    def __init__(
        self,
        module: Module,
        memory: Memory,
        path: SearchPath | None = None,
        problems: list[str] | None = None,
        pieces: Pieces | None = None,
    ) -> None:
        """``pieces`` yields the present parts of a memory range as (address, bytes), in order; by default whole pages.

        Lines about image files that were refused are appended to ``problems``.
        """
        self.module = module
        self._memory = memory
        self._path = path
        self._problems = [] if problems is None else problems
        self._pieces = pieces or memory.present
        self._file: FileImage | None = None
        self._searched = path is None
        self._headers: PeImage | None = None
        self._parsed = False

    def read(self, rva: int, size: int) -> bytes | None:
        """Bytes of the image; ``None`` when neither memory nor an image file has all of them."""
        if rva < 0 or not 0 <= size <= _LONGEST_READ or rva + size > self.module.size:
            return None
        data = self._memory.read(self.module.base + rva, size)
        if data is not None:
            return data
        source = self._image_file()
        return None if source is None else self._completed(source, rva, size)

    def origin(self, rva: int) -> str | None:
        """Where the byte at an RVA comes from: ``memory``, ``image file``, or ``None`` when it is not to be had."""
        if not 0 <= rva < self.module.size:
            return None
        if self._memory.read(self.module.base + rva, 1) is not None:
            return "memory"
        source = self._image_file()
        return "image file" if source is not None and source.read(rva, 1) is not None else None

    def differences(self, rva: int, size: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Compare what memory holds of a range with the image file.

        Returns how many bytes could be compared, and (RVA, byte in memory, byte in the file) where they differ.
        """
        source = self._image_file() if rva >= 0 and rva + size <= self.module.size else None
        compared = 0
        differences = []
        for address, held in self._pieces(self.module.base + rva, size) if source is not None else ():
            start = address - self.module.base
            stored = source.read(start, len(held)) if source is not None else None
            if stored is not None:
                compared += len(held)
            if stored is not None and stored != held:
                differences += [(start + i, a, b) for i, (a, b) in enumerate(zip(held, stored, strict=True)) if a != b]
        return compared, differences

    def pieces(self, rva: int, size: int) -> Iterator[tuple[int, bytes]]:
        """What memory holds of a range, as (RVA, bytes), in order."""
        if rva >= 0 and size > 0 and rva + size <= self.module.size:
            for address, data in self._pieces(self.module.base + rva, size):
                yield address - self.module.base, data

    def image_file(self) -> FileImage | None:
        """The module's image file, looked for now; ``None`` where the image path has none that fits."""
        return self._image_file()

    def headers(self) -> PeImage | None:
        """The PE headers; ``None`` when they are not to be had or not those of an image.

        ``preferred_base`` is the load address in headers from memory, and the linker's base in those of a file.
        """
        if not self._parsed:
            self._parsed = True
            self._headers = parse_headers(self.read)
        return self._headers

    @property
    def file(self) -> Path | None:
        """The image file in use, ``None`` when none was needed so far or none fits."""
        return None if self._file is None else self._file.path

    def _completed(self, source: FileImage, rva: int, size: int) -> bytes | None:
        """What memory holds of a range, with the gaps from the file."""
        parts: list[bytes] = []
        position, end = rva, rva + size
        for address, data in self._pieces(self.module.base + rva, size):
            start = address - self.module.base
            if start > position:
                filling = source.read(position, start - position)
                if filling is None:
                    return None
                parts.append(filling)
            parts.append(data)
            position = start + len(data)
        if position < end:
            filling = source.read(position, end - position)
            if filling is None:
                return None
            parts.append(filling)
        return b"".join(parts)

    def _image_file(self) -> FileImage | None:
        if not self._searched:
            self._searched = True
            assert self._path is not None
            self._file = self._find(self._path)
        return self._file

    def _find(self, path: SearchPath) -> FileImage | None:
        if not path:
            return None
        module = self.module
        names = image_names(module)
        if not names:
            self._problems.append(f"{module.name}: {module.image_name!r} is no file name, no image is looked for")
            return None
        timestamp = self.timestamp()
        if not timestamp:
            self._problems.append(f"{module.name}: its TimeDateStamp is not in the dump, no image file can be matched")
            return None
        expected = timestamp

        def check(file: Path) -> None:
            try:
                check_image(file, expected, module.size)
            except ImageRefused as refusal:
                raise ImageRefused(f"image of {module.name}: {refusal}") from refusal

        for name in names:
            for candidate in path.matching(name, image_key(timestamp, module.size), check, self._problems):
                try:
                    return FileImage.load(candidate, timestamp, module.size, module.base)
                except ImageRefused as refusal:
                    self._problems.append(f"image of {module.name}: {refusal}")
        return None

    def timestamp(self) -> int | None:
        """TimeDateStamp of the image, from the list of modules or the headers in memory; ``None`` without either."""
        if self.module.timestamp is not None:
            return self.module.timestamp
        held = parse_headers(lambda rva, size: self._memory.read(self.module.base + rva, size))
        return held.timestamp if held else None


class ImageSet:
    """The images of a target's modules."""

    def __init__(
        self,
        memory: Memory,
        path: SearchPath | None = None,
        problems: list[str] | None = None,
        pieces: Pieces | None = None,
    ) -> None:
        """The parameters are those of :class:`ModuleImage`; ``path`` is shared by all modules."""
        self._memory = memory
        self._path = path
        self._problems = [] if problems is None else problems
        self._pieces = pieces
        self._images: dict[int, ModuleImage] = {}

    @property
    def has_path(self) -> bool:
        """Whether there is any place to look for image files in."""
        return bool(self._path)

    def image_of(self, module: Module) -> ModuleImage:
        """The image at a module's base."""
        image = self._images.get(module.base)
        if image is None or image.module != module:
            image = ModuleImage(module, self._memory, self._path, self._problems, self._pieces)
            self._images[module.base] = image
        return image

    def headers_of(self, module: Module) -> PeImage | None:
        """The PE headers of a module, from memory or an image file; ``None`` when they are not to be had."""
        return self.image_of(module).headers()


@dataclass(frozen=True)
class _Region:
    """A part of the image: RVA, bytes in memory, and where its content lies in the file."""

    address: int
    size: int
    offset: int
    stored: int
    readable: bool


class FileImage:
    """An image file laid out as the loader maps it, relocated to a load address."""

    def __init__(self, path: Path, data: bytes, base: int | None) -> None:
        """``None`` for ``base`` leaves the image at its preferred address.

        Raises :class:`ImageRefused` when the file is no image or cannot be relocated to ``base``.
        """
        import pefile

        self.path = path
        self._data = data
        header = parse_headers(
            lambda offset, size: data[offset : offset + size] if offset + size <= len(data) else None
        )
        try:
            # Directories are read here instead: their lists of objects cost seconds where a kernel has 50,000 entries.
            file = pefile.PE(data=data, fast_load=True)
        except (pefile.PEFormatError, ValueError) as error:
            raise ImageRefused(f"{path}: not a PE image ({error}); refused") from error
        if header is None:
            raise ImageRefused(f"{path}: not a PE image; refused")
        self._stripped = bool(file.FILE_HEADER.Characteristics & _RELOCATIONS_STRIPPED)
        self._width = 8 if header.machine in _MACHINES_64 else 4
        self._delta = 0 if base is None else base - header.preferred_base
        self._header = header
        self._regions = _regions(file, len(data))
        self._starts = [region.address for region in self._regions]
        self._pages: dict[int, bytes] = {}
        self._changed = sorted(self._loader_written())
        self._sites = self._relocations() if self._delta else []

    @property
    def data(self) -> bytes:
        """The file as it is."""
        return self._data

    @property
    def headers(self) -> PeImage:
        """The headers as they stand in the file."""
        return self._header

    @property
    def width(self) -> int:
        """Size of a pointer in bytes."""
        return self._width

    @classmethod
    def load(cls, path: Path, timestamp: int, size_of_image: int, base: int | None) -> FileImage:
        """Open a file for a module. Raises :class:`ImageRefused` when it is not that module's, and says why."""
        check_image(path, timestamp, size_of_image)
        try:
            with path.open("rb") as stream:
                data = stream.read(_LARGEST_FILE + 1)
        except OSError as error:
            raise ImageRefused(f"{path}: {error.strerror or error}; refused") from error
        if len(data) > _LARGEST_FILE:
            raise ImageRefused(f"{path}: larger than {_LARGEST_FILE >> 20} MiB; refused")
        return cls(path, data, base)

    def read(self, rva: int, size: int) -> bytes | None:
        """Bytes as memory holds them; ``None`` where they are not the same in memory for sure."""
        end = rva + size
        if not self._covered(rva, end):
            return None
        first = bisect.bisect_right(self._changed, (rva, 0))
        if any(start < end and rva < stop for start, stop in self._changed[max(first - 1, 0) : first + 1]):
            return None
        parts = []
        position = rva
        while position < end:
            page, skip = divmod(position, PAGE_SIZE)
            part = self._page(page)[skip : skip + end - position]
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def _covered(self, position: int, end: int) -> bool:
        """Whether a range lies in read-only regions without a gap."""
        while position < end:
            region = self._region(position)
            if region is None or not region.readable:
                return False
            position = region.address + region.size
        return True

    def _region(self, rva: int) -> _Region | None:
        index = bisect.bisect_right(self._starts, rva) - 1
        if index < 0 or rva >= self._regions[index].address + self._regions[index].size:
            return None
        return self._regions[index]

    def _raw(self, rva: int, size: int) -> bytes:
        """Bytes before relocation; zeros behind the stored part of a section, and outside of the regions."""
        parts = []
        position, end = rva, rva + size
        while position < end:
            region = self._region(position)
            if region is None:
                following = bisect.bisect_right(self._starts, position)
                stop = min(end, self._starts[following]) if following < len(self._starts) else end
                parts.append(bytes(stop - position))
            else:
                stop = min(end, region.address + region.size)
                skip = position - region.address
                stored = self._data[region.offset + min(skip, region.stored) : region.offset + region.stored]
                part = stored[: stop - position]
                parts.append(part + bytes(stop - position - len(part)))
            position = stop
        return b"".join(parts)

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            start = number * PAGE_SIZE
            # A relocation may begin in the last bytes of the page before.
            origin = max(start - 8, 0)
            data = bytearray(self._raw(origin, start + PAGE_SIZE + 8 - origin))
            first = bisect.bisect_left(self._sites, (start - 7,))
            last = bisect.bisect_left(self._sites, (start + PAGE_SIZE,))
            for site, kind in self._sites[first:last]:
                _relocate(data, site - origin, kind, self._delta)
            page = self._pages[number] = bytes(data[start - origin : start - origin + PAGE_SIZE])
        return page

    def _loader_written(self) -> list[tuple[int, int]]:
        """Ranges of read-only sections that the loader writes, as (start, end) RVAs."""
        ranges = []
        imports = self._header.directory(_IMPORT_ADDRESSES)
        if imports is not None:
            ranges.append((imports[0], imports[0] + imports[1]))
        config = self._header.directory(_LOAD_CONFIG)
        if config is not None:
            size = min(int.from_bytes(self._raw(config[0], 4), "little"), PAGE_SIZE)
            data = self._raw(config[0], size)
            for offset in _LOADER_VARIABLES[self._width]:
                if offset + self._width <= size:
                    address = int.from_bytes(data[offset : offset + self._width], "little")
                    if address:
                        rva = address - self._header.preferred_base
                        ranges.append((rva, rva + self._width))
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(ranges):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            else:
                merged.append((start, stop))
        return merged

    def _relocations(self) -> list[tuple[int, int]]:
        """(RVA, type) of each relocation, sorted, each place once."""
        located = self._header.directory(_BASE_RELOCATION)
        if located is None:
            if self._stripped:
                raise ImageRefused(f"{self.path}: has no relocations and is not at its preferred base; refused")
            return []
        data = self._raw(located[0], min(located[1], len(self._data)))
        sites: dict[int, int] = {}
        position = 0
        while position + 8 <= len(data):
            page, size = struct.unpack_from("<II", data, position)
            if size < 8 or position + size > len(data):
                break
            for entry in struct.unpack_from(f"<{(size - 8) // 2}H", data, position + 8):
                kind = entry >> 12
                if kind in _WIDTHS:
                    sites[page + (entry & 0xFFF)] = kind
                elif kind != _ABSOLUTE:
                    raise ImageRefused(f"{self.path}: has relocations of the unknown type {kind}; refused")
            position += size
        return sorted(sites.items())


def image_names(module: Module) -> list[str]:
    """The names that a module's image file may have, most likely first; empty where none can be a file's."""
    texts = [module.image_name, module.path or ""]
    if module.name == "nt":
        texts += _KERNEL_FILES if module.base >> 32 in (0, 0xFFFFFFFF) else _KERNEL_FILES_64
    names: list[str] = []
    for string in texts:
        name = safe_file_name(string)
        if name is None:
            continue
        names.append(name)
        if name.lower().startswith(_DUMP_STACK):
            names.append(name[len(_DUMP_STACK) :])
    return list(dict.fromkeys(name for name in names if safe_file_name(name)))


def image_key(timestamp: int, size_of_image: int) -> str:
    """The directory of an image in a symbol store: TimeDateStamp and SizeOfImage, in hexadecimal."""
    return f"{timestamp:08X}{size_of_image:x}"


def check_image(path: Path, timestamp: int, size_of_image: int) -> None:
    """Raise :class:`ImageRefused` unless a file is the image of that TimeDateStamp and SizeOfImage."""
    try:
        with path.open("rb") as stream:
            head = stream.read(2 * PAGE_SIZE)
    except OSError as error:
        raise ImageRefused(f"{path}: {error.strerror or error}; refused") from error
    header = parse_headers(lambda offset, size: head[offset : offset + size] if offset + size <= len(head) else None)
    if header is None:
        raise ImageRefused(f"{path}: not a PE image; refused")
    if (header.timestamp, header.size_of_image) != (timestamp, size_of_image):
        raise ImageRefused(
            f"{path}: TimeDateStamp {header.timestamp:08X} and SizeOfImage {header.size_of_image:x} "
            f"are not the module's {timestamp:08X} and {size_of_image:x}; refused"
        )


def _regions(file: pefile.PE, length: int) -> list[_Region]:
    """The headers and sections of a file, sorted and disjoint; a section that overlaps an earlier one is left out.

    ``length`` is that of the file in bytes.
    """
    optional = file.OPTIONAL_HEADER
    alignment = min(max(optional.SectionAlignment, 1), PAGE_SIZE)
    header_size = min(optional.SizeOfHeaders, length)
    regions = [_Region(0, header_size, 0, header_size, True)]
    collected = []
    for section in file.sections:
        size = -(-(section.Misc_VirtualSize or section.SizeOfRawData) // alignment) * alignment
        size = min(size, max(optional.SizeOfImage - section.VirtualAddress, 0))
        stored = min(section.SizeOfRawData, size, max(length - section.PointerToRawData, 0))
        writable = bool(section.Characteristics & _WRITABLE)
        collected.append(_Region(section.VirtualAddress, size, section.PointerToRawData, stored, not writable))
    for region in sorted(collected, key=lambda region: region.address):
        if region.size and region.address >= regions[-1].address + regions[-1].size:
            regions.append(region)
    return regions


def _relocate(data: bytearray, offset: int, kind: int, delta: int) -> None:
    width = _WIDTHS[kind]
    value = int.from_bytes(data[offset : offset + width], "little") + (delta >> 16 if kind == _HIGH else delta)
    data[offset : offset + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
