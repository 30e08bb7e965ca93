"""``!dh`` of an image whose headers are those of a published listing: every line of it, in its place.

The listing is notepad.exe of Windows 10 16299, as an article on the format of images has it. The headers are laid out
here by the documentation of the format, so that values and layout are both held.
"""

from __future__ import annotations

import struct

from volatility3_kdump.images.headers import read_headers
from volatility3_kdump.text.image_headers import header_lines, section_lines

_BASE = 0x7FF63F030000
_SECTIONS = (
    (".text", 0x18FCE, 0x1000, 0x19000, 0x400, 0x60000020, ("Code",), "Execute Read"),
    (".rdata", 0x7602, 0x1A000, 0x7800, 0x19400, 0x40000040, ("Initialized Data",), "Read Only"),
    (".data", 0x2D14, 0x22000, 0xC00, 0x20C00, 0xC0000040, ("Initialized Data",), "Read Write"),
    (".pdata", 0x8DC, 0x25000, 0xA00, 0x21800, 0x40000040, ("Initialized Data",), "Read Only"),
    (".rsrc", 0x19CE0, 0x26000, 0x19E00, 0x22200, 0x40000040, ("Initialized Data",), "Read Only"),
    (".reloc", 0x21C, 0x40000, 0x400, 0x3C000, 0x42000040, ("Initialized Data", "Discardable"), "Read Only"),
)
_DIRECTORIES = (
    *((0, 0), (0x1F4D8, 0x244), (0x26000, 0x19CE0), (0x25000, 0x8DC), (0, 0), (0x40000, 0x21C), (0x1E370, 0x54)),
    *((0, 0), (0, 0), (0, 0), (0x1A550, 0x100), (0, 0), (0x1A650, 0x978), (0, 0), (0, 0), (0, 0)),
)
_NAMES = (
    *("Export", "Import", "Resource", "Exception", "Security", "Base Relocation", "Debug", "Description", "Special"),
    *("Thread Storage", "Load Configuration", "Bound Import", "Import Address Table", "Delay Import", "COR20 Header"),
    "Reserved",
)
_PUBLISHED = """
File Type: EXECUTABLE IMAGE
FILE HEADER VALUES
    8664 machine (X64)
       6 number of sections
A0C4CEAB time date stamp Mon Jun 21 21:48:43 2055

       0 file pointer to symbol table
       0 number of symbols
      F0 size of optional header
      22 characteristics
            Executable
            App can handle >2gb addresses

OPTIONAL HEADER VALUES
     20B magic #
   14.10 linker version
   19000 size of code
   25200 size of initialized data
       0 size of uninitialized data
   193E0 address of entry point
    1000 base of code
         ----- new -----
00007ff63f030000 image base
    1000 section alignment
     200 file alignment
       2 subsystem (Windows GUI)
   10.00 operating system version
   10.00 image version
   10.00 subsystem version
   41000 size of image
     400 size of headers
   4AC7B checksum
0000000000080000 size of stack reserve
0000000000011000 size of stack commit
0000000000100000 size of heap reserve
0000000000001000 size of heap commit
    C160  DLL characteristics
            High entropy VA supported
            Dynamic base
            NX compatible
            Guard
            Terminal server aware"""
_DEBUG = """

Debug Directories(3)
\tType       Size     Address  Pointer
\tcv           24       1e7cc    1dbcc\tFormat: RSDS, guid, 1, notepad.pdb
\t(    13)     2c0       1e7f0    1dbf0
\t(    16)       0           0        0"""


def _image() -> bytes:
    memory = bytearray(0x41000)
    memory[:2], memory[0x3C:0x40] = b"MZ", struct.pack("<I", 0xF8)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 14, 10, 0x19000, 0x25200, 0, 0x193E0, 0x1000, _BASE, 0x1000, 0x200, 10, 0, 10, 0, 10, 0, 0),
        *(0x41000, 0x400, 0x4AC7B, 2, 0xC160, 0x80000, 0x11000, 0x100000, 0x1000, 0, 16),
    )
    header = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 6, 0xA0C4CEAB, 0, 0, 0xF0, 0x22) + optional
    header += b"".join(struct.pack("<II", *pair) for pair in _DIRECTORIES)
    for name, size, address, raw, place, flags, _, _ in _SECTIONS:
        header += struct.pack("<8sIIIIIIHHI", name.encode(), size, address, raw, place, 0, 0, 0, 0, flags)
    memory[0xF8 : 0xF8 + len(header)] = header
    entries = ((2, 0x24, 0x1E7CC, 0x1DBCC), (13, 0x2C0, 0x1E7F0, 0x1DBF0), (16, 0, 0, 0))
    for number, entry in enumerate(entries):
        memory[0x1E370 + 28 * number + 12 : 0x1E370 + 28 * number + 28] = struct.pack("<IIII", *entry)
    record = b"RSDS" + bytes(16) + struct.pack("<I", 1) + b"notepad.pdb\0"
    memory[0x1E7CC : 0x1E7CC + len(record)] = record
    return bytes(memory)


def _section(number: int) -> str:
    name, size, address, raw, place, flags, words, access = _SECTIONS[number]
    lines = [f"SECTION HEADER #{number + 1}", f"{name:>8} name"]
    for value, label in ((size, "virtual size"), (address, "virtual address"), (raw, "size of raw data")):
        lines.append(f"{value:8X} {label}")
    lines.append(f"{place:8X} file pointer to raw data")
    lines += [f"       0 file pointer to {what}" for what in ("relocation table", "line numbers")]
    lines += [f"       0 number of {what}" for what in ("relocations", "line numbers")]
    lines += [f"{flags:8X} flags", *(f"         {word}" for word in (*words, "(no align specified)", access))]
    return "\n".join(lines)


def test_every_line_of_a_published_listing() -> None:
    memory = _image()

    def read(address: int, size: int) -> bytes | None:
        return memory[address : address + size] if address + size <= len(memory) else None

    headers = read_headers(read, "notepad")
    # Times are local in the article, and UTC here.
    expected = _PUBLISHED.splitlines()
    shown = list(header_lines(headers))
    stamp = next(number for number, line in enumerate(shown) if "time date stamp" in line)
    assert shown[stamp].startswith("A0C4CEAB time date stamp ") and shown[stamp].endswith(":48:43 2055")
    expected[stamp] = shown[stamp]
    assert shown[: len(expected)] == expected
    assert shown[len(expected) :] == [
        f"{address:8X} [{size:8X}] address [size] of {name} Directory"
        for name, (address, size) in zip(_NAMES, _DIRECTORIES, strict=True)
    ]
    text = "\n".join(section_lines(headers))
    blocks = [_section(number) for number in range(len(_SECTIONS))]
    blocks[1] += "\n" + _DEBUG
    assert text == "\n\n" + "\n\n".join(blocks)
