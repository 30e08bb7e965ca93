"""SMBIOS tables that the kernel adds to a dump as tagged data: who made the machine, and which firmware it runs.

The blob starts with the header that ``GetSystemFirmwareTable`` uses (RawSMBIOSData: method, version, length), then come
structures as the DMTF's SMBIOS reference specification lays them out (DSP0134, section 6.1.2). Checked on real
small memory dumps, x64 and ARM64.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from volatility3_kdump.dump.source import Source
from volatility3_kdump.dump.tagged import TaggedBlob

TAG = uuid.UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758")

_HEADER_SIZE = 8
_BIOS, _SYSTEM, _BASEBOARD, _END = 0, 1, 2, 127
_LARGEST = 1 << 20
_MOST_STRUCTURES = 4096

#: Words in the maker's or the product's name, and the debugger's name for that virtual machine.
_VIRTUAL_MACHINES = (
    ("vmware", "VMware"),
    ("virtualbox", "VirtualBox"),
    ("innotek", "VirtualBox"),
    ("qemu", "QEMU"),
    ("kvm", "KVM"),
    ("parallels", "Parallels"),
    ("xen", "Xen"),
    ("bochs", "Bochs"),
    ("amazon ec2", "Amazon EC2"),
    ("google compute engine", "Google Compute Engine"),
)


@dataclass(frozen=True)
class MachineInformation:
    """What the firmware says of itself and the machine; ``None`` for what it leaves out.

    ``smbios_version`` is the specification's (major, minor), ``dmi_revision`` as the header has it, ``tables_size`` in
    bytes.
    """

    bios_vendor: str | None
    bios_version: str | None
    bios_date: str | None
    manufacturer: str | None
    product: str | None
    version: str | None
    baseboard_manufacturer: str | None
    baseboard_product: str | None
    smbios_version: tuple[int, int] = (0, 0)
    dmi_revision: int = 0
    tables_size: int = 0

    @property
    def virtual_machine(self) -> str | None:
        """The debugger's name of the hypervisor that the machine's name betrays, ``None`` for a physical machine."""
        makers = f"{self.manufacturer or ''} {self.product or ''}".lower()
        if "microsoft" in makers and "virtual machine" in makers:
            return "HyperV"
        return next((name for word, name in _VIRTUAL_MACHINES if word in makers), None)


def machine_information(source: Source, blobs: list[TaggedBlob]) -> MachineInformation | None:
    """The machine by the dump's SMBIOS blob, ``None`` when it has none or it is damaged from the start."""
    blob = next((blob for blob in blobs if blob.tag == TAG and _HEADER_SIZE < blob.size <= _LARGEST), None)
    if blob is None:
        return None
    data = source.read(blob.offset, blob.size)
    length = int.from_bytes(data[4:8], "little")
    structures: dict[int, tuple[bytes, list[str]]] = {}
    for kind, body, strings in _structures(data[_HEADER_SIZE : _HEADER_SIZE + length]):
        structures.setdefault(kind, (body, strings))
    if not structures:
        return None

    def text(kind: int, offset: int) -> str | None:
        body, strings = structures.get(kind, (b"", []))
        number = body[offset] if offset < len(body) else 0
        return (strings[number - 1].strip() or None) if 0 < number <= len(strings) else None

    return MachineInformation(
        text(_BIOS, 4),
        text(_BIOS, 5),
        text(_BIOS, 8),
        text(_SYSTEM, 4),
        text(_SYSTEM, 5),
        text(_SYSTEM, 6),
        text(_BASEBOARD, 4),
        text(_BASEBOARD, 5),
        (data[1], data[2]),
        data[3],
        length,
    )


def _structures(data: bytes) -> Iterator[tuple[int, bytes, list[str]]]:
    """(type, formatted area, strings) of each structure, up to the first that does not fit."""
    position = 0
    for _ in range(_MOST_STRUCTURES):
        if position + 4 > len(data):
            return
        kind, length = data[position], data[position + 1]
        end = data.find(b"\0\0", position + length)
        if length < 4 or end < 0 or kind == _END:
            return
        strings = data[position + length : end].split(b"\0")
        yield kind, data[position : position + length], [part.decode("latin-1") for part in strings if part]
        position = end + 2
