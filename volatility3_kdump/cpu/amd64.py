"""x64: registers of its calling convention, trap frames and exception frames.

* :func:`trap_frame` - a KTRAP_FRAME as a :class:`~volatility3_kdump.cpu.context.Context`.
* :func:`why_not_trap_frame`, :func:`looks_like_trap_frame` - whether bytes can be a trap frame.
* :func:`exception_frame` - the nonvolatile registers that a KEXCEPTION_FRAME saved.

Layouts: ``_KTRAP_FRAME`` (0x190) and ``_KEXCEPTION_FRAME`` (0x140) of
the kernel's public symbols, whose register fields have the same offsets in every x64 kernel from Windows 7 to 11.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts

#: Registers that a call may change, and that a trap frame therefore holds.
VOLATILE = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11")
#: Registers that a function restores before it returns (x64 calling convention), the stack pointer apart.
NONVOLATILE = ("rbx", "rbp", "rsi", "rdi", "r12", "r13", "r14", "r15")

TRAP_FRAME_SIZE = 0x190
EXCEPTION_FRAME_SIZE = 0x140

#: KTRAP_FRAME field to (offset, size), used where no symbol table gives them.
TRAP_FRAME_FIELDS = {
    "ExceptionActive": (0x2B, 1),
    "Rax": (0x30, 8),
    "Rcx": (0x38, 8),
    "Rdx": (0x40, 8),
    "R8": (0x48, 8),
    "R9": (0x50, 8),
    "R10": (0x58, 8),
    "R11": (0x60, 8),
    "Rbx": (0x140, 8),
    "Rdi": (0x148, 8),
    "Rsi": (0x150, 8),
    "Rbp": (0x158, 8),
    "Rip": (0x168, 8),
    "SegCs": (0x170, 2),
    "EFlags": (0x178, 4),
    "Rsp": (0x180, 8),
    "SegSs": (0x188, 2),
}

#: KEXCEPTION_FRAME field to (offset, size), used where no symbol table gives them.
EXCEPTION_FRAME_FIELDS = {
    "Rbp": (0xF8, 8),
    "Rbx": (0x100, 8),
    "Rdi": (0x108, 8),
    "Rsi": (0x110, 8),
    "R12": (0x118, 8),
    "R13": (0x120, 8),
    "R14": (0x128, 8),
    "R15": (0x130, 8),
}

#: KTRAP_FRAME.ExceptionActive of a frame built by a system call.
_SERVICE_ACTIVE = 2
_KERNEL_CODE, _USER_CODES = 0x10, (0x33, 0x23)
_KERNEL_STACKS, _USER_STACK = (0, 0x18), 0x2B
#: EFLAGS bits that always read as zero; bit 1 always reads as one.
_EFLAGS_ZERO = 0xFFC08028
_EFLAGS_ONE = 0x2
_INTERRUPT_FLAG = 0x200


def is_canonical(address: int, bits: int = 57) -> bool:
    """Whether an address sign-extends from its top translated bit: ``bits`` is 48, or 57 with five-level paging."""
    top = address >> (bits - 1)
    return top in (0, (1 << (65 - bits)) - 1)


def trap_frame(
    read: Read, address: int, layouts: Layouts | None = None, *, service_linkage: int | None = None
) -> Context | None:
    """The registers saved in the KTRAP_FRAME at a virtual address; ``None`` when it is absent or implausible.

    Known are ``rip rsp rbp eflags cs ss`` and, for interrupts and exceptions, the volatile registers. A system call
    (``ExceptionActive`` 2) saves ``rbx rdi rsi`` but not the volatile registers, whose slots hold whatever was on the
    stack before. ``r12`` to ``r15`` are in no trap frame. A call of a ``Zw`` routine from the kernel leaves
    ``ExceptionActive`` and ``SegSs`` unwritten: with ``service_linkage``, the address of nt!KiServiceLinkage, such a
    frame is known by its ``rip``. ``layouts`` is the kernel's symbol table; without it the fixed offsets are used.
    """
    values = _read_fields(read, address, _fields(layouts, "_KTRAP_FRAME", TRAP_FRAME_FIELDS))
    if _against(values, address, service_linkage) is not None:
        return None
    linkage = values["Rip"] == service_linkage
    service = linkage or values.get("ExceptionActive") == _SERVICE_ACTIVE
    wanted = ["Rbp", "Rip", "EFlags", "Rsp", "SegCs"]
    if not linkage:
        wanted.append("SegSs")
    if service:
        wanted += ["Rbx", "Rdi", "Rsi"]
    elif "ExceptionActive" in values:
        wanted += ["Rax", "Rcx", "Rdx", "R8", "R9", "R10", "R11"]
    registers = {_register(name): values[name] for name in wanted if name in values}
    return Context("x64", registers, "trap frame", address)


def looks_like_trap_frame(
    read: Read, address: int, layouts: Layouts | None = None, *, service_linkage: int | None = None
) -> bool:
    """Whether :func:`why_not_trap_frame` has nothing against the bytes at the address."""
    return why_not_trap_frame(read, address, layouts, service_linkage=service_linkage) is None


def why_not_trap_frame(
    read: Read, address: int, layouts: Layouts | None = None, *, service_linkage: int | None = None
) -> str | None:
    """The reason why no KTRAP_FRAME can lie at the address, in words; ``None`` when one can.

    Judged by the hardware's machine frame: selectors, reserved bits of EFLAGS, canonical addresses, and, for a trap
    taken in the kernel, the distance between the interrupted stack pointer and the frame: the processor aligns the
    stack to 16 bytes and the frame follows, unless the interrupt has a stack of its own. The frame of a ``Zw`` call
    has no stack selector and passes only with ``service_linkage``, as in :func:`trap_frame`.
    """
    values = _read_fields(read, address, _fields(layouts, "_KTRAP_FRAME", TRAP_FRAME_FIELDS))
    return _against(values, address, service_linkage)


def why_not_machine_frame(read: Read, address: int) -> str | None:
    """The reason why the processor cannot have pushed the five quadwords at an address (``rip cs eflags rsp ss``).

    ``None`` when it can have. Bytes that are not in the dump are a reason.
    """
    data = read(address, 0x28)
    if data is None:
        return f"the machine frame at {address:#x} is not in the dump"
    rip, cs, eflags, rsp, ss = struct.unpack("<5Q", data)
    values = {"Rip": rip, "SegCs": cs & 0xFFFF, "EFlags": eflags & 0xFFFFFFFF, "Rsp": rsp, "SegSs": ss & 0xFFFF}
    return _against(values, address & -16, None)


def exception_frame(read: Read, address: int, layouts: Layouts | None = None) -> Mapping[str, int]:
    """The nonvolatile registers in the KEXCEPTION_FRAME at a virtual address; those not in the dump are left out."""
    values = _read_fields(read, address, _fields(layouts, "_KEXCEPTION_FRAME", EXCEPTION_FRAME_FIELDS))
    return {_register(name): value for name, value in values.items()}


def _against(values: Mapping[str, int], address: int, service_linkage: int | None) -> str | None:
    missing = [name for name in ("Rip", "SegCs", "EFlags", "Rsp") if name not in values]
    if missing:
        return f"{', '.join(missing)} at {address:#x} not in the dump"
    if address % 16:
        return f"{address:#x} is not 16-byte aligned"
    rip, cs, eflags, rsp = (values[name] for name in ("Rip", "SegCs", "EFlags", "Rsp"))
    stack = values.get("SegSs")
    if eflags & _EFLAGS_ZERO or not eflags & _EFLAGS_ONE:
        return f"EFlags {eflags:#x} have reserved bits wrong"
    if not is_canonical(rip):
        return f"Rip {rip:#x} is not canonical"
    if cs in _USER_CODES:
        if stack not in (None, _USER_STACK):
            return f"SegSs {stack:#x} does not go with user code segment {cs:#x}"
        if rip >> 63 or not eflags & _INTERRUPT_FLAG:
            return "user code segment with a kernel Rip or with interrupts off"
        return None
    if cs != _KERNEL_CODE:
        return f"SegCs {cs:#x} is no code segment of Windows"
    if not rsp >> 63 or not is_canonical(rsp):
        return f"kernel code segment with Rsp {rsp:#x}"
    if rip == service_linkage:
        return None
    if stack not in (None, *_KERNEL_STACKS):
        return f"SegSs {stack:#x} does not go with the kernel code segment"
    if (rsp & ~15) - TRAP_FRAME_SIZE != address and values.get("ExceptionActive", 0) > _SERVICE_ACTIVE:
        return f"Rsp {rsp:#x} is of another stack, and ExceptionActive {values['ExceptionActive']} is no trap's"
    return None


def _fields(
    layouts: Layouts | None, type_name: str, fixed: Mapping[str, tuple[int, int]]
) -> Mapping[str, tuple[int, int]]:
    if layouts is None or not layouts.has_type(type_name):
        return fixed
    fields = {name: layouts.find(type_name, name) for name in fixed}
    return {name: (field.offset, field.size) for name, field in fields.items() if field is not None}


def _read_fields(read: Read, address: int, fields: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Little-endian values of the fields that are in the dump: one read, or one for each where that one fails."""
    start = min(offset for offset, _ in fields.values())
    end = max(offset + size for offset, size in fields.values())
    block = read(address + start, end - start)
    if block is not None:
        return {
            name: int.from_bytes(block[offset - start : offset - start + size], "little")
            for name, (offset, size) in fields.items()
        }
    parts = {name: read(address + offset, size) for name, (offset, size) in fields.items()}
    return {name: int.from_bytes(part, "little") for name, part in parts.items() if part is not None}


def _register(field_name: str) -> str:
    return {"SegCs": "cs", "SegSs": "ss"}.get(field_name, field_name.lower())
