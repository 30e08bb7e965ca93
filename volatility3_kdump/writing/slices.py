"""Slices: dumps of only those pages that some commands read, and copies of dumps without what is secret.

A slice of a dump of physical memory is a dump of type 6. A small memory dump is copied, since it holds little else.
"""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volatility3_kdump.dump import PAGE_SIZE, CrashDump, DumpType
from volatility3_kdump.dump.slices import FRAGMENTS_TAG, TAG, SliceNote, packed_fragments
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.version import __version__
from volatility3_kdump.writing.crash_dump import Plan, Selection, plan
from volatility3_kdump.writing.kernel_pages import kernel_pages
from volatility3_kdump.writing.secrets import RULES, secrets_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from volatility3_kdump.dump.recording import Recorder
    from volatility3_kdump.progress import Progress
    from volatility3_kdump.target import Target

#: Says why bytes must not be in a dump that is handed on; ``None`` where they may.
Forbidden = Callable[[bytes], "str | None"]

_PAGE_SHIFT = 12
_PHYSICAL = -1
#: Pages of one piece that secrets are looked for in; the last is the first of the next piece.
_PAGES_AT_ONCE = 1024
_LARGEST_TAIL = 256 << 20
_FILE_HEADER = struct.Struct("<8sII")
_BLOB_HEADER = struct.Struct("<I16sIII")
_BLOB_FILE = b"DumpBlob"


@dataclass
class Scrubbed:
    """What scrubbing did: how often each rule found something, how many pages were left out, what could not be done."""

    times: Counter[str] = field(default_factory=Counter)
    pages_left_out: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Slice:
    """A slice to be written with :func:`~volatility3_kdump.writing.crash_dump.write`, and what was scrubbed of it."""

    plan: Plan
    note: SliceNote
    scrubbed: Scrubbed | None


def plan_slice(
    target: Target,
    recorder: Recorder,
    commands: Sequence[str],
    scrub: bool = False,
    forbidden: Forbidden | None = None,
    progress: Progress | None = None,
) -> Slice:
    """The slice of what a recorder saw being read; ``commands`` are what read it, for its note.

    ``scrub`` leaves out user mode's pages and blanks what :mod:`~volatility3_kdump.writing.secrets` names. Raises
    :class:`KdumpError` where it cannot be written, or where ``forbidden`` objects to some of it.
    """
    dump = target.dump
    assert dump.pages is not None
    kept = recorder.pages(dump.pages)
    fragments = recorder.fragments
    scrubbed = Scrubbed() if scrub else None
    changes: dict[int, bytes] = {}
    kernel = None
    if scrubbed is not None:
        kernel = kernel_pages(target, len(kept), progress)
        scrubbed.pages_left_out = int((kept & ~kernel).sum())
        kept &= kernel
    tail = _tail_of(dump) + _packed_fragments(fragments, kept, kernel)
    if scrubbed is not None:
        changes, tail = _scrub(target, kept, tail, scrubbed, progress)
    note = SliceNote(
        target.name,
        tuple(commands),
        int(kept.sum()),
        dump.pages.present,
        tuple(RULES) if scrub else (),
        f"kdump {__version__}",
    )
    if forbidden is not None:
        _refuse(target, kept, changes, tail, forbidden)
    comment = f"Slice of {note.pages:,} pages by kdump {__version__}, not a whole dump"
    selection = Selection(kept, changes, _with_note(tail, note), comment)
    return Slice(plan(target, DumpType.BITMAP_KERNEL, progress, selection), note, scrubbed)


# scrubbing ------------------------------------------------------------------------------------------------------------


def _scrub(
    target: Target, kept: NDArray[np.bool_], tail: bytes, scrubbed: Scrubbed, progress: Progress | None
) -> tuple[dict[int, bytes], bytes]:
    """What takes the place of pages that have secrets, and of the tagged data."""
    runs = [piece for run in _runs(target, kept) for piece in _pieces(run)]
    secrets = secrets_of(target, (_bytes_of(target, run, {}) for run in runs))
    pages: dict[int, bytes] = {}
    for number, run in enumerate(runs):
        if progress is not None:
            progress(100.0 * number / len(runs), "blanking what is secret")
        data = bytearray(_bytes_of(target, run, pages))
        times = secrets.blank(data)
        if not times:
            continue
        scrubbed.times += times
        for index, pfn in enumerate(run):
            pages[pfn << _PAGE_SHIFT] = bytes(data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])
    behind = bytearray(tail)
    scrubbed.times += secrets.blank(behind)
    return pages, bytes(behind)


