"""Steps of x64 walks where the images' unwind data are not in the dump: by shapes that the kernel's own code leaves.

The call of KeBugCheckEx, the dispatchers of bug checks and exceptions, trap frames, and switches of stacks have fixed
shapes. What has none is found by a scan for return addresses, which never reads past a trap frame or a switch.
"""

from __future__ import annotations

from typing import Any

from volatility3_kdump.cpu import amd64, amd64_unwind
from volatility3_kdump.cpu.calls import cannot_follow_call
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.windows.processes.crashed import crash_context
from volatility3_kdump.windows.stacks.frames import SCAN, SWITCH, TRAP_FRAME, UNWIND
from volatility3_kdump.windows.stacks.places import may_follow_call
from volatility3_kdump.windows.stacks.switched import FRAME_BELOW_TOP, PAGE, Switch, live_stacks, switch_above
from volatility3_kdump.windows.stacks.traps import (
    TRAP_IN_DISPATCHER,
    Trap,
    exception_of,
    failure_trap,
)
from volatility3_kdump.windows.stacks.walk import Walk

#: How far a scan looks for the next return address, in bytes.
_SCAN_REACH = 0x1000
#: A function that calls others reserves home slots for them, so that its own return address lies at least here.
_HOME_SLOTS = 0x28
_WINDOW = 0x6000
#: How far below the end of its stack a thread's outermost frame begins: behind the save area of the vector registers.
TOP_OF_STACK = 0x1000
#: SegCs and SegSs in a KTRAP_FRAME.
_CODE_SEGMENT, _STACK_SEGMENT = 0x170, 0x188
_SEGMENTS = (0x10, 0x33, 0x23)

#: The caller's registers, how they are known, and whether its ip is a return address.
Following = tuple[Any, str, bool]


