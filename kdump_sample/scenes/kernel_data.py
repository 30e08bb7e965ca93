"""What the kernel keeps by the way: debug output, views of the file cache, system PTEs, a device's power."""

from __future__ import annotations

import dataclasses

from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Record, Scene, Variable
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add
from volatility3_kdump.layout import Layouts

PRINTED, PRINTED_SIZE = 0xFFFF91894F710000, 0x200
OLDEST, NEWEST = "myfault: DriverEntry\n", "myfault: about to touch freed pool\nnon-ascii \u00e9\n"
ARRAYS, ARRAY = 0xFFFF91894F720000, 0xFFFF91894F721000
CACHE_MAPS = (0xFFFF91894F730000, 0xFFFF91894F731000)
FILES = (0xFFFF91894F732000, 0xFFFF91894F733000)
SECTIONS, AREA = 0xFFFF91894F734000, 0xFFFF91894F735000
FILE_NAME = "\\Windows\\System32\\config\\SOFTWARE"
VIEWS = (0xFFFFA18000000000, 0xFFFFA18000040000, 0xFFFFA18000080000)
BITMAP, FIRST_PTE, PTES = 0xFFFF91894F740000, 0xFFFFF6FB80000000, 0x140
#: Of these PTEs the first 16 are taken, then 40 free, 8 taken, and the rest free.
TAKEN = bytes([0xFF, 0xFF, 0, 0, 0, 0, 0, 0xFF]).ljust(PTES // 8, b"\0")
DEVICE, EXTENSION, IDLE = 0xFFFF91894F750000, 0xFFFF91894F751000, 0xFFFF91894F752000


@scene("kernel-data")
def kernel_data(layouts: Layouts) -> Scene:
    """A ring of debug output that has rolled over, two cached files, a bitmap of system PTEs, a device in D3."""
    made = high_irql_fault()
    messages = OLDEST.encode(), NEWEST.encode()
    ring = messages[1].ljust(PRINTED_SIZE - len(messages[0]), b"\0") + messages[0]
    variables = [
        Variable("KdPrintCircularBuffer", PRINTED),
        Variable("KdPrintBufferSize", PRINTED_SIZE, 4),
        Variable("KdPrintWritePointer", PRINTED + len(messages[1])),
        Variable("KdPrintRolloverCount", 3, 4),
    ]
    if not layouts.has_type("_VACB"):
        return _with(add(made, records=(Record(PRINTED, ring),)), variables)
    variables += [Variable("CcVacbArrays", ARRAYS), Variable("CcVacbArraysHighestUsedIndex", 1, 4)]
    records = [
        Record(PRINTED, ring),
        # The second array was given back.
        Record(ARRAYS, ARRAY.to_bytes(8, "little") + bytes(8)),
        Record(SECTIONS, AREA.to_bytes(8, "little") + bytes(16)),
        Record(BITMAP, TAKEN),
    ]
    vacb = ARRAY + layouts.size_of("_VACB_ARRAY_HEADER")
    mapped = ((VIEWS[0], CACHE_MAPS[0]), (0, 0), (VIEWS[1], CACHE_MAPS[0]), (VIEWS[2], CACHE_MAPS[1]))
    file = ("FileObjectFastRef.Value", "FileObject")
    structures = [
        KernelStructure("_VACB_ARRAY_HEADER", ARRAY, {"HighestMappedIndex": len(mapped) - 1, "MappingCount": 3}),
        *(
            KernelStructure(
                "_VACB",
                vacb + number * layouts.size_of("_VACB"),
                {"BaseAddress": base, "SharedCacheMap": cache_map, "ArrayHead": ARRAY},
            )
            for number, (base, cache_map) in enumerate(mapped)
        ),
        KernelStructure(
            "_SHARED_CACHE_MAP", CACHE_MAPS[0], {file: FILES[0] | 7, "FileSize.QuadPart": 0x3456789, "DirtyPages": 5}
        ),
        KernelStructure("_SHARED_CACHE_MAP", CACHE_MAPS[1], {file: FILES[1] | 1, "FileSize.QuadPart": 0x1000}),
        KernelStructure(
            "_FILE_OBJECT", FILES[0], {"Type": 5, "SectionObjectPointer": SECTIONS}, {"FileName": FILE_NAME}
        ),
        KernelStructure("_FILE_OBJECT", FILES[1], {"Type": 5}),
        KernelStructure("_DEVICE_OBJECT", DEVICE, {"Type": 3, "DeviceObjectExtension": EXTENSION}),
        KernelStructure(
            "_DEVOBJ_EXTENSION", EXTENSION, {"Type": 13, "DeviceObject": DEVICE, "PowerFlags": 0x41, "Dope": IDLE}
        ),
        KernelStructure(
            "_DEVICE_OBJECT_POWER_EXTENSION",
            IDLE,
            {"IdleCount": 7, "ConservationIdleTime": 600, "PerformanceIdleTime": 99, "IdleState": 4, "CurrentState": 1},
        ),
        KernelStructure("_MI_SYSTEM_PTE_TYPE", _system_ptes(made, layouts), _COUNTED),
    ]
    return _with(add(made, structures=structures, records=records), variables)


_COUNTED = {
    "Bitmap.SizeOfBitMap": PTES,
    "Bitmap.Buffer": BITMAP,
    "BasePte": FIRST_PTE,
    "TotalSystemPtes": PTES,
    "TotalFreeSystemPtes": 0x128,
    ("PteFailures", "FailureCount"): 2,
}


def _with(made: Scene, variables: list[Variable]) -> Scene:
    return dataclasses.replace(made, variables=(*made.variables, *variables))


def _system_ptes(made: Scene, layouts: Layouts) -> int:
    """Where this kernel counts its system PTEs."""
    alone = layouts.symbol("MiSystemPteInfo")
    if alone is not None:
        return made.kernel_base + alone
    inside = layouts.offset("_MI_SYSTEM_INFORMATION", "Vs.SystemPteInfo")
    return made.kernel_base + (layouts.symbol("MiState") or 0) + inside
