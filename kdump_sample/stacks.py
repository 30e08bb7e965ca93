"""Fills thread stacks: from a list of frames, outermost first, the bytes that those calls leave behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kdump_sample.code import Allocate, FramePointer, Function, MachineFrame, Push, Save

Words = Mapping[int, int]


@dataclass(frozen=True)
class Trap:
    """What the processor and the trap handler leave in a KTRAP_FRAME.

    ``registers`` are the volatile ones by name; ``rip`` and ``rsp`` are given for entries from user mode and follow
    from the stack otherwise. ``stack`` is the top of the stack that the processor switches to (interrupt stack table);
    ``called`` says that the interrupted frame had made a call to ``rip``, so that its return address lies on the stack.
    ``fields`` are further KTRAP_FRAME fields by name.
    """

    registers: Mapping[str, int]
    eflags: int
    cs: int
    ss: int
    rip: int | None = None
    rsp: int | None = None
    error_code: int = 0
    stack: int | None = None
    called: bool = False
    fields: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """One function call.

    ``function`` is ``module!name``, or a name of the kernel. ``arguments`` are the quadwords at the bottom of the
    frame, where the functions that it calls keep their arguments; ``words`` are others by offset from there. ``sets``
    are the nonvolatile registers that the body changes before it calls on. ``stopped_at`` is the offset of the
    instruction that an exception interrupted, where the frame does not end in a call; ``call`` chooses among the
    function's call sites. ``switches_to`` is the top of another stack on which the function goes on after its prologue.
    """

    function: str
    arguments: tuple[int, ...] = ()
    sets: Mapping[str, int] = field(default_factory=dict)
    words: Words = field(default_factory=dict)
    trap: Trap | None = None
    stopped_at: int | None = None
    call: int = 0
    switches_to: int | None = None


@dataclass(frozen=True)
class Placed:
    """A frame on its stack: Child-SP, and the address at which the function goes on (or was stopped)."""

    frame: Frame
    child_sp: int
    ip: int
    trap_frame: int | None


@dataclass
class Stack:
    """What a list of frames comes to: the placed frames, outermost first, and the registers of the innermost.

    ``tops`` are the first addresses above the stacks that the frames lie on.
    """

    placed: list[Placed]
    registers: dict[str, int]
    words: dict[int, int]
    tops: list[int]

    @property
    def sp(self) -> int:
        return self.registers["rsp"]

    def call(self, target: int) -> None:
        """Enter another function: push the return address."""
        self.registers["rsp"] -= 8
        self.words[self.sp] = self.registers["rip"]
        self.registers["rip"] = target


Find = Callable[[str], "tuple[Function, int, Sequence[int]] | None"]


def lay_out(frames: Sequence[Frame], top: int, find: Find, registers: Mapping[str, int]) -> Stack:
    """Put frames on a stack that starts, empty, at ``top``.

    ``find`` gives for a frame's function its description, its address and the return addresses of its call sites, or
    ``None`` if the images do not have it: the frame is then left out. ``registers`` are the nonvolatile registers at
    the outermost frame.
    """
    state = dict(registers)
    state["rsp"], state["rip"] = top, 0
    stack = Stack([], state, {}, [top])
    for frame in frames:
        located = find(frame.function)
        if located is None:
            continue
        function, address, returns = located
        _enter(stack, function, frame)
        if frame.switches_to is not None:
            state["rsp"] = frame.switches_to
            stack.tops.append(frame.switches_to)
        if function.below:
            state["rsp"] -= function.below
        # A machine frame without selectors is what a switch of stacks builds: there is no trap frame around it.
        trap_frame = stack.sp + function.below if frame.trap is not None and frame.trap.cs else None
        child_sp = stack.sp
        for index, value in enumerate(frame.arguments):
            stack.words[child_sp + 8 * index] = value
        for offset, value in frame.words.items():
            stack.words[child_sp + offset] = value
        state.update(frame.sets)
        if frame.stopped_at is not None:
            state["rip"] = address + frame.stopped_at
        elif returns:
            state["rip"] = returns[frame.call]
        elif function.leaf_stop is not None:
            state["rip"] = address + function.leaf_stop
        else:
            state["rip"] = address
        stack.placed.append(Placed(frame, child_sp, state["rip"], trap_frame))
    return stack


def _enter(stack: Stack, function: Function, frame: Frame) -> None:
    """Run a function's entry: return address or machine frame, then the prologue."""
    state = stack.registers
    if not any(isinstance(operation, MachineFrame) for operation in function.prologue):
        state["rsp"] -= 8
        stack.words[stack.sp] = state["rip"]
    for operation in function.prologue:
        if isinstance(operation, MachineFrame):
            _interrupt(stack, operation, frame)
        elif isinstance(operation, Push):
            state["rsp"] -= 8
            stack.words[stack.sp] = state.get(operation.register, 0)
        elif isinstance(operation, Allocate):
            state["rsp"] -= operation.size
        elif isinstance(operation, FramePointer):
            state[operation.register] = stack.sp + operation.offset
        elif isinstance(operation, Save) and not operation.register.startswith("xmm"):
            stack.words[stack.sp + operation.offset] = state.get(operation.register, 0)


def _interrupt(stack: Stack, machine_frame: MachineFrame, frame: Frame) -> None:
    """What the processor pushes, on a stack that it has aligned to 16 bytes."""
    assert frame.trap is not None
    trap, state = frame.trap, stack.registers
    if trap.called:
        state["rsp"] -= 8
        stack.words[stack.sp] = state["rip"]
    old_sp = stack.sp if trap.rsp is None else trap.rsp
    ip = state["rip"] if trap.rip is None else trap.rip
    if trap.stack is not None:
        state["rsp"] = trap.stack
        stack.tops.append(trap.stack)
    state["rsp"] &= ~15
    for value in (trap.ss, old_sp, trap.eflags, trap.cs, ip):
        state["rsp"] -= 8
        stack.words[stack.sp] = value
    if machine_frame.error_code:
        state["rsp"] -= 8
        stack.words[stack.sp] = trap.error_code
