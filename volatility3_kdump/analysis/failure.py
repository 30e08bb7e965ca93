"""Where it failed: the registers at the failure, the instruction, the memory that it touched, the module it lies in.

Which argument of a bug check points at an instruction, a trap frame, a context or an exception record is data: the
``failure`` of its record in ``symbols/kdump/bugchecks.jsonl``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.cpu import amd64, x86
from volatility3_kdump.cpu.context import Context, context_size, parse_context, why_not_context
from volatility3_kdump.cpu.disasm import decode
from volatility3_kdump.cpu.exception import (
    ACCESS_VIOLATION,
    ExceptionRecord,
    access_kind,
    accessed_address,
    parse_exception_record,
    record_size,
)
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand
from volatility3_kdump.cpu.trap_frames import is_known, places_of, why_not_trap_frame
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module, UnloadedModule
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.symbols.names import Name
from volatility3_kdump.windows.processes.crashed import crash_context, crash_processor, crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.stacks.frames import NoStack
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.traps import RBP_IN_TRAP_FRAME, find_exception, names_null, trap_at, trap_frames
from volatility3_kdump.windows.stacks.walker import walker

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_BREAKPOINT = 0x80000003
#: The first build of Windows 10, which changed the access type of 0x50 to a set.
_WINDOWS_10 = 10240
_NO_ADDRESS = {8: 0xFFFFFFFFFFFFFFFF, 4: 0xFFFFFFFF}
#: Most bytes of a kernel stack that are looked through, in case the recorded limits are wrong.
_MOST_STACK = 0x20000


@dataclass(frozen=True)
class Failure:
    """The state of the processor at the failure.

    ``context`` holds the registers that are known as they were, ``origin`` says in words where they come from.
    ``at_fault`` is false where they are only those of the call that reported the bug check.
    ``shown`` is what KD shows for the same record (a trap frame lacks the nonvolatile registers); ``recovered`` names
    registers in ``context`` that were recovered by unwinding. Addresses of records are ``None`` where there
    is no such record; ``record_named`` says that an argument names the exception record. ``access`` is ``read``,
    ``write`` or ``execute``, and ``address`` the memory that the bug check says was accessed. ``instruction`` is
    evaluated with ``context``, ``shown_instruction`` with ``shown``.
    """

    context: Context
    shown: Context
    origin: str
    at_fault: bool
    recovered: tuple[str, ...]
    trap_frame: int | None
    context_record: int | None
    exception_record: int | None
    exception: ExceptionRecord | None
    instruction: Instruction | None
    shown_instruction: Instruction | None
    instruction_absent: str | None
    module: Module | None
    unloaded: UnloadedModule | None
    name: str | None
    access: str | None
    address: int | None
    record_named: bool = False

    @property
    def task_state(self) -> int | None:
        """The address of the task state that the registers are from (a double fault of x86); ``None`` elsewhere."""
        return self.shown.address if self.shown.source == x86.TASK_STATE else None

    @property
    def operand(self) -> int | None:
        """Address of the instruction's memory operand (that of the access, for string moves), ``None`` if not known."""
        memory = self._memory
        return memory.address if memory else None

    @property
    def operand_agrees(self) -> bool | None:
        """Whether the operand covers the address that the bug check names; ``None`` when either is not known, or the
        registers are not those of the failure, or it was the fetch that failed, or the instruction accesses memory
        beyond its operand."""
        memory = self._memory
        if self.instruction is not None and goes_beyond(self.instruction):
            return None
        if self.address is not None and self.address == self.context.ip:
            # The fetch failed: the instruction never came to its operand.
            return None
        if not self.at_fault or memory is None or memory.address is None or self.address is None:
            return None
        return memory.address <= self.address < memory.address + max(memory.size, 1)

    @property
    def _memory(self) -> MemoryOperand | None:
        """The memory operand that made the access: the one that covers the address, else the first accessed one."""
        if self.instruction is None:
            return None
        accessed = [memory for memory in self.instruction.memories if memory.access is not None]
        if self.instruction.stack is not None:
            accessed.append(self.instruction.stack)
        for memory in accessed:
            if memory.address is not None and self.address is not None:
                if memory.address <= self.address < memory.address + max(memory.size, 1):
                    return memory
        return accessed[0] if accessed else None


#: Registers that were found: as KD shows them, where they come from in words, and the addresses of a trap frame and a
#: context record that hold them.
_Found = tuple[Context, str, int | None, int | None]


