"""A crash dump of an opened dump or memory image: which pages, in which layout, and the writing of it.

Pages are copied as they are read, so that memory does not grow with the dump.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from volatility3_kdump.dump import DumpType, Extent, extents
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.writing.changes import changes
from volatility3_kdump.writing.header import LIVE, bug_check_of, header_of, header_size, most_runs
from volatility3_kdump.writing.kernel_pages import kernel_pages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from volatility3_kdump.progress import Progress
    from volatility3_kdump.target import Target

TYPES = (DumpType.FULL, DumpType.BITMAP_FULL, DumpType.BITMAP_KERNEL)
#: Machines whose dumps are written.
_ARCHITECTURES = ("x64", "arm64", "x86")
_PAGE, _PAGE_SHIFT = 0x1000, 12
_BITMAP_HEADER = struct.Struct("<4s4s24xQQQ")
_BITS_OF_WORD = 64
_PAGES_AT_ONCE = 512
_MOST_BITS = 1 << 34


@dataclass(frozen=True)
class Selection:
    """What is to be written in place of what a dump of the type would hold.

    ``pages`` says of each page frame whether it is wanted. ``changes`` are bytes by physical address, ``behind`` all
    tagged data, ``comment`` the header's comment.
    """

    pages: NDArray[np.bool_]
    changes: dict[int, bytes]
    behind: bytes
    comment: str


@dataclass(frozen=True)
class Plan:
    """A dump to be written: ``preamble`` is all in front of the pages, ``stretches`` the pages in their order.

    ``changes`` are bytes by physical address that are written in place of the image's; ``tail`` is the part of the file
    with tagged data, as offset and bytes, and ``behind`` what follows it. ``notes`` says what was changed or could not
    be, one line each.
    """

    target: Target
    dump_type: int
    preamble: bytes
    stretches: list[Extent]
    pages: int
    changes: dict[int, bytes]
    tail: tuple[int, int]
    size: int
    bug_check: int
    notes: list[str] = field(default_factory=list)
    behind: bytes = b""


def plan(target: Target, dump_type: int, progress: Progress | None = None, selection: Selection | None = None) -> Plan:
    """What a dump of a type would be, or one of a selection. Raises :class:`KdumpError` where it cannot be written."""
    pages = target.dump.pages
    if pages is None:
        raise KdumpError(f"{target.name}: a small memory dump holds no physical memory, of which a dump could be made")
    bits, architecture = target.header.bits, target.header.architecture
    if architecture not in _ARCHITECTURES:
        raise KdumpError(f"{target.name}: dumps of x64, ARM64 and x86 machines are written, not of {architecture}")
    # Readers stop at whole words of a bitmap.
    frames = -(-((pages.highest or 0) + 1) // _BITS_OF_WORD) * _BITS_OF_WORD
    if frames > _MOST_BITS:
        raise KdumpError(f"{target.name}: the highest page frame is {frames:#x}: a bitmap of it would be too large")
    stretches = list(_chosen(target, dump_type, frames, progress, selection))
    count = sum(stretch.count for stretch in stretches)
    if not count:
        raise KdumpError(f"{target.name}: no page would be in a dump of type {dump_type}")
    runs = _runs(stretches)
    if dump_type == DumpType.FULL:
        room = most_runs(bits)
        if len(runs) > room:
            raise KdumpError(
                f"{target.name}: its memory lies in {len(runs):,} runs, and a dump of type 1 has room for {room}: "
                "--type 5 holds the same pages"
            )
        table = b""
    else:
        magic = b"FDMP" if dump_type == DumpType.BITMAP_FULL else b"SDMP"
        table = _bitmap(stretches, frames, count, magic, header_size(bits))
    tail = _tail(target) if selection is None else (0, 0)
    behind = b"" if selection is None else selection.behind
    size = header_size(bits) + len(table) + (count << _PAGE_SHIFT) + tail[1] + len(behind)
    changed = changes(target)
    code, _ = bug_check_of(target.header)
    notes = list(changed.notes)
    if target.header.bug_check_code is None:
        why = "the machine had not crashed" if target.header.crashed is False else "no bug check is known"
        notes.insert(0, f"bug check {LIVE:x} (LIVE_SYSTEM_DUMP) is written: {why}")
    listed = runs if dump_type == DumpType.FULL else []
    preamble = header_of(target, dump_type, listed, size, None if selection is None else selection.comment) + table
    pieces = {**changed.pieces, **({} if selection is None else selection.changes)}
    return Plan(target, dump_type, preamble, stretches, count, pieces, tail, size, code, notes, behind)


def _chosen(
    target: Target, dump_type: int, frames: int, progress: Progress | None, selection: Selection | None
) -> Iterator[Extent]:
    """The pages of the dump, as stretches that are contiguous in the file they come from."""
    pages = target.dump.pages
    assert pages is not None
    stored = extents(pages, 0, frames)
    if selection is None and dump_type != DumpType.BITMAP_KERNEL:
        yield from stored
        return
    import numpy as np

    chosen = kernel_pages(target, frames, progress) if selection is None else selection.pages
    for stretch in stored:
        assert stretch.offset is not None
        part = chosen[stretch.pfn : stretch.pfn + stretch.count]
        edges = np.flatnonzero(np.diff(np.concatenate(([0], part.view(np.int8), [0]))))
        for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield Extent(stretch.pfn + first, stop - first, stretch.offset + (first << _PAGE_SHIFT))


def _runs(stretches: list[Extent]) -> list[tuple[int, int]]:
    """First page frame and number of pages of what follows one another, wherever it is stored."""
    runs: list[tuple[int, int]] = []
    for stretch in stretches:
        if runs and runs[-1][0] + runs[-1][1] == stretch.pfn:
            runs[-1] = runs[-1][0], runs[-1][1] + stretch.count
        else:
            runs.append((stretch.pfn, stretch.count))
    return runs


def _bitmap(stretches: list[Extent], frames: int, count: int, magic: bytes, begin: int) -> bytes:
    """BITMAP_DUMP behind a header that ends at ``begin``, its bitmap, and the gap before the first page."""
    import numpy as np

    bits = np.zeros(-(-frames // 8) * 8, np.uint8)
    for stretch in stretches:
        bits[stretch.pfn : stretch.pfn + stretch.count] = 1
    bitmap = np.packbits(bits, bitorder="little").tobytes()
    end = begin + _BITMAP_HEADER.size + len(bitmap)
    first = -(-end // _PAGE) * _PAGE
    return _BITMAP_HEADER.pack(magic, b"DUMP", first, count, frames) + bitmap + bytes(first - end)


def _tail(target: Target) -> tuple[int, int]:
    """Where a crash dump has tagged data, and how much of it."""
    dump = target.dump
    if dump.pages is None or target.header.container is not None or not dump.tagged:
        return 0, 0
    return dump.pages.end, max(0, dump.source.size - dump.pages.end)


def write(planned: Plan, path: Path, replace: bool = False, progress: Progress | None = None) -> None:
    """Write a dump. A file that is there is kept unless it is to be replaced; half a dump never stays.

    Raises :class:`KdumpError` for a disk that is full, a file that is there, and an image that cannot be read.
    """
    _write(planned.target, path, replace, planned.size, lambda stream: _stream(planned, stream, progress))


def write_bytes(target: Target, data: bytes, path: Path, replace: bool = False) -> None:
    """Write a dump that is whole already, made of a target, as :func:`write` does."""

    def fill(stream: BinaryIO) -> None:
        stream.write(data)

    _write(target, path, replace, len(data), fill)


def _write(target: Target, path: Path, replace: bool, size: int, fill: Callable[[BinaryIO], None]) -> None:
    _refuse(target, path, replace, size)
    written = path.with_name(f"{path.name}.{os.getpid()}.part") if replace else path
    begun = False
    try:
        with written.open("xb") as stream:
            begun = True
            fill(stream)
        if replace:
            written.replace(path)
        begun = False
    except FileExistsError as error:
        raise KdumpError(f"{written}: is there already: --force replaces it") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise KdumpError(f"{path}: the disk is full: the dump needs {size:,} bytes") from error
        raise KdumpError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if begun:
            written.unlink(missing_ok=True)


def _refuse(target: Target, path: Path, replace: bool, size: int) -> None:
    if path.exists() or path.is_symlink():
        if not replace:
            raise KdumpError(f"{path}: is there already: --force replaces it")
        if not path.is_file():
            raise KdumpError(f"{path}: is no ordinary file")
        source = target.dump.source.name
        if os.path.exists(source) and os.path.samefile(source, path):
            raise KdumpError(f"{path}: is what the dump is made of")
    try:
        free = shutil.disk_usage(path.absolute().parent).free
    except OSError as error:
        raise KdumpError(f"{path}: cannot be written: {error.strerror or error}") from error
    if free < size:
        raise KdumpError(f"{path}: the disk has {free:,} bytes left, and the dump needs {size:,}")


def _stream(planned: Plan, stream: BinaryIO, progress: Progress | None) -> None:
    stream.write(planned.preamble)
    source = planned.target.dump.source
    empty = bytes(_PAGES_AT_ONCE << _PAGE_SHIFT)
    done = 0
    for stretch in planned.stretches:
        assert stretch.offset is not None
        for first in range(0, stretch.count, _PAGES_AT_ONCE):
            count = min(_PAGES_AT_ONCE, stretch.count - first)
            size = count << _PAGE_SHIFT
            data = source.read(stretch.offset + (first << _PAGE_SHIFT), size)
            if len(data) != size:
                raise KdumpError(f"{planned.target.name}: page {stretch.pfn + first:#x} cannot be read")
            data = changed_pages(planned.changes, stretch.pfn + first << _PAGE_SHIFT, data)
            if data == empty[:size]:
                # Unused memory takes no room on disks that can leave it out.
                stream.seek(size, os.SEEK_CUR)
            else:
                stream.write(data)
            done += count
            if progress is not None:
                progress(100.0 * done / planned.pages, "writing the dump")
    offset, left = planned.tail
    while left:
        data = source.read(offset, min(left, _PAGES_AT_ONCE << _PAGE_SHIFT))
        if not data:
            break
        stream.write(data)
        offset, left = offset + len(data), left - len(data)
    stream.write(planned.behind)
    stream.truncate(stream.tell())


def changed_pages(pieces: dict[int, bytes], address: int, data: bytes) -> bytes:
    """Pages with what is changed in them."""
    inside = [place for place in pieces if address <= place < address + len(data)]
    if not inside:
        return data
    copy = bytearray(data)
    for place in inside:
        copy[place - address : place - address + len(pieces[place])] = pieces[place]
    return bytes(copy)
