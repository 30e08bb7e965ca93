"""x86: trap frames and task states.

* :func:`trap_frame` - a KTRAP_FRAME as a :class:`~volatility3_kdump.cpu.context.Context`.
* :func:`why_not_trap_frame` - the reason why none can lie at an address.
* :func:`task_state` - the registers that a task switch saved, as the one of a double fault does.

Layouts: ``_KTRAP_FRAME`` (0x8C) of the kernel's public symbols. From ``ExceptionList`` on it is the same in every
kernel; what lies below moved down by four bytes in Windows 10. Task state: Intel SDM volume 3, 8.2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts

TRAP_FRAME_SIZE = 0x8C
#: Where the stack pointer of interrupted kernel code was: the processor saves none without a change of privilege.
STACK_BEHIND_TRAP_FRAME = 0x74
#: What the exception dispatcher (CommonDispatchException) has below a trap frame: its return address, the record.
RETURN_BELOW_TRAP_FRAME, RECORD_BELOW_TRAP_FRAME = 0x04, 0x54
#: DbgArgMark, by which the kernel marks its trap frames.
_MARK_OFFSET, _MARK = 8, 0xBADB0D00

#: Registers by their offsets, the same in every kernel.
_FIXED = {"edi": 0x54, "esi": 0x58, "ebx": 0x5C, "ebp": 0x60, "eip": 0x68, "eflags": 0x70}
#: Edx, Ecx, Eax, and SegDs, SegEs, SegGs below them: before Windows 10, and since.
_OLDER, _NEWER = 0x3C, 0x38
_SEG_FS, _SEG_CS, _HARDWARE_ESP, _HARDWARE_SS = 0x50, 0x6C, 0x74, 0x78

_KERNEL_CODE, _USER_CODE, _USER_STACK = 0x08, 0x1B, 0x23
_KERNEL_STACK, _DATA = 0x10, (0x10, 0x23)
#: Without these bits in SegCs the stack pointer was changed: TempSegCs and TempEsp have the true ones.
_EDITED = 0xFFF8
#: EFLAGS: bits that read as zero, the one that reads as one, interrupts, virtual 8086 mode.
_ZERO, _ONE, _INTERRUPTS, _VIRTUAL = 0xFFC08028, 0x2, 0x200, 0x20000
_KERNEL = 0x80000000
_MASK = 0xFFFFFFFF

#: What a context that :func:`task_state` gives says of its source.
TASK_STATE = "task state segment"
_TASK_SIZE = 0x68
_TASK = {
    **{name: 0x20 + 4 * index for index, name in enumerate(("eip", "eflags", "eax", "ecx", "edx", "ebx", "esp"))},
    **{name: 0x3C + 4 * index for index, name in enumerate(("ebp", "esi", "edi", "es", "cs", "ss", "ds", "fs", "gs"))},
}
_TASK_STACK_SELECTOR = 0x08


def trap_frame(read: Read, address: int, layouts: Layouts | None = None) -> Context | None:
    """The registers saved in the KTRAP_FRAME at a virtual address; ``None`` when it is absent or implausible.

    ``esp`` of interrupted kernel code is the address behind what the processor pushed, unless the frame was edited.
    Without ``layouts``, the kernel's symbol table, ``eax``, ``ecx`` and ``edx`` are known only where the segment
    registers beside them tell which of the two layouts the frame has.
    """
    data = read(address, TRAP_FRAME_SIZE)
    if data is None or _against(data, address) is not None:
        return None
    word = _word(data)
    registers = {name: word(offset) for name, offset in _FIXED.items()}
    selector = word(_SEG_CS) & 0xFFFF
    volatile = _volatile(data, layouts)
    temporary = 0x14 if volatile != _NEWER else 0x10
    if selector & 1 or registers["eflags"] & _VIRTUAL:
        registers["esp"], registers["ss"] = word(_HARDWARE_ESP), word(_HARDWARE_SS) & 0xFFFF
    elif selector & _EDITED:
        registers["esp"] = (address + STACK_BEHIND_TRAP_FRAME) & _MASK
    else:
        registers["esp"], selector = word(temporary), word(temporary - 4) & 0xFFFF
    registers["cs"] = selector
    if not selector & 1:
        registers.setdefault("ss", _KERNEL_STACK)
    if volatile is not None:
        registers |= {name: word(volatile + 4 * index) for index, name in enumerate(("edx", "ecx", "eax"))}
        registers |= {name: word(volatile - 4 * index) & 0xFFFF for index, name in enumerate(("ds", "es", "gs"), 1)}
        registers["fs"] = word(_SEG_FS) & 0xFFFF
    return Context("x86", registers, "trap frame", address)


def why_not_trap_frame(read: Read, address: int, layouts: Layouts | None = None) -> str | None:
    """The reason why no KTRAP_FRAME can lie at the address, in words; ``None`` when one can."""
    data = read(address, TRAP_FRAME_SIZE)
    return f"{address:#x} not in the dump" if data is None else _against(data, address)


def is_marked(read: Read, address: int) -> bool:
    """Whether the kernel's mark stands in the trap frame at an address, with a copy of its ``Ebp`` and ``Eip``.

    That is asked of what was found by a search: a frame that an argument names need not have them.
    """
    data = read(address, TRAP_FRAME_SIZE)
    if data is None or _against(data, address) is not None:
        return False
    word = _word(data)
    return word(_MARK_OFFSET) == _MARK and word(4) == word(_FIXED["eip"]) and word(0) == word(_FIXED["ebp"])


def task_state(read: Read, address: int) -> Context | None:
    """The registers in the task state segment at an address; ``None`` where there is none, or no task was switched."""
    data = read(address, _TASK_SIZE)
    if data is None:
        return None
    word = _word(data)
    registers = {name: word(offset) for name, offset in _TASK.items()}
    flags = registers["eflags"]
    if flags & _ZERO or not flags & _ONE or word(_TASK_STACK_SELECTOR) & 0xFFFF != 0x10:
        return None
    if registers["cs"] & 0xFFFF not in (_KERNEL_CODE, _USER_CODE) or not registers["eip"]:
        return None
    selectors = {name: registers[name] & 0xFFFF for name in ("cs", "ss", "ds", "es", "fs", "gs")}
    return Context("x86", {**registers, **selectors}, TASK_STATE, address)


def _word(data: bytes) -> Callable[[int], int]:
    def at(offset: int) -> int:
        value: int = struct.unpack_from("<I", data, offset)[0]
        return value

    return at


def _against(data: bytes, address: int) -> str | None:
    word = _word(data)
    flags, selector = word(_FIXED["eflags"]), word(_SEG_CS) & 0xFFFF
    if address & 3:
        return f"{address:#x} is not a multiple of 4"
    if flags & _ZERO or not flags & _ONE:
        return f"EFlags {flags:#x} have reserved bits wrong"
    if flags & _VIRTUAL:
        return None
    if selector == _USER_CODE:
        stack = word(_HARDWARE_SS) & 0xFFFF
        if stack != _USER_STACK:
            return f"HardwareSegSs {stack:#x} does not go with user code segment {selector:#x}"
        return None if flags & _INTERRUPTS else "user code segment with interrupts off"
    if selector & _EDITED and selector != _KERNEL_CODE:
        return f"SegCs {selector:#x} is no code segment of Windows"
    if not selector & _EDITED and not any(word(place) & 0xFFFF == _KERNEL_CODE for place in (0x0C, 0x10)):
        return f"SegCs {selector:#x} is no code segment of Windows"
    if not address & _KERNEL:
        return f"a trap of the kernel saved its registers at {address:#x}, in user space"
    return None


def _volatile(data: bytes, layouts: Layouts | None) -> int | None:
    """Where Edx, Ecx and Eax lie: by the symbols, else by which places hold selectors; ``None`` where both do."""
    field = layouts.find("_KTRAP_FRAME", "Edx") if layouts is not None else None
    if field is not None:
        return field.offset
    word = _word(data)
    fitting = [
        place
        for place in (_OLDER, _NEWER)
        # SegDs and SegEs are those of flat data; SegGs may be empty.
        if word(place - 4) in _DATA and word(place - 8) in _DATA and word(place - 12) in (0, *_DATA)
    ]
    return fitting[0] if len(fitting) == 1 else None
