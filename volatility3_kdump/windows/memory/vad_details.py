"""One VAD in full: prototype PTEs, where it begins in its file, its flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.windows.memory.vads import Vad
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_FIELDS: dict[str, str | tuple[str, ...]] = {
    "first": "FirstPrototypePte",
    "last": "LastContiguousPte",
    "offset": "u2.VadFlags2.FileOffset",
    "inherit": "u2.VadFlags2.Inherit",
}
_SHORT_FIELDS: dict[str, str | tuple[str, ...]] = {
    "no_change": "u.VadFlags.NoChange",
    "committed": ("u1.VadFlags1.MemCommit", "u.VadFlags.MemCommit"),
}


@dataclass(frozen=True)
class VadDetails:
    """What a VAD has beside what a tree of them shows; ``None`` is not in the dump or not in this kernel.

    ``first`` and ``last`` are addresses of prototype PTEs; ``file_offset`` is in units of 64 KB; ``inherited``
    says that child processes share the view.
    """

    vad: Vad
    first: int | None
    last: int | None
    file_offset: int | None
    inherited: bool | None
    no_change: bool | None
    committed: bool | None


def vad_details(target: Target, vad: Vad) -> VadDetails:
    """The details of a VAD; of private memory there is an MMVAD_SHORT alone."""
    nt = require_symbols(target, "VADs", "_MMVAD_SHORT", "_MMVAD")
    short = read_row(target.memory, nt.reader("_MMVAD_SHORT", **_SHORT_FIELDS), vad.address)
    row = None if vad.private else read_row(target.memory, nt.reader("_MMVAD", **_FIELDS), vad.address)

    def flag(value: int | None) -> bool | None:
        return None if value is None else bool(value)

    return VadDetails(
        vad,
        row.first if row is not None else None,
        row.last if row is not None else None,
        row.offset if row is not None else None,
        flag(row.inherit) if row is not None else None,
        flag(short.no_change) if short is not None else None,
        flag(short.committed) if short is not None else None,
    )
