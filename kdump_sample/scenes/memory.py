"""Faulting memory accesses and damaged memory: 0xA, 0xD1, 0x50, 0xBE, 0xC5, 0xFC, 0x13A, 0x154, 0x109."""

from __future__ import annotations

import struct

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.context import Registers
from kdump_sample.dispatch import (
    MEMORY_MANAGER,
    PAGE_FAULT,
    SET_EVENT,
    TO_BUG_CHECK,
    TO_MEMORY_MANAGER,
)
from kdump_sample.scene import Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import MYFAULT, TOUCHES, add, called_out, called_pool, request, touch
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, draft_stack, exception_record, kernel_trap
from volatility3_kdump.layout import Layouts

_READ, _WRITE, _EXECUTE = 0, 1, 8
_FREED = 0xFFFFD80249C31000
_POOL = 0xFFFF91894EE41230
_READ_ONLY = MYFAULT + 0x3040
_UNLOADED_CODE = 0xFFFFF80060184A10
#: A page-table entry of a kernel page: valid, accessed, global.
_MAPPED = 0x121
_NO_EXECUTE = 1 << 63


@scene("null-event")
def null_event(layouts: Layouts) -> Scene:
    """0xA: the driver passes a null pointer plus an offset to KeSetEvent at DISPATCH_LEVEL."""
    signal = Function("SignalEvent", (*pushes("rbx"), Allocate(0x20)), (Call(0x1C, "import:KeSetEvent"),))
    made = request(
        signal,
        (
            Frame("myfault!SignalEvent"),
            Frame("KeSetEvent", sets={"rbx": 0x18}, stopped_at=TOUCHES),
            Frame("KiPageFault", trap=kernel_trap({"rcx": 0x18}), call=TO_BUG_CHECK),
            Frame("KiBugCheckDispatch"),
        ),
        (PAGE_FAULT, SET_EVENT),
        ("KeSetEvent",),
    )
    ip = draft_stack(made, layouts).frame("KeSetEvent").ip
    return crashed(made, 0xA, (0x18, 2, _READ, ip))


@scene("unloaded-driver")
def unloaded_driver(layouts: Layouts) -> Scene:
    """0xD1: a call into a driver that has been unloaded."""
    made = called_out(_UNLOADED_CODE, TO_BUG_CHECK, (Frame("KiBugCheckDispatch"),), (PAGE_FAULT,))
    parameters = (_UNLOADED_CODE, 2, _EXECUTE, _UNLOADED_CODE)
    return crashed(made, 0xD1, parameters, called_with=(0xA, *parameters))


def _memory_manager_frames(fault: str, registers: dict[str, int]) -> tuple[Frame, ...]:
    return (
        Frame(f"myfault!{fault}", sets=registers, stopped_at=TOUCHES),
        Frame("KiPageFault", trap=kernel_trap(registers), call=TO_MEMORY_MANAGER),
        Frame("MmAccessFault"),
        Frame("MiSystemFault"),
    )


@scene("freed-pool")
def freed_pool(layouts: Layouts) -> Scene:
    """0x50: a write to paged pool that is not mapped any more."""
    made = request(
        touch("WriteFreed", bytes.fromhex("8903")),
        _memory_manager_frames("WriteFreed", {"rbx": _FREED}),
        MEMORY_MANAGER,
    )
    ip = draft_stack(made, layouts).frame("myfault!WriteFreed").ip
    return crashed(made, 0x50, (_FREED, 2, ip, 2))


@scene("bit-flip")
def bit_flip(layouts: Layouts) -> Scene:
    """0x50: the instruction's operand and the address that faulted differ in one bit."""
    wrong = _FREED ^ 1 << 23
    made = request(
        touch("ReadPool", bytes.fromhex("8b03")), _memory_manager_frames("ReadPool", {"rbx": _FREED}), MEMORY_MANAGER
    )
    # The kernel's handler saves no nonvolatile registers before MmAccessFault pushes them.
    ip = draft_stack(made, layouts).frame("myfault!ReadPool").ip
    return crashed(made, 0x50, (wrong, 0, ip, 2))


@scene("read-only-write")
def read_only_write(layouts: Layouts) -> Scene:
    """0xBE: the driver writes to its own constants."""
    made = request(
        touch("WriteConstant", bytes.fromhex("8903")),
        _memory_manager_frames("WriteConstant", {"rbx": _READ_ONLY}),
        MEMORY_MANAGER,
    )
    return crashed(made, 0xBE, (_READ_ONLY, 0x1A4C5000 | _MAPPED | _NO_EXECUTE, 0, 0xA))


