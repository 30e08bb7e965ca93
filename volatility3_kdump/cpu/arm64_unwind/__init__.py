"""ARM64 unwinding: one frame at a time, from ``.pdata`` and ``.xdata`` or along the frame-pointer chain.

* :class:`Registers` - what is known of the registers of one frame.
* :class:`FunctionTable` - the exception directory of one image, decoded on demand.
* :func:`unwind` - the caller's registers by the image's unwind codes.
* :func:`frame_pointer_step` - the caller's registers by the frame record at ``fp``.

Encoding: "ARM64 exception handling" of the Microsoft C++ documentation. An entry of the exception directory is 8 bytes:
the function's RVA, then either a packed description or the RVA of an ``.xdata`` record. Unwind codes are listed in the
order in which they are undone, each standing for one instruction, so that a position inside a prolog or an epilog tells
how many codes to leave out. ``.xdata`` of a function of 0x2c bytes whose frame is 32 bytes::

    0x0820000b   length 0xb instructions, version 0, no handler, single epilog, whose codes start at 0, one code word
    e1 83 e4 e3  set_fp; save_fplr_x 32; end; padding
"""

from __future__ import annotations

from volatility3_kdump.cpu.arm64_unwind.codes import Code, Epilog, decode_codes
from volatility3_kdump.cpu.arm64_unwind.functions import Function, TableAbsent, decode_full, decode_packed
from volatility3_kdump.cpu.arm64_unwind.registers import Registers
from volatility3_kdump.cpu.arm64_unwind.step import Unwound, frame_pointer_step, unwind
from volatility3_kdump.cpu.arm64_unwind.table import FunctionTable

__all__ = [
    "Code",
    "Epilog",
    "Function",
    "FunctionTable",
    "Registers",
    "TableAbsent",
    "Unwound",
    "decode_codes",
    "decode_full",
    "decode_packed",
    "frame_pointer_step",
    "unwind",
]
