"""Tagged secondary data ("DumpBlob"): blobs that drivers and kernel components add behind the pages or triage data.

A file header is followed by blob headers, each with a GUID, a data size and padding. There is no count: the walk ends
where the file does, or at zeros where a header would be. Checked on real small memory dumps.
"""

from __future__ import annotations

import functools
import uuid
from dataclasses import dataclass

from volatility3_kdump import tables
from volatility3_kdump.dump.source import Source

_MAGIC = b"DumpBlob"
_MOST_BLOBS = 4096


@dataclass(frozen=True)
class TaggedBlob:
    """One blob: its position in the walk, its GUID, where its data lies in the file, and the owner if known."""

    index: int
    tag: uuid.UUID
    offset: int
    size: int
    name: str | None


@functools.lru_cache(maxsize=1)
def tag_names() -> dict[str, str]:
    """Known tag GUIDs (lower case) and what they hold; from ``symbols/kdump/tags.jsonl``."""
    return {record["guid"]: record["name"] for record in tables.json_lines("tags.jsonl")}


def tagged_blobs(source: Source, start: int) -> tuple[list[TaggedBlob], list[str]]:
    """The blobs from file offset ``start`` on, and what was wrong with them.

    No blobs and no complaint where the file simply ends at ``start``.
    """
    layouts = tables.structures()
    file_header_size = layouts.size_of("_DUMP_BLOB_FILE_HEADER")
    data = source.read(start, file_header_size)
    if len(data) < file_header_size or data[:8] != _MAGIC:
        return [], []
    file_header = layouts.reader("_DUMP_BLOB_FILE_HEADER", size="HeaderSize").unpack(data)
    reader = layouts.reader(
        "_DUMP_BLOB_HEADER", size="HeaderSize", tag="Tag", data="DataSize", before="PrePad", after="PostPad"
    )
    blobs: list[TaggedBlob] = []
    names = tag_names()
    position = start + max(file_header.size, file_header_size)
    while position + reader.size <= source.size:
        data = source.read(position, reader.size)
        if not any(data):
            # Some writers leave zeros between the last blob and the end of the file.
            return blobs, []
        row = reader.unpack(data)
        if row.size < reader.size:
            return blobs, [
                f"tagged data: blob header at offset {position:#x} says it is {row.size:#x} bytes; the walk stops there"
            ]
        offset = position + row.size + row.before
        if offset + row.data > source.size:
            return blobs, [
                f"tagged data: blob at offset {position:#x} ends at {offset + row.data:#x}, behind the end of the file"
            ]
        if len(blobs) >= _MOST_BLOBS:
            return blobs, [f"tagged data: more than {_MOST_BLOBS} blobs; the rest is not listed"]
        tag = uuid.UUID(bytes_le=row.tag)
        blobs.append(TaggedBlob(len(blobs), tag, offset, row.data, names.get(str(tag))))
        position = offset + row.data + row.after
    if position > source.size:
        return blobs, [f"tagged data: the padding of the last blob ends at {position:#x}, behind the end of the file"]
    return blobs, []
