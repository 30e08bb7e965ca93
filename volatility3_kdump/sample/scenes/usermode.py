"""What belongs to processes besides their threads: address spaces."""

from __future__ import annotations

import dataclasses

from volatility3_kdump.layout import Layouts
from volatility3_kdump.sample.regions import (
    GUARD,
    NO_ACCESS,
    READ_ONLY,
    READ_WRITE,
    UNCHARGED,
    WRITE_COPY,
    WRITE_WATCH,
    Region,
    image,
    private,
)
from volatility3_kdump.sample.scene import Process, Scene, high_irql_fault
from volatility3_kdump.sample.scenes import scene

_SYSTEM32 = "\\Windows\\System32\\"
_NTDLL = image(0x7FF8F1600000, 0x1F5, _SYSTEM32 + "ntdll.dll", 16)
_NLS = Region(0x1A8C4, 0x1A98C, 0, READ_ONLY, file=_SYSTEM32 + "locale.nls")

_REGIONS = {
    "notepad.exe": (
        private(0x7FFE0000, 1, UNCHARGED, READ_ONLY),
        private(0x7FFE5000, 1, UNCHARGED, READ_ONLY),
        private(0xBB6F100000, 0x80, 0x23),
        private(0xBB6F2AC000, 0x54, 0x10),
        private(0xBB6F300000, 0x40, 3, READ_WRITE | GUARD),
        Region(0x1A8C4A00, 0x1A8C4A0F, 0, READ_WRITE, shared_commit=0x10),
        dataclasses.replace(_NLS, first=0x1A8C4A20, last=0x1A8C4AE8),
        private(0x1A8C4B30000, 0x100, 0xFB),
        private(0x1A8C5000000, 0x100, 0x40, kind=WRITE_WATCH),
        Region(0x1A8C6000, 0x1A8C60FF, 0, WRITE_COPY, file="\\Users\\user\\Desktop\\note.txt"),
        Region(0x7DF5D4B60, 0x7DF5D4C5F, 0, READ_ONLY, shared_commit=5),
        private(0x7FF5D4C60000, 0x100020, 0, NO_ACCESS),
        image(0x7FF7E2E60000, 0x38, _SYSTEM32 + "notepad.exe", 3),
        _NTDLL,
    ),
    "notmyfault64.exe": (
        private(0x7FFE0000, 1, UNCHARGED, READ_ONLY),
        private(0x7AE6A10000, 0x10, 4),
        private(0x7AE6B00000, 0x100, 0x21),
        private(0x1E35F580000, 0x10, 0x10),
        image(0x7FF6D0C40000, 0x8C, "\\Tools\\NotMyFault\\notmyfault64.exe", 5),
        _NTDLL,
    ),
}


def _in_use(process: Process) -> Process:
    regions = _REGIONS.get(process.image)
    if regions is None:
        return process
    fields = {name: value for name, value in process.fields.items() if name != "VadCount"}
    return dataclasses.replace(process, vad_root=0, fields=fields, regions=regions)


@scene("user-mode")
def user_mode(layouts: Layouts) -> Scene:
    """The demonstration, with the address spaces of two processes described in full."""
    made = high_irql_fault()
    return dataclasses.replace(made, processes=tuple(_in_use(process) for process in made.processes))
