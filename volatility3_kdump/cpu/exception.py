"""Exception records, and the names of exception codes.

* :func:`parse_exception_record` - an EXCEPTION_RECORD's bytes as an :class:`ExceptionRecord`.
* :func:`access_kind` - whether an access violation or an in-page error was a read, a write or an execution.
* :func:`code_name`, :func:`code_text` - a code's constant and its words.

Layout: ``EXCEPTION_RECORD`` of ``winnt.h``, 0x98 bytes with 64-bit pointers and 0x50 with 32-bit ones. Codes:
``ntstatus.h``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: EXCEPTION_MAXIMUM_PARAMETERS.
MAXIMUM_PARAMETERS = 15

ACCESS_VIOLATION = 0xC0000005
IN_PAGE_ERROR = 0xC0000006
#: Also raised by __fastfail, whose code is then the first parameter.
STACK_BUFFER_OVERRUN = 0xC0000409

#: Exception code to its constant and its words.
CODES: dict[int, tuple[str, str]] = {
    0x40010005: ("DBG_CONTROL_C", "Control-C exception"),
    0x4000001F: ("STATUS_WX86_BREAKPOINT", "WOW64 breakpoint"),
    0x406D1388: ("MS_VC_EXCEPTION", "Thread name notification"),
    0x80000001: ("STATUS_GUARD_PAGE_VIOLATION", "Guard page violation"),
    0x80000002: ("STATUS_DATATYPE_MISALIGNMENT", "Data misalignment"),
    0x80000003: ("STATUS_BREAKPOINT", "Break instruction exception"),
    0x80000004: ("STATUS_SINGLE_STEP", "Single step exception"),
    0xC0000005: ("STATUS_ACCESS_VIOLATION", "Access violation"),
    0xC0000006: ("STATUS_IN_PAGE_ERROR", "In-page I/O error"),
    0xC0000008: ("STATUS_INVALID_HANDLE", "Invalid handle exception"),
    0xC000000D: ("STATUS_INVALID_PARAMETER", "Invalid parameter"),
    0xC0000017: ("STATUS_NO_MEMORY", "Not enough memory"),
    0xC000001D: ("STATUS_ILLEGAL_INSTRUCTION", "Illegal instruction"),
    0xC0000025: ("STATUS_NONCONTINUABLE_EXCEPTION", "Noncontinuable exception"),
    0xC0000026: ("STATUS_INVALID_DISPOSITION", "Invalid disposition from an exception handler"),
    0xC000008C: ("STATUS_ARRAY_BOUNDS_EXCEEDED", "Array bounds exceeded"),
    0xC000008D: ("STATUS_FLOAT_DENORMAL_OPERAND", "Floating-point denormal operand"),
    0xC000008E: ("STATUS_FLOAT_DIVIDE_BY_ZERO", "Floating-point divide-by-zero"),
    0xC000008F: ("STATUS_FLOAT_INEXACT_RESULT", "Floating-point inexact result"),
    0xC0000090: ("STATUS_FLOAT_INVALID_OPERATION", "Floating-point invalid operation"),
    0xC0000091: ("STATUS_FLOAT_OVERFLOW", "Floating-point overflow"),
    0xC0000092: ("STATUS_FLOAT_STACK_CHECK", "Floating-point stack check"),
    0xC0000093: ("STATUS_FLOAT_UNDERFLOW", "Floating-point underflow"),
    0xC0000094: ("STATUS_INTEGER_DIVIDE_BY_ZERO", "Integer divide-by-zero"),
    0xC0000095: ("STATUS_INTEGER_OVERFLOW", "Integer overflow"),
    0xC0000096: ("STATUS_PRIVILEGED_INSTRUCTION", "Privileged instruction"),
    0xC000009A: ("STATUS_INSUFFICIENT_RESOURCES", "Insufficient system resources"),
    0xC00000FD: ("STATUS_STACK_OVERFLOW", "Stack overflow"),
    0xC0000194: ("STATUS_POSSIBLE_DEADLOCK", "Possible deadlock condition"),
    0xC00002B4: ("STATUS_FLOAT_MULTIPLE_FAULTS", "Multiple floating-point faults"),
    0xC00002B5: ("STATUS_FLOAT_MULTIPLE_TRAPS", "Multiple floating-point traps"),
    0xC0000374: ("STATUS_HEAP_CORRUPTION", "Heap corruption"),
    0xC0000409: ("STATUS_STACK_BUFFER_OVERRUN", "Security check failure or stack buffer overrun"),
    0xC0000420: ("STATUS_ASSERTION_FAILURE", "Assertion failure"),
    0xE06D7363: ("CPP_EXCEPTION", "C++ EH exception"),
}


@dataclass(frozen=True)
class ExceptionRecord:
    """One exception: ``EXCEPTION_RECORD``.

    ``code`` is the unsigned NTSTATUS; ``address`` where the exception happened; ``parameters`` ExceptionInformation,
    as many as NumberParameters says and at most 15; ``nested`` the virtual address of the next record in the chain,
    ``None`` when there is none. ``pointer_size`` is 8 or 4 bytes.
    """

    code: int
    flags: int
    address: int
    parameters: tuple[int, ...]
    nested: int | None
    pointer_size: int

    @property
    def name(self) -> str | None:
        """The code's constant, such as ``STATUS_ACCESS_VIOLATION``; ``None`` when it is not in the table."""
        return code_name(self.code)


