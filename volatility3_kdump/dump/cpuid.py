"""The processor of the machine: CPUID leaves and model-specific registers that the kernel adds as tagged data.

The blob is an array of 40-byte records: kind (0 a CPUID leaf, 1 a model-specific register), number, and two values of
16 bytes, each taken on another processor. A leaf's value is EAX, EBX, ECX, EDX; a register's its 64 bits. Found on real
small memory dumps (Windows 8.1 to 11, Intel and AMD); the meaning of the bits is that of Intel's Software Developer's
Manual, volume 2, CPUID.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from volatility3_kdump.dump.source import Source
from volatility3_kdump.dump.tagged import TaggedBlob

TAG = uuid.UUID("d03dc06f-d88e-44c5-ba2a-fae035172d19")

_RECORD = struct.Struct("<II16s16s")
_LEAF, _REGISTER = 0, 1
_LARGEST = 1 << 16
_REGISTERS = ("eax", "ebx", "ecx", "edx")
_SIGNATURE, _EXTENDED = 1, 0x80000000
_BRAND = (0x80000002, 0x80000003, 0x80000004)
_MICROCODE = 0x8B
_ADDRESS_SIZES = 0x80000008
_FEWEST_BITS, _MOST_BITS = 32, 52
_INTEL = "GenuineIntel"

Leaf = tuple[int, int, int, int]


@dataclass(frozen=True)
class ProcessorIdentity:
    """What the processor says of itself; ``None`` for what the dump does not tell.

    ``vendor`` is the twelve characters of leaf 0, ``brand`` the model's name, ``signature`` EAX of leaf 1,
    ``microcode`` the revision of the update that it runs. ``leaves`` holds the values of each leaf, ``registers`` those
    of each model-specific register.
    """

    vendor: str | None
    brand: str | None
    signature: int | None
    microcode: int | None
    leaves: Mapping[int, tuple[Leaf, ...]]
    registers: Mapping[int, tuple[int, ...]]

    @property
    def family(self) -> int | None:
        """The family, with the extended one added as the manual says."""
        if self.signature is None:
            return None
        family = self.signature >> 8 & 0xF
        return family + (self.signature >> 20 & 0xFF) if family == 0xF else family

    @property
    def model(self) -> int | None:
        """The model, with the extended one in front where the family has it."""
        if self.signature is None:
            return None
        model = self.signature >> 4 & 0xF
        extended = (self.signature >> 8 & 0xF) in (6, 0xF)
        return model | (self.signature >> 16 & 0xF) << 4 if extended else model

    @property
    def stepping(self) -> int | None:
        """The stepping."""
        return None if self.signature is None else self.signature & 0xF

    @property
    def text(self) -> str:
        """The processor in one line: name, family, model and stepping, microcode."""
        parts = [self.brand or self.vendor or "unknown processor"]
        if self.signature is not None:
            parts.append(f"family {self.family:x}h model {self.model:x}h stepping {self.stepping:x}h")
        if self.microcode is not None:
            parts.append(f"microcode {self.microcode:x}h")
        return ", ".join(parts)

    def has(self, leaf: int, register: str, bit: int) -> bool | None:
        """Whether a feature bit is set; ``None`` where the dump does not tell.

        A leaf beyond the highest one that the processor has means that it lacks what the leaf describes. Leaf 7 is
        recorded as zeros for processors that have it, so that a leaf without any bit says nothing.
        """
        highest = self.leaves.get(leaf & _EXTENDED)
        if highest and leaf > max(value[0] for value in highest):
            return False
        values = [value for value in self.leaves.get(leaf, ()) if any(value)]
        if not values:
            return None
        index = _REGISTERS.index(register)
        return any(value[index] >> bit & 1 for value in values)

    def address_bits(self) -> int | None:
        """Bits of a physical address (leaf 80000008h); ``None`` where the dump does not tell."""
        bits = max((value[0] & 0xFF for value in self.leaves.get(_ADDRESS_SIZES, ())), default=0)
        return bits if _FEWEST_BITS <= bits <= _MOST_BITS else None


def processor_identity(source: Source, blobs: Sequence[TaggedBlob]) -> ProcessorIdentity | None:
    """The processor by the dump's tagged data; ``None`` where it has none or nothing in it is a record."""
    blob = next((blob for blob in blobs if blob.tag == TAG and _RECORD.size <= blob.size <= _LARGEST), None)
    return None if blob is None else parse_identity(source.read(blob.offset, blob.size))


def parse_identity(data: bytes) -> ProcessorIdentity | None:
    """The records of a blob, up to the first that is of no known kind; ``None`` when there are none."""
    leaves: dict[int, tuple[Leaf, ...]] = {}
    registers: dict[int, tuple[int, ...]] = {}
    for kind, number, first, second in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]):
        if kind == _LEAF:
            leaves.setdefault(number, (struct.unpack("<4I", first), struct.unpack("<4I", second)))
        elif kind == _REGISTER:
            registers.setdefault(number, (int.from_bytes(first[:8], "little"), int.from_bytes(second[:8], "little")))
        else:
            break
    if 0 not in leaves:
        return None
    vendor = _text(struct.pack("<III", *(leaves[0][0][index] for index in (1, 3, 2))))
    brand = _text(b"".join(struct.pack("<4I", *leaves[leaf][0]) for leaf in _BRAND if leaf in leaves))
    signature = leaves[_SIGNATURE][0][0] if _SIGNATURE in leaves else None
    updates = registers.get(_MICROCODE, (0,))
    # Intel keeps the revision in the upper half of the register, AMD in the lower one.
    microcode = (updates[0] >> 32 if vendor == _INTEL else updates[0] & 0xFFFFFFFF) or None
    return ProcessorIdentity(vendor, brand, signature or None, microcode, leaves, registers)


def _text(data: bytes) -> str | None:
    """Printable text up to its NUL, runs of spaces joined; ``None`` when there is none."""
    string = data.split(b"\0", 1)[0].decode("latin-1")
    printable = "".join(character for character in string if " " <= character <= "~")
    return " ".join(printable.split()) or None
