"""CONTEXT records of x64."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from kdump_sample.code import REGISTERS

SIZE = 0x4D0

#: AMD64 with control, integer, segment, floating-point and debug registers.
ALL = 0x10001F

MXCSR = 0x1F80


@dataclass(frozen=True)
class Registers:
    """General registers and rip by name, flags, code and stack selector; the rest has usual kernel values."""

    values: Mapping[str, int]
    eflags: int
    cs: int = 0x10
    ss: int = 0x18

    def context(self, flags: int = ALL) -> bytes:
        """A CONTEXT record of :data:`SIZE` bytes with these ContextFlags."""
        record = bytearray(SIZE)
        struct.pack_into("<II6HI", record, 0x30, flags, MXCSR, self.cs, 0x2B, 0x2B, 0x53, 0x2B, self.ss, self.eflags)
        struct.pack_into("<17Q", record, 0x78, *(self.values.get(name, 0) for name in (*REGISTERS, "rip")))
        struct.pack_into("<H", record, 0x100, 0x27F)
        struct.pack_into("<II", record, 0x118, MXCSR, 0xFFFF)
        return bytes(record)
