"""The system cache: views of 256 KB that the cache manager maps of files, one ``_VACB`` each.

``nt!CcVacbArrays`` points to arrays, each a ``_VACB_ARRAY_HEADER`` with its VACBs behind it; one that maps something
has a shared cache map (Windows Internals, part 2, "Cache virtual memory management").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import Unreadable
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

VIEW_SIZE = 0x40000
_PAGE = 0x1000
#: An array has 4095 VACBs at most; this many arrays map 1 TB.
_MOST_ARRAYS, _MOST_VACBS = 1 << 10, 1 << 12
_REFERENCES = 0xF


@dataclass(frozen=True)
class CachedFile:
    """A file with views in the cache; ``valid`` are their mapped pages, ``None`` where no page tables say it.

    ``dirty`` are pages that are still to be written; ``control_area`` is that of the data section, 0 for none.
    ``name`` is ``None`` where it is not in the dump, empty for metadata without a name.
    """

    cache_map: int
    file: int | None
    control_area: int | None
    name: str | None
    size: int | None
    dirty: int | None
    views: tuple[int, ...]
    valid: int | None


@dataclass(frozen=True)
class FileCache:
    """The cache: the VACBs in all and those that map nothing, the files, and what could not be read, one line each."""

    vacbs: int
    inactive: int
    files: tuple[CachedFile, ...]
    problems: tuple[str, ...]


def file_cache(target: Target) -> FileCache:
    """What the cache maps. Raises a KdumpError without symbols or where the arrays are not in the dump."""
    require_symbols(target, "views of the system cache", "_VACB", "_VACB_ARRAY_HEADER", "_SHARED_CACHE_MAP", names=True)
    problems: list[str] = []
    views: dict[int, list[int]] = {}
    vacbs = inactive = 0
    for base, cache_map in _vacbs(target, problems):
        vacbs += 1
        if cache_map and target.is_kernel_address(cache_map):
            views.setdefault(cache_map, []).append(base or 0)
        else:
            inactive += 1
    files = tuple(_cached_file(target, cache_map, bases) for cache_map, bases in views.items())
    return FileCache(vacbs, inactive, files, tuple(problems))


def _vacbs(target: Target, problems: list[str]) -> Iterator[tuple[int | None, int | None]]:
    """(base address, shared cache map) of every VACB."""
    nt, memory = target.nt, target.memory
    assert nt is not None
    variable, highest = target.symbol("CcVacbArrays"), target.symbol("CcVacbArraysHighestUsedIndex")
    arrays = memory.pointer(variable) if variable else None
    last = memory.unsigned(highest, 4) if highest else None
    if not arrays or last is None or not target.is_kernel_address(arrays):
        place = variable or 0
        raise Unreadable.at(place, "nt!CcVacbArrays", memory.why_unreadable(place))
    if last >= _MOST_ARRAYS:
        problems.append(
            f"nt!CcVacbArraysHighestUsedIndex is {last:#x}, which cannot be: {_MOST_ARRAYS} arrays are read"
        )
    header = nt.reader("_VACB_ARRAY_HEADER", highest="HighestMappedIndex")
    reader = nt.reader("_VACB", base="BaseAddress", map="SharedCacheMap")
    start, stride = nt.size_of("_VACB_ARRAY_HEADER"), nt.size_of("_VACB")
    absent = 0
    for index in range(min(last + 1, _MOST_ARRAYS)):
        array = memory.pointer(arrays + memory.pointer_size * index)
        if array == 0:
            continue
        row = None
        if array is not None and target.is_kernel_address(array):
            row = read_row(memory, header, array)
        if array is None or row is None or row.highest is None:
            absent += 1
            continue
        if row.highest >= _MOST_VACBS:
            problems.append(f"array {index} of VACBs at {array:x} maps up to {row.highest:#x}: it is damaged")
        for number in range(min(row.highest + 1, _MOST_VACBS)):
            vacb = read_row(memory, reader, array + start + number * stride)
            if vacb is None:
                problems.append(f"the VACBs of array {index} are in the dump up to number {number} alone")
                break
            yield vacb.base, vacb.map
    if absent:
        problems.append(f"{absent} arrays of VACBs are not in the dump")


def _cached_file(target: Target, cache_map: int, bases: list[int]) -> CachedFile:
    nt, memory = target.nt, target.memory
    assert nt is not None
    reader = nt.reader(
        "_SHARED_CACHE_MAP",
        file=("FileObjectFastRef.Value", "FileObject"),
        size="FileSize.QuadPart",
        dirty="DirtyPages",
    )
    row = read_row(memory, reader, cache_map)
    file = None if row is None or row.file is None else row.file & ~_REFERENCES
    name = area = None
    if file and target.is_kernel_address(file):
        name = memory.unicode_string(file + nt.offset("_FILE_OBJECT", "FileName"))
        sections = memory.pointer(file + nt.offset("_FILE_OBJECT", "SectionObjectPointer"))
        area = memory.pointer(sections) if sections else None
    size, dirty = (None, None) if row is None else (row.size, row.dirty)
    return CachedFile(cache_map, file, area, name, size, dirty, tuple(bases), _valid_pages(target, bases))


def _valid_pages(target: Target, bases: Iterable[int]) -> int | None:
    """How many pages of some views the page tables map."""
    import numpy as np

    from volatility3_kdump.layers.translation import KdumpTranslation

    layer = target.context.layers[target.layer_name] if target.layer_name is not None else None
    if not isinstance(layer, KdumpTranslation):
        return None
    starts = [base & layer.address_mask for base in bases if target.is_kernel_address(base) and not base % _PAGE]
    steps = np.arange(0, VIEW_SIZE, _PAGE, dtype=np.uint64)
    pages = np.add.outer(np.array(starts, np.uint64), steps).reshape(-1)
    return int(np.count_nonzero(layer.translate_many(pages) >= 0)) if len(pages) else 0
