"""Turns one scene into another: other frames on the crashing thread's stack, another bug check, other drivers.

Records that a bug check points at lie on the stack, so a scene is made in two steps: :func:`draft_stack` tells where
the frames come to lie, and :func:`crashed` puts the records and the arguments there.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdump_sample.code import Function
from kdump_sample.context import Registers
from kdump_sample.images import Images
from kdump_sample.processes import STACK_TOP
from kdump_sample.scene import BugCheck, Process, Scene, Thread
from kdump_sample.stacks import Frame, Placed, Stack, Trap, lay_out
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import LayoutError, Layouts

_RUNNING = 2
_KERNEL_FLAGS = 0x50286
_CONTEXT_FLAGS = 0x10000F
_RBP_IN_TRAP_FRAME = 0x158

ACCESS_VIOLATION, DIVIDE_BY_ZERO, BREAKPOINT, STACK_BUFFER_OVERRUN = 0xC0000005, 0xC0000094, 0x80000003, 0xC0000409

#: Fields of EXCEPTION_RECORD in front of the parameters: code, flags, next record, address, their number.
_RECORD = struct.Struct("<IIQQII")
_PARAMETERS = 15


@dataclass(frozen=True)
class Draft:
    """The crashing thread's stack as it will be."""

    stack: Stack

    def frame(self, function: str) -> Placed:
        """The innermost frame of a function.

        Raises :class:`~volatility3_kdump.layout.LayoutError` where the kernel does not have it: the scene then cannot
        be shown for that kernel.
        """
        for placed in reversed(self.stack.placed):
            if placed.frame.function == function:
                return placed
        raise LayoutError(f"the kernel has no {function}, which the scene needs")

    def has(self, function: str) -> bool:
        return any(placed.frame.function == function for placed in self.stack.placed)

    def trap_frame(self, function: str) -> int:
        """The address of the KTRAP_FRAME that a handler's frame keeps."""
        address = self.frame(function).trap_frame
        if address is None:
            raise ValueError(f"{function} keeps no trap frame")
        return address

    def context(self, handler: str) -> bytes:
        """The CONTEXT record of what a trap interrupted; ``handler`` is the function that keeps the trap frame."""
        placed = self.frame(handler)
        trap, address = placed.frame.trap, placed.trap_frame
        assert trap is not None and address is not None
        machine_frame = address + 0x168
        stack_words = self.stack.words
        values = {
            **self.stack.registers,
            **trap.registers,
            "rbp": stack_words.get(address + _RBP_IN_TRAP_FRAME, 0),
            "rip": stack_words[machine_frame],
            "rsp": stack_words[machine_frame + 0x18],
        }
        return Registers(values, trap.eflags).context(_CONTEXT_FLAGS)


def crashing(scene: Scene) -> tuple[Process, Thread]:
    """The process and the thread that the crashing processor runs."""
    return next(
        (process, thread)
        for process in scene.processes
        for thread in process.threads
        if thread.state == _RUNNING and thread.processor == scene.bug_check.processor
    )


def with_frames(scene: Scene, frames: Sequence[Frame]) -> Scene:
    """The scene with other frames, outermost first, on the crashing thread's stack."""
    process, thread = crashing(scene)
    return with_thread(scene, process, dataclasses.replace(thread, frames=tuple(frames)))


def with_thread(scene: Scene, process: Process, thread: Thread) -> Scene:
    """The scene with a thread in place of the one at its address, or besides those that the process has."""
    others = [other for other in process.threads if other.address != thread.address]
    return with_process(scene, dataclasses.replace(process, threads=(*others, thread)))


def with_process(scene: Scene, process: Process) -> Scene:
    """The scene with a process in place of the one at its address."""
    processes = (process if old.address == process.address else old for old in scene.processes)
    return dataclasses.replace(scene, processes=tuple(processes))


def with_functions(scene: Scene, module: str, functions: Mapping[int, Function], imports: Sequence[str] = ()) -> Scene:
    """The scene with other functions, by RVA, in a driver, and imports besides those that it has."""
    drivers = tuple(
        dataclasses.replace(
            driver,
            functions={**driver.functions, **functions},
            imports=(*driver.imports, *(name for name in imports if name not in driver.imports)),
        )
        if driver.stem == module
        else driver
        for driver in scene.drivers
    )
    return dataclasses.replace(scene, drivers=drivers)


def draft_stack(scene: Scene, layouts: Layouts, thread: Thread | None = None) -> Draft:
    """Where the frames of a thread (by default the crashing one) come to lie."""
    thread = thread or crashing(scene)[1]
    images = Images(Workspace(scene, layouts))
    return Draft(lay_out(thread.frames, thread.stack_base - STACK_TOP, images.find, thread.registers))


def crashed(
    scene: Scene, code: int, parameters: Sequence[int], *, called_with: Sequence[int] = (), driver: str = ""
) -> Scene:
    """The scene with another bug check, whose arguments stand where the innermost frame keeps those of its callees.

    ``called_with`` are the code and arguments that KeBugCheckEx was given, where the kernel has refined them since.
    """
    p1, p2, p3, p4 = (*parameters, 0, 0, 0, 0)[:4]
    given = (*called_with, 0, 0, 0, 0, 0)[:5] if called_with else (code, p1, p2, p3, p4)
    process, thread = crashing(scene)
    *outer, last = thread.frames
    last = dataclasses.replace(last, arguments=tuple(given[:4]), words={**last.words, 0x20: given[4]})
    scene = with_thread(scene, process, dataclasses.replace(thread, frames=(*outer, last)))
    c0, c1, c2, c3, c4 = given
    check = BugCheck(code, (p1, p2, p3, p4), (c0, c1, c2, c3, c4), scene.bug_check.processor, driver=driver)
    return dataclasses.replace(scene, bug_check=check)


def exception_record(code: int, address: int, parameters: Sequence[int] = (), flags: int = 0) -> bytes:
    """An EXCEPTION_RECORD of 64-bit Windows, 0x98 bytes."""
    head = _RECORD.pack(code, flags, 0, address, len(parameters), 0)
    values = (*parameters, *([0] * _PARAMETERS))[:_PARAMETERS]
    return head + struct.pack(f"<{_PARAMETERS}Q", *values)


def kernel_trap(registers: Mapping[str, int] | None = None, **more: object) -> Trap:
    """A trap that interrupts the kernel: volatile registers, usual flags and selectors."""
    names = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11")
    values = {name: (registers or {}).get(name, 0) for name in names}
    fields: dict[str, object] = {"eflags": _KERNEL_FLAGS, "cs": 0x10, "ss": 0x18, "fields": {"ExceptionActive": 1}}
    return Trap(values, **{**fields, **more})  # type: ignore[arg-type]
