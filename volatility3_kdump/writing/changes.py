"""What is changed in the memory of an image so that a debugger finds in its dump what Windows would have written.

Windows decodes KDDEBUGGER_DATA64 before it writes a dump, and has every processor save its registers. In the image of
a machine that runs neither has happened: the registers are in the container.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from volatility3.framework import exceptions

from volatility3_kdump.cpu.state import context_record
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_PAGE_SHIFT, _PAGE_MASK = 12, 0xFFF
_TAG = b"KDBG"
_TAG_AT = 0x10


class Changes(NamedTuple):
    """Bytes by physical address, and what they are or why there are none, one line each."""

    pieces: dict[int, bytes]
    notes: list[str]


def changes(target: Target) -> Changes:
    """What is changed; nothing in a crash dump, which Windows has prepared itself."""
    pieces: dict[int, bytes] = {}
    notes: list[str] = []
    if target.header.container is None:
        return Changes(pieces, notes)
    _decode_debugger_data(target, pieces, notes)
    if target.header.crashed is not True:
        _save_registers(target, pieces, notes)
    return Changes(pieces, notes)


def _decode_debugger_data(target: Target, pieces: dict[int, bytes], notes: list[str]) -> None:
    address = target.header.kd_debugger_data_block
    head = target.memory.read(address, _TAG_AT + 4) if address else None
    if head is not None and head[_TAG_AT:] == _TAG:
        return
    debugger = target.debugger
    if debugger is None or not address:
        notes.append("KDDEBUGGER_DATA64 is not in the image or cannot be decoded: WinDbg will not find its way")
        return
    if not _put(target, address, debugger.data, pieces):
        notes.append("KDDEBUGGER_DATA64 lies in no page of the image: WinDbg will not find its way")
        return
    flag = target.symbol("KdpDataBlockEncoded")
    if flag is None:
        notes.append("KDDEBUGGER_DATA64 is written decoded; its flag cannot be changed without symbols")
        return
    _put(target, flag, b"\0", pieces)
    notes.append("KDDEBUGGER_DATA64 is written decoded")


def _save_registers(target: Target, pieces: dict[int, bytes], notes: list[str]) -> None:
    pointed = field_offset(target, "_KPRCB", "Context", "OffsetPrcbContext")
    inside = field_offset(target, "_KPRCB", "ProcessorState.ContextFrame", "OffsetPrcbProcStateContext")
    saved: Counter[str] = Counter()
    for processor in processors(target):
        if processor.context is None or not processor.prcb:
            continue
        record = context_record(processor.context)
        pointer = target.memory.pointer(processor.prcb + pointed) if pointed is not None else None
        if pointer and _put(target, pointer, record, pieces):
            saved["where KPRCB.Context leads to"] += 1
        elif pointed is None and inside is not None and _put(target, processor.prcb + inside, record, pieces):
            # Kernels that have no such pointer keep the record itself in the block.
            saved["to KPRCB.ProcessorState"] += 1
        else:
            saved[""] += 1
    missing = saved.pop("", 0)
    for place, count in saved.items():
        notes.append(f"the registers of {count} processors are written {place}")
    if missing:
        notes.append(f"the registers of {missing} processors have no place: KPRCB.Context leads nowhere")
    if not saved and not missing:
        notes.append(f"no registers are written: {target.dump.why_no_registers}")


def _put(target: Target, address: int, data: bytes, pieces: dict[int, bytes]) -> bool:
    """Place bytes at a virtual address; whether all of it is in pages of the image."""
    assert target.layer_name is not None and target.dump.pages is not None
    layer = target.context.layers[target.layer_name]
    placed: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        start = address + position
        step = min(_PAGE_MASK + 1 - (start & _PAGE_MASK), len(data) - position)
        try:
            physical, _, name = layer._translate(start & layer.address_mask)
        except exceptions.InvalidAddressException:
            return False
        if name != target.physical_layer_name or target.dump.pages.offset_of(physical >> _PAGE_SHIFT) is None:
            return False
        placed[physical] = data[position : position + step]
        position += step
    pieces.update(placed)
    return True
