"""Page table entries of x64 in words, which address one maps, and what the kernel's symbols say of them.

The bits themselves are in :mod:`volatility3_kdump.cpu.paging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import paging
from volatility3_kdump.cpu.paging import EntryForms
from volatility3_kdump.symbols import entry_forms as kernel_forms

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

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
        parts = [self.kind]
        if self.frame is not None:
            parts.append(f"page frame {self.frame:x}")
        if self.kind == "valid":
            parts.append("writable" if self.value & paging.WRITE else "read-only")
            parts.append("user" if self.value & paging.USER else "kernel")
            parts.append("no execute" if self.value & paging.NO_EXECUTE else "executable")
        return ", ".join(parts)


def parse_pte(value: int) -> Pte:
    """What a PTE's 64 bits say. The frame of one in transition may have the L1TF bit set that lies above all memory."""
    frame = (value & paging.FRAME_64) >> paging.PAGE_SHIFT
    if value & paging.VALID:
        return Pte(value, "valid", frame)
    kind = paging.kind_of(value)
    if kind in (paging.PAGE_FILE, paging.DEMAND_ZERO):
        return Pte(value, "not valid", None)
    return Pte(value, kind, frame if kind == paging.TRANSITION else None)


def pte_base(target: Target) -> int | None:
    """Where the PTEs of all addresses lie (nt!MmPteBase); ``None`` when that is not known."""
    variable = target.symbol("MmPteBase")
    base = target.memory.pointer(variable) if variable else None
    if not base and target.debugger is not None:
        base = target.debugger["PteBase"]
    if not base and (target.header.build_number or _FIRST_RANDOM_BUILD) < _FIRST_RANDOM_BUILD:
        base = _FIXED_BASE
    return base or None


def entry_forms(target: Target) -> EntryForms:
    """What is known of the kernel's entries that are not valid: from its symbols, else from its build."""
    forms = None
    if target.nt is not None and target.kernel is not None:
        forms = kernel_forms.entry_forms(
            target.nt, target.kernel.base if target.has_names else None, target.memory.read
        )
    header = target.header
    return forms or paging.default_forms(header.build_number, header.pointer_size, header.architecture == "arm64")


def invalid_pte_mask(target: Target) -> int:
    """The bit that is set in PTEs that are not valid, against L1TF; 0 where there is none, or it is not known."""
    return entry_forms(target).mask or 0


def mapped_address(target: Target, pte: int) -> int | None:
    """The first address of the page that the PTE at an address maps; ``None`` when it is not known, or no PTE's."""
    if target.header.architecture not in ("x64", "arm64"):
        return None
    base = pte_base(target)
    if base is None or not base <= pte < base + _PTE_SPACE:
        return None
    address = (pte - base) // 8 << 12
    return address | -1 << _ADDRESS_BITS & 0xFFFFFFFFFFFFFFFF if address >> (_ADDRESS_BITS - 1) else address