def goes_beyond(instruction: Instruction) -> bool:
    """Whether an instruction tests a bit that a register numbers: that bit may lie far from the operand."""
    bit_test = instruction.mnemonic.split()[-1] in ("bt", "bts", "btr", "btc")
    return bit_test and [part.kind for part in instruction.parts] == ["memory", "register"]


def reported_address(record: ExceptionRecord, instruction: Instruction | None = None) -> int | None:
    """The address of an access violation, ``None`` where the processor reported none.

    For a fault that is no page fault, as a general protection fault is none, the kernel stores all ones. Those are an
    address only where the instruction (given where it is known) accesses that very one, or where it was to be executed.
    """
    address, ones = accessed_address(record), _NO_ADDRESS[record.pointer_size]
    if address != ones or access_kind(record) == "execute":
        return address
    places = [memory for memory in instruction.memories if memory.access is not None] if instruction else []
    if instruction is not None and instruction.stack is not None:
        places.append(instruction.stack)
    covered = any(
        place.address is not None and place.address <= ones < place.address + max(place.size, 1) for place in places
    )
    return address if covered else None


def failure_rule(code: int) -> Mapping[str, Any]:
    """Where a bug check records its failure: names of facts and the numbers of their arguments; empty if nowhere."""
    rule: Mapping[str, Any] = (tables.bug_check_record(code) or {}).get("failure", {})
    return rule


def named_ip(bug_check: BugCheck) -> int | None:
    """The instruction pointer that an argument names; ``None`` where none does.

    Zero is one where the arguments tell of an access or an exception: a jump to null. Elsewhere it is not used.
    """
    rule = failure_rule(bug_check.code)
    value = bug_check.arguments[rule["ip"] - 1].value if "ip" in rule else None
    return value if value or names_null(rule) else None


def find_failure(target: Target, bug_check: BugCheck | None) -> Failure | None:
    """The failure of a crash, ``None`` when the dump holds no registers for it.

    Taken in this order: the context record that an argument names, the trap frame that an argument names, the trap
    frame on the crashing stack whose instruction pointer is that of the arguments, the dump header's context.
    """
    return _Finder(target, bug_check).find()


def failure_at_trap(target: Target, address: int) -> Failure:
    """The state at a trap frame. Raises :class:`KdumpError` when there is none at the address."""
    architecture = target.header.architecture
    context = trap_at(target, address)
    if context is None:
        why = why_not_trap_frame(architecture, target.memory.read, address, target.nt) or "not plausible"
        raise KdumpError(f"{target.name}: no trap frame at {address:#x}: {why}")
    return _Finder(target, None).complete((context, "trap frame", address, None))


def failure_at_context(target: Target, address: int) -> Failure:
    """The state in a context record. Raises :class:`KdumpError` when there is none at the address."""
    architecture = target.header.architecture
    data = target.memory.read(address, context_size(architecture)) if architecture in _ARCHITECTURES else None
    context = parse_context(data, architecture, "context record", address) if data else None
    if context is None or context.ip is None:
        why = why_not_context(data, architecture) if data else target.memory.why_unreadable(address)
        raise KdumpError(f"{target.name}: no context record at {address:#x}: {why}")
    return _Finder(target, None).complete((context, "context record", None, address))


def failure_in(target: Target, context: Context) -> Failure:
    """The state that registers describe: those of a processor or a thread."""
    return _Finder(target, None).complete((context, context.source, None, None))


_ARCHITECTURES = ("x64", "x86", "arm64")


