"""Headers of images in the words of KD's ``!dh``, ``!lmi`` and ``!chksym``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.images.headers import Headers
from volatility3_kdump.images.modules import Module
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import time_stamp

_MACHINES = {0x8664: "X64", 0x14C: "I386", 0xAA64: "ARM64"}
_CHARACTERISTICS = {
    0x1: "Relocations stripped",
    0x2: "Executable",
    0x20: "App can handle >2gb addresses",
    0x100: "32 bit word machine",
    0x200: "Debug information stripped",
    0x1000: "System",
    0x2000: "DLL",
}
_DLL = {
    0x20: "High entropy VA supported",
    0x40: "Dynamic base",
    0x80: "Force integrity",
    0x100: "NX compatible",
    0x200: "No isolation",
    0x400: "No structured exception handler",
    0x800: "Do not bind",
    0x2000: "WDM driver",
    0x4000: "Guard",
    0x8000: "Terminal server aware",
}
_SUBSYSTEMS = {1: "Native", 2: "Windows GUI", 3: "Windows CUI", 10: "EFI application", 16: "Windows Boot Application"}
_CONTENTS = {0x20: "Code", 0x40: "Initialized Data", 0x80: "Uninitialized Data"}
_TRAITS = {0x02000000: "Discardable", 0x04000000: "Not Cached", 0x08000000: "Not Paged", 0x10000000: "Shared"}
#: The others are numbers in published output.
_DEBUG = {2: "cv"}
_SIZE = "Misc_VirtualSize"
_ALIGNMENT, _EXECUTE, _READ, _WRITE = 0xF00000, 0x20000000, 0x40000000, 0x80000000


def header_lines(headers: Headers, title: bool = True) -> Iterator[str]:
    """``!dh -f``: file header and optional header."""
    file, optional = headers.file, headers.optional
    if title:
        yield ""
        yield f"File Type: {'DLL' if file['Characteristics'] & 0x2000 else 'EXECUTABLE IMAGE'}"
    yield "FILE HEADER VALUES"
    yield f"{file['Machine']:8X} machine ({_MACHINES.get(file['Machine'], 'unknown')})"
    yield f"{file['NumberOfSections']:8X} number of sections"
    yield f"{file['TimeDateStamp']:8X} time date stamp {time_stamp(file['TimeDateStamp'])}"
    yield ""
    yield f"{file['PointerToSymbolTable']:8X} file pointer to symbol table"
    yield f"{file['NumberOfSymbols']:8X} number of symbols"
    yield f"{file['SizeOfOptionalHeader']:8X} size of optional header"
    yield f"{file['Characteristics']:8X} characteristics"
    yield from (f"            {name}" for bit, name in _CHARACTERISTICS.items() if file["Characteristics"] & bit)
    yield ""
    yield "OPTIONAL HEADER VALUES"
    yield f"{optional['Magic']:8X} magic #"
    yield f"{_version(optional, 'LinkerVersion', 'Major', 'Minor'):>8} linker version"
    for field, label in (
        ("SizeOfCode", "size of code"),
        ("SizeOfInitializedData", "size of initialized data"),
        ("SizeOfUninitializedData", "size of uninitialized data"),
        ("AddressOfEntryPoint", "address of entry point"),
        ("BaseOfCode", "base of code"),
    ):
        yield f"{optional[field]:8X} {label}"
    yield "         ----- new -----"
    width = 16 if headers.wide else 8
    yield f"{optional['ImageBase']:0{width}x} image base"
    yield f"{optional['SectionAlignment']:8X} section alignment"
    yield f"{optional['FileAlignment']:8X} file alignment"
    yield f"{optional['Subsystem']:8X} subsystem ({_SUBSYSTEMS.get(optional['Subsystem'], 'unknown')})"
    for prefix, label in (
        ("OperatingSystemVersion", "operating system version"),
        ("ImageVersion", "image version"),
        ("SubsystemVersion", "subsystem version"),
    ):
        yield f"{_version(optional, prefix, 'Major', 'Minor'):>8} {label}"
    yield f"{optional['SizeOfImage']:8X} size of image"
    yield f"{optional['SizeOfHeaders']:8X} size of headers"
    yield f"{optional['CheckSum']:8X} checksum"
    for field, label in (
        ("SizeOfStackReserve", "size of stack reserve"),
        ("SizeOfStackCommit", "size of stack commit"),
        ("SizeOfHeapReserve", "size of heap reserve"),
        ("SizeOfHeapCommit", "size of heap commit"),
    ):
        yield f"{optional[field]:0{width}x} {label}"
    yield f"{optional['DllCharacteristics']:8X}  DLL characteristics"
    yield from (f"            {name}" for bit, name in _DLL.items() if optional["DllCharacteristics"] & bit)
    for name, address, size in headers.directories:
        yield f"{address:8X} [{size:8X}] address [size] of {name} Directory"


def _version(fields: object, name: str, *parts: str) -> str:
    values = [getattr(fields, "get", lambda key: 0)(f"{part}{name}") or 0 for part in parts]
    return f"{values[0]}.{values[1]:02}"


def section_lines(headers: Headers) -> Iterator[str]:
    """``!dh -s``: the sections; behind the one that it lies in the debug directory."""
    directory = next((address for name, address, _ in headers.directories if name == "Debug"), 0)
    shown = False
    for number, (name, section) in enumerate(headers.sections, 1):
        if number == 1:
            yield ""
        yield ""
        yield f"SECTION HEADER #{number:X}"
        yield f"{name:>8} name"
        for field, label in (
            (_SIZE, "virtual size"),
            ("VirtualAddress", "virtual address"),
            ("SizeOfRawData", "size of raw data"),
            ("PointerToRawData", "file pointer to raw data"),
            ("PointerToRelocations", "file pointer to relocation table"),
            ("PointerToLinenumbers", "file pointer to line numbers"),
            ("NumberOfRelocations", "number of relocations"),
            ("NumberOfLinenumbers", "number of line numbers"),
        ):
            yield f"{section.get(field, section.get('Misc', 0)):8X} {label}"
        flags = section["Characteristics"]
        yield f"{flags:8X} flags"
        yield from (f"         {name}" for bit, name in {**_CONTENTS, **_TRAITS}.items() if flags & bit)
        if not flags & _ALIGNMENT:
            yield "         (no align specified)"
        access = [("Execute", _EXECUTE), ("Read", _READ), ("Write", _WRITE)]
        rights = [word for word, bit in access if flags & bit]
        yield "         " + ("Read Only" if rights == ["Read"] else " ".join(rights))
        start = section["VirtualAddress"]
        if not shown and start <= directory < start + max(section.get(_SIZE, 0), section["SizeOfRawData"]):
            shown = True
            yield from _debug_lines(headers)
    if not shown:
        yield from _debug_lines(headers)


def _debug_lines(headers: Headers) -> Iterator[str]:
    if not headers.debug:
        return
    yield ""
    yield ""
    yield f"Debug Directories({len(headers.debug)})"
    yield "\tType       Size     Address  Pointer"
    for kind, address, size, place in headers.debug:
        record = ""
        if kind == 2 and headers.code_view is not None:
            pdb = headers.code_view
            record = f"\tFormat: RSDS, guid, {pdb.age}, {pdb.pdb_path}"
        named = f"{_DEBUG[kind]:<10} {size:4x}" if kind in _DEBUG else f"({kind:6}) {size:7x}"
        yield f"\t{named} {address:11x} {place:8x}{record}"


def module_lines(
    module: Module, headers: Headers, status: str, reproducible: bool | None, size: int = 8
) -> Iterator[str]:
    """``!lmi``. ``status`` says where the module's symbols come from."""
    file, optional = headers.file, headers.optional
    base = pointer(module.base, size, tick=False)
    when = time_stamp(file["TimeDateStamp"])
    if reproducible:
        when = "(This is a reproducible build file hash, not a true timestamp)"
    flags = file["Characteristics"]
    yield f"Loaded Module Info: [{module.name}] "
    yield f"         Module: {module.name}"
    yield f"   Base Address: {base}"
    yield f"     Image Name: {module.image_name}"
    yield f"   Machine Type: {file['Machine']} ({_MACHINES.get(file['Machine'], 'unknown')})"
    yield f"     Time Stamp: {file['TimeDateStamp']:x} {when}"
    yield f"           Size: {optional['SizeOfImage']:x}"
    yield f"       CheckSum: {optional['CheckSum']:x}"
    yield f"Characteristics: {flags:x} {'stripped' if flags & 0x200 else ''}".rstrip()
    yield "Debug Data Dirs: Type  Size     VA"
    for kind, address, length, _ in headers.debug:
        label = {2: "CODEVIEW"}.get(kind, _DEBUG.get(kind, f"{kind:X}").upper())
        yield f"{label:>21} {length:5x}, {address:6x}"
        if kind == 2 and headers.code_view is not None:
            pdb = headers.code_view
            yield f"                 RSDS - GUID: {{{str(pdb.guid).upper()}}}"
            yield f"                   Age: {pdb.age}, Pdb: {pdb.pdb_path}"
    yield "     Image Type: MEMORY   - Image read from the memory in the dump."
    yield f"    Load Report: {status}"


def check_lines(module: Module, headers: Headers, loaded: str | None, status: str) -> Iterator[str]:
    """``!chksym``: the image's PDB, and whether the symbols in use belong to it. ``loaded`` names these."""
    yield module.image_name
    yield f"    Timestamp: {headers.file['TimeDateStamp']:X}"
    yield f"  SizeOfImage: {headers.optional['SizeOfImage']:X}"
    pdb = headers.code_view
    if pdb is None:
        yield "          pdb: not in the dump, or there is none"
    else:
        yield f"          pdb: {pdb.pdb_path}"
        yield f"      pdb sig: {str(pdb.guid).upper()}"
        yield f"          age: {pdb.age:x}"
    yield ""
    if loaded is not None and pdb is not None:
        yield f"Loaded: {loaded}"
        yield ""
        yield f"MATCH: {pdb.pdb_name} and {module.image_name}"
    else:
        yield f"{module.image_name}: {status}"
