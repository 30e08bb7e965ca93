"""All fields of the headers of an image, for those who want to see them: pefile reads them from the bytes in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.pe import CodeView, PeImage, ReadImage, code_view, debug_entries, parse_headers

#: Headers of drivers take one page; some programs take more.
_SIZES = (0x2000, 0x1000, 0x800, 0x400)
_DIRECTORIES = (
    *("Export", "Import", "Resource", "Exception", "Security", "Base Relocation", "Debug", "Description"),
    *("Special", "Thread Storage", "Load Configuration", "Bound Import", "Import Address Table", "Delay Import"),
    *("COR20 Header", "Reserved"),
)


@dataclass(frozen=True)
class Headers:
    """The fields of IMAGE_FILE_HEADER, IMAGE_OPTIONAL_HEADER and of each IMAGE_SECTION_HEADER, by name.

    ``directories`` are (name, RVA, size); ``debug`` are (type, RVA, size, place in the file) of the debug directory,
    ``code_view`` its record of the PDB.
    """

    wide: bool
    file: Mapping[str, int]
    optional: Mapping[str, int]
    sections: tuple[tuple[str, Mapping[str, int]], ...]
    directories: tuple[tuple[str, int, int], ...]
    debug: tuple[tuple[int, int, int, int], ...]
    code_view: CodeView | None
    image: PeImage


def _fields(structure: Any) -> dict[str, int]:
    return {
        name: value
        for keys in structure.__keys__
        for name in keys
        if isinstance(value := getattr(structure, name, None), int)
    }


def read_headers(read: ReadImage, what: str) -> Headers:
    """The headers of an image in memory; ``what`` names it. Raises :class:`KdumpError`."""
    import pefile

    image = parse_headers(read)
    data = next((piece for size in _SIZES if (piece := read(0, size)) is not None), None)
    if image is None or data is None:
        raise KdumpError(f"{what}: its headers are not in the dump, or are no PE headers")
    try:
        parsed = pefile.PE(data=data, fast_load=True)
    except (pefile.PEFormatError, IndexError, ValueError) as error:
        raise KdumpError(f"{what}: its headers are damaged: {error}") from error
    return Headers(
        parsed.OPTIONAL_HEADER.Magic == 0x20B,
        _fields(parsed.FILE_HEADER),
        _fields(parsed.OPTIONAL_HEADER),
        tuple((section.Name.rstrip(b"\0").decode("latin-1"), _fields(section)) for section in parsed.sections),
        tuple(
            (name, *image.directories[index]) if index < len(image.directories) else (name, 0, 0)
            for index, name in enumerate(_DIRECTORIES)
        ),
        tuple(debug_entries(read, image)),
        code_view(read, image),
        image,
    )
