"""Walks of ARM64 stacks."""

from __future__ import annotations

from typing import Any

from volatility3_kdump.cpu import arm64_unwind
from volatility3_kdump.windows.stacks.frames import FRAME_POINTER, TRAP_FRAME, UNWIND, Stack
from volatility3_kdump.windows.stacks.walk import Walk


class Arm64Walk(Walk):
    def run(self) -> Stack:
        registers = arm64_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        seen: set[tuple[int | None, ...]] = set()
        while True:
            ip, sp = registers.pc, registers.sp
            end = self.end_at(registers, trust, call_site)
            if end is None and (ip, sp, registers.fp) in seen:
                end = "the same frame comes again", False
            if end is not None:
                return self.finish(*end)
            seen.add((ip, sp, registers.fp))
            self.add(ip, sp, trust, call_site)
            if len(self.rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            outcome, trust = self.step(registers, call_site)
            if outcome.registers is None:
                ended = outcome.reason == "the frame-pointer chain ends"
                return self.finish("start of the thread" if ended else outcome.reason or "", ended)
            registers = outcome.registers
            call_site = outcome.machine_frame is None and outcome.call_site

    def end_at(self, registers: Any, trust: str, call_site: bool) -> tuple[str, bool] | None:
        ip, sp = registers.pc, registers.sp
        if ip == 0:
            return "start of the thread", True
        if not self.target.is_kernel_address(ip):
            self.add(ip, sp, trust, call_site)
            return "user mode", True
        # The outermost frame record has no frame pointer, and nothing above it to judge.
        problem = self.enter(registers.stack_address) if registers.stack_address else None
        if problem and not self.rows:
            self.add(ip, sp, trust, call_site)
        return (problem, False) if problem else None

    def step(self, registers: Any, call_site: bool) -> tuple[Any, str]:
        """One step by the image's unwind data, else by the frame-pointer chain."""
        module = self.target.names.module_of(registers.pc - 4 if call_site else registers.pc)
        mask = self.walker.authentication
        if module is None and call_site:
            reason = f"the return address {registers.pc:#x} lies outside every module"
            return arm64_unwind.Unwound(None, reason=reason), UNWIND
        table = self.walker.table_of(module) if module is not None else None
        if module is not None and table is not None:
            outcome = arm64_unwind.unwind(
                registers, table, module.base, self.bytes.read, call_site=call_site, mask=mask
            )
            if outcome.registers is not None:
                return outcome, UNWIND if outcome.machine_frame is None else TRAP_FRAME
        chain = arm64_unwind.frame_pointer_step(registers, self.bytes.read, self.segment, mask=mask)
        return chain, FRAME_POINTER
