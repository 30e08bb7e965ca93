"""Pool and page tables: 0x19, 0xC2, 0x1A."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add, request
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, crashing, with_frames
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import Layouts

_UNIT = 16
_NONPAGED = 2
_PAGE = 0x1000
_POOL_PAGE = 0xFFFF91894EF70000
_FREED_PAGE = 0xFFFF91894EF72000
_UNMAPPED = 0x1E3602A4000
_FLIPPED_BIT = 1 << 28

_FREE = (
    Function("ExFreePoolWithTag", (Allocate(0x28),), (Call(0x9, "ExFreeHeapPool"),), aliases=("ExFreePool",)),
    Function(
        "ExFreeHeapPool",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0xB0)),
        (Call(0x4DB, "KeBugCheckEx"),),
        returns=False,
    ),
)
_DELETE = (
    Function("NtFreeVirtualMemory", (*pushes("rbx", "rsi", "rdi"), Allocate(0xD0)), (Call(0x95, "MiDeleteVad"),)),
    Function(
        "MiDeleteVad", (*pushes("rbx", "rsi", "rdi"), Allocate(0x100)), (Call(0x860, "MiDeleteVirtualAddresses"),)
    ),
    Function(
        "MiDeleteVirtualAddresses", (*pushes("rbx", "rsi", "rdi"), Allocate(0x90)), (Call(0x4C3, "MiDeletePteRun"),)
    ),
    Function("MiDeletePteRun", (*pushes("rbx", "rsi", "rdi"), Allocate(0x70)), (Call(0x4EC, "KeBugCheckEx"),)),
)


def _page(blocks: Sequence[tuple[str, int, bool]]) -> bytes:
    """A page of the classic pool: tag, size in bytes and whether it is allocated, of one block after the other."""
    data = bytearray()
    previous = 0
    for tag, size, allocated in blocks:
        kind = _NONPAGED if allocated else 0
        data += struct.pack("<BBBB4sQ", previous // _UNIT, 0, size // _UNIT, kind, tag.encode("ascii"), 0)
        data += bytes([len(data) & 0xFF]) * (size - _UNIT)
        previous = size
    return bytes(data.ljust(_PAGE, b"\0"))


def _freeing() -> Scene:
    """myfault.sys frees a block of pool."""
    return request(
        Function(
            "FreeBuffer",
            (*pushes("rbx"), Allocate(0x20)),
            (Call(0x1C, "import:ExFreePoolWithTag"),),
            body={0x0A: bytes.fromhex("ba4d796642")},  # mov edx,4266794Dh
        ),
        (Frame("myfault!FreeBuffer"), Frame("ExFreePoolWithTag"), Frame("ExFreeHeapPool")),
        _FREE,
        ("ExFreePoolWithTag",),
    )


@scene("pool-overrun")
def pool_overrun(layouts: Layouts) -> Scene:
    """0x19, P1 = 20: a block with the tag MyfB was filled beyond its end, into the header behind it."""
    sizes = (("Ntfx", 0x100, True), ("FMsl", 0xC0, True), ("MyfB", 0x70, True), ("Irp ", 0x160, True))
    page = bytearray(_page(sizes))
    damaged = 0x100 + 0xC0 + 0x70
    page[damaged : damaged + 0x18] = b"A" * 0x18
    made = add(_freeing(), records=(Record(_POOL_PAGE, bytes(page)),))
    return crashed(made, 0x19, (0x20, _POOL_PAGE + damaged, _POOL_PAGE + damaged + 0x160, 0x4160016))


@scene("double-free")
def double_free(layouts: Layouts) -> Scene:
    """0xC2, P1 = 7: a block with the tag Leak is freed a second time."""
    page = _page((("Leak", 0x210, False), ("Even", 0x90, True)))
    made = add(_freeing(), records=(Record(_FREED_PAGE, page),))
    header = int.from_bytes(page[:4], "little")
    return crashed(made, 0xC2, (7, 0x1205, header, _FREED_PAGE + _UNIT))


@scene("flipped-pte")
def flipped_pte(layouts: Layouts) -> Scene:
    """0x1A, P1 = 41792: a PTE that should be zero has one bit set."""
    made = high_irql_fault()
    outer = crashing(made)[1].frames[0]
    made = with_frames(made, (outer, *(Frame(function.name) for function in _DELETE)))
    base = Workspace(made, layouts).pte_base
    made = dataclasses.replace(made, requests=(), paged_out=(), kernel_functions=_DELETE)
    return crashed(made, 0x1A, (0x41792, base + (_UNMAPPED >> 12) * 8, _FLIPPED_BIT, 0))
