"""Walks of x64 stacks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from volatility3_kdump.cpu import amd64, amd64_unwind
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.windows.stacks.amd64_shapes import TOP_OF_STACK, Shapes
from volatility3_kdump.windows.stacks.frames import (
    BUG_CHECK,
    CONTEXT,
    FAULT,
    FAULT_PATH,
    INTERRUPTED,
    SCAN,
    SWITCH,
    TRAP_FRAME,
    UNWIND,
    Frame,
    Stack,
)
from volatility3_kdump.windows.stacks.switched import DPC, live_stacks, switch_at
from volatility3_kdump.windows.stacks.traps import failure_trap
from volatility3_kdump.windows.stacks.user_walk import walk_user
from volatility3_kdump.windows.stacks.wow64_walk import is_narrow, limits_of, saved_registers, walk_narrow
from volatility3_kdump.windows.user.code import UserCode

_RIP_IN_TRAP_FRAME = 0x168
_RBP = 5
#: The machine frame of a routine that switched stacks lies this far below their top.
_MACHINE_FRAME_BELOW_TOP = 0x28
#: The lowest address of the kernel's half (x64).
_KERNEL = 0xFFFF_8000_0000_0000
_BUG_CHECK_DISPATCHER = "KiBugCheckDispatch"


class Amd64Walk(Shapes):
    wanted_trap: int | None = None
    wanted_frame: int | None = None
    found: Context | None = None
    #: The registers of 32-bit code that the walk came by.
    narrow_registers: Context | None = None

    def run(self) -> Stack:
        if self.start.context.architecture == "x86":
            return self.run_narrow()
        registers = amd64_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        rows = self.rows
        while True:
            ip, sp = registers.rip, registers.rsp
            if self.wanted_frame is not None and len(rows) == self.wanted_frame:
                self.found = registers.to_context("unwind")
                return self.finish("the wanted frame", True)
            if ip == 0 and call_site:
                return self.finish(*self.zero(sp))
            if ip < _KERNEL and not (sp and sp >= _KERNEL):
                self.add(ip, sp, trust, call_site)
                return self.user_mode(registers, call_site)
            problem = self.against(sp, trust)
            if problem is not None and trust == TRAP_FRAME and not call_site and rows and rows[-1][4] is not None:
                problem, rows[-1][4] = f"the trap frame at {rows[-1][4]:#x} is damaged: {problem}", None
            if problem is None or not rows:
                rows.append([sp, ip, trust, call_site, None, None])
            if problem is not None:
                return self.finish(problem, False)
            if len(rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            following = self.step(registers, call_site)
            if isinstance(following, str):
                return self.finish(following, False)
            registers, trust, call_site = following
            if self.wanted_trap is not None and rows[-1][4] == self.wanted_trap:
                self.found = registers.to_context("unwind")
                return self.finish("the wanted trap frame", True)

    def user_mode(self, registers: Any, call_site: bool) -> Stack:
        """Go on in user mode, where the dump holds that of the process."""
        code = self.user_code()
        if code is None:
            return self.finish("user mode", True)
        if is_narrow(code, registers.rip):
            # 32-bit code itself was interrupted.
            trust = self.rows.pop()[2]
            values = {"eip": registers.rip, "esp": registers.rsp, "ebp": registers.gpr[_RBP]}
            narrow = {name: value & 0xFFFFFFFF for name, value in values.items() if value is not None}
            return self.narrow(code, Context("x86", narrow, "trap frame"), trust)
        wanted = None if self.wanted_frame is None else self.wanted_frame - len(self.rows)
        walked = walk_user(code, registers, call_site, self.most - len(self.rows), wanted)
        if walked.registers is not None:
            self.found = walked.registers.to_context("unwind")
        for row in walked.rows:
            self.add(row.ip, row.sp, row.trust, row.call_site)
        if len(self.rows) >= self.most:
            return self.finish(f"{self.most} frames, the limit", False)
        if code.wow64 and self.start.thread is not None:
            saved = saved_registers(code, self.start.thread)
            if not isinstance(saved, str):
                self.gaps.add(len(self.rows) - 1)
                return self.narrow(code, saved, CONTEXT)
            return self.finish(f"{walked.end}; the 32-bit half: {saved}", False)
        return self.finish(walked.end, walked.complete)

    def run_narrow(self) -> Stack:
        """The stack of 32-bit code alone, from its registers on."""
        code = self.user_code()
        if code is None:
            self.add(self.start.context.ip or 0, self.start.context.sp, self.start.trust, False, self.start.context.fp)
            return self.finish("32-bit user mode: that of its process is not in the dump", False)
        return self.narrow(code, self.start.context, self.start.trust)

    def narrow(self, code: UserCode, context: Context, trust: str) -> Stack:
        """Go on in the 32-bit half of a process."""
        self.narrow_registers = context
        self.narrow_from = len(self.rows)
        self.narrow_source = f"{context.source} at {context.address:#x}" if context.address else context.source
        limits = limits_of(code, self.start.thread) if self.start.thread is not None else None
        walked = walk_narrow(code, context, limits, self.most - len(self.rows), trust)
        for row in walked.rows:
            self.add(row.ip, row.sp, row.trust, row.call_site, row.fp)
        if len(self.rows) >= self.most:
            return self.finish(f"{self.most} frames, the limit", False)
        return self.finish(walked.end, walked.complete)

    def against(self, sp: int | None, trust: str) -> str | None:
        """What is wrong with a frame's stack pointer; ``None`` when the walk can go on there."""
        if sp is None:
            return "the stack pointer is not known"
        if sp & 7:
            return f"the stack pointer {sp:#x} is not a multiple of 8"
        before = self.rows[-1][0] if self.rows else None
        if before is not None and self.segment is not None and before < sp <= self.segment[1]:
            return None
        return f"the stack pointer {sp:#x} does not go up" if sp == before else self.enter(sp, trust == TRAP_FRAME)

    def zero(self, sp: int | None) -> tuple[str, bool]:
        """What a return address of zero means: the outermost frame, which lies at the top of its stack."""
        if sp is None or self.segment is None or sp + TOP_OF_STACK >= self.segment[1]:
            return "start of the thread", True
        return f"the return address below {sp:#x} is zero, far from the top of the stack", False

    def step(self, registers: Any, call_site: bool) -> tuple[Any, str, bool] | str:
        """The caller's registers, how they are known and whether its ip is a return address; or why there is none."""
        place_of = self.walker.place_of
        place = place_of(registers.rip)
        if place is None:
            return self.without_module(registers, call_site)
        module, table = place
        if table is None:
            return self.without_unwind_data(registers, f"the headers of {module.name} are not in the dump")
        outcome = amd64_unwind.unwind(registers, table, module.base, self.bytes.read, call_site=call_site)
        if outcome.registers is None:
            return self.without_unwind_data(registers, outcome.reason or "no unwind data")
        if outcome.machine_frame is not None:
            switch = switch_at(self.target, outcome.machine_frame + _MACHINE_FRAME_BELOW_TOP)
            if switch is not None and switch.goes_on == outcome.registers.rip:
                self.allow(switch.previous)
                return outcome.registers, SWITCH, False
            trap = outcome.machine_frame - _RIP_IN_TRAP_FRAME
            against = amd64.why_not_machine_frame(self.bytes.read, outcome.machine_frame)
            if against is not None:
                return f"the trap frame at {trap:#x} is damaged: {against}"
            self.rows[-1][4] = trap
            wanted = self.wanted_trap is not None or self.wanted_frame is not None
            if wanted or self.target.is_kernel_address(outcome.registers.rip):
                self.merge_trap_frame(outcome.registers, trap)
            return outcome.registers, TRAP_FRAME, False
        if outcome.leaf and call_site:
            # A function that called another one has unwind data: either the table or the frame is not what it seems.
            return self.without_unwind_data(registers, f"{module.name} has no unwind data for {registers.rip:#x}")
        caller = outcome.registers
        if caller.rip and place_of(caller.rip) is None:
            return f"the return address {caller.rip:#x} lies outside every module"
        return caller, UNWIND, True

    def without_module(self, registers: Any, call_site: bool) -> tuple[Any, str, bool] | str:
        """A jump to an address outside every module: its caller is on top of the stack, if a call put it there."""
        if call_site:
            return f"the return address {registers.rip:#x} lies outside every module"
        value = self.pointer(registers.rsp)
        if value is None or not self.may_return(value):
            return f"{registers.rip:#x} lies outside every module, and no return address is on top of the stack"
        caller = registers.copy()
        caller.rip = value
        caller.gpr[4] = registers.rsp + 8
        return caller, SCAN, True

    def finish(self, end: str, complete: bool) -> Stack:
        stack = super().finish(end, complete)
        frames, remarks = self.parts(stack.frames), tuple(self.remarks(stack.frames))
        if frames is stack.frames and not remarks:
            return stack
        return dataclasses.replace(stack, frames=frames, remarks=remarks)

    def parts(self, frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
        """The frames with their parts in the crash."""
        if not frames or not (self.start.crash or self.start.fault):
            return frames
        if self.start.fault:
            return (frames[0]._replace(part=FAULT), *frames[1:])
        fault = self.fault_index(frames)
        marked = [*frames]
        for number in range(fault or 0):
            marked[number] = marked[number]._replace(part=FAULT_PATH)
        if fault is not None and self.target.is_kernel_address(frames[fault].ip):
            marked[fault] = marked[fault]._replace(part=FAULT)
        if fault != 0 and self.home_slots():
            marked[0] = marked[0]._replace(part=BUG_CHECK)
        return tuple(self.below_dpc(marked))

    def below_dpc(self, frames: Sequence[Frame]) -> Iterator[Frame]:
        """The frames, with those marked that the DPC of the crash interrupted: on the stacks behind its own."""
        stacks = live_stacks(self.target)
        dpc = next((number for number, stack in enumerate(stacks) if stack.kind == DPC), len(stacks))
        for frame in frames:
            behind = any(frame.sp is not None and low <= frame.sp < high for low, high, _ in stacks[dpc + 1 :])
            yield frame._replace(part=INTERRUPTED) if behind and not frame.part else frame

    def fault_index(self, frames: tuple[Frame, ...]) -> int | None:
        """The number of the frame that faulted: interrupted by the trap frame that the bug check is about."""
        interrupted = [frame for frame in frames[1:] if frame.trust == TRAP_FRAME and not frame.call_site]
        trap = failure_trap(self.target)
        if trap is not None:
            return next((frame.number for frame in interrupted if frame.ip == trap.context.ip), None)
        name = frames[1].name if len(frames) > 1 else None
        if self.reported is None and (name is None or name.symbol != _BUG_CHECK_DISPATCHER):
            return None
        return interrupted[0].number if interrupted else None

    def remarks(self, frames: tuple[Frame, ...]) -> Iterator[str]:
        if self.narrow_from is not None and 0 < self.narrow_from < len(frames):
            yield (
                f"from frame {self.narrow_from:02x} on the code has 32 bits; its registers are those of the "
                f"{self.narrow_source}"
            )
        trap = failure_trap(self.target) if self.gaps - {(self.narrow_from or 0) - 1} else None
        if trap is not None:
            yield (
                f"between the call of the bug check and the trap frame at {trap.address:#x} ({trap.how}) only frames "
                "of a fixed shape are shown: without unwind data the rest could be residue of the stack"
            )
        for ip, same in itertools.groupby((frame for frame in frames if frame.trap_frame), key=lambda frame: frame.ip):
            traps = [frame.trap_frame or 0 for frame in same]
            steps = {after - before for before, after in itertools.pairwise(traps)}
            if len(traps) > 1 and steps == {amd64.TRAP_FRAME_SIZE}:
                yield (
                    f"{len(traps)} trap frames {amd64.TRAP_FRAME_SIZE:x}h apart have the same instruction {ip:#x}: "
                    "the code faults again while handling its fault"
                )
