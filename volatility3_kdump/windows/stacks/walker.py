"""Stack backtraces of the target's threads: how each frame is known, and why a backtrace ends.

Frames come from the images' unwind data wherever that can be had. Where it cannot, the kernel's dispatchers, whose
frames have a fixed shape, are stepped over first; then the stack is scanned for return addresses, and every frame found
that way says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from volatility3_kdump.cpu import amd64_unwind, arm64_unwind
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import EXCEPTION
from volatility3_kdump.symbols.names import Name
from volatility3_kdump.windows.stacks.amd64_walk import Amd64Walk
from volatility3_kdump.windows.stacks.arm64_walk import Arm64Walk
from volatility3_kdump.windows.stacks.frames import MOST_FRAMES, NoStack, Stack, Start
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.x86_walk import X86Walk

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_Value = TypeVar("_Value")
_MOST_REMEMBERED = 0x10000


def walker(target: Target) -> StackWalker:
    """Walks the stacks of a target; one for all who ask, so that what it learns of images serves every stack."""
    return target.once(StackWalker)


class StackWalker:
    """Walks the stacks of one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.architecture = target.header.architecture
        self._tables: dict[int, Any] = {}
        self._places: dict[int, tuple[Module, Any] | None] = {}
        self._return_names: dict[int, Name | None] = {}
        #: KDDEBUGGER_DATA64.PointerAuthMask, ``None`` where the kernel does not report it.
        self.authentication = target.debugger["PointerAuthMask"] if target.debugger else None

    def walk(self, start: Start, most: int = MOST_FRAMES) -> Stack:
        """The backtrace from a start; at most ``most`` frames (never more than 1,024)."""
        most = max(1, min(most, MOST_FRAMES))
        walks: dict[str, type[Amd64Walk | Arm64Walk | X86Walk]] = {
            "x64": Amd64Walk,
            "arm64": Arm64Walk,
            "x86": X86Walk,
        }
        if self.architecture not in walks:
            return Stack((), f"no unwinder for {self.architecture}", False)
        # One frame more: it gives the return address and the arguments of the last one.
        stack = walks[self.architecture](self, start, most + 1).run()
        if len(stack.frames) <= most:
            return stack
        return Stack(stack.frames[:most], f"{most} frames, the limit", False)

    def registers_at_trap(self, start: Start, trap: int) -> Context | None:
        """The registers that a trap interrupted, as far as unwinding to its frame recovers them (x64).

        The volatile ones come from the trap frame, the others from what the functions above it saved. ``None`` when the
        walk does not come by that trap frame.
        """
        if self.architecture != "x64":
            return None
        walk = Amd64Walk(self, start, MOST_FRAMES)
        walk.wanted_trap = trap
        walk.run()
        return walk.found

    def registers_of_frame(self, start: Start, number: int) -> Context | None:
        """The registers inside a frame, as far as unwinding recovers them: x64, and the first frame of any stack.

        Volatile registers are known where a frame was interrupted, and nowhere else. ``None`` where there is no such
        frame, or unwinding does not keep registers.
        """
        if number == 0:
            return start.context
        if self.architecture != "x64":
            return None
        walk = Amd64Walk(self, start, MOST_FRAMES)
        walk.wanted_frame = number
        walk.run()
        return walk.found

    def name_at(self, ip: int, call_site: bool) -> Name | None:
        """The name of where a frame executes; a return address is looked up as the call before it."""
        if not call_site:
            return self.target.names.lookup(ip)
        try:
            return self._return_names[ip]
        except KeyError:
            name = self.target.names.lookup_return(ip)
            return _remember(self._return_names, ip, name)

    def place_of(self, ip: int) -> tuple[Module, Any] | None:
        """The module that an address lies in and its function table (see :meth:`table_of`); ``None`` outside of all."""
        try:
            return self._places[ip]
        except KeyError:
            module = self.target.names.module_of(ip)
            return _remember(self._places, ip, None if module is None else (module, self.table_of(module)))

    def table_of(self, module: Module) -> Any:
        """The function table of a module's image, made when first asked for; ``None`` when its headers are absent."""
        table = self._tables.get(module.base)
        if table is None and module.base not in self._tables:
            image = self.target.images.image_of(module)
            headers = image.headers()
            if headers is not None and headers.directories:
                kind = arm64_unwind if self.architecture == "arm64" else amd64_unwind
                table = kind.FunctionTable(image.read, headers.directory(EXCEPTION), module.size)
            self._tables[module.base] = table
        return table


def _remember(known: dict[int, _Value], key: int, value: _Value) -> _Value:
    """Keep what was found for an address: the same functions are on the stacks of many threads."""
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
    return value


def walk_threads(walker: StackWalker, threads: Iterator[int], most: int = MOST_FRAMES) -> Iterator[tuple[int, Stack]]:
    """The stacks of many threads, as (ETHREAD address, stack); an empty one has the reason why there is no stack."""
    for thread in threads:
        try:
            yield thread, walker.walk(thread_start(walker.target, thread), most)
        except NoStack as error:
            yield thread, Stack((), str(error), False)
