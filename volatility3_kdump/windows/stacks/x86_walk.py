"""Walks of x86 stacks, along the chain of frame pointers.

x86 code has no unwind data: what has no frame pointer is passed over, unless its code or a call that leads to it says
where it keeps its return address. Trap frames lie at the trap handler's ebp, so that the chain leads through them.
"""

from __future__ import annotations

import dataclasses
import struct

from volatility3_kdump.cpu import x86, x86_unwind
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.stacks.frames import (
    FRAME_POINTER,
    INTERRUPTED,
    SCAN,
    SWITCH,
    TRAP_FRAME,
    UNWIND,
    Stack,
)
from volatility3_kdump.windows.stacks.parts import with_parts
from volatility3_kdump.windows.stacks.places import may_follow_call
from volatility3_kdump.windows.stacks.switched import narrow_switch
from volatility3_kdump.windows.stacks.traps import Trap, failure_trap, is_record_at
from volatility3_kdump.windows.stacks.walk import Walk
from volatility3_kdump.windows.stacks.wow64_walk import walk_narrow

_MASK = 0xFFFFFFFF
#: How far a search for the next return address goes, in bytes.
_REACH = 0x400
_CALL, _CALL_SIZE = 0xE8, 5
#: The largest function that is looked through for a place in it.
_LARGEST_FUNCTION = 0x1000
_ARGUMENTS_OF_BUG_CHECK = 5

#: The caller's registers, how they are known, and whether its ip is a return address.
Following = tuple[x86_unwind.Registers, str, bool]