class _Finder:
    def __init__(self, target: Target, bug_check: BugCheck | None) -> None:
        self.target = target
        self.bug_check = bug_check
        self.rule: Mapping[str, Any] = failure_rule(bug_check.code) if bug_check else {}
        self.architecture = target.header.architecture

    def argument(self, key: str) -> int | None:
        number = self.rule.get(key)
        if number is None or self.bug_check is None:
            return None
        value = self.bug_check.arguments[int(number) - 1].value
        # As registers hold it.
        return None if value is None else value & (1 << 8 * self.target.memory.pointer_size) - 1

    def find(self) -> Failure | None:
        record_address, exception = self._exception()
        registers = self._context_record() or self._trap_frame() or self._task_state() or self._header()
        return None if registers is None else self.complete(registers, record_address, exception)

    def complete(
        self, site: _Found, record_address: int | None = None, exception: ExceptionRecord | None = None
    ) -> Failure:
        """The failure at registers that were found: recovered registers, instruction, module, access."""
        shown, origin, trap, record = site
        context, recovered = (shown, ()) if trap is None else self._recover(shown, trap)
        ip = context.ip
        target = self.target
        instruction = shown_instruction = None
        absent = None
        if ip is not None and context.architecture in _ARCHITECTURES:
            instruction, shown_instruction = (
                decode(
                    target.memory.read,
                    ip,
                    registers.architecture,
                    registers,
                    name_of=target.name_of,
                    segment_bases=self._segment_bases(),
                )
                for registers in (context, shown)
            )
            if instruction is None:
                held = target.memory.read(ip, 1) is not None
                absent = "the bytes there are no instruction" if held else target.memory.why_unreadable(ip)
        module = target.names.module_of(ip) if ip is not None else None
        unloaded = None
        if module is None and ip is not None:
            place = sign_extended(ip, target.memory.pointer_size)
            unloaded = next((entry for entry in target.unloaded_modules if entry.start <= place < entry.end), None)
        access, address = self._access(exception, ip, instruction)
        return Failure(
            context=context,
            shown=shown,
            origin=origin,
            at_fault=trap is not None
            or record is not None
            or shown.source == x86.TASK_STATE
            or (self.bug_check is not None and self.bug_check.minidump_variant)
            or (ip is not None and ip == self.argument("ip")),
            recovered=recovered,
            trap_frame=trap,
            context_record=record,
            exception_record=record_address,
            exception=exception,
            instruction=instruction,
            shown_instruction=shown_instruction,
            instruction_absent=absent,
            module=module,
            unloaded=unloaded,
            name=target.name_of(ip) if ip is not None else None,
            access=access,
            address=address,
            record_named=record_address is not None and record_address == self.argument("exception_record"),
        )

    def _exception(self) -> tuple[int | None, ExceptionRecord | None]:
        """The record that an argument names, else the one that the dispatcher left on a stack for these arguments."""
        address = self.argument("exception_record")
        width = self.target.memory.pointer_size
        data = self.target.memory.read(address, record_size(width)) if address else None
        named = parse_exception_record(data, width) if data else None
        code, ip = self.argument("exception_code"), self.argument("ip")
        if named is None and code and ip is not None:
            located = find_exception(self.target, code, ip)
            if located is not None:
                return located
        return address or None, named

    def _context_record(self) -> _Found | None:
        address = self.argument("context")
        if not address or self.architecture not in _ARCHITECTURES:
            return None
        data = self.target.memory.read(address, context_size(self.architecture))
        context = parse_context(data, self.architecture, "context record", address) if data else None
        if context is None or context.ip is None:
            return None
        return context, f"context record of argument {self.rule['context']}", None, address

    def _trap_frame(self) -> _Found | None:
        if not is_known(self.architecture):
            return None
        implied = self.argument("trap_frame_pointer") if self.architecture == "x64" else None
        for key, named in (
            ("trap_frame", self.argument("trap_frame")),
            ("trap_frame_pointer", implied - RBP_IN_TRAP_FRAME if implied else None),
        ):
            context = trap_at(self.target, named) if named else None
            if context is not None:
                how = "of" if key == "trap_frame" else "implied by"
                place = sign_extended(named or 0, self.target.memory.pointer_size)
                return context, f"trap frame {how} argument {self.rule[key]}", place, None
        ip = self.argument("ip")
        header = crash_context(self.target)
        if ip is None or (not ip and not names_null(self.rule)) or header is None or header.ip == ip:
            return None
        # The processor reports a breakpoint behind it.
        stopped = (self.argument("exception_code") or 0) & 0xFFFFFFFF == _BREAKPOINT
        places = places_of(self.architecture, ip, stopped)
        for address, context, how in passed_trap_frames(self.target):
            if context.ip in places:
                return context, f"trap frame {how}, its {context.ip_name} is argument {self.rule['ip']}", address, None
        return None

    def _task_state(self) -> _Found | None:
        """The task that a double fault left (x86): the processor saves its registers where the argument points."""
        number, address = self.rule.get("task_state"), self.argument("task_state")
        if self.architecture != "x86" or not address:
            return None
        context = x86.task_state(self.target.memory.read, address)
        return None if context is None else (context, f"task state of argument {number}", None, None)

    def _header(self) -> _Found | None:
        context = crash_context(self.target)
        if context is None:
            return None
        own = context is self.target.header_context
        own = own and self.target.header.container is None
        return context, "registers in the dump header" if own else f"registers of {context.source}", None, None

    def _recover(self, shown: Context, trap: int) -> tuple[Context, tuple[str, ...]]:
        """Add the nonvolatile registers that unwinding from the bug check down to the trap frame recovers."""
        try:
            unwound = walker(self.target).registers_at_trap(crash_start(self.target), trap)
        except NoStack:
            return shown, ()
        if unwound is None or unwound.ip != shown.ip:
            return shown, ()
        recovered = {
            name: unwound.registers[name]
            for name in amd64.NONVOLATILE
            if name in unwound.registers and name not in shown.registers
        }
        complete = dataclasses.replace(shown, registers={**shown.registers, **recovered})
        return complete, tuple(sorted(recovered))

    def _segment_bases(self) -> dict[str, int]:
        """In the kernel gs points at the processor control region, which starts 0x180 below its KPRCB on x64."""
        processor = crash_processor(self.target)
        if self.architecture != "x64" or processor is None or processor.prcb is None:
            return {}
        field = self.target.nt.find("_KPCR", "Prcb") if self.target.nt else None
        return {"gs": processor.prcb - (field.offset if field else 0x180)}

    def _access(
        self, exception: ExceptionRecord | None, ip: int | None, instruction: Instruction | None
    ) -> tuple[str | None, int | None]:
        if exception is not None and access_kind(exception):
            at_exception = ip is not None and ip == exception.address
            return access_kind(exception), reported_address(exception, instruction if at_exception else None)
        code = self.argument("exception_code")
        if exception is None and "access_kind" in self.rule and (code or 0) & 0xFFFFFFFF == ACCESS_VIOLATION:
            # The first two parameters of a record that is not in the dump.
            kind, address = self.argument("access_kind"), self.argument("access_address")
            if kind is None or address is None:
                return None, None
            told = (kind, address)
            record = ExceptionRecord(ACCESS_VIOLATION, 0, ip or 0, told, None, self.target.memory.pointer_size)
            return access_kind(record), reported_address(record, instruction)
        kind = self.argument("access")
        build = self.target.header.build_number
        older = "older_accesses" in self.rule and build is not None and build < _WINDOWS_10
        accesses = self.rule.get("older_accesses" if older else "accesses", {})
        access = self.rule.get("access_is") or (accesses.get(f"{kind:x}") if kind is not None else None)
        return access, self.argument("address")


