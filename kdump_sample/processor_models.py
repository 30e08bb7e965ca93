"""Processors of made machines: the CPUID leaves and registers that Windows adds to a dump as tagged data.

The records are laid out as in real small memory dumps: kind, number, and two values of 16 bytes, taken on two
processors of the machine. Values are those that real dumps hold for these models.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

CPUID = "d03dc06f-d88e-44c5-ba2a-fae035172d19"

_RECORD = struct.Struct("<II16s16s")
_LEAF, _REGISTER = 0, 1
_BRAND = 0x80000002
_MICROCODE = 0x8B


@dataclass(frozen=True)
class ProcessorModel:
    """A processor: its maker's twelve characters, its name, EAX of leaf 1, and features.

    ``ecx`` and ``edx`` are the feature bits of leaf 1, ``extended`` ECX of leaf 80000001h, ``highest`` the last leaf,
    ``microcode`` the revision of its update; ``address_bits`` of a physical address.
    """

    vendor: str
    brand: str
    signature: int
    ecx: int
    edx: int
    extended: int = 0x121
    highest: int = 0x16
    microcode: int = 0
    address_bits: int = 39
    registers: Mapping[int, int] = field(default_factory=dict)

    def records(self) -> bytes:
        """The tagged data."""
        name = struct.unpack("<3I", self.vendor.encode("ascii"))
        zero = (0, 0, 0, 0)
        leaves = {0: (self.highest, name[0], name[2], name[1]), 1: (self.signature, 0x100800, self.ecx, self.edx)}
        leaves |= dict.fromkeys(range(2, min(self.highest, 13) + 1), zero)
        extended = {0x80000000: (0x80000008, 0, 0, 0), 0x80000001: (0, 0, self.extended, 0x2C100800)}
        brand = self.brand.encode("ascii").ljust(48, b"\0")
        for index in range(3):
            extended[_BRAND + index] = struct.unpack_from("<4I", brand, 16 * index)
        extended[0x80000008] = (0x3000 | self.address_bits, 0, 0, 0)
        update = self.microcode << 32 if self.vendor == "GenuineIntel" else self.microcode
        registers = {_MICROCODE: update, **self.registers}
        data = b"".join(_leaf(number, values) for number, values in leaves.items())
        data += b"".join(
            _RECORD.pack(_REGISTER, number, *2 * (value.to_bytes(16, "little"),)) for number, value in registers.items()
        )
        return data + b"".join(_leaf(number, values) for number, values in extended.items())


def _leaf(number: int, values: tuple[int, ...]) -> bytes:
    return _RECORD.pack(_LEAF, number, *2 * (struct.pack("<4I", *values),))


CORE_I7 = ProcessorModel(
    "GenuineIntel", "Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", 0x906EA, 0x7FFAFBBF, 0xBFEBFBFF, microcode=0xB4
)
#: A processor of 2008: SSE4.1, but neither SSE4.2, POPCNT nor AVX.
CORE_2_QUAD = ProcessorModel(
    "GenuineIntel",
    "Intel(R) Core(TM)2 Quad CPU    Q9400  @ 2.66GHz",
    0x1067A,
    0x0C08E3FD,
    0xBFEBFBFF,
    extended=1,
    highest=0xD,
    microcode=0xA0C,
    address_bits=36,
)
RYZEN_5 = ProcessorModel(
    "AuthenticAMD",
    "AMD Ryzen 5 5600X 6-Core Processor",
    0xA20F12,
    0x7EF8320B,
    0x178BFBFF,
    extended=0x75C237FF,
    highest=0x10,
    address_bits=48,
)
