"""The frame data of a PDB file of x86: how functions without a frame pointer are unwound.

Two streams of the DBI stream's list have it: FPO_DATA (``winnt.h``), and FRAMEDATA (``cvinfo.h``), whose programs stand
in the table of names. Layouts: "The PDB File Format" of LLVM's documentation, and Microsoft's published sources.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.cpu.x86_frames import FrameData, FrameTable

if TYPE_CHECKING:
    from volatility3_kdump.symbols.pdb.names import PdbFile

_OLD, _NEW = 0, 9
_FPO = struct.Struct("<IIIHH")
_FRAME = struct.Struct("<6IHHI")
_MOST_ENTRIES = 1 << 20
_LONGEST_PROGRAM = 4096


def frame_table(pdb: PdbFile) -> FrameTable:
    """The frame data of an open PDB file; empty where it has none. Raises :class:`CorruptPdb`."""
    return FrameTable([*_old(pdb.debug_data(_OLD)), *_new(pdb.debug_data(_NEW), pdb.name_table())])


def _old(data: bytes) -> Iterator[FrameData]:
    for at in range(0, min(len(data) // _FPO.size, _MOST_ENTRIES) * _FPO.size, _FPO.size):
        start, size, locals_size, parameters, attributes = _FPO.unpack_from(data, at)
        # Bits: bytes of the prologue (8), saved registers (3), SEH, use of ebp, reserved, kind of frame (2).
        if size and attributes >> 14 == 0:
            saved = attributes >> 8 & 7
            yield FrameData(start, size, 4 * locals_size, 4 * parameters, 4 * saved, "", bool(attributes >> 12 & 1))


def _new(data: bytes, texts: bytes) -> Iterator[FrameData]:
    # An offset that relocates the ranges stands in front; linkers of today leave it out.
    head = len(data) % _FRAME.size
    moved = struct.unpack_from("<I", data)[0] if head == 4 else 0
    programs: dict[int, str] = {}
    for at in range(head, min(len(data), _MOST_ENTRIES * _FRAME.size) - _FRAME.size + 1, _FRAME.size):
        start, size, locals_, parameters, _, offset, _, saved, _ = _FRAME.unpack_from(data, at)
        if offset not in programs:
            end = texts.find(b"\0", offset, offset + _LONGEST_PROGRAM)
            programs[offset] = texts[offset:end].decode("ascii", "replace") if end >= 0 else ""
        if size and programs[offset]:
            yield FrameData(start + moved & 0xFFFFFFFF, size, locals_, parameters, saved, programs[offset])
