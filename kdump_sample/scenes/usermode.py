"""What belongs to processes besides their threads: address spaces and tokens."""

from __future__ import annotations

import dataclasses

from kdump_sample.myfault import high_irql_fault
from kdump_sample.regions import (
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
from kdump_sample.scene import Process, Scene
from kdump_sample.scenes import scene
from kdump_sample.tokens import INTEGRITY, LOGON, OWNER, USUAL, Identity
from volatility3_kdump.layout import Layouts

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

_DOMAIN = "S-1-5-21-1004336348-1177238915-682003330"
_CHANGE_NOTIFY, _DEBUG, _SHUTDOWN, _IMPERSONATE, _CREATE_GLOBAL, _TIME_ZONE = 23, 20, 19, 29, 30, 34
_EVERYDAY = {_SHUTDOWN: (False, False), _CHANGE_NOTIFY: (True, True), 25: (False, False), _TIME_ZONE: (False, False)}


def _user(attributes: int, integrity: int) -> tuple[tuple[str, int], ...]:
    """The user of the desktop; ``attributes`` are those of the administrators' group."""
    return (
        (f"{_DOMAIN}-1001", 0),
        (f"{_DOMAIN}-513", USUAL),
        ("S-1-1-0", USUAL),
        ("S-1-5-32-544", attributes),
        ("S-1-5-32-545", USUAL),
        ("S-1-5-4", USUAL),
        ("S-1-5-11", USUAL),
        ("S-1-5-5-0-120783", LOGON),
        ("S-1-2-0", USUAL),
        (f"S-1-16-{integrity}", INTEGRITY),
    )


_IDENTITIES = {
    "System": Identity(
        (("S-1-5-18", 0), ("S-1-5-32-544", USUAL & ~1 | OWNER), ("S-1-1-0", USUAL), ("S-1-16-16384", INTEGRITY)),
        0,
        {number: (number in (7, 20, 23, 29, 30), number in (7, 20, 23, 29, 30)) for number in range(2, 37)},
        source="*SYSTEM*",
        identifier=0x3EA,
    ),
    # limited, because the user is an administrator: the group only denies
    "notepad.exe": Identity(_user(0x10, 0x2000), 2, _EVERYDAY, 0x1D7E8),
    "notmyfault64.exe": Identity(
        _user(USUAL | OWNER, 0x3000),
        2,
        {**_EVERYDAY, _DEBUG: (True, False), _IMPERSONATE: (True, True), _CREATE_GLOBAL: (True, True)},
        0x1D7C5,
        identifier=0x7A310,
    ),
}


def _in_use(process: Process) -> Process:
    process = dataclasses.replace(process, identity=_IDENTITIES.get(process.image))
    regions = _REGIONS.get(process.image)
    if regions is None:
        return process
    fields = {name: value for name, value in process.fields.items() if name != "VadCount"}
    return dataclasses.replace(process, vad_root=0, fields=fields, regions=regions)


@scene("user-mode")
def user_mode(layouts: Layouts) -> Scene:
    """The demonstration, with the address spaces of two processes and the tokens of three described in full."""
    made = high_irql_fault()
    return dataclasses.replace(made, processes=tuple(_in_use(process) for process in made.processes))
