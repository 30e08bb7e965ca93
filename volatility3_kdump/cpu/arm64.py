"""ARM64: pointer authentication, trap frames, and what the exception syndrome register says.

* :func:`strip_pointer_authentication` - the address in a pointer that carries an authentication code.
* :func:`trap_frame` - a KTRAP_FRAME as a :class:`~volatility3_kdump.cpu.context.Context`.
* :func:`why_not_trap_frame` - the reason why none can lie at an address.
* :func:`syndrome` - the class of an exception, and the access that failed.

Layout: ``_KTRAP_FRAME`` (0x150), whose fields lie at the same places in Windows 11 21H2 and 24H2; checked on the trap
frames in a real small memory dump. Exception syndromes: Arm Architecture Reference Manual, ESR_EL1; saved program
status: SPSR_EL1.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts

#: Bits of an address that translation uses: bits 0 to 47 of a 48-bit address space, the one of Windows on ARM64.
VIRTUAL_ADDRESS_BITS = 48

TRAP_FRAME_SIZE = 0x150
#: Fp and Pc in a trap frame form a frame record: the trap handler's frame pointer leads to it.
RECORD_IN_TRAP_FRAME = 0x140
_ACTIVE, _FAULT_ADDRESS, _SPSR, _SP, _X0, _LR = 0x00, 0x08, 0x90, 0x98, 0xA0, 0x138
#: VfpState, which points behind the frame where vector registers were saved; how far below handlers keep their record.
_VECTORS, _NEAR = 0x10, 0x80
#: No stack of a thread is larger.
_SAME_STACK = 0x8000
#: x0 to x18; the others are those of the interrupted code until a handler saves them.
_SAVED = 19
#: SPSR: the mode (its bit 4 is AArch32), those of the kernel and of user mode, bits that are always zero.
_MODE, _KERNEL_MODES, _USER_MODE, _ZERO_BITS = 0x1F, (4, 5), 0, 0x0C0FC000
#: KTRAP_FRAME.ExceptionActive where ESR and FAR are those of the exception.
_EXCEPTION_ACTIVE = 1
_LOWEST_USER = 0x10000

#: Classes of exceptions (ESR.EC): lower and current exception level.
_INSTRUCTION_ABORTS, _DATA_ABORTS = (0x20, 0x21), (0x24, 0x25)
_UNKNOWN, _ILLEGAL_STATE, _PC_ALIGNMENT, _SP_ALIGNMENT, _BREAK, _FPAC, _BTI = 0x00, 0x0E, 0x22, 0x26, 0x3C, 0x1C, 0x0D
_CLASSES = {
    _UNKNOWN: "undefined instruction",
    _BTI: "branch target",
    _ILLEGAL_STATE: "illegal execution state",
    0x15: "system call",
    _FPAC: "pointer authentication",
    0x20: "instruction abort from user mode",
    0x21: "instruction abort",
    _PC_ALIGNMENT: "misaligned pc",
    0x24: "data abort from user mode",
    0x25: "data abort",
    _SP_ALIGNMENT: "misaligned sp",
    0x2F: "SError",
    0x31: "breakpoint",
    0x33: "single step",
    0x35: "watchpoint",
    _BREAK: "break instruction",
}
_WRITE_NOT_READ, _STATUS = 1 << 6, 0x3F
_ALIGNMENT_FAULT, _SYNCHRONOUS_EXTERNAL = 0x21, 0x10


class Syndrome(NamedTuple):
    """What ESR says: ``class_name`` in words, ``access`` (``read``, ``write``, ``execute``) of an abort else ``None``;
    ``alignment`` marks an access that was refused for its alignment, ``external`` one that the memory answered with an
    error."""

    number: int
    class_name: str | None
    access: str | None
    alignment: bool
    external: bool


def strip_pointer_authentication(pointer: int, mask: int | None = None) -> int:
    """The address in a pointer that may carry an authentication code (PAC) in its upper bits.

    Bit 55 selects the half of the address space: the code bits become ones in the kernel's half and zeros in the
    user's, as the XPACI instruction does. ``mask`` has a one in every bit that can hold the code, as
    ``KDDEBUGGER_DATA64.PointerAuthMask`` gives it (Windows 11 22H2 and later); without it (``None`` or 0), every bit
    above the 48-bit address except bit 55 can.
    """
    pointer &= 0xFFFFFFFFFFFFFFFF
    code_bits = mask or 0xFFFFFFFFFFFFFFFF << VIRTUAL_ADDRESS_BITS
    code_bits &= 0xFFFFFFFFFFFFFFFF & ~(1 << 55)
    return pointer | code_bits if pointer >> 55 & 1 else pointer & ~code_bits


def trap_frame(read: Read, address: int, layouts: Layouts | None = None) -> Context | None:
    """The registers saved in the KTRAP_FRAME at a virtual address; ``None`` when it is absent or implausible.

    Known are ``x0`` to ``x18``, ``fp lr sp pc`` and ``cpsr``, and where an exception was taken ``esr`` and ``far``.
    ``x19`` to ``x28`` are in no trap frame. ``layouts`` is the kernel's symbol table; its fields are at these places in
    every kernel that is known, so that one that differs gives no trap frame.
    """
    data = read(address, TRAP_FRAME_SIZE)
    if data is None or _against(data, address) is not None or not _as_known(layouts):
        return None
    status, esr, sp = struct.unpack_from("<IIQ", data, _SPSR)
    lr, fp, pc = struct.unpack_from("<3Q", data, _LR)
    registers = {f"x{number}": value for number, value in enumerate(struct.unpack_from(f"<{_SAVED}Q", data, _X0))}
    registers |= {"fp": fp, "lr": lr, "sp": sp, "pc": pc, "cpsr": status}
    if data[_ACTIVE] == _EXCEPTION_ACTIVE:
        registers |= {"esr": esr, "far": struct.unpack_from("<Q", data, _FAULT_ADDRESS)[0]}
    return Context("arm64", registers, "trap frame", address)


def why_not_trap_frame(read: Read, address: int, layouts: Layouts | None = None) -> str | None:
    """The reason why no KTRAP_FRAME can lie at the address, in words; ``None`` when one can."""
    data = read(address, TRAP_FRAME_SIZE)
    if data is None:
        return f"{address:#x} not in the dump"
    return _against(data, address) or (None if _as_known(layouts) else "this kernel has another layout of trap frames")


def is_marked(read: Read, address: int) -> bool:
    """Whether a trap frame has its handler's marks: the vector registers behind it, or a record that leads to it.

    That is asked of what was found by a search: a frame that an argument names need not have them.
    """
    data = read(address, TRAP_FRAME_SIZE)
    if data is None or _against(data, address) is not None:
        return False
    if struct.unpack_from("<Q", data, _VECTORS)[0] == address + TRAP_FRAME_SIZE:
        return True
    sp, pc = (struct.unpack_from("<Q", data, offset)[0] for offset in (_SP, _LR + 0x10))
    if pc >> VIRTUAL_ADDRESS_BITS not in (0, 0xFFFF) or not TRAP_FRAME_SIZE <= sp - address < _SAME_STACK:
        return False
    below = read(address - _NEAR, _NEAR) or b""
    return address + RECORD_IN_TRAP_FRAME in (word for (word,) in struct.iter_unpack("<Q", below))


def syndrome(esr: int) -> Syndrome:
    """What an exception syndrome register says of the exception."""
    number = esr >> 26 & 0x3F
    access = None
    if number in _INSTRUCTION_ABORTS:
        access = "execute"
    elif number in _DATA_ABORTS:
        access = "write" if esr & _WRITE_NOT_READ else "read"
    status = esr & _STATUS
    return Syndrome(
        number,
        _CLASSES.get(number),
        access,
        access is not None and status == _ALIGNMENT_FAULT,
        access is not None and status == _SYNCHRONOUS_EXTERNAL,
    )


def _against(data: bytes, address: int) -> str | None:
    status, _, sp = struct.unpack_from("<IIQ", data, _SPSR)
    pc = struct.unpack_from("<Q", data, _LR + 0x10)[0]
    if address & 15:
        return f"{address:#x} is not 16-byte aligned"
    mode = status & _MODE
    if status & _ZERO_BITS or mode not in (*_KERNEL_MODES, _USER_MODE):
        return f"Spsr {status:#x} is none of Windows"
    kernel = pc >> VIRTUAL_ADDRESS_BITS == 0xFFFF
    if not kernel and pc >> VIRTUAL_ADDRESS_BITS:
        # A pc that no translation takes is what a corrupt pointer leaves: only the kernel's own frames have one.
        return None if mode in _KERNEL_MODES and _is_kernel_stack(sp, address) else f"Pc {pc:#x} is no address"
    if mode == _USER_MODE:
        if kernel or pc < _LOWEST_USER or sp >> VIRTUAL_ADDRESS_BITS or pc & 3:
            return f"Pc {pc:#x} and Sp {sp:#x} are not those of user mode"
        return None
    return None if _is_kernel_stack(sp, address) else f"Sp {sp:#x} is no stack pointer of the kernel"


def _is_kernel_stack(sp: int, address: int) -> bool:
    """Whether interrupted kernel code had its stack above the trap frame, or anywhere on another stack."""
    if sp >> VIRTUAL_ADDRESS_BITS != 0xFFFF or sp & 15:
        return False
    return sp >= address + TRAP_FRAME_SIZE or address - sp > TRAP_FRAME_SIZE


def _as_known(layouts: Layouts | None) -> bool:
    if layouts is None or not layouts.has_type("_KTRAP_FRAME"):
        return True
    places = {"Spsr": _SPSR, "Sp": _SP, "Lr": _LR, "Pc": _LR + 0x10}
    fields = {name: layouts.find("_KTRAP_FRAME", name) for name in places}
    return all(field is not None and field.offset == places[name] for name, field in fields.items())
