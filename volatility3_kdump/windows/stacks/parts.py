"""The parts of frames in a crash, for walks along frame pointers: its report, the way from the fault, the fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.windows.stacks.frames import BUG_CHECK, FAULT, FAULT_PATH, TRAP_FRAME, Frame, Start
from volatility3_kdump.windows.stacks.traps import Trap, failure_trap

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_REPORTERS = ("KeBugCheckEx", "KeBugCheck", "KeBugCheck2", "KeBugCheck3")


def with_parts(target: Target, start: Start, frames: tuple[Frame, ...], reports: bool) -> tuple[Frame, ...]:
    """The frames with their parts. ``reports`` says that the first one is known to be the call of the bug check."""
    if not frames or not (start.crash or start.fault):
        return frames
    marked = [*frames]
    if start.fault:
        marked[0] = marked[0]._replace(part=FAULT)
        return tuple(marked)
    trap = failure_trap(target)
    fault = None if trap is None else _fault_index(frames, trap)
    for number in range(fault or 0):
        marked[number] = marked[number]._replace(part=FAULT_PATH)
    if fault is not None and trap is not None and _in_kernel(target, trap):
        marked[fault] = marked[fault]._replace(part=FAULT)
    name = frames[0].name
    if fault != 0 and (reports or (name is not None and name.symbol in _REPORTERS)):
        marked[0] = marked[0]._replace(part=BUG_CHECK)
    return tuple(marked)


def _fault_index(frames: tuple[Frame, ...], trap: Trap) -> int | None:
    """The number of the frame that the trap interrupted."""
    ip = (trap.context.ip or 0) & 0xFFFFFFFF
    return next(
        (
            frame.number
            for frame in frames[1:]
            if frame.trust == TRAP_FRAME and not frame.call_site and frame.ip & 0xFFFFFFFF == ip
        ),
        None,
    )


def _in_kernel(target: Target, trap: Trap) -> bool:
    """Whether the kernel was interrupted; a stack pointer tells even where the instruction pointer is astray."""
    return trap.context.sp is not None and target.is_kernel_address(trap.context.sp)
