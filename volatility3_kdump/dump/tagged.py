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
#: How much of a blob is looked at for its own name.
_HEAD = 0x420
#: Blobs of the WPP recorder start with the component's name in 28 bytes, then comes this mark.
_RECORDER_NAME, _RECORDER = 0x1C, b"WPLg"
_IO_TRIAGE = b"IoTriageDumpData\0"


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


def own_name(data: bytes) -> str | None:
    """What a blob says of itself in its first bytes; ``None`` where they are no name.

    The WPP recorder writes the component's name and ``WPLg``; others the name of an image, by itself or behind version
    and size, or a signature of four letters. Found on real small memory dumps. ``data`` may be cut off: of a name
    that does not end in it the beginning is told.
    """
    component = _ascii(data[:_RECORDER_NAME])
    if data[_RECORDER_NAME : _RECORDER_NAME + 4] == _RECORDER:
        return f"WPP recorder log{f' of {component}' if component else ''}"
    if component is not None and len(component) > _SIGNATURE and not any(data[_RECORDER_NAME : _RECORDER_NAME + 8]):
        return f"WPP recorder of {component}"
    if _IO_TRIAGE in data:
        return "I/O triage data (IoTriageDumpData)"
    for start in (0, 8):
        image = data[start : len(data) & ~1].decode("utf-16-le", errors="replace").split("\0", 1)[0]
        if len(image) <= _SIGNATURE or not image.isprintable():
            continue
        if image.startswith("\\") or image.lower().endswith((".sys", ".exe", ".dll")):
            whole = start + 2 * len(image) < _HEAD
            kind = "image path" if image.startswith("\\") else "image"
            return f"{kind} {image}" if whole else f"{kind} that begins with {image}"
    for start in (0, _BEHIND_SIZES):
        signature = data[start : start + _SIGNATURE]
        if start and int.from_bytes(data[4:8], "little") < _BEHIND_SIZES:
            continue
        if len(signature) == _SIGNATURE and signature.isalnum() and signature.isascii():
            return f"data with the signature {signature.decode('ascii')}"
    return None


#: Where a signature lies behind version, size, version and flags.
_BEHIND_SIZES = 0x10


_SIGNATURE = 4


def _ascii(data: bytes) -> str | None:
    """A name in a field that is filled up with zeros; ``None`` for anything else."""
    letters = data.rstrip(b"\0")
    if not letters or b"\0" in letters or not all(0x20 < byte < 0x7F for byte in letters):
        return None
    return letters.decode("ascii")


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
        name = names.get(str(tag)) or own_name(source.read(offset, min(row.data, _HEAD)))
        if not tag.int and not row.data:
            name = "nothing: neither tag nor data"
        blobs.append(TaggedBlob(len(blobs), tag, offset, row.data, name))
        position = offset + row.data + row.after
    if position > source.size:
        return blobs, [f"tagged data: the padding of the last blob ends at {position:#x}, behind the end of the file"]
    return blobs, []
