"""Functions and source lines in the DWARF of image files that gcc, clang or Rust's compiler made.

pyelftools reads it, from sections that are found here; without it (the extra ``dwarf``) there are none.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from typing import Any

from volatility3_kdump.images.coff import CoffFile
from volatility3_kdump.symbols.lines import SourceLine

#: Bytes of debug information above which reading it would take minutes.
_LARGEST = 16 << 20
_SECTIONS = (
    *("info", "abbrev", "str", "line", "line_str", "ranges", "rnglists", "loc", "loclists", "addr", "str_offsets"),
)
_LINE_STRINGS = ".debug_line_str"
#: From this version on, the list of files begins with the source file itself.
_FILES_FROM_ZERO = 5
_MOST_NAMES = 1 << 16
#: Where the name of a function is that is an instance, or the definition of what is declared elsewhere.
_ELSEWHERE = ("DW_AT_abstract_origin", "DW_AT_specification")
_MOST_STEPS = 4


def dwarf_functions(file: CoffFile, base: int) -> Iterator[tuple[int, str]]:
    """(RVA, name) of the functions in a file's DWARF; nothing without it, or without pyelftools.

    ``base`` is the image's preferred base, which addresses in DWARF have added.
    """
    information = _information(file, base)
    if information is None:
        return
    try:
        for unit in information.iter_CUs():
            for entry in unit.iter_DIEs():
                if entry.tag != "DW_TAG_subprogram" or "DW_AT_low_pc" not in entry.attributes:
                    continue
                name = _name(entry)
                address = entry.attributes["DW_AT_low_pc"].value
                if name is not None and address > base:
                    yield address - base, name
    except _damage():
        return  # what was read until here is sound


def _name(entry: Any) -> str | None:
    """The name of a function, for the linker if it has one, by itself or by what it is an instance of."""
    for _ in range(_MOST_STEPS):
        attributes = entry.attributes
        named = attributes.get("DW_AT_linkage_name") or attributes.get("DW_AT_name")
        if named is not None:
            return named.value.decode("utf-8", "replace") if isinstance(named.value, bytes) else None
        reference = next((key for key in _ELSEWHERE if key in attributes), None)
        if reference is None:
            return None
        entry = entry.get_DIE_from_attribute(reference)
    return None


def dwarf_lines(file: CoffFile, base: int) -> Iterator[tuple[int, SourceLine | None]]:
    """(RVA, line) where a line begins in a file's DWARF, and (RVA, ``None``) where a stretch of code ends."""
    information = _information(file, base)
    if information is None:
        return
    try:
        for unit in information.iter_CUs():
            program = information.line_program_for_CU(unit)
            if program is None:
                continue
            directory = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
            names = _Files(program, b"" if directory is None else directory.value)
            for entry in program.get_entries():
                state = entry.state
                if state is None or state.address <= base:
                    continue  # code that the linker threw away keeps addresses from zero on
                name = None if state.end_sequence or not state.line else names.name(state.file)
                yield state.address - base, None if name is None else SourceLine(name, state.line)
    except _damage():
        return


class _Files:
    """The files of a line program, as paths."""

    def __init__(self, program: Any, directory: bytes) -> None:
        header = program.header
        self._first = 0 if header.version >= _FILES_FROM_ZERO else 1
        self._files = header["file_entry"]
        listed = list(header["include_directory"])
        # Before version 5 the directory that it was compiled in is not listed.
        self._directories = listed if self._first == 0 else [directory, *listed]
        self._known: dict[int, str | None] = {}

    def name(self, number: int) -> str | None:
        if number not in self._known and len(self._known) < _MOST_NAMES:
            self._known[number] = self._made(number)
        return self._known.get(number)

    def _made(self, number: int) -> str | None:
        index = number - self._first
        if not 0 <= index < len(self._files):
            return None
        entry = self._files[index]
        if not isinstance(entry.name, bytes):
            return None
        place = entry.dir_index
        directory = (self._directories[place] if 0 <= place < len(self._directories) else b"") or b""
        if place and self._directories and not _rooted(directory):
            directory = _joined(self._directories[0] or b"", directory)
        name = _joined(directory, entry.name).decode("utf-8", "replace")
        return name if name.isprintable() else None


def _rooted(path: bytes) -> bool:
    return path[:1] in (b"/", b"\\") or path[1:2] == b":"


def _joined(directory: bytes, name: bytes) -> bytes:
    if not directory or _rooted(name):
        return name
    separator = b"\\" if b"\\" in directory and b"/" not in directory else b"/"
    return directory.rstrip(b"/\\") + separator + name


def _damage() -> tuple[type[Exception], ...]:
    """What pyelftools raises for DWARF that is damaged."""
    from elftools.common.exceptions import DWARFError, ELFError

    return (
        *(DWARFError, ELFError, KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError),
        *(RecursionError, OverflowError),
    )


class _LineStrings(io.BytesIO):
    """The strings of line programs.

    clang 14 has the linker write addresses, cut to 32 bits, where their offsets belong (DWARF 5).
    """

    def __init__(self, content: bytes, address: int) -> None:
        super().__init__(content)
        self._size = len(content)
        self._address = address & 0xFFFFFFFF

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset >= self._size and 0 <= offset - self._address < self._size:
            offset -= self._address
        return super().seek(offset, whence)


def _information(file: CoffFile, base: int) -> Any:
    """A file's DWARF, ready to be read; ``None`` without it, or without pyelftools."""
    entries = file.content(".debug_info")
    if not entries or not file.content(".debug_abbrev") or len(entries) > _LARGEST:
        return None
    try:
        from elftools.dwarf.dwarfinfo import DwarfConfig, DWARFInfo
    except ImportError:
        return None
    try:
        return DWARFInfo(
            config=DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8),
            **{name: _described(file, base, name) for name in _parameters(DWARFInfo)},
        )
    except _damage():
        return None


def _parameters(information: type[Any]) -> list[str]:
    """The sections that this version of pyelftools takes: ``debug_info_sec`` and so on."""
    return [name for name in inspect.signature(information.__init__).parameters if name.endswith("_sec")]


def _described(file: CoffFile, base: int, parameter: str) -> Any:
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor

    name = f".{parameter.removesuffix('_sec')}"
    section = next((each for each in file.sections if each.name == name), None)
    content = file.content(name)
    if section is None or content is None or name.removeprefix(".debug_") not in _SECTIONS:
        return None
    stream = _LineStrings(content, base + section.address) if name == _LINE_STRINGS else io.BytesIO(content)
    return DebugSectionDescriptor(stream, name, None, len(content), 0)