def crash_stack(target: Target) -> tuple[int, int] | None:
    """The used part of the crashing stack, (stack pointer, first address above), ``None`` when it is not known.

    In a small memory dump that is the stack that was saved; else it reaches from the stack pointer at the bug check to
    the base of the stack that holds it.
    """
    triage = target.dump.triage
    if triage is not None and triage.stack is not None:
        return triage.stack.address, triage.stack.address + min(triage.stack.size, _MOST_STACK)
    context = crash_context(target)
    if context is None or context.sp is None:
        return None
    thread = crash_thread(target)
    limits = stack_limits(target, thread.address) if thread else None
    if limits and limits[0] <= context.sp < limits[1]:
        return context.sp, min(limits[1], context.sp + _MOST_STACK)
    # On a DPC or exception stack of unknown extent: to where the mapped pages end.
    end = context.sp
    while end - context.sp < _MOST_STACK and target.memory.read(end & ~0xFFF, 1) is not None:
        end = (end & ~0xFFF) + 0x1000
    return (context.sp, end) if end > context.sp else None


def passed_trap_frames(target: Target) -> Iterator[tuple[int, Context, str]]:
    """Trap frames of the crashing stack: those that unwinding comes by, then what a scan of the stack finds.

    Each is its address, the registers in it, and how it was found, in words.
    """
    for frame in walker(target).walk_from(crash_start).frames:
        if frame.trap_frame is not None:
            context = trap_at(target, frame.trap_frame)
            if context is not None:
                yield frame.trap_frame, context, "found by unwinding"
    for address, context, _ in trap_frames(target):
        yield address, context, "found by a scan of the stack"


def exception_site(target: Target, record: ExceptionRecord) -> Name | None:
    """The name of where an exception was raised."""
    return target.names.lookup(record.address)
