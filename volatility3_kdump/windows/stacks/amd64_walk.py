"""Walks of x64 stacks."""

from __future__ import annotations

from typing import Any

from volatility3_kdump.cpu import amd64, amd64_unwind
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.windows.stacks.frames import SCAN, TRAP_FRAME, UNWIND, Stack
from volatility3_kdump.windows.stacks.walk import Walk

#: How far below the end of its stack a thread's outermost frame begins: behind the save area of the vector registers.
_TOP_OF_STACK = 0x1000
_EXCEPTION_FRAME_SIZE = 0x140
_RIP_IN_TRAP_FRAME = 0x168
#: The lowest address of the kernel's half (x64).
_KERNEL = 0xFFFF_8000_0000_0000


class Amd64Walk(Walk):
    wanted_trap: int | None = None
    wanted_frame: int | None = None
    found: Context | None = None

    def run(self) -> Stack:
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
                return self.finish("user mode", True)
            problem = self.against(sp, trust)
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
        if sp is None or self.segment is None or sp + _TOP_OF_STACK >= self.segment[1]:
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
            trap = outcome.machine_frame - _RIP_IN_TRAP_FRAME
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

    def merge_trap_frame(self, registers: Any, trap: int) -> None:
        """Add the volatile registers that a trap frame saved to those that unwinding kept."""
        context = amd64.trap_frame(self.bytes.read, trap, self.target.nt)
        if context is None or context.ip != registers.rip:
            return
        saved = amd64_unwind.Registers.from_context(context)
        for index, value in enumerate(saved.gpr):
            if value is not None:
                registers.gpr[index] = value

    def without_module(self, registers: Any, call_site: bool) -> tuple[Any, str, bool] | str:
        """A jump to an address outside every module: its caller is on top of the stack, if a call put it there."""
        if call_site:
            return f"the return address {registers.rip:#x} lies outside every module"
        value = self.pointer(registers.rsp)
        module = self.target.names.module_of(value) if value else None
        if value is None or module is None or self.target.follows_call(value) is not True:
            return f"{registers.rip:#x} lies outside every module, and no return address is on top of the stack"
        caller = registers.copy()
        caller.rip = value
        caller.gpr[4] = registers.rsp + 8
        return caller, SCAN, True

    def without_unwind_data(self, registers: Any, reason: str) -> tuple[Any, str, bool] | str:
        known = self.at_entry(registers) or self.dispatcher(registers) or self.trap_handler(registers)
        if known is not None:
            return known
        found = self.scan(registers.rsp)
        if found is None:
            return f"{reason}; no further return address on the stack"
        return self.bare(*found), SCAN, True

    @staticmethod
    def bare(ip: int, sp: int) -> Any:
        return amd64_unwind.Registers.from_context(Context("x64", {"rip": ip, "rsp": sp}, "scan"))

    def at_entry(self, registers: Any) -> tuple[Any, str, bool] | None:
        """At the first instruction of a function the return address is on top of the stack: KeBugCheckEx in a dump."""
        if len(self.rows) != 1:
            return None
        name = self.target.names.lookup(registers.rip)
        first = name is not None and name.symbol is not None and name.offset == 0
        header = self.target.header_context
        bug_check = self.target.header.bug_check_code or 0
        if not first and not (
            header is not None and header.ip == registers.rip and bug_check >> 28 != 1 and self.home_slots()
        ):
            return None
        value = self.pointer(registers.rsp)
        if value is None or self.target.names.module_of(value) is None or self.target.follows_call(value) is False:
            return None
        caller = registers.copy()
        caller.rip = value
        caller.gpr[4] = registers.rsp + 8
        for index in (0, 1, 2, 8, 9, 10, 11):
            caller.gpr[index] = None
        return caller, UNWIND, True

    def home_slots(self) -> bool:
        """Whether the header's registers are those of a call of KeBugCheckEx: rcx holds the bug check code."""
        header = self.target.header_context
        code = self.target.header.bug_check_code
        return header is not None and code is not None and header.get("rcx") == code

    def dispatcher(self, registers: Any) -> tuple[Any, str, bool] | None:
        """KiBugCheckDispatch and its kin keep a KEXCEPTION_FRAME on top of their stack, and a trap frame above it."""
        if not self.rows[-1][3]:
            return None
        frame = registers.rsp
        trap = frame + _EXCEPTION_FRAME_SIZE
        value = self.pointer(trap - 8)
        module = self.target.names.module_of(value) if value else None
        own = self.target.names.module_of(registers.rip)
        if value is None or module is None or own is None or module.name != "nt" or own.name != "nt":
            return None
        if not amd64.looks_like_trap_frame(self.bytes.read, trap, self.target.nt):
            return None
        caller = registers.copy()
        saved = amd64.exception_frame(self.bytes.read, frame, self.target.nt)
        context = Context("x64", {**saved, "rip": value, "rsp": trap}, "exception frame", frame)
        restored = amd64_unwind.Registers.from_context(context)
        caller.gpr = [new if new is not None else None for new in restored.gpr]
        caller.rip = value
        return caller, TRAP_FRAME, True

    def trap_handler(self, registers: Any) -> tuple[Any, str, bool] | None:
        """A trap handler reached through a dispatcher keeps its trap frame at its stack pointer."""
        if self.rows[-1][2] != TRAP_FRAME or not self.rows[-1][3]:
            return None
        context = amd64.trap_frame(self.bytes.read, registers.rsp, self.target.nt)
        if context is None or context.ip is None:
            return None
        self.rows[-1][4] = registers.rsp
        caller = registers.copy()
        caller.rip = context.ip
        self.merge_trap_frame(caller, registers.rsp)
        return caller, TRAP_FRAME, False
