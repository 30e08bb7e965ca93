"""The address space of a process as its user mode sees it, kept for all who ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.user_mode import process_memory

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The first address beyond those of user mode.
USER_END = {8: 0x0000_8000_0000_0000, 4: 0x8000_0000}
_WIDE = 4
_MOST_SPACES = 64


class UserSpace:
    """The user mode of one process.

    ``memory`` is the process's own; reasons name the page. ``narrow`` is the same memory as 32-bit code sees it.
    """

    def __init__(self, target: Target, process: Process, memory: Memory) -> None:
        self.target = target
        self.process = process
        self.memory = memory
        self.narrow = Memory(memory.read, _WIDE, memory.why_unreadable)
        self.end = USER_END[target.memory.pointer_size]

    def pointer(self, address: int, memory: Memory | None = None) -> int | None:
        """A pointer into user mode; ``None`` where it is not in the dump, null, or leads elsewhere."""
        value = (memory or self.memory).pointer(address)
        return value if value and value < self.end else None

    def text(self, address: int, memory: Memory | None = None) -> str | None:
        """The text of a UNICODE_STRING; ``None`` where it is not in the dump, or its buffer is no user address."""
        memory = memory or self.memory
        buffer = memory.pointer(address + memory.pointer_size)
        if buffer is None or buffer >= self.end:
            return None
        return memory.unicode_string(address)


class _Spaces:
    """The spaces of a target, those that were asked for last."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._spaces: dict[int, UserSpace | str] = {}

    def of(self, address: int) -> UserSpace:
        space = self._spaces.get(address)
        if space is None:
            if len(self._spaces) >= _MOST_SPACES:
                del self._spaces[next(iter(self._spaces))]
            space = self._spaces[address] = self._made(address)
        if isinstance(space, str):
            raise KdumpError(space)
        return space

    def _made(self, address: int) -> UserSpace | str:
        target, process = self._target, read_process(self._target, address)
        named = f"{process.name or '?'} {process.pid or 0:x}"
        if target.dump.triage is not None:
            return "a small memory dump holds no user mode"
        if process.peb == 0:
            return f"{named} has no user mode"
        memory = process_memory(target, process)
        if memory is None:
            return f"the page tables of {named} are not in the dump"
        return UserSpace(target, process, memory)


def user_space(target: Target, process: int) -> UserSpace:
    """The user mode of the process at an EPROCESS. Raises :class:`KdumpError` with the reason where there is none."""
    return target.once(_Spaces).of(process)
