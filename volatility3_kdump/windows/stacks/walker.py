"""Stack backtraces of the target's threads: how each frame is known, and why a backtrace ends.

Frames come from the images' unwind data wherever that can be had. Where it cannot, the kernel's dispatchers, whose
frames have a fixed shape, are stepped over first; then the stack is scanned for return addresses, and every frame found
that way says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from volatility3_kdump.cpu.context import Context
from volatility3_kdump.images.modules import Module
from volatility3_kdump.symbols.prefetch import modules_of, prefetch
from volatility3_kdump.windows.stacks.amd64_walk import Amd64Walk
from volatility3_kdump.windows.stacks.arm64_walk import Arm64Walk
from volatility3_kdump.windows.stacks.frames import CONTEXT, MOST_FRAMES, NoStack, Stack, Start
from volatility3_kdump.windows.stacks.places import CodePlaces
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.wow64_walk import limits_of
from volatility3_kdump.windows.stacks.x86_walk import X86Walk
from volatility3_kdump.windows.user.code import user_code
from volatility3_kdump.windows.user.seen import SeenTarget

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

P = ParamSpec("P")
#: Bytes of the largest kernel stack, with room.
_MOST_STACK = 1 << 17


def walker(target: Target) -> StackWalker:
    """Walks the stacks of a target; one for all who ask, so that what it learns of images serves every stack."""
    target.once(_files_of_stack)
    return target.once(StackWalker)


def _files_of_stack(target: Target) -> None:
    """Get the files of the modules that a small memory dump's stack leads to, before they are needed one by one."""
    stack = target.dump.triage.stack if target.dump.triage is not None else None
    data = target.memory.read(stack.address, min(stack.size, _MOST_STACK)) if stack is not None else None
    width = target.memory.pointer_size
    if data is not None and width == 8:
        places = target.places
        if places.image_path.asks_servers:
            slots = (word for (word,) in struct.iter_unpack("<Q", data[: len(data) & ~7]))
            modules = modules_of(slots, target.modules)
            prefetch(modules, places.image_path, places.symbol_path, target.problems)


def function_table(target: Target, address: int) -> tuple[Module, Any] | None:
    """The module that an address lies in, and its function table; ``None`` where either is not to be had."""
    if isinstance(target, SeenTarget) and not target.is_kernel_address(address):
        image = target.code.image_of(address)
        return None if image is None or image.table is None else (image.module, image.table)
    module = target.names.module_of(address)
    table = walker(target).table_of(module) if module is not None else None
    return None if module is None or table is None else (module, table)


class StackWalker(CodePlaces):
    """Walks the stacks of one target."""

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

    def walk_from(
        self, start: Callable[Concatenate[Target, P], Start], *arguments: P.args, **options: P.kwargs
    ) -> Stack:
        """The backtrace from the start that a function of this package gives; an empty one says why there is none.

        ``walk_from(thread_start, thread)`` is the stack of a thread, ``walk_from(crash_start)`` that of the crash.
        """
        try:
            return self.walk(start(self.target, *arguments, **options))
        except NoStack as error:
            return Stack((), str(error), False)

    def narrow_start(self, start: Start) -> Start:
        """Where the 32-bit half of a stack begins. Raises :class:`NoStack` where it has none.

        Its registers are those that WOW64 saved, or those of the interrupt where 32-bit code itself was interrupted.
        """
        if self.architecture != "x64" or start.thread is None:
            raise NoStack("only threads of 64-bit Windows have a 32-bit half")
        walk = Amd64Walk(self, start, MOST_FRAMES)
        code = walk.user_code()
        if code is None:
            why = user_code(self.target, start.process) if start.process is not None else "its process is not known"
            raise NoStack(why if isinstance(why, str) else "its user mode is not in the dump")
        if not code.wow64:
            raise NoStack("its process has no WOW64 state: it runs no 32-bit code")
        stack = walk.run()
        if walk.narrow_registers is None:
            raise NoStack(stack.end)
        limits = limits_of(code, start.thread)
        segments = (limits,) if limits else ()
        return Start(walk.narrow_registers, CONTEXT, segments, process=start.process, thread=start.thread)

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
        if self.architecture != "x64" or start.context.architecture != "x64":
            return None
        walk = Amd64Walk(self, start, MOST_FRAMES)
        walk.wanted_frame = number
        walk.run()
        return walk.found


def walk_threads(walker: StackWalker, threads: Iterator[int], most: int = MOST_FRAMES) -> Iterator[tuple[int, Stack]]:
    """The stacks of many threads, as (ETHREAD address, stack); an empty one has the reason why there is no stack."""
    for thread in threads:
        try:
            yield thread, walker.walk(thread_start(walker.target, thread), most)
        except NoStack as error:
            yield thread, Stack((), str(error), False)
