"""The registry: hives in kernel memory, as they are before Windows 10 1803, and of the system's own since."""

from __future__ import annotations

from kdump_sample.hives import BINARY, DWORD, MULTI_SZ, SZ, OpenKey, RegistryHive, RegistryKey, hive_parts, text
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add
from volatility3_kdump.layout import Layouts

MACHINE, SYSTEM = 0xFFFFD80260010000, 0xFFFFD80260110000
_MACHINE_DATA, _SYSTEM_DATA = 0xFFFFD80260020000, 0xFFFFD80260120000
_KCB = 0xFFFFD80260200010
#: More than one page of data, and a name that no terminal is to be shown as it is.
BLOB = bytes(range(256)) * 24
HOSTILE = "Bad\x1b[31mName"

_SYSTEM_KEYS = RegistryKey(
    "SYSTEM",
    keys=(
        RegistryKey("Select", (("Current", DWORD, b"\1\0\0\0"), ("Default", DWORD, b"\1\0\0\0"))),
        RegistryKey(
            "ControlSet001",
            keys=(
                RegistryKey(
                    "Control",
                    keys=(
                        RegistryKey(
                            "ComputerName",
                            keys=(RegistryKey("ActiveComputerName", (("ComputerName", SZ, text("WORKSTATION5")),)),),
                        ),
                        RegistryKey("Volatile", (("Count", DWORD, b"\x2a\0\0\0"),), volatile=True),
                    ),
                ),
            ),
        ),
        RegistryKey("CurrentControlSet", link="\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001", volatile=True),
        RegistryKey(
            "Setup",
            (
                ("Blob", BINARY, BLOB),
                ("", SZ, text("default")),
                ("List", MULTI_SZ, text("one") + text("two") + b"\0\0"),
                (HOSTILE, SZ, text(HOSTILE)),
            ),
        ),
    ),
)


@scene("registry")
def registry(layouts: Layouts) -> Scene:
    """Two hives, \\REGISTRY\\MACHINE\\HARDWARE without a file and SYSTEM, with three open keys."""
    hardware = RegistryKey("HARDWARE", keys=(RegistryKey("DESCRIPTION"),))
    keys = (
        OpenKey(_KCB, 0, "REGISTRY", 1),
        OpenKey(_KCB + 0x200, _KCB, "MACHINE", 5),
        OpenKey(_KCB + 0x400, _KCB + 0x200, "SYSTEM", 5),
    )
    hives = (
        RegistryHive(MACHINE, _MACHINE_DATA, "\\REGISTRY\\MACHINE\\HARDWARE", "", hardware),
        RegistryHive(
            SYSTEM,
            _SYSTEM_DATA,
            "\\REGISTRY\\MACHINE\\SYSTEM",
            "\\Device\\HarddiskVolume3\\Windows\\System32\\config\\SYSTEM",
            _SYSTEM_KEYS,
            keys,
        ),
    )
    made = high_irql_fault()
    if not layouts.has_type("_CMHIVE"):
        return made
    link = layouts.offset("_CMHIVE", "HiveList")
    head = made.kernel_base + (layouts.symbol("CmpHiveListHead") or 0)
    ring = (head, MACHINE + link, SYSTEM + link)
    parts = [part for hive in hives for part in hive_parts(hive, layouts)]
    links = [
        Record(place, b"".join(ring[(at + step) % 3].to_bytes(8, "little") for step in (1, 2)))
        for at, place in enumerate(ring)
    ]
    structures = tuple(part for part in parts if isinstance(part, KernelStructure))
    records = tuple(part for part in parts if isinstance(part, Record))
    return add(made, structures=structures, records=(*records, *links))
