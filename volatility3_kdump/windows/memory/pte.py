"""Page table entries of x64: what one says, and which address it maps.

Valid entries are the processor's (Intel SDM volume 3, 4-level paging); in the others the bits Prototype and Transition
(``_MMPTE_SOFTWARE``, ``_MMPTE_TRANSITION``) have not moved since Windows 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_VALID, _WRITE, _USER, _LARGE, _PROTOTYPE, _TRANSITION = 1, 1 << 1, 1 << 2, 1 << 7, 1 << 10, 1 << 11
_NO_EXECUTE = 1 << 63
_FRAME = 0x0000FFFFFFFFF000
#: Where the PTEs were before Windows 10 1607 moved them to a random place.
_FIXED_BASE, _FIRST_RANDOM_BUILD = 0xFFFFF68000000000, 14393
_PTE_SPACE = 1 << 39
_ADDRESS_BITS = 48


@dataclass(frozen=True)
class Pte:
    """A PTE's value. ``kind`` is ``zero``, ``valid``, ``transition``, ``prototype`` or ``not valid``; ``frame`` the
    page frame number of a valid page or one in transition, else ``None``."""

    value: int
    kind: str
    frame: int | None

    @property
    def text(self) -> str:
        if self.kind == "zero":
            return "zero"
        words = [self.kind]
        if self.frame is not None:
            words.append(f"page frame {self.frame:x}")
        if self.kind == "valid":
            words.append("writable" if self.value & _WRITE else "read-only")
            words.append("user" if self.value & _USER else "kernel")
            words.append("no execute" if self.value & _NO_EXECUTE else "executable")
        return ", ".join(words)


def parse_pte(value: int) -> Pte:
    """What a PTE's 64 bits say."""
    frame = (value & _FRAME) >> 12
    if value == 0:
        return Pte(value, "zero", None)
    if value & _VALID:
        return Pte(value, "valid", frame)
    if value & _PROTOTYPE:
        return Pte(value, "prototype", None)
    if value & _TRANSITION:
        return Pte(value, "transition", frame)
    return Pte(value, "not valid", None)


def pte_base(target: Target) -> int | None:
    """Where the PTEs of all addresses lie (nt!MmPteBase); ``None`` when that is not known."""
    variable = target.symbol("MmPteBase")
    base = target.memory.pointer(variable) if variable else None
    if not base and target.debugger is not None:
        base = target.debugger["PteBase"]
    if not base and (target.header.build_number or _FIRST_RANDOM_BUILD) < _FIRST_RANDOM_BUILD:
        base = _FIXED_BASE
    return base or None


def invalid_pte_mask(target: Target) -> int:
    """Bits that are reversed in PTEs that are not valid, against L1TF; 0 where there are none.

    ``MiState.Hardware.InvalidPteMask``, in older kernels the variable ``MiInvalidPteMask``.
    """
    nt, state = target.nt, target.symbol("MiState")
    field = nt.find("_MI_SYSTEM_INFORMATION", "Hardware.InvalidPteMask") if nt is not None else None
    if state is not None and field is not None:
        return target.memory.unsigned(state + field.offset, field.size) or 0
    variable = target.symbol("MiInvalidPteMask")
    return (target.memory.unsigned(variable, 8) or 0) if variable is not None else 0


def mapped_address(target: Target, pte: int) -> int | None:
    """The first address of the page that the PTE at an address maps; ``None`` when it is not known, or no PTE's."""
    if target.header.architecture != "x64":
        return None
    base = pte_base(target)
    if base is None or not base <= pte < base + _PTE_SPACE:
        return None
    address = (pte - base) // 8 << 12
    return address | -1 << _ADDRESS_BITS & 0xFFFFFFFFFFFFFFFF if address >> (_ADDRESS_BITS - 1) else address
