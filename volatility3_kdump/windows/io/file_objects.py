"""File objects and the volumes that they are on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.windows.io.devices import TYPE_FILE, DeviceObject, read_device, read_object
from volatility3_kdump.windows.structures import layouts_of, read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TYPE_VPB = 10
#: VPB.VolumeLabel has so many bytes.
_LONGEST_LABEL = 64


@dataclass(frozen=True)
class FileObject:
    """A FILE_OBJECT. Addresses are 0 for none; ``access`` are the rights and ways of sharing it was opened with."""

    address: int
    name: str | None
    device_address: int | None
    device: DeviceObject | None
    vpb: int | None
    related: int | None
    flags: int | None
    access: tuple[str, ...]
    delete_pending: bool | None
    context: int | None
    context2: int | None
    private_cache: int | None
    section_pointers: int | None
    data_section: int | None
    shared_cache: int | None
    image_section: int | None
    offset: int | None


@dataclass(frozen=True)
class VolumeBlock:
    """A VPB: the file system's device of a volume, the device below it, and the volume's label."""

    address: int
    flags: int | None
    device_address: int | None
    device: DeviceObject | None
    real_device: int | None
    references: int | None
    serial: int | None
    label: str | None


def _device(target: Target, address: int | None) -> DeviceObject | None:
    try:
        return read_device(target, address) if address else None
    except KdumpError:
        return None


def read_file_object(target: Target, address: int) -> FileObject:
    """The file object at an address. Raises :class:`Unreadable` where there is none in the dump."""
    ways = ("ReadAccess", "WriteAccess", "DeleteAccess", "SharedRead", "SharedWrite", "SharedDelete")
    fields = read_object(
        target,
        "_FILE_OBJECT",
        TYPE_FILE,
        address,
        {
            "device": "DeviceObject",
            "vpb": "Vpb",
            "related": "RelatedFileObject",
            "flags": "Flags",
            "pending": "DeletePending",
            "context": "FsContext",
            "context2": "FsContext2",
            "cache": "PrivateCacheMap",
            "sections": "SectionObjectPointer",
            **{way: way for way in ways},
        },
    )
    layouts, memory = layouts_of(target), target.memory
    place = layouts.find("_FILE_OBJECT", "CurrentByteOffset")
    data = cache = image = None
    if fields["sections"]:
        # SECTION_OBJECT_POINTERS of wdm.h, which are three pointers in every version.
        step = memory.pointer_size
        data, cache, image = (memory.pointer(fields["sections"] + step * index) for index in range(3))
    named = {"ReadAccess": "Read", "WriteAccess": "Write", "DeleteAccess": "Delete"}
    return FileObject(
        address,
        memory.unicode_string(address + layouts.offset("_FILE_OBJECT", "FileName")),
        fields["device"],
        _device(target, fields["device"]),
        fields["vpb"],
        fields["related"],
        fields["flags"],
        tuple(named.get(way, way) for way in ways if fields[way]),
        None if fields["pending"] is None else bool(fields["pending"]),
        fields["context"],
        fields["context2"],
        fields["cache"],
        fields["sections"],
        data,
        cache,
        image,
        memory.unsigned(address + place.offset, 8) if place is not None else None,
    )


def read_volume_block(target: Target, address: int) -> VolumeBlock:
    """The VPB at an address. Raises :class:`KdumpError` where there is none in the dump."""
    fields = read_fields(
        target,
        "_VPB",
        address,
        {
            "kind": "Type",
            "flags": "Flags",
            "length": "VolumeLabelLength",
            "device": "DeviceObject",
            "real": "RealDevice",
            "serial": "SerialNumber",
            "references": "ReferenceCount",
        },
    )
    if fields["kind"] is not None and fields["kind"] != _TYPE_VPB:
        raise Unreadable(f"no VPB at {address:#x}: its type is {fields['kind'] & 0xFFFF}, not {_TYPE_VPB}")
    place = layouts_of(target).find("_VPB", "VolumeLabel")
    label = None
    if place is not None and fields["length"] is not None and fields["length"] <= _LONGEST_LABEL:
        label = target.memory.utf16(address + place.offset, fields["length"]) if fields["length"] else ""
    return VolumeBlock(
        address,
        fields["flags"],
        fields["device"],
        _device(target, fields["device"]),
        fields["real"],
        fields["references"],
        fields["serial"],
        label,
    )
