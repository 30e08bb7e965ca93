"""Drivers have complained shortly before the demonstration's crash, and nobody has read it yet."""

from __future__ import annotations

import dataclasses
import struct

from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import LogEntry, Scene
from kdump_sample.scenes import scene
from volatility3_kdump.layout import Layouts

_ENTRIES = 0xFFFF918961B00010
_READ, _DEVICE_CONTROL, _PNP = 3, 14, 27

#: ErrorCodes: of ``ntiologc.h``, an NTSTATUS, and one of a driver's own.
BAD_BLOCK, CORRUPT, NO_RESOURCES, OWN = 0xC0040007, 0xC0040037, 0xC000009A, 0xE0060011


def entry_address(index: int) -> int:
    """The ERROR_LOG_ENTRY of this number, in the order of the list."""
    return _ENTRIES + 0x200 * index


@scene("error-log")
def error_log(layouts: Layouts) -> Scene:
    """Pending entries of the I/O error log."""
    base = high_irql_fault()
    drivers = {driver.module: driver for driver in base.driver_objects}
    disk, ntfs, fault = drivers["pci"], drivers["Ntfs"], drivers["myfault"]
    entries = (
        LogEntry(
            entry_address(0),
            disk.device,
            disk.address,
            BAD_BLOCK,
            0xC000009C,
            9.25,
            major=_READ,
            retries=8,
            unique=0x105,
            sequence=0x21A7,
            device_offset=0x1F4800000,
            dump_data=struct.pack("<5I", 0x40110, 0x28, 0xC000009C, 0x3110700, 0xFA4000),
        ),
        LogEntry(
            entry_address(1),
            ntfs.device,
            ntfs.address,
            CORRUPT,
            0xC0000102,
            3.5,
            category=2,
            dump_data=b"\x04\x00\x04\x00\x02\x00\x30\x00\x00\x00",
            strings=("\\Device\\HarddiskVolume3", "C:"),
        ),
        LogEntry(entry_address(2), 0, fault.address, OWN, 0, 0.75, major=_PNP, strings=("", "bell\x07")),
        LogEntry(
            entry_address(3),
            fault.device,
            fault.address,
            NO_RESOURCES,
            0xC000009A,
            0.125,
            major=_DEVICE_CONTROL,
            sequence=1,
            control_code=0x83360018,
        ),
    )
    return dataclasses.replace(base, error_log=entries)
