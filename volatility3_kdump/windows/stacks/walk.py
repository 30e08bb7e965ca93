"""What the walks of all architectures share: frames, limits, and the reasons to stop."""

from __future__ import annotations

import struct
from typing import Any

from volatility3_kdump.symbols.lines import SourceLine
from volatility3_kdump.symbols.names import Name
from volatility3_kdump.windows.stacks.extents import stack_bytes
from volatility3_kdump.windows.stacks.frames import Frame, Stack, Start
from volatility3_kdump.windows.stacks.places import CodePlaces
from volatility3_kdump.windows.user.code import UserCode, user_code

_NO_ARGUMENTS: tuple[int | None, ...] = (None,) * 4
_PAGE_SHIFT = 12
#: How far below its stack an overflow leaves a stack pointer: the guard page, and what is allocated without a probe.
_OVERFLOW = 0x2000


class Walk:
    """What the walks of all architectures share: frames, limits, and the reasons to stop."""

    def __init__(self, walker: CodePlaces, start: Start, most: int) -> None:
        self.walker = walker
        self.target = walker.target
        self.start = start
        self.most = most
        self.bytes = stack_bytes(self.target, start)
        self.rows: list[list[Any]] = []
        self.unused = list(start.segments)
        self.segment: tuple[int, int] | None = None
        self.width = self.target.memory.pointer_size
        #: The trap frame that the dispatcher of bug checks keeps.
        self.reported: int | None = None
        #: The rows behind which frames were left out: what follows them is not their caller.
        self.gaps: set[int] = set()
        #: The first row of 32-bit code, and those behind it.
        self.narrow_from: int | None = None
        self.narrow_source = ""
        self._user: UserCode | None = None
        self._user_asked = False

    def add(self, ip: int, sp: int | None, trust: str, call_site: bool, fp: int | None = None) -> None:
        self.rows.append([sp, ip, trust, call_site, None, fp])

    def enter(self, sp: int, interrupted: bool = False) -> str | None:
        """Check a new stack pointer against the known stacks. The reason to stop, or ``None``.

        Code that used up its stack is interrupted with a stack pointer below it.
        """
        if self.segment is not None:
            if self.segment[0] <= sp <= self.segment[1]:
                if self.rows and self.rows[-1][0] is not None and sp < self.rows[-1][0]:
                    return f"the stack pointer goes down, from {self.rows[-1][0]:#x} to {sp:#x}"
                return None
        for segment in self.unused:
            low = segment[0] - _OVERFLOW if interrupted else segment[0]
            if low <= sp <= segment[1]:
                self.unused.remove(segment)
                self.segment = (min(low, sp), segment[1])
                return None
        return f"the stack pointer {sp:#x} lies outside the thread's stacks"

    def finish(self, end: str, complete: bool) -> Stack:
        rows = self.rows
        name_at = self.walker.name_at if self._user is None else self.name_at
        frames = []
        for number, (sp, ip, trust, call_site, trap, fp) in enumerate(rows[:-1]):
            following = rows[number + 1]
            back, arguments = following[1], self.arguments_of(rows[number], following)
            if number in self.gaps:
                back, arguments = None, _NO_ARGUMENTS
            elif self.narrow_from is not None and number >= self.narrow_from:
                arguments = self.narrow_arguments(following[0])
            name = name_at(ip, call_site)
            line = self.line_at(ip, call_site, name)
            frames.append(Frame(number, sp, ip, trust, call_site, back, arguments, trap, fp, name, line=line))
        for sp, ip, trust, call_site, trap, fp in rows[-1:]:
            name = name_at(ip, call_site)
            line = self.line_at(ip, call_site, name)
            frames.append(Frame(len(frames), sp, ip, trust, call_site, None, _NO_ARGUMENTS, trap, fp, name, line=line))
        return Stack(tuple(frames), end, complete)

    def user_code(self) -> UserCode | None:
        """The user mode that the stack leads to; ``None`` where it is not wanted, or the dump does not hold it."""
        if not self._user_asked:
            self._user_asked = True
            if self.start.process is not None and self.walker.into_user_mode:
                code = user_code(self.target, self.start.process)
                self._user = None if isinstance(code, str) else code
        return self._user

    def name_at(self, ip: int, call_site: bool) -> Name | None:
        """The name of where a frame executes."""
        if self._user is not None and not self.target.is_kernel_address(ip):
            return self._user.name_at(ip, call_site)
        return self.walker.name_at(ip, call_site)

    def line_at(self, ip: int, call_site: bool, name: Name | None) -> SourceLine | None:
        """The source line of a frame. Tables and exports, which name nearly every frame, have none."""
        if name is None or name.source not in ("pdb", "coff"):
            return None
        if self._user is not None and not self.target.is_kernel_address(ip):
            return self._user.line_at(ip, call_site)
        return self.target.names.line_of(ip, call_site)

    def arguments(self, sp: int | None) -> tuple[int | None, ...]:
        if sp is None:
            return _NO_ARGUMENTS
        user = not self.target.is_kernel_address(sp)
        if user and self._user is None and not self.start.user_memory:
            return _NO_ARGUMENTS
        width = self.width
        read = self._user.space.memory.read if user and self._user is not None else self.bytes.read
        data = read(sp, 4 * width)
        if data is not None:
            return struct.unpack("<4Q" if width == 8 else "<4I", data)
        if sp >> _PAGE_SHIFT == sp + 4 * width - 1 >> _PAGE_SHIFT:
            return _NO_ARGUMENTS
        parts = [read(sp + index * width, width) for index in range(4)]
        return tuple(None if part is None else int.from_bytes(part, "little") for part in parts)

    def arguments_of(self, row: list[Any], following: list[Any]) -> tuple[int | None, ...]:
        """What a frame was called with, as far as its caller's stack pointer tells."""
        return self.arguments(following[0])

    def narrow_arguments(self, sp: int | None) -> tuple[int | None, ...]:
        """What 32-bit code has at its stack pointer."""
        if sp is None or self._user is None:
            return _NO_ARGUMENTS
        data = self._user.space.memory.read(sp, 16)
        return _NO_ARGUMENTS if data is None else struct.unpack("<4I", data)

    def pointer(self, address: int) -> int | None:
        data = self.bytes.read(address, self.width)
        return None if data is None else int.from_bytes(data, "little")