class Shapes(Walk):
    @staticmethod
    def bare(ip: int, sp: int) -> Any:
        return amd64_unwind.Registers.from_context(Context("x64", {"rip": ip, "rsp": sp}, "scan"))

    def without_unwind_data(self, registers: Any, reason: str) -> Following | str:
        """The caller by the shape of what lies on the stack, else by a scan."""
        following = (
            self.at_entry(registers)
            or self.dispatcher(registers)
            or self.trap_handler(registers)
            or self.to_failure(registers)
        )
        if following is not None:
            return following
        sp = registers.rsp
        # Code that used up its stack is interrupted with a stack pointer in the guard page below.
        if self.pointer(sp) is None and self.rows[-1][2] != TRAP_FRAME:
            return f"{reason}; the stack at {sp:#x} is not in the dump"
        switch = switch_above(self.target, sp, self.segment[1] if self.segment else None)
        if switch is not None and sp == switch.top - FRAME_BELOW_TOP:
            return self.follow(switch)
        candidate = self.scan(sp, switch.top - FRAME_BELOW_TOP if switch is not None else None)
        if isinstance(candidate, int):
            return self.at_trap(candidate, adjacent=True)
        if candidate is not None:
            return self.bare(*candidate), SCAN, True
        if switch is not None:
            return self.bare(switch.returns, switch.top - FRAME_BELOW_TOP), SWITCH, True
        return f"{reason}; no further return address on the stack"

    def at_entry(self, registers: Any) -> tuple[Any, str, bool] | None:
        """At the first instruction of a function the return address is on top of the stack: KeBugCheckEx in a dump."""
        if len(self.rows) != 1:
            return None
        name = self.target.names.lookup(registers.rip)
        first = name is not None and name.symbol is not None and name.offset == 0
        header = crash_context(self.target)
        bug_check = self.target.header.bug_check_code or 0
        if not first and not (
            header is not None and header.ip == registers.rip and bug_check >> 28 != 1 and self.home_slots()
        ):
            return None
        value = self.pointer(registers.rsp)
        if value is None or self.target.names.module_of(value) is None or may_follow_call(self.target, value) is False:
            return None
        caller = registers.copy()
        caller.rip = value
        caller.gpr[4] = registers.rsp + 8
        for index in (0, 1, 2, 8, 9, 10, 11):
            caller.gpr[index] = None
        return caller, UNWIND, True

    def home_slots(self) -> bool:
        """Whether the header's registers are those of a call of KeBugCheckEx: rcx holds the bug check code."""
        header = crash_context(self.target)
        code = self.target.header.bug_check_code
        return header is not None and code is not None and header.get("rcx") == code

    def dispatcher(self, registers: Any) -> Following | None:
        """The dispatchers keep a KEXCEPTION_FRAME at their stack pointer, and a trap frame at a fixed distance.

        KiBugCheckDispatch keeps it right above; KiExceptionDispatch has the exception record in between.
        """
        if not self.rows[-1][3] or not self.in_kernel(registers.rip):
            return None
        frame = registers.rsp
        for distance in (amd64.EXCEPTION_FRAME_SIZE, TRAP_IN_DISPATCHER):
            trap = frame + distance
            value = self.pointer(trap - 8)
            if value is None or not self.in_kernel(value):
                continue
            if not amd64.looks_like_trap_frame(self.bytes.read, trap, self.target.nt):
                continue
            if distance == TRAP_IN_DISPATCHER and exception_of(self.target, trap) is None:
                continue
            caller = registers.copy()
            saved = amd64.exception_frame(self.bytes.read, frame, self.target.nt)
            context = Context("x64", {**saved, "rip": value, "rsp": trap}, "exception frame", frame)
            caller.gpr = list(amd64_unwind.Registers.from_context(context).gpr)
            caller.rip = value
            if distance == amd64.EXCEPTION_FRAME_SIZE and len(self.rows) <= 2 and self.start.crash:
                self.reported = trap
            return caller, TRAP_FRAME, True
        return None

    def trap_handler(self, registers: Any) -> Following | None:
        """A trap handler that called something keeps its trap frame at its stack pointer."""
        _, _, trust, call_site, *_ = self.rows[-1]
        if registers.rsp & 15 or not self.in_kernel(registers.rip):
            return None
        if not call_site and trust != TRAP_FRAME:
            return None
        context = amd64.trap_frame(self.bytes.read, registers.rsp, self.target.nt)
        if context is None or context.ip is None:
            return None
        if not (trust == TRAP_FRAME and call_site) and not self.plausible(registers.rsp, context):
            return None
        return self.interrupted(registers, registers.rsp, context)

    def interrupted(self, registers: Any, trap: int, context: Context) -> Following:
        """From a trap handler to the code that it interrupted."""
        self.rows[-1][4] = trap
        caller = registers.copy()
        caller.rip = context.ip
        caller.gpr[4] = context.sp
        self.merge_trap_frame(caller, trap)
        return caller, TRAP_FRAME, False

    def merge_trap_frame(self, registers: Any, trap: int) -> None:
        """Add the volatile registers that a trap frame saved to those that unwinding kept."""
        context = amd64.trap_frame(self.bytes.read, trap, self.target.nt)
        if context is None or context.ip != registers.rip:
            return
        saved = amd64_unwind.Registers.from_context(context)
        for index, value in enumerate(saved.gpr):
            if value is not None:
                registers.gpr[index] = value

    def plausible(self, trap: int, context: Context) -> bool:
        """Whether the stack pointer in a trap frame lies in a stack: above the frame, or on another known stack."""
        sp = context.sp
        if sp is None or context.ip is None:
            return False
        if not self.target.is_kernel_address(context.ip):
            return True
        if self.segment is not None and trap < sp <= self.segment[1]:
            return True
        return any(low <= sp <= high for low, high in self.unused)

    def to_failure(self, registers: Any) -> Following | None:
        """Past everything that only residue of the stack tells, to the trap frame of what failed."""
        trap = failure_trap(self.target) if self.start.crash else None
        if trap is None or any(row[1] == trap.context.ip and row[2] == TRAP_FRAME for row in self.rows):
            return None
        sp, stacks = registers.rsp, live_stacks(self.target)
        here = next((number for number, stack in enumerate(stacks) if stack.low <= sp <= stack.high), None)
        there = next((number for number, stack in enumerate(stacks) if stack.low <= trap.address < stack.high), None)
        if here is None or there is None or there < here or (here == there and trap.address < sp):
            return None
        if here == there:
            return self.to_trap(registers, trap)
        switch = switch_above(self.target, sp)
        if switch is None:
            return None
        if sp == switch.top - FRAME_BELOW_TOP:
            return self.follow(switch)
        self.gaps.add(len(self.rows) - 1)
        return self.bare(switch.returns, switch.top - FRAME_BELOW_TOP), SWITCH, True

    def to_trap(self, registers: Any, trap: Trap) -> Following:
        """To the exception dispatcher below a trap frame where that is there, else to the handler."""
        dispatcher = trap.address - TRAP_IN_DISPATCHER
        if registers.rsp not in (dispatcher - 8, trap.address - 8):
            self.gaps.add(len(self.rows) - 1)
        if exception_of(self.target, trap.address) is not None:
            value = self.pointer(dispatcher - 8)
            if registers.rsp < dispatcher and value is not None and self.is_return(value):
                return self.bare(value, dispatcher), TRAP_FRAME, True
        return self.at_trap(trap.address)

    def at_trap(self, trap: int, *, adjacent: bool = False) -> Following:
        """To the handler of a trap frame, where it called something; else to what was interrupted."""
        value = self.pointer(trap - 8)
        if value is not None and self.is_return(value):
            return self.bare(value, trap), TRAP_FRAME, True
        context = amd64.trap_frame(self.bytes.read, trap, self.target.nt)
        assert context is not None and context.ip is not None and context.sp is not None
        if adjacent and self.in_kernel(self.rows[-1][1]):
            # Nothing lies between the last frame and the trap frame: it is the handler.
            self.rows[-1][4] = trap
        caller = self.bare(context.ip, context.sp)
        self.merge_trap_frame(caller, trap)
        return caller, TRAP_FRAME, False

    def follow(self, switch: Switch) -> Following:
        """To the stack that was in use before a switch."""
        sp = switch.previous
        if switch.goes_on is None:
            value = self.pointer(sp)
            assert value is not None
            ip, sp, call_site = value, sp + 8, True
        else:
            ip, call_site = switch.goes_on, False
        self.allow(sp)
        return self.bare(ip, sp), SWITCH, call_site

    def allow(self, sp: int) -> None:
        """Let the walk go on at a stack pointer that a switch left, whether or not its stack is known."""
        if not any(low <= sp <= high for low, high in self.unused):
            self.unused.append((sp, sp + _WINDOW))

    def in_kernel(self, address: int) -> bool:
        module = self.target.names.module_of(address)
        return module is not None and module.name == "nt"

    def is_return(self, address: int) -> bool:
        """Whether an address in the kernel can be a return address."""
        return self.in_kernel(address) and may_follow_call(self.target, address) is not False

    def scan(self, sp: int, limit: int | None = None) -> tuple[int, int] | int | None:
        """What comes next on the stack: (return address, stack pointer after it), or the address of a trap frame.

        ``limit`` is where the frame of a switch begins. Nothing inside a trap frame counts as a return address.
        """
        if self.segment is None:
            return None
        end = min(self.segment[1], sp + _SCAN_REACH, *(() if limit is None else (limit,)))
        trap = self.next_trap(sp, end)
        call_site = self.rows[-1][3] or self.rows[-1][2] == SWITCH
        # Calls are made with the stack pointer at a multiple of 16, so that the return address lies 8 below one.
        first = sp + _HOME_SLOTS if call_site and sp % 16 == 0 else (sp + 7 & -16) + 8
        for address in range(first, end if trap is None else trap - 8, 16):
            value = self.pointer(address)
            if value is not None and self.may_return(value):
                return value, address + self.width
        return trap

    def may_return(self, value: int) -> bool:
        """Whether a value is an address of code behind a call, as far as the dump says."""
        target = self.target
        module = target.names.module_of(value) if target.is_kernel_address(value) else None
        if module is None or not target.names.may_be_code(module, value):
            return False
        name = target.names.lookup(value)
        if name is not None and name.symbol is not None and name.offset == 0:
            return False
        follows = may_follow_call(target, value)
        if follows is not None:
            return follows
        # Where a page begins sections begin as well, and what lies there has a name that others point at.
        return value % PAGE != 0 and not cannot_follow_call(target.memory.read, value, "x64")

    def next_trap(self, low: int, end: int) -> int | None:
        """The first trap frame between two addresses, of a handler that called something or faulted itself."""
        for trap in range((low + 15) & -16, end - amd64.TRAP_FRAME_SIZE + 1, 16):
            segment = self.bytes.read(trap + _CODE_SEGMENT, 2)
            if segment is None or int.from_bytes(segment, "little") not in _SEGMENTS:
                continue
            context = amd64.trap_frame(self.bytes.read, trap, self.target.nt)
            if context is None or not self.plausible(trap, context):
                continue
            below = self.pointer(trap - 8)
            if below is not None and self.is_return(below):
                return trap
            # That of the entry from user mode lies near the top of the stack, whatever its handler has below it.
            user = context.ip is not None and not self.target.is_kernel_address(context.ip)
            if user and self.segment is not None and trap + TOP_OF_STACK >= self.segment[1]:
                return trap
        return None
