"""A decoded instruction, and its memory operand evaluated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operand:
    """One operand as KD writes it; ``kind`` is ``register``, ``immediate``, ``memory`` or ``target``."""

    kind: str
    text: str


@dataclass(frozen=True)
class MemoryOperand:
    """Memory that an instruction names, evaluated with the registers of a context.

    ``address`` is the virtual address, ``None`` when a register or the base of segment ``fs`` or ``gs`` is not known;
    ``offset`` is the address before the segment base is added, ``None`` when a register is not known; ``unknown`` names
    those registers. ``zeroed`` is the offset with unknown registers taken as zero: what KD prints, and no address to
    rely on. ``size`` is in bytes. ``segment`` is the one that the processor uses, empty on ARM64. ``access`` is
    ``read``, ``write``, ``read-write``, or ``None`` when the memory is only addressed (``lea``, prefetches). ``value``
    holds the bytes at the address in the dump, which may have changed since the instruction ran; ``None`` when they
    are not in the dump or the memory is not accessed. ``registers`` are those that form the address, with their values.
    """

    address: int | None
    offset: int | None
    zeroed: int
    unknown: tuple[str, ...]
    size: int
    segment: str
    access: str | None
    value: bytes | None
    registers: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Instruction:
    """One machine instruction, written as KD writes it.

    ``address`` is virtual; ``size`` in bytes; ``raw`` the bytes; ``mnemonic`` includes prefixes (``rep movs``);
    ``operands`` is the operand text and ``parts`` its operands. ``memories`` are the memory operands in their written
    order, two for string moves. ``stack`` is the stack slot that a push, pop, call or return accesses besides.
    ``target`` is the destination of a direct branch or call, ``None`` for others; ``taken`` whether a conditional
    branch is taken, ``None`` when it is not one or the deciding register is unknown. ``indirect`` is where an indirect
    branch or call goes and ``indirect_name`` the name of that address, ``None`` when it is not one or not known.
    """

    address: int
    size: int
    raw: bytes
    mnemonic: str
    operands: str
    architecture: str
    parts: tuple[Operand, ...] = ()
    memories: tuple[MemoryOperand, ...] = ()
    stack: MemoryOperand | None = None
    target: int | None = None
    taken: bool | None = None
    indirect: int | None = None
    indirect_name: str | None = None

    @property
    def memory(self) -> MemoryOperand | None:
        """The first memory operand; ``None`` when there is none."""
        return self.memories[0] if self.memories else None
