"""Names of drivers that gcc, clang or Rust's compiler made: from the COFF symbol table of the image file, or of the
file that its debug information was split off to, and functions and lines from DWARF where the extra ``dwarf`` is
installed.
"""

from __future__ import annotations

from pathlib import Path

from volatility3_kdump.images.coff import CoffFile, checksum
from volatility3_kdump.images.image_files import FileImage
from volatility3_kdump.stores.paths import SearchPath, safe_file_name
from volatility3_kdump.symbols.dwarf import dwarf_functions, dwarf_lines
from volatility3_kdump.symbols.lines import LineTable
from volatility3_kdump.symbols.pdb.undecorate import undecorate
from volatility3_kdump.symbols.rust_names import rust_name

_LARGEST = 1 << 28


def names_of(image: FileImage, path: SearchPath, problems: list[str]) -> tuple[str, list[tuple[int, str]]] | None:
    """The file that names the places of an image, and (RVA, name) sorted; ``None`` where no file does.

    A file with split debug information is used if its CRC is that of the image's ``.gnu_debuglink``.
    """
    file = CoffFile(image.data)
    names = _names(file, image)
    if names:
        return str(image.path), names
    link = file.debug_link()
    name = safe_file_name(link[0]) if link is not None else None
    if link is None or name is None:
        return None
    for candidate in path.files(name, None):
        data = _content(candidate)
        if data is None or checksum(data) != link[1]:
            problems.append(f"{candidate}: is not the debug file of {image.path.name}: its CRC is another; refused")
            continue
        names = _names(CoffFile(data), image)
        if names:
            return str(candidate), names
    return None


def lines_of(image: FileImage, origin: Path) -> LineTable | None:
    """The source lines in the file that names an image; ``None`` without any."""
    data = image.data if origin == image.path else _content(origin)
    if data is None:
        return None
    return LineTable(dwarf_lines(CoffFile(data), image.headers.preferred_base)) or None


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
    code = {rva for rva, data, _ in ranked if not data}
    for rva, name in dwarf_functions(file, image.headers.preferred_base):
        if rva not in code:
            ranked.append((rva, False, demangled(name, image.width)))
    return [(rva, name) for rva, _, name in sorted(set(ranked))]


def demangled(name: str, pointer_size: int) -> str:
    """A name as its programmer wrote it: Rust's of both schemes where the extra ``dwarf`` is installed, and C's."""
    rust = rust_name(name)
    if rust is not None:
        return rust
    return undecorate(name, pointer_size) if pointer_size == 4 or name.startswith("?") else name
