"""Frames as the choice of a culprit sees them: module, symbol, file, and what is known of their part in the crash."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from volatility3_kdump.images.modules import debugger_name
from volatility3_kdump.windows.stacks.frames import BUG_CHECK, FAULT_PATH, SCAN, Stack

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class StackEntry:
    """A frame as the walk sees it. ``module`` and ``image`` are ``None`` outside every module, ``symbol`` where the
    module has no symbols; ``offset`` is from the symbol, else from the module's base. ``trusted`` is false for frames
    found by a scan of the stack, ``unloaded`` true where the module was there once and had been unloaded. ``part`` is
    the frame's part in the crash (:class:`~volatility3_kdump.windows.stacks.frames.Frame`)."""

    module: str | None
    symbol: str | None
    offset: int
    image: str | None
    address: int
    trusted: bool
    unloaded: bool = False
    part: str = ""

    @property
    def name(self) -> str:
        """As the debugger writes a SYMBOL_NAME: ``module!function+hex`` or ``module+hex``."""
        stem = self.module if self.symbol is None else f"{self.module}!{self.symbol}"
        return f"{stem}+{self.offset:x}" if self.module is not None else f"{self.address:#x}"

    @property
    def reports(self) -> bool:
        """Whether it only reports the failure, by its place between the call of the bug check and the fault."""
        return self.symbol is None and self.part in (BUG_CHECK, FAULT_PATH)


def stack_entries(target: Target, stack: Stack) -> tuple[StackEntry, ...]:
    """The frames of a backtrace for :func:`~volatility3_kdump.analysis.verdict.decide`."""
    entries = []
    for frame in stack.frames:
        entry = entry_at(target, frame.ip, frame.call_site)
        entries.append(replace(entry, trusted=frame.trust != SCAN, part=frame.part))
    return tuple(entries)


def entry_at(target: Target, address: int, call_site: bool = False) -> StackEntry:
    """What an address is; ``call_site`` says that it is a return address."""
    names = target.names
    name = names.lookup_return(address) if call_site else names.lookup(address)
    if name is None:
        gone = next(
            (unloaded for unloaded in target.unloaded_modules if unloaded.start <= address < unloaded.end), None
        )
        if gone is None:
            return StackEntry(None, None, 0, None, address, True)
        return StackEntry(debugger_name(gone.name), None, address - gone.start, gone.name, address, True, True)
    module = names.module_of(address) or names.module_of(address - 1)
    return StackEntry(name.module, name.symbol, name.offset, module.image_name if module else None, address, True)