@scene("no-execute")
def no_execute(layouts: Layouts) -> Scene:
    """0xFC: a call to an address in nonpaged pool."""
    return crashed(called_pool(_POOL), 0xFC, (_POOL, 0x1B2F4000 | _MAPPED | 2 | _NO_EXECUTE, 0xFFFFD48F77AF9820, 2))


@scene("pool-corruption")
def pool_corruption(layouts: Layouts) -> Scene:
    """0xC5: the pool's own code meets an overwritten pointer."""
    allocate = Function("AllocateSome", (*pushes("rbx"), Allocate(0x20)), (Call(0x1C, "import:ExFreePoolWithTag"),))
    pool = Function("ExFreePoolWithTag", (*pushes("rbx", "rsi", "rdi"), Allocate(0x20)), body={0x10: b"\x8b\x03"})
    overwritten = 0x4141414141414141
    made = request(
        allocate,
        (
            Frame("myfault!AllocateSome"),
            Frame("ExFreePoolWithTag", sets={"rbx": overwritten}, stopped_at=0x10),
            Frame("KiPageFault", trap=kernel_trap(), call=TO_BUG_CHECK),
            Frame("KiBugCheckDispatch"),
        ),
        (PAGE_FAULT, pool),
    )
    ip = draft_stack(made, layouts).frame("ExFreePoolWithTag").ip
    return crashed(made, 0xC5, (overwritten, 2, _READ, ip), called_with=(0xA, overwritten, 2, _READ, ip))


_HEAP_ERRORS = (
    Function("RtlpHeapHandleError", (Allocate(0x38),), (Call(0x40, "KeBugCheckEx"),), returns=False),
    Function("RtlpHpHeapHandleError", (*pushes("rbx", "rsi"), Allocate(0x28)), (Call(0x58, "RtlpHeapHandleError"),)),
    Function(
        "ExFreePoolWithTag", (*pushes("rbx", "rsi", "rdi"), Allocate(0x30)), (Call(0x1A0, "RtlpHpHeapHandleError"),)
    ),
)


@scene("heap-corruption")
def heap_corruption(layouts: Layouts) -> Scene:
    """0x13A: a block is freed that the heap does not have (kind 0x11, which is the variable size allocator's)."""
    free = Function("FreeTwice", (*pushes("rbx"), Allocate(0x20)), (Call(0x1C, "import:ExFreePoolWithTag"),))
    made = request(
        free,
        (
            Frame("myfault!FreeTwice"),
            Frame("ExFreePoolWithTag"),
            Frame("RtlpHpHeapHandleError"),
            Frame("RtlpHeapHandleError"),
        ),
        _HEAP_ERRORS,
    )
    header = struct.pack("<BBBB4s8x", 0, 0, 6, 2, b"Leak")
    made = add(made, records=(Record(_POOL, header),), blocks=((_POOL, len(header)),))
    return crashed(made, 0x13A, (0x11, 0xFFFF91894C202100, _POOL, 0))


@scene("store-exception")
def store_exception(layouts: Layouts) -> Scene:
    """0x154: the store met an in-page error; argument 2 points at EXCEPTION_POINTERS on the stack."""
    made = request(
        Function("ReadStore", (Allocate(0x638),), (Call(0x40, "import:KeBugCheckEx"),), returns=False),
        (Frame("myfault!ReadStore"),),
        imports=("KeBugCheckEx",),
    )
    draft = draft_stack(made, layouts)
    frame = draft.frame("myfault!ReadStore").child_sp
    pointers, record = frame + 0x60, frame + 0x80
    context = record + 0xA0
    ip = MYFAULT + 0x1D10
    data = b"".join(value.to_bytes(8, "little") for value in (record, context))
    made = add(
        made,
        records=(
            Record(pointers, data),
            Record(record, exception_record(0xC0000006, ip, (_READ, 0x1E35FB24000, 0xC000000E))),
            Record(context, Registers({"rip": ip, "rsp": frame}, 0x10246).context()),
        ),
    )
    return crashed(made, 0x154, (0xFFFF91894EF01000, pointers, 2, 0))


@scene("integrity")
def integrity(layouts: Layouts) -> Scene:
    """0x109: the kernel's integrity check found a changed function."""
    made = request(
        Function("Check", (Allocate(0x38),), (Call(0x20, "import:KeBugCheckEx"),), returns=False),
        (Frame("myfault!Check"),),
        imports=("KeBugCheckEx",),
    )
    return crashed(
        made, 0x109, (0xA3A01F5A61C4B6D6, 0xB3B72BE0B4454A5D, made.kernel_base + (layouts.symbol("KeSetEvent") or 0), 1)
    )