def record_size(pointer_size: int) -> int:
    """Bytes of an EXCEPTION_RECORD."""
    return 0x98 if pointer_size == 8 else 0x50


def parse_exception_record(data: bytes, pointer_size: int = 8) -> ExceptionRecord | None:
    """The EXCEPTION_RECORD at the start of ``data``.

    ``None`` when the bytes are too few or the record was never written ("PAGE" fill, or code 0 with address 0).
    Parameters beyond the end of ``data`` are left out.
    """
    layout, start = ("<IIQQI", 0x20) if pointer_size == 8 else ("<IIIII", 0x14)
    if len(data) < struct.calcsize(layout) or data[:4] == b"PAGE":
        return None
    code, flags, nested, address, count = struct.unpack_from(layout, data)
    if code == 0 and address == 0:
        return None
    fitting = max(0, (len(data) - start) // pointer_size)
    count = min(count, MAXIMUM_PARAMETERS, fitting)
    parameters = struct.unpack_from(f"<{count}{'Q' if pointer_size == 8 else 'I'}", data, start) if count else ()
    return ExceptionRecord(code, flags, address, parameters, nested or None, pointer_size)


def access_kind(record: ExceptionRecord) -> str | None:
    """``read``, ``write`` or ``execute`` for an access violation or an in-page error; ``None`` for anything else."""
    if record.code not in (ACCESS_VIOLATION, IN_PAGE_ERROR) or not record.parameters:
        return None
    return {0: "read", 1: "write", 8: "execute"}.get(record.parameters[0])


def access_text(kind: str | None, address: int | None) -> str:
    """An access that was reported, in words; one that is not known was a read."""
    what, joint = {"write": ("a write", "to"), "execute": ("an execution", "of")}.get(kind or "", ("a read", "of"))
    return f"{what} without an address" if address is None else f"{what} {joint} {address:#x}"


def accessed_address(record: ExceptionRecord) -> int | None:
    """The address whose access failed, for an access violation or an in-page error; ``None`` for anything else."""
    if record.code not in (ACCESS_VIOLATION, IN_PAGE_ERROR) or len(record.parameters) < 2:
        return None
    return record.parameters[1]


def code_name(code: int) -> str | None:
    """The constant of an exception code; ``None`` when it is not in the table."""
    entry = CODES.get(code & 0xFFFFFFFF)
    return entry[0] if entry else None


def code_text(code: int) -> str | None:
    """What an exception code means, in words; ``None`` when it is not in the table."""
    entry = CODES.get(code & 0xFFFFFFFF)
    return entry[1] if entry else None