def _runs(target: Target, kept: NDArray[np.bool_]) -> Iterator[list[int]]:
    """The kept page frames as the kernel's addresses have them one after another: a string may lie across two."""
    import numpy as np

    layer = target.context.layers[target.layer_name]
    space = layer.address_space
    half = 1 << space.mode.address_bits - 1
    seen = np.zeros(len(kept), np.bool_)
    run: list[int] = []
    following = -1
    for batch in space.batches(half, 2 * half):
        frames = batch.places >> _PAGE_SHIFT
        wanted = (batch.which == _PHYSICAL) & (frames < len(kept))
        for address, frame, size in zip(
            batch.addresses[wanted].tolist(), frames[wanted].tolist(), batch.sizes[wanted].tolist(), strict=True
        ):
            for index in np.flatnonzero(kept[frame : frame + (size >> _PAGE_SHIFT)]).tolist():
                at = address + (index << _PAGE_SHIFT)
                if at != following and run:
                    yield run
                    run = []
                run.append(frame + index)
                seen[frame + index] = True
                following = at + PAGE_SIZE
    if run:
        yield run
    # Tables of other address spaces, and pages that the kernel maps nowhere at present.
    yield from ([pfn] for pfn in np.flatnonzero(kept & ~seen).tolist())


def _pieces(run: list[int]) -> Iterator[list[int]]:
    step = _PAGES_AT_ONCE - 1
    for start in range(0, max(len(run) - 1, 1), step):
        yield run[start : start + _PAGES_AT_ONCE]


def _bytes_of(target: Target, run: Sequence[int], changed: dict[int, bytes]) -> bytes:
    dump = target.dump
    assert dump.pages is not None
    parts = []
    for pfn in run:
        data = changed.get(pfn << _PAGE_SHIFT)
        if data is None:
            offset = dump.pages.offset_of(pfn)
            data = b"" if offset is None else dump.source.read(offset, PAGE_SIZE)
        parts.append(data.ljust(PAGE_SIZE, b"\0"))
    return b"".join(parts)


def scrub_copy(target: Target, forbidden: Forbidden | None = None) -> tuple[bytes, Scrubbed]:
    """A small memory dump without what is secret, byte for byte otherwise. Raises :class:`KdumpError`."""
    source = target.dump.source
    if source.size > _LARGEST_TAIL:
        raise KdumpError(f"{target.name}: a small memory dump of {source.size:,} bytes is none")
    data = bytearray(source.read(0, source.size))
    start = target.header.header_size
    secrets = secrets_of(target, [bytes(data[start:])])
    body = data[start:]
    scrubbed = Scrubbed()
    scrubbed.times += secrets.blank(body)
    scrubbed.notes.append("a small memory dump holds few pages of user mode: the user stack, if there is one, is kept")
    data[start:] = body
    if forbidden is not None and (reason := forbidden(bytes(data))):
        raise KdumpError(f"{target.name}: {reason}: nothing is written")
    return bytes(data), scrubbed


def _refuse(
    target: Target, kept: NDArray[np.bool_], changes: dict[int, bytes], tail: bytes, forbidden: Forbidden
) -> None:
    for run in (piece for whole in _runs(target, kept) for piece in _pieces(whole)):
        reason = forbidden(_bytes_of(target, run, changes))
        if reason:
            raise KdumpError(f"{target.name}: {reason}, in page {run[0]:#x} or behind it: nothing is written")
    reason = forbidden(tail)
    if reason:
        raise KdumpError(f"{target.name}: {reason}, in the tagged data: nothing is written")


# tagged data ----------------------------------------------------------------------------------------------------------


def _tail_of(dump: CrashDump) -> bytes:
    """The tagged data of a dump; empty where there is none, or too much of it."""
    blobs = [blob for blob in dump.tagged if blob.tag not in (TAG, FRAGMENTS_TAG)]
    if sum(blob.size for blob in blobs) > _LARGEST_TAIL:
        return b""
    return b"".join(_packed(blob.tag, dump.source.read(blob.offset, blob.size)) for blob in blobs)


def _packed_fragments(
    fragments: Mapping[int, bytes], kept: NDArray[np.bool_], allowed: NDArray[np.bool_] | None
) -> bytes:
    """The blob of the fragments of pages that are not kept, but may be; empty where there are none."""
    wanted = {}
    for address, data in fragments.items():
        frame = address >> _PAGE_SHIFT
        stored = frame < len(kept) and kept[frame]
        if not stored and (allowed is None or (frame < len(allowed) and allowed[frame])):
            wanted[address] = data
    return _packed(FRAGMENTS_TAG, packed_fragments(wanted)) if wanted else b""


def _packed(tag: uuid.UUID, data: bytes) -> bytes:
    return _BLOB_HEADER.pack(_BLOB_HEADER.size, tag.bytes_le, len(data), 0, 0) + data


def _with_note(tail: bytes, note: SliceNote) -> bytes:
    """Tagged data with the note of a slice behind the rest."""
    return _FILE_HEADER.pack(_BLOB_FILE, _FILE_HEADER.size, 0) + tail + _packed(TAG, note.packed())
