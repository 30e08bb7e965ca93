"""Black boxes: what the kernel, NTFS, Plug and Play and winlogon keep of the latest events, as tagged data of a dump.

The fields of the boot status data are those that Microsoft documents for ``!blackboxbsd``, at the places where real
small memory dumps have them: boot numbers are those of the header, times lie before the crash. The others have no
published layout. Of them only what names itself is read: times and texts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from volatility3_kdump.dump.source import Source
from volatility3_kdump.dump.tagged import TaggedBlob

#: Name in the debugger's command, by tag.
BOXES = {
    "f57308df-cc45-4e01-ad76-29a4ebb010ec": "bsd",
    "00afe9c4-940d-4213-8016-cd3719b5bc20": "ntfs",
    "b7631941-532a-4cd6-b1b1-edb5917d4557": "pnp",
    "80cc79cf-a719-4af1-bf97-fe29ff76ebc1": "winlogon",
}
_LARGEST = 0x10000
_BOOT_STATUS = 0x40
#: FILETIME of 1990 and of 2100: what lies between is a time.
_EARLIEST, _LATEST = 0x01B0A0F0B5A40000, 0x024850D7E0000000
_TEXT = 12


@dataclass(frozen=True)
class Entry:
    """A fact of a black box. ``kind`` is ``number``, ``flag``, ``time`` (FILETIME, UTC) or ``text``."""

    name: str
    kind: str
    value: int | bool | str


def black_box(source: Source, blobs: Sequence[TaggedBlob], name: str) -> list[Entry] | None:
    """The facts of a black box, by the name of the debugger's command (``bsd``); ``None`` where the dump has none."""
    blob = next((blob for blob in blobs if BOXES.get(str(blob.tag)) == name and blob.size), None)
    if blob is None:
        return None
    data = source.read(blob.offset, min(blob.size, _LARGEST))
    return list(_READERS[name](data))


def _boot_status(data: bytes) -> Iterator[Entry]:
    if len(data) < _BOOT_STATUS:
        return
    size, product = struct.unpack_from("<II", data)
    yield Entry("Size", "number", size)
    yield Entry("Product type", "number", product)
    for name, kind, offset in (
        ("Auto advanced boot", "flag", 8),
        ("Advanced boot menu timeout", "number", 9),
        ("Last boot succeeded", "flag", 10),
        ("Last boot shutdown", "flag", 11),
    ):
        yield Entry(name, kind, bool(data[offset]) if kind == "flag" else data[offset])
    (reference,) = struct.unpack_from("<Q", data, 0x20)
    if _EARLIEST <= reference < _LATEST:
        yield Entry("Last reference time", "time", reference)
    yield Entry("Last reference time checksum", "number", struct.unpack_from("<I", data, 0x28)[0])
    yield Entry("Last update boot id", "number", struct.unpack_from("<I", data, 0x2C)[0])
    yield Entry("Boot attempt count", "number", data[0x30])
    yield Entry("Last boot checkpoint", "flag", bool(data[0x31]))
    yield Entry("Checksum", "number", data[0x32])
    for name, offset in (
        ("Last boot id", 0x34),
        ("Last successful shutdown boot id", 0x38),
        ("Last reported abnormal shutdown boot id", 0x3C),
    ):
        yield Entry(name, "number", struct.unpack_from("<I", data, offset)[0])


def _ntfs(data: bytes) -> Iterator[Entry]:
    if len(data) < 16:
        return
    (started,) = struct.unpack_from("<Q", data, 8)
    if _EARLIEST <= started < _LATEST:
        yield Entry("Recording since", "time", started)
    events = len(data[0x18:].strip(b"\0"))
    yield Entry("Recorded bytes", "number", events)


def _pnp(data: bytes) -> Iterator[Entry]:
    if len(data) < 0x2C:
        return
    (moment,) = struct.unpack_from("<Q", data, 0x10)
    if _EARLIEST <= moment < _LATEST:
        yield Entry("Time of the event", "time", moment)
    device = _wide(data[0x2C:])
    if device:
        yield Entry("Device", "text", device)


def _winlogon(data: bytes) -> Iterator[Entry]:
    state = _wide(data[_TEXT:])
    if state:
        yield Entry("State", "text", state)


def _wide(data: bytes) -> str | None:
    string = data[: len(data) & ~1].decode("utf-16-le", errors="replace").split("\0", 1)[0]
    return string or None


_READERS = {"bsd": _boot_status, "ntfs": _ntfs, "pnp": _pnp, "winlogon": _winlogon}
