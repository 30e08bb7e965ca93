"""Hardware errors: 0x124 with error records as the UEFI specification (appendix N) and ``ntddk.h`` lay them out."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from uuid import UUID

from kdump_sample.code import Allocate, Call, Function, MachineFrame, pushes
from kdump_sample.functions import TRAP_FRAME
from kdump_sample.scene import KernelStructure, Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import TOUCHES, add, request, touch
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, kernel_trap
from volatility3_kdump.layout import Layouts

_RECORD = 0xFFFF91894EF51028
_SOURCE_MCE, _SOURCE_NMI = 0xFFFF91894EF53010, 0xFFFF91894EF53810
_WRAPPERS, _WRAPPER_LENGTH = 0xFFFF91894EF54010, 0x400
_FATAL, _CORRECTED = 1, 2
_PRIMARY = 1

_GENERIC = UUID("9876ccad-47b4-4bdb-b65e-16f193c4f3db")
_X64 = UUID("dc3ea0b0-a144-4797-b95b-53fa242b6e1d")
_MACHINE_CHECK = UUID("8a1e1d01-42f9-4557-9c33-565e5cc3f7e8")
_PCI_EXPRESS = UUID("d995e954-bbc1-430f-ad91-b44dcb3c6f35")
_MCE = UUID("e8f56ffe-919c-4cc5-ba88-65abe14913bb")
_PCIE = UUID("cf93c01f-1a16-4dfc-b8bc-9c4daf67c104")
_CREATOR = UUID("cf07c4bd-b789-4e18-b3c4-1f732cb57131")
_CACHE_CHECK = UUID("a55701f5-e3ef-43de-ac72-249b573fad2c")

#: Valid, uncorrected, enabled, MISC and ADDR valid, context corrupt; data read error in the level 1 data cache.
MCI_STATUS = 0xBE00000000800000 | 0x0135
_ADDRESS, _BANK, _PROCESSOR, _APIC = 0x1E35FB24540, 0, 2, 4
_IP = 0xFFFFF80062A0B2C4

_MCHECK = (
    Function("KiMcheckAbort", (MachineFrame(), Allocate(8), *TRAP_FRAME), (Call(0x277, "KxMcheckAbort"),)),
    Function("KxMcheckAbort", (Allocate(0x138),), (Call(0x7B, "KiHandleMcheck"),)),
    Function("KiHandleMcheck", (Allocate(0x28),), (Call(0x9, "HalpHandleMachineCheck"),)),
    Function("HalpHandleMachineCheck", (Allocate(0x28),), (Call(0x5F, "HalpMceHandlerWithRendezvous"),)),
    Function("HalpMceHandlerWithRendezvous", (*pushes("rbx", "rsi"), Allocate(0x28)), (Call(0xC9, "HalpMceHandler"),)),
    Function("HalpMceHandler", (*pushes("rbx", "rsi", "rdi"), Allocate(0x40)), (Call(0xE0, "HalpMceHandlerCore"),)),
    Function(
        "HalpMceHandlerCore", (*pushes("rbx", "rsi", "rdi"), Allocate(0x30)), (Call(0x138, "HalpMcaReportError"),)
    ),
    Function("HalpMcaReportError", (*pushes("rbx", "rsi", "rdi"), Allocate(0x70)), (Call(0xB1, "WheaReportHwError"),)),
    Function("WheaReportHwError", (*pushes("rbx", "rsi", "rdi"), Allocate(0x60)), (Call(0x46B, "HalBugCheckSystem"),)),
    Function("HalBugCheckSystem", (*pushes("rbx"), Allocate(0x30)), (Call(0xCA, "KeBugCheckEx"),), returns=False),
)


def _error_record(notification: UUID, sections: Sequence[tuple[UUID, int, bytes]]) -> bytes:
    """A Common Platform Error Record: header, section descriptors, sections."""
    offset = 128 + 72 * len(sections)
    descriptors = body = b""
    for index, (kind, severity, data) in enumerate(sections):
        flags = 0 if index else _PRIMARY
        descriptors += struct.pack("<IIHBBI", offset + len(body), len(data), 0x201, 0, 0, flags)
        descriptors += kind.bytes_le + bytes(16) + struct.pack("<I", severity) + bytes(20)
        body += data
    header = struct.pack("<4sHIHIII", b"CPER", 0x210, 0xFFFFFFFF, len(sections), _FATAL, 2, offset + len(body))
    header += bytes((12, 33, 11, 0, 7, 10, 21, 20)) + bytes(32)
    header += _CREATOR.bytes_le + notification.bytes_le + struct.pack("<QI", 0x1D7BB6A1C2F4E5D, 0) + bytes(20)
    return header + descriptors + body


def _generic() -> bytes:
    brand = b"Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz"
    valid = 0b0001_1101_1111
    head = struct.pack("<Q6BHQ", valid, 0, 2, 1, 1, 0, 1, 0, 0x906EA) + brand.ljust(128, b"\0")
    return head + struct.pack("<5Q", _APIC, 0, 0, 0, 0)


def _x64() -> bytes:
    check = struct.pack("<6Q", 1, 0x17, 0, 0, 0, 0)
    return (
        struct.pack("<QQ", 1 | 2 | 1 << 2, _APIC)
        + struct.pack("<12I", 0x906EA, *range(11))
        + _CACHE_CHECK.bytes_le
        + check
    )


def _machine_check(status: int) -> bytes:
    head = struct.pack("<IIQIQQI", 4, 1, 0x1D7BB6A1C000000, _PROCESSOR, 5, _IP, _BANK)
    return head + struct.pack("<QQQII", status, _ADDRESS, 0x86, 0, _APIC) + bytes(8 * 24) + bytes(8)


def _interrupted() -> Scene:
    """A machine check that interrupts a thread."""
    return request(
        touch("Wait", bytes.fromhex("f390ebfc")),
        (
            Frame("myfault!Wait", stopped_at=TOUCHES),
            Frame("KiMcheckAbort", trap=kernel_trap(eflags=0x246)),
            *(Frame(function.name) for function in _MCHECK[1:]),
        ),
        _MCHECK,
    )


def _reported(source: int, data: bytes, status: int = 0) -> Scene:
    made = add(_interrupted(), records=(Record(_RECORD, data),), blocks=((_RECORD, len(data)),))
    return crashed(made, 0x124, (source, _RECORD, status >> 32, status & 0xFFFFFFFF))


@scene("machine-check")
def machine_check(layouts: Layouts) -> Scene:
    """0x124, P1 = 0: a data read error in the first-level cache of processor 2."""
    sections = (
        (_GENERIC, _FATAL, _generic()),
        (_X64, _FATAL, _x64()),
        (_MACHINE_CHECK, _FATAL, _machine_check(MCI_STATUS)),
    )
    made = _reported(0, _error_record(_MCE, sections), MCI_STATUS)
    return add(made, structures=tuple(_sources(made, layouts)))


def _sources(made: Scene, layouts: Layouts) -> Iterator[KernelStructure]:
    """WHEA's table with two sources: machine checks with two records, of which one is in use, and NMIs with none."""
    table = made.kernel_base + (layouts.symbol("WheapErrorSourceTable") or 0)
    if not layouts.has_type("_WHEAP_ERROR_SOURCE_TABLE"):
        return
    head = table + layouts.offset("_WHEAP_ERROR_SOURCE_TABLE", "Items")
    link = layouts.offset("_WHEAP_ERROR_SOURCE", "ListEntry")
    entries = [head, _SOURCE_MCE + link, _SOURCE_NMI + link, head]
    yield KernelStructure(
        "_WHEAP_ERROR_SOURCE_TABLE", table, {"Count": 2, "Items.Flink": entries[1], "Items.Blink": entries[2]}
    )
    for address, kind, records, before, after in (
        (_SOURCE_MCE, 0, _WRAPPERS, head, entries[2]),
        (_SOURCE_NMI, 3, 0, entries[1], head),
    ):
        yield KernelStructure(
            "_WHEAP_ERROR_SOURCE",
            address,
            {
                "ListEntry.Flink": after,
                "ListEntry.Blink": before,
                "Type": kind,
                "ErrorCount": 1 if records else 0,
                "RecordCount": 2 if records else 1,
                "RecordLength": _WRAPPER_LENGTH,
                "Records": records,
                "Descriptor.Length": layouts.size_of("_WHEA_ERROR_SOURCE_DESCRIPTOR"),
                "Descriptor.MaxRawDataLength": 0x392,
                "Descriptor.NumRecordsToPreallocate": 2,
                "Descriptor.MaxSectionsPerRecord": 3,
                "Descriptor.ErrorSourceId": 7 if kind else 0,
            },
        )
    yield KernelStructure("_WHEAP_ERROR_RECORD_WRAPPER", _WRAPPERS, {"InUse": 1})
    yield KernelStructure("_WHEAP_ERROR_RECORD_WRAPPER", _WRAPPERS + _WRAPPER_LENGTH, {"InUse": 0})


@scene("pcie-error")
def pcie_error(layouts: Layouts) -> Scene:
    """0x124, P1 = 4: a root port tells of a completion that never came."""
    valid = 1 | 2 | 4 | 8 | 0x80
    device = struct.pack("<HH3sBBHBBHB", 0x8086, 0xA340, b"\x00\x04\x06", 3, 0x1D, 0, 0, 4, 0, 0)
    errors = struct.pack("<5I", 0x14820001, 1 << 14 | 1 << 20, 0, 1 << 14, 1 << 13)
    data = struct.pack("<QIIII", valid, 4, 0x101, 0x100407, 0) + device + bytes(8 + 4 + 60) + errors.ljust(96, b"\0")
    return _reported(4, _error_record(_PCIE, ((_PCI_EXPRESS, _FATAL, data),)))
