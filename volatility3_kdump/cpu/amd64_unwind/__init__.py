"""x64 unwinding: from the registers in a function to the registers at its call.

* :class:`Registers` - the sixteen general registers, ``rip`` and ``xmm6``-``xmm15``, each known or unknown.
* :class:`FunctionTable` - the exception directory of one image: which function an RVA lies in, decoded once.
* :func:`unwind` - one step; :class:`Unwound` says what came out of it and what kind of frame it was.
* :func:`decode_unwind_info` - one UNWIND_INFO with its codes as they are stored.

Everything is read through two functions that may answer ``None``: ``read_rva(rva, size)`` of the image and
``read(address, size)`` of the stack. Hostile data end in :attr:`Unwound.reason`, never in an exception or a loop.

Facts: "x64 exception handling" of Microsoft's documentation (RUNTIME_FUNCTION, UNWIND_INFO, UNWIND_CODE, the shape of
epilogues); UNWIND_INFO version 2 as compilers emit it. Version 3 is recognised and refused.

How a function is undone. The codes of a function and of the entries it is chained to are folded into a *program*: where
each register was saved relative to one register, and where the return address lies. For
``push rbx; sub rsp, 20h`` the program reads ``rbx`` at ``rsp+20h``, the return address at ``rsp+28h``, and leaves
``rsp+30h``: one read and one unpacking for a frame. Positions in a prologue have programs of their own, of the codes
that were already executed.

Epilogues undo a part of the frame before the function returns. Version 2 lists them. For version 1 the instructions at
``rip`` are matched: ``add rsp, n`` or ``lea rsp, [frame register+n]``, pops, then a return or a jump that leaves
the function. Where the jump goes to decides what it is: at the entry of another function it is a tail call; in a
fragment that has a frame of its own set up (separated code of the same function) the frame goes on there, and is
unwound from there.
"""

from __future__ import annotations

from volatility3_kdump.cpu.amd64_unwind.codes import (
    ALLOC_LARGE,
    ALLOC_SMALL,
    EPILOG,
    FLAG_CHAINED,
    FLAG_EXCEPTION_HANDLER,
    FLAG_TERMINATION_HANDLER,
    PUSH_MACHFRAME,
    PUSH_NONVOL,
    SAVE_NONVOL,
    SAVE_NONVOL_FAR,
    SAVE_XMM128,
    SAVE_XMM128_FAR,
    SET_FPREG,
    SPARE,
    ReadRva,
    UnwindCode,
    UnwindInfo,
    decode_unwind_info,
)
from volatility3_kdump.cpu.amd64_unwind.functions import Function, FunctionTable, TableAbsent
from volatility3_kdump.cpu.amd64_unwind.registers import REGISTER_NAMES, Registers
from volatility3_kdump.cpu.amd64_unwind.step import Unwound, unwind

__all__ = [
    "ALLOC_LARGE",
    "ALLOC_SMALL",
    "EPILOG",
    "FLAG_CHAINED",
    "FLAG_EXCEPTION_HANDLER",
    "FLAG_TERMINATION_HANDLER",
    "PUSH_MACHFRAME",
    "PUSH_NONVOL",
    "REGISTER_NAMES",
    "SAVE_NONVOL",
    "SAVE_NONVOL_FAR",
    "SAVE_XMM128",
    "SAVE_XMM128_FAR",
    "SET_FPREG",
    "SPARE",
    "Function",
    "FunctionTable",
    "ReadRva",
    "Registers",
    "TableAbsent",
    "UnwindCode",
    "UnwindInfo",
    "Unwound",
    "decode_unwind_info",
    "unwind",
]
