"""Entries of function tables as KD's ``.fnent`` shows them."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.analysis.function_entry import FunctionEntry
from volatility3_kdump.cpu.amd64_unwind import (
    ALLOC_LARGE,
    ALLOC_SMALL,
    FLAG_CHAINED,
    PUSH_MACHFRAME,
    PUSH_NONVOL,
    REGISTER_NAMES,
    SAVE_NONVOL,
    SAVE_NONVOL_FAR,
    SAVE_XMM128,
    SAVE_XMM128_FAR,
    SET_FPREG,
    SPARE,
    UnwindCode,
    UnwindInfo,
)
from volatility3_kdump.text.addresses import pointer

_OPERATIONS = {
    PUSH_NONVOL: "PUSH_NONVOL",
    ALLOC_LARGE: "ALLOC_LARGE",
    ALLOC_SMALL: "ALLOC_SMALL",
    SET_FPREG: "SET_FPREG",
    SAVE_NONVOL: "SAVE_NONVOL",
    SAVE_NONVOL_FAR: "SAVE_NONVOL_FAR",
    SPARE: "SPARE_CODE",
    SAVE_XMM128: "SAVE_XMM128",
    SAVE_XMM128_FAR: "SAVE_XMM128_FAR",
    PUSH_MACHFRAME: "PUSH_MACHFRAME",
}
_SLOTS = {SAVE_NONVOL: 2, SAVE_XMM128: 2, SAVE_NONVOL_FAR: 3, SAVE_XMM128_FAR: 3, SPARE: 3}
_SAVES = (SAVE_NONVOL, SAVE_NONVOL_FAR, SAVE_XMM128, SAVE_XMM128_FAR)


def entry_lines(entry: FunctionEntry) -> Iterator[str]:
    """The lines of one entry."""
    yield f"BeginAddress      = {pointer(entry.begin)}"
    yield f"EndAddress        = {pointer(entry.end)}"
    yield f"UnwindInfoAddress = {pointer(entry.info_rva)}"
    yield ""
    info = entry.info
    if info is None:
        yield f"Unwind info at {pointer(entry.base + entry.info_rva)}: {entry.reason}"
        return
    yield f"Unwind info at {pointer(entry.base + entry.info_rva)}, {_size(info, entry.slots):x} bytes"
    yield f"  version {info.version}, flags {info.flags:x}, prolog {info.prolog_size:x}, codes {entry.slots:x}"
    if info.frame_register:
        name = REGISTER_NAMES[info.frame_register]
        yield f"  frame reg {info.frame_register:x} ({name}), frame offs {info.frame_offset:x}h"
    if info.handler is not None:
        place = entry.base + info.handler
        data = "" if entry.data is None else f", data {entry.data:x}"
        yield f"  handler routine: {entry.handler_name or pointer(place)} ({pointer(place)}){data}"
    index = len(info.epilogs)
    for code in info.codes:
        yield f"  {index:02x}: {_code(code)}"
        index += _SLOTS.get(code.operation, 2 + code.info if code.operation == ALLOC_LARGE else 1)


def _size(info: UnwindInfo, slots: int) -> int:
    """Bytes: those of the codes are padded to pairs where something follows, a handler with a word of its data."""
    if info.flags & FLAG_CHAINED:
        return 4 + 2 * (slots + slots % 2) + 12
    return 4 + 2 * (slots + slots % 2) + 8 if info.handler is not None else 4 + 2 * slots


def _code(code: UnwindCode) -> str:
    name = f"UWOP_{_OPERATIONS.get(code.operation, 'UNKNOWN')}"
    more = ""
    if code.operation == PUSH_NONVOL:
        more = f" reg: {REGISTER_NAMES[code.info]}"
    elif code.operation in _SAVES:
        stem = "xmm" if code.operation in (SAVE_XMM128, SAVE_XMM128_FAR) else ""
        register = f"{stem}{code.info}" if stem else REGISTER_NAMES[code.info]
        more = f" FrameOffset: {code.value:x} reg: {register}"
    elif code.operation == ALLOC_LARGE:
        more = f" FrameOffset: {code.value:x}"
    return f"offs {code.offset:x}, unwind op {code.operation:x}, op info {code.info:x}\t{name}{more}."
