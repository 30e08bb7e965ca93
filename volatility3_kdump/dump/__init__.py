"""The dump file by itself: header, page maps, triage data, tagged data. No Volatility here."""

from __future__ import annotations

import functools
import os
import uuid
from dataclasses import dataclass

from volatility3_kdump.cpu.state import ProcessorState
from volatility3_kdump.dump.facts import Fact, MachineFacts, no_facts
from volatility3_kdump.dump.header import PAGE_SIZE, PHYSICAL_TYPES, DumpHeader, DumpType, parse_header
from volatility3_kdump.dump.io_triage import io_triage_blocks
from volatility3_kdump.dump.pagemap import Extent, PageMap, extents
from volatility3_kdump.dump.read_pagemap import build_page_map
from volatility3_kdump.dump.segments import Segment, SegmentMap
from volatility3_kdump.dump.slices import FRAGMENTS_TAG, LARGEST_FRAGMENTS, SliceNote, parse_fragments, parse_note
from volatility3_kdump.dump.slices import LARGEST as LARGEST_NOTE
from volatility3_kdump.dump.slices import TAG as SLICE_TAG
from volatility3_kdump.dump.source import BytesSource, FileSource, Source
from volatility3_kdump.dump.tagged import TaggedBlob, tagged_blobs
from volatility3_kdump.dump.triage import TriageDriver, TriageDump, UnloadedDriver, parse_triage
from volatility3_kdump.errors import KdumpError, UnsupportedDump

__all__ = [
    "PAGE_SIZE",
    "PHYSICAL_TYPES",
    "BytesSource",
    "CrashDump",
    "DumpHeader",
    "DumpType",
    "Extent",
    "Fact",
    "FileSource",
    "MachineFacts",
    "PageMap",
    "Segment",
    "SegmentMap",
    "Source",
    "TaggedBlob",
    "TriageDriver",
    "TriageDump",
    "UnloadedDriver",
    "extents",
    "no_facts",
    "open_dump",
    "parse_header",
]


@dataclass(frozen=True)
class CrashDump:
    """An opened dump file: its header and either a page map (physical types) or triage data (type 4).

    Or a memory image: then the header is what is known of the machine (:class:`MachineFacts`), and ``processors`` are
    those whose registers the image holds; ``why_no_registers`` says why it holds none.
    """

    source: Source
    header: DumpHeader
    pages: PageMap | None
    triage: TriageDump | None
    processors: tuple[ProcessorState, ...] = ()
    why_no_registers: str = ""

    @functools.cached_property
    def machine_frames(self) -> int:
        """Up to which page frame (exclusive) the machine has memory, whether or not the dump holds it; 0 if unknown.

        From the physical memory descriptor of the header, and from the size of the bitmap: both cover all memory.
        """
        try:
            runs = self.header.runs()
        except KdumpError:
            runs = []
        ends = [run.base_page + run.page_count for run in runs]
        if self.pages is not None:
            ends.append(self.pages.covered)
        return max(ends, default=0)

    @functools.cached_property
    def _tagged(self) -> tuple[list[TaggedBlob], list[str]]:
        start = self.triage.end if self.triage else self.pages.end if self.pages else 0
        return tagged_blobs(self.source, start) if start else ([], [])

    @property
    def tagged(self) -> list[TaggedBlob]:
        """Tagged secondary data; empty when the dump has none."""
        return self._tagged[0]

    @functools.cached_property
    def slice(self) -> SliceNote | None:
        """Of which dump this is a slice; ``None`` for a dump that Windows or somebody else wrote."""
        data = self._blob(SLICE_TAG, LARGEST_NOTE)
        return None if data is None else parse_note(data)

    @functools.cached_property
    def fragments(self) -> dict[int, bytes]:
        """Bytes by physical address that a slice has of pages that it lacks."""
        data = None if self.slice is None else self._blob(FRAGMENTS_TAG, LARGEST_FRAGMENTS)
        return {} if data is None else parse_fragments(data)

    def _blob(self, tag: uuid.UUID, largest: int) -> bytes | None:
        blob = next((blob for blob in self.tagged if blob.tag == tag and blob.size <= largest), None)
        return None if blob is None else self.source.read(blob.offset, blob.size)

    @functools.cached_property
    def io_triage(self) -> dict[int, bytes]:
        """Memory that the kernel added as IoTriageDumpData, by address; empty where there is none."""
        return io_triage_blocks(self.source, self.tagged)

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the file, one line each."""
        own = self.pages.warnings if self.pages else self.triage.warnings if self.triage else ()
        return [*own, *self._tagged[1]]


def open_dump(source: Source | str | os.PathLike[str]) -> CrashDump:
    """Open a crash dump of any type.

    Raises a :class:`~volatility3_kdump.errors.KdumpError` whose text says what is wrong and where: not a crash dump,
    damaged beyond use, encrypted, or of a type that holds no memory.
    """
    if isinstance(source, (str, os.PathLike)):
        try:
            source = FileSource(source)
        except OSError as error:
            raise KdumpError(f"cannot be opened: {error.strerror or error}") from error
    header = parse_header(source)
    where, attributes = ("0xf98", "0x1050") if header.bits == 64 else ("0xf88", "0x8a0")
    if header.encrypted:
        raise UnsupportedDump(
            f"the dump is encrypted (Attributes at offset {attributes} is {header.attributes:#x}, EncryptedDumpData "
            "is set): decrypt it with the key of its machine first"
        )
    if header.dump_type == DumpType.TRIAGE:
        return CrashDump(source, header, None, parse_triage(source, header))
    if header.dump_type in PHYSICAL_TYPES:
        return CrashDump(source, header, build_page_map(source, header), None)
    if header.dump_type == DumpType.HEADER:
        raise UnsupportedDump(f"DumpType at offset {where} is 3: the file holds a header only, no memory")
    shown = "was never set" if header.dump_type is None else f"is {header.dump_type:#x}, which is not a known type"
    raise UnsupportedDump(f"DumpType at offset {where} {shown} (known: 1, 2, 4, 5, 6, 8, 9, 0xa)")
