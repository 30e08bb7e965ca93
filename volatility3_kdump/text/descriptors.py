"""Descriptor tables in the words of KD's ``!idt`` and ``dg``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.machine.descriptors import Gate, SegmentDescriptor, Tables

_SYSTEM = {0: "<Reserved>", 2: "LDT", 9: "TSS32 Avl", 11: "TSS32 Busy", 12: "CallG32", 14: "IntG32", 15: "TrapG32"}
_ACCESSED, _CODE, _WRITABLE = 1, 8, 2


def idt_lines(tables: Tables, gates: Iterable[Gate]) -> Iterator[str]:
    """``!idt``; a handler outside of the kernel is marked."""
    yield ""
    yield f"Dumping IDT: {tables.idt:x}"
    yield ""
    count = 0
    for gate in gates:
        count += 1
        line = f"{gate.vector:02x}:\t{gate.handler:016x} {gate.symbol or '(in no module)'}"
        if gate.stack:
            line += f"\tStack = IST {gate.stack}"
        if gate.interrupt:
            line += f" (KINTERRUPT {gate.interrupt:x})"
        yield line + ("\t<- not the kernel's" if gate.foreign else "")
    if not count:
        yield "No vector has an interrupt object; -a shows every vector"


def segment_lines(descriptors: Iterable[SegmentDescriptor]) -> Iterator[str]:
    """``dg``."""
    yield "                                                    P Si Gr Pr Lo"
    yield "Sel        Base              Limit          Type    l ze an es ng Flags"
    yield "---- ----------------- ----------------- ---------- - -- -- -- -- --------"
    for one in descriptors:
        if one.base is None or one.limit is None:
            yield f"{one.selector:04X} Unable to get descriptor"
            continue
        flags = one.access | one.flags << 8
        traits = (
            f"{one.access >> 5 & 3} {'Bg' if one.flags & 4 else 'Nb'} {'Pg' if one.flags & 8 else 'By'} "
            f"{'P ' if one.access & 0x80 else 'Np'} {'Lo' if one.flags & 2 else 'Nl'}"
        )
        yield f"{one.selector:04X} {pointer(one.base)} {pointer(one.limit)} {_kind(one):<10} {traits} {flags:08x}"


def _kind(one: SegmentDescriptor) -> str:
    if one.system:
        return _SYSTEM.get(one.access & 15, "<Reserved>")
    code = bool(one.access & _CODE)
    rights = ("RE" if one.access & _WRITABLE else "EO") if code else ("RW" if one.access & _WRITABLE else "RO")
    return f"{'Code' if code else 'Data'} {rights}{' Ac' if one.access & _ACCESSED else ''}"
