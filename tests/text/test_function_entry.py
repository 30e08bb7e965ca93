"""``.fnent``: a published session, whose image's bytes are published as well."""

from __future__ import annotations

import struct

from volatility3_kdump.analysis.function_entry import FunctionEntry
from volatility3_kdump.cpu.amd64_unwind import decode_unwind_info
from volatility3_kdump.text.function_entry import entry_lines

#: ConsoleApplication1!test: header, five codes, padding, the handler and its data.
_INFO = bytes.fromhex("19490545 2043 1b01 3300 1470 1350 0000") + struct.pack("<II", 0x11307, 3)
_RVA = 0x1CCA4


def test_a_published_entry() -> None:
    def read(rva: int, size: int) -> bytes | None:
        start = rva - _RVA
        return _INFO[start : start + size] if start >= 0 and start + size <= len(_INFO) else None

    info = decode_unwind_info(read, _RVA, 0x20000)
    handler = "ConsoleApplication1!ILT+770(__GSHandlerCheck_SEH)"
    entry = FunctionEntry(0x7FF678E20000, 0x15FB0, 0x16165, _RVA, info, 5, 3, handler)
    assert list(entry_lines(entry)) == [
        "BeginAddress      = 00000000`00015fb0",
        "EndAddress        = 00000000`00016165",
        "UnwindInfoAddress = 00000000`0001cca4",
        "",
        "Unwind info at 00007ff6`78e3cca4, 18 bytes",
        "  version 1, flags 3, prolog 49, codes 5",
        "  frame reg 5 (rbp), frame offs 40h",
        f"  handler routine: {handler} (00007ff6`78e31307), data 3",
        "  00: offs 20, unwind op 3, op info 4\tUWOP_SET_FPREG.",
        "  01: offs 1b, unwind op 1, op info 0\tUWOP_ALLOC_LARGE FrameOffset: 198.",
        "  03: offs 14, unwind op 0, op info 7\tUWOP_PUSH_NONVOL reg: rdi.",
        "  04: offs 13, unwind op 0, op info 5\tUWOP_PUSH_NONVOL reg: rbp.",
    ]
