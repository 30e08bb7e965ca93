"""PE32+ images as they lie in memory, page by page (Microsoft PE/COFF specification).

Only pages with content are made. Sections have equal file and memory alignment (one page) and equal file offset and
RVA, so that the memory image is also a readable file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdump_sample.code import Assembled
from kdump_sample.physical import PAGE

CODE = 0x60000020
INITIALISATION_CODE = 0x62000020
READ_ONLY = 0x40000040
READ_WRITE = 0xC0000040
DISCARDABLE = 0x42000040

_EXECUTE = 0x20000000
_WRITE = 0x80000000
_HEADER_SIZE = 0x400
_PE_OFFSET = 0xF8
_NATIVE = 1


@dataclass(frozen=True)
class Section:
    """A section header: RVA and virtual size in bytes, IMAGE_SCN_* characteristics."""

    name: str
    rva: int
    size: int
    characteristics: int


@dataclass(frozen=True)
class Codeview:
    """What an RSDS record says of the PDB: file name, GUID as 32 hexadecimal digits, age."""

    name: str
    guid: str
    age: int


@dataclass
class Image:
    """An image to be built: identity, sections, and the contents that go into them by RVA."""

    name: str
    base: int
    size: int
    timestamp: int
    checksum: int
    sections: list[Section]
    codeview: Codeview | None = None
    debug_rva: int = 0
    version: tuple[int, int, int, int] | None = None
    description: str = ""
    company: str = ""
    entry_point: int = 0
    functions: list[Assembled] = field(default_factory=list)
    exports: dict[str, int] = field(default_factory=dict)
    chunks: dict[int, bytes] = field(default_factory=dict)
    #: Whether it is a PE32 image of x86.
    narrow: bool = False

    def section(self, name: str) -> Section:
        return next(section for section in self.sections if section.name == name)

    def executable(self, rva: int) -> bool:
        return self._has(rva, _EXECUTE)

    def writable(self, rva: int) -> bool:
        return self._has(rva, _WRITE)

    def _has(self, rva: int, flag: int) -> bool:
        return any(
            bool(section.characteristics & flag) and section.rva <= rva < section.rva + section.size
            for section in self.sections
        )


def build(image: Image) -> dict[int, bytes]:
    """The contents of an image as bytes by RVA: headers, code, exception, export, debug and resource directories."""
    chunks = dict(image.chunks)
    directories = [(0, 0)] * 16
    for function in image.functions:
        chunks[function.begin] = function.code
    if image.functions:
        pdata, xdata = _exception_directory(image)
        rva = image.section(".pdata").rva
        chunks[rva] = pdata
        chunks[image.section(".xdata").rva] = xdata
        directories[3] = (rva, len(pdata))
    if image.exports:
        rva = image.section(".edata").rva
        chunks[rva] = _export_directory(image, rva)
        directories[0] = (rva, len(chunks[rva]))
    if image.codeview is not None:
        chunks[image.debug_rva] = _debug_directory(image)
        directories[6] = (image.debug_rva, 28)
    if image.version is not None:
        rva = image.section(".rsrc").rva
        chunks[rva] = _resources(image, rva)
        directories[2] = (rva, len(chunks[rva]))
    chunks[0] = _headers(image, directories)
    return chunks


def _headers(image: Image, directories: Sequence[tuple[int, int]]) -> bytes:
    dos = struct.pack("<2s29HI", b"MZ", 0x90, 3, 0, 4, 0, 0xFFFF, 0, 0xB8, 0, 0, 0, 0x40, *([0] * 17), _PE_OFFSET)
    stub = bytes.fromhex("0e1fba0e00b409cd21b8014ccd21") + b"This program cannot be run in DOS mode.\r\r\n$"
    optional_size = (96 if image.narrow else 112) + 16 * 8
    characteristics = (0x102 if image.narrow else 0x22) | (0x2000 if image.name.lower().endswith(".dll") else 0)
    coff = struct.pack(
        "<4sHHIIIHH",
        b"PE\0\0",
        0x14C if image.narrow else 0x8664,
        len(image.sections),
        image.timestamp,
        0,
        0,
        optional_size,
        characteristics,
    )
    code = sum(section.size for section in image.sections if section.characteristics & _EXECUTE)
    data = sum(section.size for section in image.sections if not section.characteristics & _EXECUTE)
    first_code = next((section.rva for section in image.sections if section.characteristics & _EXECUTE), 0)
    # A PE32 header has BaseOfData as well, and words of 32 bits in place of those of 64.
    base = (0, image.base) if image.narrow else (image.base,)
    optional = struct.pack(
        "<HBBIIIIIIIIIHHHHHHIIIIHHIIIIII" if image.narrow else "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x10B if image.narrow else 0x20B, 14, 20, code, data, 0, image.entry_point, first_code, *base, PAGE, PAGE),
        *(10, 0, 10, 0, 10, 0, 0, image.size, _HEADER_SIZE, image.checksum, _NATIVE, 0x4160),
        *(0x40000, 0x2000, 0x100000, 0x1000, 0, 16),
    )
    optional += b"".join(struct.pack("<II", rva, size) for rva, size in directories)
    table = b"".join(
        section.name.encode().ljust(8, b"\0")
        + struct.pack(
            "<IIIIIIHHI",
            section.size,
            section.rva,
            _round(section.size),
            section.rva,
            0,
            0,
            0,
            0,
            section.characteristics,
        )
        for section in image.sections
    )
    return (dos + stub).ljust(_PE_OFFSET, b"\0") + coff + optional + table


def _exception_directory(image: Image) -> tuple[bytes, bytes]:
    xdata = bytearray()
    rva = image.section(".xdata").rva
    entries = []
    for function in sorted(image.functions, key=lambda function: function.begin):
        entries.append(struct.pack("<III", function.begin, function.end, rva + len(xdata)))
        xdata += function.unwind
    return b"".join(entries), bytes(xdata)


def _export_directory(image: Image, rva: int) -> bytes:
    names = sorted(image.exports)
    functions = rva + 40
    pointers = functions + 4 * len(names)
    ordinals = pointers + 4 * len(names)
    strings_rva = ordinals + 2 * len(names)
    strings = bytearray(image.name.encode() + b"\0")
    offsets = []
    for name in names:
        offsets.append(strings_rva + len(strings))
        strings += name.encode() + b"\0"
    count = len(names)
    header = struct.pack(
        "<IIHHIIIIIII", 0, image.timestamp, 0, 0, strings_rva, 1, count, count, functions, pointers, ordinals
    )
    return (
        header
        + struct.pack(f"<{count}I", *(image.exports[name] for name in names))
        + struct.pack(f"<{count}I", *offsets)
        + struct.pack(f"<{count}H", *range(count))
        + bytes(strings)
    )


def rsds(codeview: Codeview) -> bytes:
    """The CodeView record: ``RSDS``, GUID in its binary form, age, file name."""
    guid = bytes.fromhex(codeview.guid)
    binary = guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]
    return b"RSDS" + binary + struct.pack("<I", codeview.age) + codeview.name.encode() + b"\0"


def _debug_directory(image: Image) -> bytes:
    assert image.codeview is not None
    record = rsds(image.codeview)
    rva = image.debug_rva + 28
    return struct.pack("<IIHHIIII", 0, image.timestamp, 0, 0, 2, len(record), rva, rva) + record


def _resources(image: Image, rva: int) -> bytes:
    """A resource tree with one entry: type 16 (version), name 1, language 0x409."""
    version = _version_information(image)
    levels = b""
    for depth, identifier in enumerate((16, 1, 0x409)):
        target = 24 * (depth + 1)
        levels += struct.pack("<IIHHHH", 0, 0, 0, 0, 0, 1) + struct.pack(
            "<II", identifier, target | (0x80000000 if depth < 2 else 0)
        )
    return levels + struct.pack("<IIII", rva + len(levels) + 16, len(version), 0, 0) + version


def _version_information(image: Image) -> bytes:
    assert image.version is not None
    high, low = image.version[0] << 16 | image.version[1], image.version[2] << 16 | image.version[3]
    fixed = struct.pack("<13I", 0xFEEF04BD, 0x10000, high, low, high, low, 0x3F, 0, 0x40004, 3, 7, 0, 0)
    number = ".".join(str(part) for part in image.version)
    texts = {
        "CompanyName": image.company,
        "FileDescription": image.description,
        "FileVersion": number,
        "OriginalFilename": image.name,
        "ProductVersion": number,
    }
    strings = b"".join(_version_node(key, string, 1) for key, string in texts.items() if string)
    table = _version_node("StringFileInfo", b"", 1, _version_node("040904B0", b"", 1, strings))
    translation = _version_node("Translation", struct.pack("<HH", 0x409, 0x4B0), 0)
    return _version_node("VS_VERSION_INFO", fixed, 0, table + _version_node("VarFileInfo", b"", 1, translation))


def _version_node(key: str, value: str | bytes, kind: int, children: bytes = b"") -> bytes:
    """One node of a version resource: length, value length (in characters for text), type, key, value, children."""
    if isinstance(value, str):
        data = value.encode("utf-16-le") + b"\0\0"
        length = len(data) // 2
    else:
        data, length = value, len(value)
    header = key.encode("utf-16-le") + b"\0\0"
    body = header + bytes(-(6 + len(header)) % 4) + data
    body += bytes(-(6 + len(body)) % 4) if children else b""
    node = struct.pack("<HHH", 6 + len(body) + len(children), length, kind) + body + children
    return node + bytes(-len(node) % 4)


def _round(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE
