"""Counted strings, control codes and global flags in KD's words: ``!ustr``, ``!ioctldecode``, ``!gflag``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer

_METHODS = ("METHOD_BUFFERED", "METHOD_IN_DIRECT", "METHOD_OUT_DIRECT", "METHOD_NEITHER")
_ACCESS = ("FILE_ANY_ACCESS", "FILE_READ_ACCESS", "FILE_WRITE_ACCESS", "FILE_READ_ACCESS | FILE_WRITE_ACCESS")
#: The global flags of the documentation of GFlags: abbreviation and what it does.
GLOBAL_FLAGS = {
    0x1: ("soe", "Stop on exception"),
    0x2: ("sls", "Show loader snaps"),
    0x4: ("dic", "Debug initial command"),
    0x8: ("shg", "Stop on hung GUI"),
    0x10: ("htc", "Enable heap tail checking"),
    0x20: ("hfc", "Enable heap free checking"),
    0x40: ("hpc", "Enable heap parameter checking"),
    0x80: ("hvc", "Enable heap validation on call"),
    0x100: ("vrf", "Enable application verifier"),
    0x400: ("ptg", "Enable pool tagging"),
    0x800: ("htg", "Enable heap tagging"),
    0x1000: ("ust", "Create user mode stack trace database"),
    0x2000: ("kst", "Create kernel mode stack trace database"),
    0x4000: ("otl", "Maintain a list of objects for each type"),
    0x8000: ("htd", "Enable heap tagging by DLL"),
    0x10000: ("dse", "Disable stack extension"),
    0x20000: ("d32", "Enable debugging of Win32 subsystem"),
    0x40000: ("ksl", "Enable loading of kernel debugger symbols"),
    0x80000: ("dps", "Disable paging of kernel stacks"),
    0x100000: ("scb", "Enable system critical breaks"),
    0x200000: ("dhc", "Disable heap coalesce on free"),
    0x400000: ("ece", "Enable close exception"),
    0x800000: ("eel", "Enable exception logging"),
    0x1000000: ("eot", "Enable object handle type tagging"),
    0x2000000: ("hpa", "Enable page heap"),
    0x4000000: ("dwl", "Debug WinLogon"),
    0x8000000: ("ddp", "Buffer DbgPrint output"),
    0x10000000: ("cse", "Early critical section event creation"),
    0x40000000: ("bhd", "Enable bad handles detection"),
    0x80000000: ("dpd", "Disable protected DLL verification"),
}


def counted_string(length: int, maximum: int, buffer: int, text: str | None, wide: bool, size: int = 8) -> str:
    """``String(12,14) at ...: text``; lengths are in bytes."""
    name = "Unicode String" if wide else "String"
    shown = "not in the dump" if text is None else text
    return f"{name}({length},{maximum}) at {pointer(buffer, size, tick=False)}: {shown}"


def control_code_lines(code: int) -> Iterator[str]:
    """A control code in its parts (CTL_CODE of wdm.h)."""
    yield f"IOCTL           : {code:#x}"
    yield f"Device Type     : {code >> 16:#x}"
    yield f"Method          : {code & 3:#x} {_METHODS[code & 3]}"
    yield f"Access          : {code >> 14 & 3:#x} {_ACCESS[code >> 14 & 3]}"
    yield f"Function        : {code >> 2 & 0xFFF:#x}"


def global_flag_lines(address: int, value: int, size: int = 8) -> Iterator[str]:
    """``!gflag``."""
    yield f"NtGlobalFlag at {pointer(address, size, tick=False)}"
    yield f"Current NtGlobalFlag contents: 0x{value:08x}"
    yield from (f"    {short} - {name}" for bit, (short, name) in GLOBAL_FLAGS.items() if value & bit)