class X86Walk(Walk):
    #: The trap frame of the failure, as long as the walk has not come by it.
    pending: Trap | None = None
    limits: tuple[int, int] | None = None

    def run(self) -> Stack:
        registers = x86_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        self.limits = self.limits_of(registers.esp)
        self.pending = failure_trap(self.target) if self.start.crash else None
        seen: set[tuple[int, int | None, int | None]] = set()
        while True:
            ip = sign_extended(registers.eip, 4)
            if ip == 0 and call_site:
                return self.finish("start of the thread", True)
            if (registers.eip, registers.esp, registers.ebp) in seen:
                return self.finish("the same frame comes again", False)
            seen.add((registers.eip, registers.esp, registers.ebp))
            sp, fp = (None if value is None else sign_extended(value, 4) for value in (registers.esp, registers.ebp))
            self.add(ip, sp, trust, call_site, fp)
            if not self.target.is_kernel_address(ip) and (call_site or sp is None or not sp >> 63):
                return self.user_mode(registers, trust, call_site)
            if len(self.rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            following = self.step(registers, call_site)
            if isinstance(following, tuple) and isinstance(following[0], str):
                return self.finish(following[0], bool(following[1]))
            registers, trust, call_site = following

    def user_mode(self, registers: x86_unwind.Registers, trust: str, call_site: bool) -> Stack:
        """Go on in user mode, where the dump holds that of the process."""
        code = self.user_code()
        if code is None:
            return self.finish("user mode", True)
        walked = walk_narrow(
            code, registers.to_context("trap frame"), None, self.most - len(self.rows) + 1, trust, call_site
        )
        self.narrow_from = len(self.rows) - 1
        for row in walked.rows[1:]:
            self.add(row.ip, row.sp, row.trust, row.call_site, row.fp)
        if len(self.rows) >= self.most:
            return self.finish(f"{self.most} frames, the limit", False)
        return self.finish(walked.end, walked.complete)

    def step(self, registers: x86_unwind.Registers, call_site: bool) -> Following | tuple[str, bool]:
        """The caller's registers; or why there is none, and whether the stack is complete."""
        following = self.at_trap(registers)
        if following is None and not call_site:
            following = self.without_frame(registers)
        if following is not None:
            return following
        outcome = x86_unwind.frame_pointer_step(registers, self.target.memory.read, self.limits)
        if outcome.registers is not None and self.passes_failure(outcome.frame):
            return self.to_failure()
        if outcome.registers is not None:
            return outcome.registers, FRAME_POINTER, True
        if self.pending is not None:
            return self.to_failure()
        following = self.to_interrupted() or self.scan(registers)
        if following is not None:
            return following
        ended = outcome.reason == "the frame-pointer chain ends"
        return "start of the thread" if ended else outcome.reason or "", ended

    # trap frames ----------------------------------------------------------------------------------------------------

    def at_trap(self, registers: x86_unwind.Registers) -> Following | None:
        """The interrupted code, where ebp is the address of a trap frame, as it is in every trap handler."""
        ebp, read = registers.ebp, self.target.memory.read
        if ebp is None or not self.inside(ebp):
            return None
        named = self.pending is not None and self.pending.address & _MASK == ebp
        if not named and not x86.is_marked(read, ebp):
            return None
        context = x86.trap_frame(read, ebp, self.target.nt)
        if context is None:
            return None
        handler = self.pointer32(ebp - x86.RETURN_BELOW_TRAP_FRAME)
        dispatched = is_record_at(self.target, ebp - x86.RECORD_BELOW_TRAP_FRAME)
        if handler is not None and dispatched and handler != registers.eip and self.is_return(handler):
            # What dispatches the exception was called by the trap handler, and keeps its ebp.
            self.add(sign_extended(handler, 4), sign_extended(ebp, 4), FRAME_POINTER, True, sign_extended(ebp, 4))
        return self.into(context, ebp)

    def into(self, context: Context, trap: int) -> Following:
        self.rows[-1][4] = sign_extended(trap, 4)
        if self.pending is not None and self.pending.address & _MASK == trap:
            self.pending = None
        registers = x86_unwind.Registers.from_context(context)
        self.limits = self.limits_of(registers.esp) or self.limits
        return registers, TRAP_FRAME, False

    def passes_failure(self, frame: int | None) -> bool:
        """Whether a frame lies above the trap frame of the failure, which the chain has not led to."""
        trap = None if self.pending is None else self.pending.address & _MASK
        return trap is not None and frame is not None and self.inside(trap) and frame > trap

    def to_failure(self) -> Following:
        """On at the trap frame of the failure: what lies between is none of the failure's."""
        assert self.pending is not None
        self.gaps.add(len(self.rows) - 1)
        return self.into(self.pending.context, self.pending.address & _MASK)

    def to_interrupted(self) -> Following | None:
        """On at the thread's stack, where the chain ends on the processor's DPC stack."""
        switch = narrow_switch(self.target, self.limits)
        if switch is None:
            return None
        self.limits = self.limits_of(switch.previous)
        low, high = self.limits or (0, 0)
        read = self.target.memory.read
        for trap in range(switch.previous & ~3, min(high - x86.TRAP_FRAME_SIZE, switch.previous + _REACH), 4):
            if low <= trap and x86.is_marked(read, trap):
                context = x86.trap_frame(read, trap, self.target.nt)
                if context is not None:
                    self.gaps.add(len(self.rows) - 1)
                    following = self.into(context, trap)
                    return following[0], SWITCH, False
        return None

    # code without a frame -------------------------------------------------------------------------------------------

    def without_frame(self, registers: x86_unwind.Registers) -> Following | None:
        """The caller of code that was interrupted before it had set up its frame, or that has none."""
        esp = registers.esp
        if esp is None or not self.inside(esp):
            return None
        depth = self.depth(registers.eip)
        if depth is not None:
            value = self.pointer32(esp + depth)
            if value is not None and self.may_be_return(value):
                ebp = registers.ebp if depth == 0 else self.pointer32(esp)
                return x86_unwind.Registers(value, esp + depth + 4 & _MASK, ebp), UNWIND, True
        return self.called_from(registers, esp)

    def depth(self, eip: int) -> int | None:
        """How far above esp the return address lies, where the code at eip or eip itself tells."""
        place = sign_extended(eip, 4)
        if self.target.names.module_of(place) is None:
            return 0
        read = self.target.memory.read
        code = read(place, 3) or read(place, 1) or b""
        before = read(place - 1, 1) or b""
        if code[:1] in (b"\xc3", b"\xc2") or code[:2] == b"\x8b\xff":
            return 0
        if code[:1] == b"\x55" and code[1:3] in (b"\x8b\xec", b"\x89\xe5"):
            return 0
        return 4 if code[:2] in (b"\x8b\xec", b"\x89\xe5") and before == b"\x55" else None

    def called_from(self, registers: x86_unwind.Registers, esp: int) -> Following | None:
        """The caller of a function without a frame pointer: a direct call that leads to the function that eip is in.

        Only where the called code has no frame, and decoding it from its start meets eip.
        """
        ebp = registers.ebp
        end = min(esp + _REACH, ebp if ebp is not None and self.inside(ebp) else esp + _REACH)
        data = self.target.memory.read(esp, max(end - esp & ~3, 0)) if end > esp else None
        for index, (value,) in enumerate(struct.iter_unpack("<I", data or b"")):
            start = self.callee(value)
            if start is None or not start <= registers.eip < start + _LARGEST_FUNCTION:
                continue
            if self.has_frame(start) or not self.reaches(start, registers.eip):
                continue
            return x86_unwind.Registers(value, esp + 4 * index + 4 & _MASK, ebp), SCAN, True
        return None

    def callee(self, returns: int) -> int | None:
        """Where the direct call in front of a return address leads; ``None`` where there is none."""
        call = self.target.memory.read(sign_extended(returns, 4) - _CALL_SIZE, _CALL_SIZE) if returns >> 31 else None
        if call is None or call[0] != _CALL:
            return None
        return returns + int.from_bytes(call[1:], "little", signed=True) & _MASK

    def has_frame(self, start: int) -> bool:
        code = self.target.memory.read(sign_extended(start, 4), 5) or b""
        return code.removeprefix(b"\x8b\xff")[:3] in (b"\x55\x8b\xec", b"\x55\x89\xe5")

    def reaches(self, start: int, eip: int) -> bool:
        """Whether decoding from the start of a function meets an instruction at eip."""
        from volatility3_kdump.cpu.disasm_x86 import length_of

        code = self.target.memory.read(sign_extended(start, 4), eip - start) if eip > start else b""
        position = 0
        while code is not None and position < len(code):
            size = length_of(code[position : position + 15], "x86")
            if size is None:
                return False
            position += size
        return code is not None and position == len(code)

    def scan(self, registers: x86_unwind.Registers) -> Following | None:
        """The next saved frame pointer with a return address above it, where the chain is broken."""
        esp = registers.esp
        if esp is None or not self.inside(esp):
            return None
        for place in range((esp + 3) & ~3, min(esp + _REACH, self.end() - 8), 4):
            following, value = self.pointer32(place), self.pointer32(place + 4)
            if following is None or value is None:
                return None
            if following > place + 4 and self.inside(following) and following & 3 == 0 and self.is_return(value):
                return x86_unwind.Registers(value, place + 8, following), SCAN, True
        return None

    # what is on the stack -------------------------------------------------------------------------------------------

    def limits_of(self, esp: int | None) -> tuple[int, int] | None:
        """The stack that a stack pointer lies on, as 32-bit addresses."""
        segments = ((low & _MASK, (high & _MASK) or _MASK + 1) for low, high in self.start.segments)
        return next((limits for limits in segments if esp is not None and limits[0] <= esp < limits[1]), None)

    def inside(self, address: int) -> bool:
        return self.limits is not None and self.limits[0] <= address < self.limits[1]

    def end(self) -> int:
        return self.limits[1] if self.limits is not None else 0

    def pointer32(self, address: int) -> int | None:
        return self.pointer(sign_extended(address & _MASK, 4))

    def is_return(self, value: int) -> bool:
        """Whether a call is seen in front of an address of the kernel's half."""
        return bool(value >> 31) and may_follow_call(self.target, sign_extended(value, 4)) is True

    def may_be_return(self, value: int) -> bool:
        """As :meth:`is_return`, where the code in front of it may be absent."""
        place = sign_extended(value, 4)
        return (
            bool(value >> 31)
            and self.target.names.module_of(place) is not None
            and may_follow_call(self.target, place) is not False
        )

    def arguments_of(self, row: list[object], following: list[object]) -> tuple[int | None, ...]:
        trap, fp = row[4], row[5]
        if trap is not None and isinstance(fp, int) and fp == trap:
            return self.arguments(fp + 8)
        return super().arguments_of(row, following)

    def finish(self, end: str, complete: bool) -> Stack:
        stack = super().finish(end, complete)
        frames = with_parts(self.target, self.start, stack.frames, self.reports())
        switched = next((frame.number for frame in frames if frame.trust == SWITCH), len(frames))
        # The thread that the DPC interrupted has no part in what the DPC did.
        frames = tuple(
            frame._replace(part=INTERRUPTED) if frame.number >= switched and not frame.part else frame
            for frame in frames
        )
        return dataclasses.replace(stack, frames=frames, remarks=tuple(self.remarks()))

    def remarks(self) -> list[str]:
        said = []
        if self.gaps:
            said.append("between the call of the bug check and the trap frame, or two stacks, frames are left out")
        if any(row[2] == FRAME_POINTER for row in self.rows):
            said.append("x86 code has no unwind data: functions without a frame pointer are passed over")
        return said

    def reports(self) -> bool:
        """Whether the first frame has the bug check code and its arguments as its own: that of KeBugCheckEx."""
        header, fp = self.target.header, self.rows[0][5] if self.rows else None
        if header.bug_check_code is None or fp is None:
            return False
        wanted = [header.bug_check_code, *header.bug_check_parameters][:_ARGUMENTS_OF_BUG_CHECK]
        held = [self.pointer32(fp + 8 + 4 * index) for index in range(len(wanted))]
        return held == [None if value is None else value & _MASK for value in wanted]
