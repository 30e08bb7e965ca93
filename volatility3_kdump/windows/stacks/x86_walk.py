"""Walks of x86 stacks, along the chain of frame pointers."""

from __future__ import annotations

from volatility3_kdump.cpu import x86_unwind
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.stacks.frames import FRAME_POINTER, Stack
from volatility3_kdump.windows.stacks.walk import Walk


class X86Walk(Walk):
    def run(self) -> Stack:
        registers = x86_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        start = (self.start.context.sp or 0) & 0xFFFFFFFF
        segments = [(low & 0xFFFFFFFF, high & 0xFFFFFFFF) for low, high in self.start.segments]
        limits = next((segment for segment in segments if segment[0] <= start < segment[1]), None)
        while True:
            ip = sign_extended(registers.eip, 4)
            if ip == 0:
                return self.finish("start of the thread", True)
            sp, fp = (None if value is None else sign_extended(value, 4) for value in (registers.esp, registers.ebp))
            self.add(ip, sp, trust, call_site, fp)
            if not self.target.is_kernel_address(ip):
                return self.finish("user mode", True)
            if len(self.rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            outcome = x86_unwind.frame_pointer_step(registers, self.target.memory.read, limits)
            if outcome.registers is None:
                ended = outcome.reason == "the frame-pointer chain ends"
                return self.finish("start of the thread" if ended else outcome.reason or "", ended)
            registers, trust, call_site = outcome.registers, FRAME_POINTER, True
