"""Walks of ARM64 stacks: by the images' unwind data, else along the chain of frame records.

A trap frame ends in a frame record (Fp, Pc), to which the trap handler's frame pointer leads: so does the chain.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from volatility3_kdump.cpu import arm64, arm64_unwind
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.windows.stacks.arm64_user_walk import walk_arm64_user
from volatility3_kdump.windows.stacks.frames import FRAME_POINTER, INTERRUPTED, TRAP_FRAME, UNWIND, Stack
from volatility3_kdump.windows.stacks.parts import with_parts
from volatility3_kdump.windows.stacks.places import may_follow_call
from volatility3_kdump.windows.stacks.switched import DPC, live_stacks
from volatility3_kdump.windows.stacks.traps import Trap, failure_trap
from volatility3_kdump.windows.stacks.walk import Walk

#: How many instructions before a place are looked at for the beginning of its function.
_LOOKED_AT = 0x200
#: stp x29,x30,[sp,#-imm]! and stp x29,x30,[sp,#imm]; mov x29,sp and add x29,sp,#imm; ret, retaa, retab; b.
_SAVES_RECORD = (0xFFC07FFF, (0xA9807BFD, 0xA9007BFD))
_SETS_RECORD = (0xFFC003FF, (0x910003FD,))
_RETURNS = (0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF)
_ENDS = (*_RETURNS, 0)
_UNCONDITIONAL = (0xFC000000, (0x14000000,))


class Arm64Walk(Walk):
    #: The trap frame of the failure, as long as the walk has not come by it.
    pending: Trap | None = None
    #: The first row on another stack than the one that the walk began on.
    switched: int | None = None

    def run(self) -> Stack:
        registers = arm64_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        self.pending = failure_trap(self.target) if self.start.crash else None
        seen: set[tuple[int | None, ...]] = set()
        while True:
            ip, sp = registers.pc, registers.sp
            end = self.end_at(registers, trust, call_site)
            if end is None and (ip, sp, registers.fp) in seen:
                end = "the same frame comes again", False
            if end is not None and not end[1] and self.pending is not None and self.rows:
                # A broken chain.
                outcome, trust, call_site = self.to_failure(), TRAP_FRAME, False
                self.crossed(outcome.machine_frame)
                registers = outcome.registers
                continue
            if end is not None:
                return self.finish(*end)
            seen.add((ip, sp, registers.fp))
            self.add(ip, sp, trust, call_site)
            if len(self.rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            outcome, trust = self.step(registers, call_site)
            if outcome.registers is not None and self.passes_failure(outcome):
                outcome, trust = self.to_failure(), TRAP_FRAME
            if outcome.registers is None and self.pending is not None:
                outcome, trust = self.to_failure(), TRAP_FRAME
            if outcome.registers is None:
                ended = outcome.reason == "the frame-pointer chain ends"
                return self.finish("start of the thread" if ended else outcome.reason or "", ended)
            if outcome.machine_frame is not None and trust == TRAP_FRAME:
                self.crossed(outcome.machine_frame)
            registers = outcome.registers
            call_site = outcome.machine_frame is None and outcome.call_site

    def end_at(self, registers: Any, trust: str, call_site: bool) -> tuple[str, bool] | None:
        ip, sp = registers.pc, registers.sp
        if ip == 0 and call_site:
            return "start of the thread", True
        if not self.target.is_kernel_address(ip) and (call_site or not sp or not self.target.is_kernel_address(sp)):
            self.add(ip, sp, trust, call_site)
            return self.user_mode(registers, call_site)
        # The outermost frame record has no frame pointer, and nothing above it to judge.
        before = self.segment
        problem = self.enter(registers.stack_address, trust == TRAP_FRAME) if registers.stack_address else None
        if before is not None and self.segment != before and self.switched is None:
            self.switched = len(self.rows)
        if problem and not self.rows:
            self.add(ip, sp, trust, call_site)
        return (problem, False) if problem else None

    def user_mode(self, registers: Any, call_site: bool) -> tuple[str, bool]:
        """Go on in user mode, where the dump holds that of the process."""
        code = self.user_code()
        if code is None or len(self.rows) >= self.most:
            return "user mode", True
        most = self.most - len(self.rows)
        walked = walk_arm64_user(code, registers, call_site, most, self.walker.authentication)
        for row in walked.rows:
            self.add(row.ip, row.sp, row.trust, row.call_site)
        if len(self.rows) >= self.most:
            return f"{self.most} frames, the limit", False
        return walked.end, walked.complete

    def step(self, registers: Any, call_site: bool) -> tuple[Any, str]:
        """One step by the image's unwind data, else by what the code tells, else by the frame-pointer chain."""
        module = self.target.names.module_of(registers.pc - 4 if call_site else registers.pc)
        mask = self.walker.authentication
        if module is None and call_site:
            reason = f"the return address {registers.pc:#x} lies outside every module"
            return arm64_unwind.Unwound(None, reason=reason), UNWIND
        table = self.walker.table_of(module) if module is not None else None
        if module is not None and table is not None:
            outcome = arm64_unwind.unwind(
                registers,
                table,
                module.base,
                self.bytes.read,
                call_site=call_site,
                mask=mask,
                trap_frame=self.registers_in_trap,
            )
            if outcome.registers is not None:
                return outcome, UNWIND if outcome.machine_frame is None else TRAP_FRAME
        trap = self.trap_behind(registers)
        if trap is not None:
            return trap, TRAP_FRAME
        caller = None if call_site else self.without_record(registers, module is None)
        if caller is not None:
            return caller, UNWIND
        chain = arm64_unwind.frame_pointer_step(registers, self.bytes.read, self.segment, mask=mask)
        return chain, FRAME_POINTER

    # trap frames ----------------------------------------------------------------------------------------------------

    def registers_in_trap(self, address: int) -> Any:
        context = arm64.trap_frame(self.bytes.read, address, self.target.nt)
        return None if context is None else arm64_unwind.Registers.from_context(context)

    def trap_behind(self, registers: Any) -> Any:
        """The interrupted code, where the frame record at fp is the end of a trap frame."""
        fp = registers.fp
        if not fp or self.segment is None or not self.segment[0] <= fp - arm64.RECORD_IN_TRAP_FRAME < self.segment[1]:
            return None
        address = fp - arm64.RECORD_IN_TRAP_FRAME
        interrupted = self.registers_in_trap(address)
        return (
            None if interrupted is None else arm64_unwind.Unwound(interrupted, machine_frame=address, call_site=False)
        )

    def crossed(self, trap: int) -> None:
        self.rows[-1][4] = trap
        if self.pending is not None and self.pending.address == trap:
            self.pending = None

    def passes_failure(self, outcome: Any) -> bool:
        """Whether a step leads beyond the trap frame of the failure, which the walk has not come by."""
        if self.pending is None or self.segment is None or outcome.machine_frame == self.pending.address:
            return False
        place = outcome.machine_frame or outcome.registers.stack_address
        trap = self.pending.address
        here = self.segment[0] <= trap < self.segment[1]
        return here and place is not None and place > trap + arm64.RECORD_IN_TRAP_FRAME

    def to_failure(self) -> Any:
        """On at the trap frame of the failure: what lies between is none of the failure's."""
        assert self.pending is not None
        self.gaps.add(len(self.rows) - 1)
        context: Context = self.pending.context
        registers = arm64_unwind.Registers.from_context(context)
        return arm64_unwind.Unwound(registers, machine_frame=self.pending.address, call_site=False)

    # code without a record ------------------------------------------------------------------------------------------

    def without_record(self, registers: Any, nowhere: bool) -> Any:
        """The caller in lr: of a jump to nowhere, and of code that was interrupted before it had saved lr."""
        if registers.lr is None or not (nowhere or self.keeps_lr(registers.pc)):
            return None
        returns = arm64.strip_pointer_authentication(registers.lr, self.walker.authentication)
        if not self.target.names.module_of(returns - 4) or may_follow_call(self.target, returns) is False:
            return None
        caller = registers.copy()
        caller.x[:18] = [None] * 18
        caller.x[30] = None
        caller.pc = returns
        return arm64_unwind.Unwound(caller)

    def keeps_lr(self, pc: int) -> bool:
        """Whether the code before a place, back to the function in front of it, neither saves lr nor calls anything.

        All instructions have four bytes, so that code can be read backwards. Where it is absent nothing is known.
        """
        for place in range(pc - 4, pc - 4 * _LOOKED_AT, -4):
            data = self.target.memory.read(place, 4)
            if data is None:
                return False
            word = int.from_bytes(data, "little")
            if word in _ENDS or word & _UNCONDITIONAL[0] in _UNCONDITIONAL[1]:
                return True
            if any(word & mask in encodings for mask, encodings in (_SAVES_RECORD, _SETS_RECORD)):
                return False
            if may_follow_call(self.target, place + 4):
                return False
        return False

    def finish(self, end: str, complete: bool) -> Stack:
        stack = super().finish(end, complete)
        remarks = []
        if self.gaps:
            remarks.append("between the call of the bug check and the trap frame of the failure frames are left out")
        frames = with_parts(self.target, self.start, stack.frames, False)
        stacks = live_stacks(self.target) if self.start.crash else ()
        if self.switched is not None and stacks and stacks[0].kind == DPC:
            # The thread that the DPC interrupted has no part in what the DPC did.
            frames = tuple(
                frame._replace(part=INTERRUPTED) if frame.number >= self.switched and not frame.part else frame
                for frame in frames
            )
        return dataclasses.replace(stack, frames=frames, remarks=tuple(remarks))
