"""Trap frames of every architecture: which code reads them, how long they are, where they may lie."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import Read, amd64, arm64, x86
from volatility3_kdump.cpu.context import Context

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts

_READERS: dict[str, ModuleType] = {"x64": amd64, "x86": x86, "arm64": arm64}
_ALIGNMENTS = {"x64": 16, "x86": 4, "arm64": 16}
#: How far the address that the processor reports for a breakpoint is behind it.
_BREAKPOINT_ADVANCE = {"x64": 1, "x86": 1, "arm64": 0}


def is_known(architecture: str) -> bool:
    """Whether trap frames of the architecture can be read."""
    return architecture in _READERS


def trap_frame_size(architecture: str) -> int:
    """Bytes of a KTRAP_FRAME."""
    size: int = _READERS[architecture].TRAP_FRAME_SIZE
    return size


def alignment(architecture: str) -> int:
    """What the address of a trap frame is a multiple of."""
    return _ALIGNMENTS[architecture]


def read_trap_frame(architecture: str, read: Read, address: int, layouts: Layouts | None = None) -> Context | None:
    """The registers saved in the KTRAP_FRAME at an address; ``None`` when there is none or its layout is not known."""
    if architecture not in _READERS:
        return None
    context: Context | None = _READERS[architecture].trap_frame(read, address, layouts)
    return context


def why_not_trap_frame(architecture: str, read: Read, address: int, layouts: Layouts | None = None) -> str | None:
    """The reason why no KTRAP_FRAME can lie at an address, in words; ``None`` when one can."""
    if architecture not in _READERS:
        return f"the layout of trap frames of {architecture} is not known"
    reason: str | None = _READERS[architecture].why_not_trap_frame(read, address, layouts)
    return reason


def places_of(architecture: str, ip: int, breakpoint_: bool) -> tuple[int, ...]:
    """The instruction pointers that a trap frame may hold for an exception at ``ip``."""
    behind = _BREAKPOINT_ADVANCE[architecture] if breakpoint_ else 0
    if architecture == "x86":
        # Structures hold it sign-extended, registers as it is.
        ip &= 0xFFFFFFFF
    return (ip, ip + behind) if behind else (ip,)
