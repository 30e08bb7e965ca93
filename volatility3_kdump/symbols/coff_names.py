"""Names of drivers that gcc, clang or Rust's compiler made: from the COFF symbol table of the image file, or of the
file that its debug information was split off to, and functions from DWARF where the extra ``dwarf`` is installed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from volatility3_kdump.images.coff import CoffFile, checksum
from volatility3_kdump.images.image_files import FileImage
from volatility3_kdump.stores.paths import SearchPath, safe_file_name
from volatility3_kdump.symbols.pdb.undecorate import undecorate

_LEGACY = re.compile(r"_ZN.+17h[0-9a-f]{16}E(\.llvm\.\d+)?")
_HASH = re.compile(r"::h[0-9a-f]{16}$")
_LARGEST = 1 << 28
#: Bytes of debug information above which reading it would take minutes.
_LARGEST_DWARF = 16 << 20
_SECTIONS = ("info", "abbrev", "str", "line", "line_str", "ranges", "rnglists", "addr", "str_offsets")


def names_of(image: FileImage, path: SearchPath, problems: list[str]) -> tuple[str, list[tuple[int, str]]] | None:
    """The file that names the places of an image, and (RVA, name) sorted; ``None`` where no file does.

    A file with split debug information is used if its CRC is that of the image's ``.gnu_debuglink``.
    """
    file = CoffFile(image.data)
    found = _names(file, image)
    if found:
        return str(image.path), found
    link = file.debug_link()
    name = safe_file_name(link[0]) if link is not None else None
    if link is None or name is None:
        return None
    for candidate in path.files(name, None):
        data = _content(candidate)
        if data is None or checksum(data) != link[1]:
            problems.append(f"{candidate}: is not the debug file of {image.path.name}: its CRC is another; refused")
            continue
        found = _names(CoffFile(data), image)
        if found:
            return str(candidate), found
    return None


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError:
        return None
    return data if len(data) <= _LARGEST else None


def _names(file: CoffFile, image: FileImage) -> list[tuple[int, str]]:
    # Functions first: labels and sections share their addresses.
    ranked = [(rva, not function, demangled(name, image.width)) for rva, name, function in file.symbols()]
    known = {rva for rva, data, _ in ranked if not data}
    for rva, name in dwarf_functions(file, image.headers.preferred_base):
        if rva not in known:
            ranked.append((rva, False, demangled(name, image.width)))
    return [(rva, name) for rva, _, name in sorted(set(ranked))]


def demangled(name: str, pointer_size: int) -> str:
    """A name as its programmer wrote it: Rust's of both schemes where the extra ``dwarf`` is installed, and C's."""
    if name.startswith("_R") or _LEGACY.fullmatch(name):
        demangle = _rust()
        if demangle is not None:
            try:
                return _HASH.sub("", demangle(name))
            except Exception:  # the library raises what it likes for what it does not understand
                return name
        return name
    return undecorate(name, pointer_size) if pointer_size == 4 or name.startswith("?") else name


@functools.lru_cache(maxsize=1)
def _rust() -> Callable[[str], str] | None:
    try:
        from rust_demangler import demangle
    except ImportError:
        return None
    return demangle  # type: ignore[no-any-return]


def dwarf_functions(file: CoffFile, base: int) -> Iterator[tuple[int, str]]:
    """(RVA, name) of the functions in a file's DWARF; nothing without it, or without pyelftools.

    ``base`` is the image's preferred base, which addresses in DWARF have added.
    """
    sections = {name: file.content(f".debug_{name}") for name in _SECTIONS}
    if not sections["info"] or not sections["abbrev"] or len(sections["info"]) > _LARGEST_DWARF:
        return
    try:
        from elftools.common.exceptions import DWARFError, ELFError
        from elftools.dwarf.dwarfinfo import DwarfConfig, DWARFInfo
    except ImportError:
        return
    try:
        information = DWARFInfo(
            config=DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8),
            **{name: _described(sections, name) for name in _parameters(DWARFInfo)},
        )
        for unit in information.iter_CUs():
            for entry in unit.iter_DIEs():
                if entry.tag != "DW_TAG_subprogram" or "DW_AT_low_pc" not in entry.attributes:
                    continue
                named = entry.attributes.get("DW_AT_linkage_name") or entry.attributes.get("DW_AT_name")
                address = entry.attributes["DW_AT_low_pc"].value
                if named is not None and isinstance(named.value, bytes) and address > base:
                    yield address - base, named.value.decode("utf-8", "replace")
    except (DWARFError, ELFError, KeyError, ValueError, TypeError, IndexError, AssertionError, RecursionError):
        return  # what was read until here is sound


def _parameters(information: type[Any]) -> list[str]:
    """The sections that this version of pyelftools takes: ``debug_info_sec`` and so on."""
    import inspect

    return [name for name in inspect.signature(information.__init__).parameters if name.endswith("_sec")]


def _described(sections: dict[str, bytes | None], parameter: str) -> Any:
    import io

    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor

    name = parameter.removesuffix("_sec")
    content = sections.get(name.removeprefix("debug_")) if name.startswith("debug_") else None
    if content is None:
        return None
    return DebugSectionDescriptor(io.BytesIO(content), f".{name}", None, len(content), 0)
