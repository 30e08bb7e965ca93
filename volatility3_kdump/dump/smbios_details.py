"""The structures of the SMBIOS tables field by field, as the DMTF's specification lays them out (DSP0134).

Which fields a structure has is ``smbios.jsonl``: name, offset, and the kind of the field. A field that a structure is
too short for is left out; firmware of an older specification does not have it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from volatility3_kdump import tables
from volatility3_kdump.dump.smbios import smbios_structures
from volatility3_kdump.dump.source import Source
from volatility3_kdump.dump.tagged import TaggedBlob

#: Bytes of each kind of field.
_SIZES = {
    "string": 1,
    "rom": 1,
    "voltage": 1,
    "uuid": 16,
    "handle": 2,
    "optional": 2,
    "mhz": 2,
    "bits": 2,
    "size": 2,
    "cache": 2,
    "millivolts": 2,
    "capacity": 4,
    "megabytes": 4,
}
#: The groups that structures can be asked for by.
GROUPS = ("devices", "memory", "power", "processor", "system")


@dataclass(frozen=True)
class SmbiosField:
    """A field: its name, its kind, and its value: the text of a string (``None`` for none), bytes of a UUID, else a
    number. ``named`` is the meaning of an enumerated number."""

    name: str
    kind: str
    value: int | str | bytes | None
    named: str | None = None


@dataclass(frozen=True)
class SmbiosStructure:
    """A structure: ``title`` and ``group`` are ``None`` for types whose fields are not known here."""

    kind: int
    title: str | None
    group: str | None
    handle: int
    length: int
    fields: tuple[SmbiosField, ...]
    strings: tuple[str, ...]
    body: bytes


@functools.lru_cache(maxsize=1)
def _knowledge() -> tuple[Mapping[int, Mapping[str, object]], Mapping[str, Mapping[str, str]]]:
    """(fields of each type, names of enumerated values)."""
    types, names = {}, {}
    for record in tables.json_lines("smbios.jsonl"):
        if "type" in record:
            types[int(record["type"])] = record
        else:
            names[str(record["values"])] = record["names"]
    return types, names


def smbios_details(source: Source, blobs: list[TaggedBlob]) -> Iterator[SmbiosStructure]:
    """Every structure of the dump's SMBIOS tables, in their order."""
    types, _ = _knowledge()
    for kind, body, strings in smbios_structures(source, blobs):
        layout = types.get(kind, {})
        yield SmbiosStructure(
            kind,
            _text(layout.get("title")),
            _text(layout.get("group")),
            int.from_bytes(body[2:4], "little"),
            len(body),
            tuple(_fields(layout.get("fields", ()), body, strings)),
            tuple(strings),
            body,
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _fields(layout: object, body: bytes, strings: list[str]) -> Iterator[SmbiosField]:
    assert isinstance(layout, list | tuple)
    _, enumerations = _knowledge()
    for name, offset, kind, *enumeration in layout:
        size = _SIZES.get(kind) or int(kind[-1])
        if kind.startswith("enum"):
            size = 1
        data = body[offset : offset + size]
        if len(data) < size:
            continue
        number = int.from_bytes(data, "little")
        if kind == "string":
            string = strings[number - 1].strip() if 0 < number <= len(strings) else None
            yield SmbiosField(name, kind, string)
        elif kind == "uuid":
            yield SmbiosField(name, kind, data)
        elif enumeration:
            # The top bit is a flag of its own: a lock of the chassis, whether a device is enabled.
            plain = number & 0x7F if kind == "enum7" or enumeration[0] == "chassis" else number
            yield SmbiosField(name, kind, plain, enumerations[enumeration[0]].get(str(plain)))
        else:
            yield SmbiosField(name, kind, number)
