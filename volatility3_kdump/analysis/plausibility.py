"""Does the instruction explain the exception? What lies between the evidence of a crash and its verdict.

The processor reports an exception for the instruction at RIP. Code bytes, registers and the exception record, which
even small memory dumps hold, tell whether that instruction can raise it: whether its operand is the address that was
accessed, whether its opcode is illegal on this processor, whether anything but a stray jump leads to it. Where it
cannot, no driver raised the exception, and the processor or the memory is what remains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.code import instructions_before
from volatility3_kdump.analysis.failure import Failure, crash_stack, failure_rule
from volatility3_kdump.analysis.flips import BitFlip, pointer_flips
from volatility3_kdump.cpu import alignment
from volatility3_kdump.cpu.calls import follows_call
from volatility3_kdump.cpu.disasm import decode
from volatility3_kdump.cpu.exception import ACCESS_VIOLATION, STACK_BUFFER_OVERRUN, code_name
from volatility3_kdump.cpu.features import Feature, feature, requirement
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand
from volatility3_kdump.dump.cpuid import ProcessorIdentity, processor_identity
from volatility3_kdump.findings.regions import canonical

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Outcomes.
EXPLAINED = "explained"
CONTRADICTED = "contradicted"
LEGAL = "legal though called illegal"
PADDING = "padding"
MISALIGNED = "misaligned"
LACKS_FEATURE = "lacks a processor feature"
NOWHERE = "jump to nowhere"
NOT_DECODABLE = "not decodable"

#: What remains when the code is acquitted.
HARDWARE, MEMORY, PROCESSOR = "hardware", "memory", "processor"

#: The debugger's words for a control transfer that no instruction made.
CALL_ERROR, IP_MISALIGNED = "CPU_CALL_ERROR", "IP_MISALIGNED"

_ILLEGAL_INSTRUCTION = 0xC000001D
_BREAKPOINT = 0x80000003
_DIVIDE_BY_ZERO, _INTEGER_OVERFLOW = 0xC0000094, 0xC0000095
_INT3 = 0xCC
_LONGEST = 15
#: How much padding is looked at on either side; functions are aligned at 16 bytes as a rule, at most at 64.
_MOST_PADDING = 64
#: Instructions that end a function or a block, so that what follows is not run into.
_ENDS = ("ret", "rep ret", "jmp", "int", "ud2", "iretq", "hlt")
_ZEROED = 16
#: Bytes of a call of a fixed address.
_DIRECT_CALL = 5
#: Instructions that save or restore state of a size that the processor knows.
_STATE_SIZE = 0x1000
_STATE = ("xsave", "xrstor", "fxsave", "fxrstor")
#: Instructions that touch memory which no operand names (descriptors, tables, stacks of another privilege level), or
#: whose operand is many places: by name, and by the start of their names.
_HIDDEN_ACCESS = frozenset(
    {
        *(
            "lds",
            "les",
            "lss",
            "lfs",
            "lgs",
            "ltr",
            "lldt",
            "lar",
            "lsl",
            "lgdt",
            "lidt",
            "verr",
            "verw",
            "int",
            "int1",
        ),
        *("syscall", "sysret", "sysretq", "sysenter", "sysexit", "enter", "leave", "xlat", "in", "out", "rsm", "hlt"),
        *("wrmsr", "rdmsr", "swapgs", "invlpg", "clac", "stac", "vmcall", "vmlaunch", "vmresume", "wbinvd", "invd"),
        *("xsetbv", "monitor", "mwait", "invpcid", "invept", "invvpid", "setssbsy", "rstorssp", "saveprevssp", "clts"),
    }
)
_HIDDEN_FAMILIES = (
    "iret",
    "vgather",
    "vpgather",
    "vscatter",
    "vpscatter",
    "vmaskmov",
    "vpmaskmov",
    "maskmov",
    "enqcmd",
)
_SEGMENTS = ("ds", "es", "fs", "gs", "ss", "cs")
#: Instructions that fault on an operand that is not aligned at its size, by mnemonic.
_ALIGNED = ("movaps", "movapd", "movdqa", "movnt", "vmovaps", "vmovapd", "vmovdqa", "vmovnt", "cmpxchg16b")


@dataclass(frozen=True)
class Plausibility:
    """Whether an instruction explains the exception that is reported for it.

    ``outcome`` is one of the constants above, ``None`` where only ``flips`` are to be told. ``says`` is one sentence
    for a reader, without a full stop, and ``evidence`` the facts behind it. ``remains`` names what is left to suspect
    where the code is acquitted: hardware, memory or processor. ``debugger_word`` is KD's word for it, where KD has one.
    ``address`` is that of the instruction, ``instruction`` its disassembly. ``flips`` are values that one changed bit
    explains.
    """

    outcome: str | None
    says: str
    address: int | None
    instruction: str | None = None
    evidence: tuple[str, ...] = ()
    remains: str | None = None
    debugger_word: str | None = None
    flips: tuple[BitFlip, ...] = ()

    @property
    def acquits(self) -> bool:
        """Whether the code at the failure, and so its module, cannot have raised the exception."""
        return self.outcome in (CONTRADICTED, LEGAL, PADDING, MISALIGNED)


@dataclass(frozen=True)
class _Fault:
    """The instruction and the exception that it is said to have raised. ``code`` is an NTSTATUS value. ``reported`` is
    false where the exception record has no parameters, as those that software raises have none."""

    target: Target
    failure: Failure | None
    ip: int
    instruction: Instruction | None
    code: int | None
    access: str | None
    address: int | None
    reported: bool

    @property
    def text(self) -> str:
        """The instruction as it is shown."""
        if self.instruction is None:
            return "?"
        return f"{self.instruction.mnemonic} {self.instruction.operands}".strip()

    @property
    def exception(self) -> str:
        """The exception in words."""
        if self.code == ACCESS_VIOLATION:
            where = "an address that was not reported" if self.address is None else f"{self.address:#x}"
            return (
                f"{ {'write': 'a write to', 'execute': 'an execution of'}.get(self.access or '', 'a read of') } {where}"
            )
        return code_name(self.code or 0) or f"exception {self.code or 0:#x}"


def plausibility(target: Target, bug_check: BugCheck | None, failure: Failure | None) -> Plausibility | None:
    """Judge the instruction of a crash; ``None`` where the dump does not hold what it takes to judge."""
    fault = _fault(target, bug_check, failure)
    flips = tuple(pointer_flips(target, bug_check, failure))
    if fault is None:
        return Plausibility(None, "", None, flips=flips) if flips else None
    text = fault.text if fault.instruction is not None else None
    judged = _judge(fault)
    if judged is None:
        return Plausibility(None, "", fault.ip, text, flips=flips) if flips else None
    return replace(judged, instruction=text, flips=(*judged.flips, *flips))


def _fault(target: Target, bug_check: BugCheck | None, failure: Failure | None) -> _Fault | None:
    if bug_check is None or target.header.architecture not in ("x64", "x86"):
        return None
    rule = failure_rule(bug_check.code)
    at_fault = failure is not None and failure.at_fault
    ip = failure.context.ip if failure is not None and at_fault else None
    named = bug_check.arguments[rule["ip"] - 1].value if "ip" in rule else None
    # A breakpoint's trap frame points behind it; the argument names the breakpoint itself.
    if named is not None and (ip is None or ip == named + 1):
        ip = named
    if ip is None:
        return None
    record = failure.exception if failure is not None else None
    code = None
    if buckets.is_access_violation(bug_check):
        code = ACCESS_VIOLATION
    elif record is not None:
        code = record.code
    elif "exception_code" in rule:
        value = bug_check.arguments[rule["exception_code"] - 1].value
        code = None if value is None else value & 0xFFFFFFFF
    elif "access" in rule or "access_is" in rule:
        code = ACCESS_VIOLATION
    instruction = failure.instruction if failure is not None and at_fault else None
    if instruction is None or instruction.address != ip:
        instruction = decode(target.memory.read, ip, target.header.architecture, name_of=target.name_of)
    access = failure.access if failure is not None else None
    address = failure.address if failure is not None else None
    reported = record is None or code != ACCESS_VIOLATION or len(record.parameters) >= 2
    return _Fault(target, failure if at_fault else None, ip, instruction, code, access, address, reported)


def _judge(fault: _Fault) -> Plausibility | None:
    for judge in (_nowhere, _misaligned, _absent, _padding, _illegal, _breakpoint, _fast_fail, _divide, _access):
        found = judge(fault)
        if found is not None:
            return found
    return None


def _outcome(fault: _Fault, outcome: str, says: str, *evidence: str, remains: str | None = None) -> Plausibility:
    return Plausibility(outcome, says, fault.ip, None, tuple(line for line in evidence if line), remains)


# where the instruction is -------------------------------------------------------------------------------------------


def _nowhere(fault: _Fault) -> Plausibility | None:
    """An instruction pointer that leads to no code: outside every module, and fetching it is what failed."""
    target, ip = fault.target, fault.ip
    # A dump without its list of modules does not tell where code is.
    if not target.modules or target.names.module_of(ip) is not None or fault.address not in (ip, None):
        return None
    if any(module.start <= ip < module.end for module in target.unloaded_modules):
        return None
    if target.memory.read(ip, 1) is not None and fault.access != "execute":
        return None
    return _outcome(
        fault,
        NOWHERE,
        f"RIP {ip:#x} lies in no module: a function pointer or a return address was wrong",
        _caller_text(fault),
    )


def _absent(fault: _Fault) -> Plausibility | None:
    """Code bytes that are no instruction."""
    if fault.instruction is not None:
        return None
    data = _bytes_at(fault.target, fault.ip, _ZEROED)
    if len(data) < _LONGEST:
        return None
    what = "zeros" if not any(data) else data.hex()
    return _outcome(
        fault,
        NOT_DECODABLE,
        f"the bytes at RIP {fault.ip:#x} are no instruction ({what}): the code is damaged, or a jump led into data",
        _caller_text(fault),
    )


def _padding(fault: _Fault) -> Plausibility | None:
    """RIP inside the fill between functions: only a stray jump or return gets there."""
    target, ip = fault.target, fault.ip
    if fault.instruction is None or fault.instruction.raw[:1] != bytes([_INT3]):
        return None
    before = _run(target, ip, -1)
    after = _run(target, ip, 1)
    start, end = ip - before, ip + after
    if before == 0 or end - start < 2:
        # One int 3, or the first of several: a breakpoint that was meant, or a call in front that must not return.
        return None
    ended = instructions_before(target, start, 1)
    if not ended or ended[-1].mnemonic not in (*_ENDS, "call"):
        return None
    says = f"RIP {ip:#x} is in the middle of the padding between two functions: only a stray jump gets there"
    evidence = [
        f"{end - start} bytes of int 3 from {start:#x} on, behind {ended[-1].mnemonic} at {ended[-1].address:#x}"
    ]
    error = _call_error(fault)
    if error is not None:
        return Plausibility(PADDING, says, ip, None, (*evidence, *error.evidence), PROCESSOR, CALL_ERROR)
    outcome = _outcome(fault, PADDING, says, *evidence, _caller_text(fault), remains=HARDWARE)
    difference = ip ^ end
    if difference.bit_count() != 1 or target.memory.read(end, 1) is None:
        return outcome
    bit = difference.bit_length() - 1
    flip = f"the function behind the padding begins at {end:#x}, one bit ({bit}) from RIP"
    return replace(outcome, flips=(BitFlip("RIP", ip, end, bit, flip),))


def _misaligned(fault: _Fault) -> Plausibility | None:
    """RIP inside an instruction: what is shown there was never meant to run."""
    target = fault.target
    placed = alignment.alignment(target.memory.read, fault.ip, target.header.architecture)
    if placed.state != alignment.MISALIGNED:
        return None
    says = f"RIP {fault.ip:#x} lies inside an instruction, so that no code of this module led there"
    real = placed.instruction
    shown = "" if real is None else f"it points into {real.mnemonic} {real.operands} at {real.address:#x}".rstrip()
    return Plausibility(
        MISALIGNED,
        says,
        fault.ip,
        None,
        tuple(line for line in (shown, placed.evidence, _caller_text(fault)) if line),
        HARDWARE,
        IP_MISALIGNED,
    )


def _run(target: Target, ip: int, step: int) -> int:
    """How many bytes of int 3 there are from RIP on upwards (RIP's own included), or below it."""
    count = 0
    position = ip if step > 0 else ip - 1
    while count < _MOST_PADDING:
        data = target.memory.read(position, 1)
        if data is None or data[0] != _INT3:
            break
        count += 1
        position += step
    return count


def _bytes_at(target: Target, address: int, size: int) -> bytes:
    """The present bytes from an address on, up to a size."""
    data = b""
    while len(data) < size:
        byte = target.memory.read(address + len(data), 1)
        if byte is None:
            break
        data += byte
    return data


# how it got there ---------------------------------------------------------------------------------------------------


def _caller(fault: _Fault) -> tuple[int, int | None, int] | None:
    """(return address on top of the stack, where the call before it goes, length of that call).

    ``None`` without a return address there; the destination is ``None`` where the call is by a pointer that the dump
    does not tell.
    """
    sp = fault.failure.context.sp if fault.failure is not None else None
    returns = fault.target.memory.pointer(sp) if sp is not None else None
    if returns is None or fault.target.header.architecture != "x64":
        return None
    if fault.target.names.module_of(returns) is None or not follows_call(fault.target.memory.read, returns, "x64"):
        return None
    read = fault.target.memory.read
    direct = read(returns - _DIRECT_CALL, _DIRECT_CALL)
    if direct is not None and direct[0] == 0xE8:
        distance = int.from_bytes(direct[1:], "little", signed=True)
        return returns, (returns + distance) & 0xFFFFFFFFFFFFFFFF, _DIRECT_CALL
    indirect = read(returns - 6, 6)
    if indirect is not None and indirect[:2] == b"\xff\x15":
        distance = int.from_bytes(indirect[2:], "little", signed=True)
        return returns, fault.target.memory.pointer(returns + distance), 6
    return returns, None, 0


def _caller_text(fault: _Fault) -> str:
    caller = _caller(fault)
    if caller is None:
        return ""
    returns, destination, _ = caller
    text = f"the return address on top of the stack is {fault.target.name_of(returns) or hex(returns)}"
    return text if destination is None else f"{text}, behind a call of {fault.target.name_of(destination)}"


def _call_error(fault: _Fault) -> Plausibility | None:
    """A direct call whose destination is another one than RIP: the processor went elsewhere."""
    caller = _caller(fault)
    if caller is None:
        return None
    returns, destination, length = caller
    if length != _DIRECT_CALL or destination is None or destination == fault.ip:
        return None
    target = fault.target
    if abs(destination - fault.ip) > _MOST_PADDING:
        # What was called may have gone on from there.
        return None
    difference = destination ^ fault.ip
    bit = f"; they differ in one bit, {difference.bit_length() - 1}" if difference.bit_count() == 1 else ""
    says = (
        f"the call at {target.name_of(returns - length)} goes to {target.name_of(destination) or hex(destination)}, "
        f"but the processor was at {fault.ip:#x}{bit}"
    )
    return Plausibility(CONTRADICTED, says, fault.ip, None, (says,), PROCESSOR, CALL_ERROR)


# by exception -------------------------------------------------------------------------------------------------------


def _software_may_have_raised(fault: _Fault) -> bool:
    """Whether RIP follows a call: an exception that software raises is reported for where the call returns."""
    return follows_call(fault.target.memory.read, fault.ip, fault.target.header.architecture) is not False


def _illegal(fault: _Fault) -> Plausibility | None:
    if fault.code != _ILLEGAL_INSTRUCTION or fault.instruction is None or fault.target.header.architecture != "x64":
        return None
    need = requirement(fault.instruction.raw)
    if need is None:
        return None
    if need.undefined:
        return _outcome(fault, EXPLAINED, f"{fault.text} is made to raise this exception: a check of the code itself")
    identity = processor_identity(fault.target.dump.source, fault.target.dump.tagged)
    lacking = [entry for entry in need.features if identity is not None and _has(identity, entry) is False]
    if identity is not None and lacking:
        entry = lacking[0]
        says = (
            f"this processor ({identity.brand or identity.vendor}) lacks {entry.name}, which {fault.text} needs: the "
            "driver needs a newer processor"
        )
        bit = f"CPUID leaf {entry.leaf:x}h, {entry.register.upper()} bit {entry.bit} is clear"
        return _outcome(fault, LACKS_FEATURE, says, bit, f"processor: {identity.text}")
    known = identity is not None and need.features and all(_has(identity, entry) for entry in need.features)
    if not need.everywhere and not known:
        return None
    if _software_may_have_raised(fault):
        return None
    why = f"its processor has {need.features[0].name}" if need.features else "every x64 processor runs it"
    return _outcome(
        fault,
        LEGAL,
        f"{fault.text} at {fault.ip:#x} is a legal instruction, yet the processor called it illegal",
        why,
        f"its bytes in the dump are {fault.instruction.raw.hex()}",
        remains=PROCESSOR,
    )


def _has(identity: ProcessorIdentity, entry: Feature) -> bool | None:
    for name in entry.needs:
        if _has(identity, feature(name)) is False:
            return False
    return identity.has(entry.leaf, entry.register, entry.bit)


def _breakpoint(fault: _Fault) -> Plausibility | None:
    if fault.code != _BREAKPOINT or fault.instruction is None:
        return None
    if fault.instruction.mnemonic == "int":
        return _outcome(fault, EXPLAINED, "the instruction is a breakpoint that somebody put there")
    if _software_may_have_raised(fault):
        return None
    return _outcome(
        fault,
        CONTRADICTED,
        f"a breakpoint was reported at {fault.ip:#x}, where the instruction is {fault.text}",
        remains=HARDWARE,
    )


def _fast_fail(fault: _Fault) -> Plausibility | None:
    if fault.code != STACK_BUFFER_OVERRUN or fault.instruction is None or fault.failure is None:
        return None
    if fault.failure.trap_frame is None:
        return None
    if fault.instruction.raw[:2] == b"\xcd\x29":
        return _outcome(fault, EXPLAINED, "a check in the code itself found the damage and stopped the system")
    return None


def _divide(fault: _Fault) -> Plausibility | None:
    if fault.code not in (_DIVIDE_BY_ZERO, _INTEGER_OVERFLOW) or fault.instruction is None:
        return None
    if fault.instruction.mnemonic in ("div", "idiv", "into"):
        return _outcome(fault, EXPLAINED, f"{fault.text} divides")
    if _software_may_have_raised(fault):
        return None
    return _outcome(
        fault,
        CONTRADICTED,
        f"a failed division was reported at {fault.ip:#x}, but {fault.text} does not divide",
        remains=HARDWARE,
    )


def _access(fault: _Fault) -> Plausibility | None:
    """An access violation or a page fault: does the instruction access that address, and can it fail there?"""
    if fault.code != ACCESS_VIOLATION or fault.instruction is None or not fault.reported:
        return None
    if fault.access is None:
        return _likely(fault)
    if fault.address is not None and fault.address == fault.ip:
        return _outcome(fault, EXPLAINED, f"the processor could not fetch the instruction at {fault.ip:#x}")
    if fault.access == "execute":
        return None
    operands = list(_operands(fault.instruction))
    if not operands:
        if _hidden(fault.instruction):
            return None
        return _contradicted(fault, f"{fault.text} touches no memory, yet {fault.exception} was reported for it")
    if fault.failure is None or any(operand.address is None for operand in operands):
        return None
    covering = next((operand for operand in operands if _covers(fault, operand)), None)
    if covering is not None:
        return _present(fault, covering) or _outcome(
            fault, EXPLAINED, f"{fault.text} accesses {fault.address or 0:#x}, where the access failed"
        )
    if _hidden(fault.instruction):
        return None
    return _elsewhere(fault, operands)


def _likely(fault: _Fault) -> Plausibility | None:
    """An access violation whose exception record is not in the dump: an operand that is not there explains it."""
    for operand in _operands(fault.instruction) if fault.failure is not None and fault.instruction is not None else ():
        place = operand.address
        if place is None:
            continue
        if not canonical(fault.target, place):
            return _outcome(fault, EXPLAINED, f"{fault.text} accesses {place:#x}, which is not canonical")
        if not fault.target.is_kernel_address(place) and fault.target.memory.read(place, 1) is None:
            return _outcome(fault, EXPLAINED, f"{fault.text} accesses {place:#x}, which is not in the dump")
    return None


def _elsewhere(fault: _Fault, operands: list[MemoryOperand]) -> Plausibility | None:
    """None of the operands covers the address."""
    target, assert_failure = fault.target, fault.failure
    places = [operand.address for operand in operands if operand.address is not None]
    if fault.address is None:
        # No address is reported for a general protection fault.
        if any(not canonical(target, place) for place in places):
            return _outcome(fault, EXPLAINED, f"{fault.text} accesses an address that is not canonical")
        if any(_misplaced(fault, operand) for operand in operands):
            return _outcome(fault, EXPLAINED, f"{fault.text} accesses memory that is not aligned as it needs")
    recovered = set(assert_failure.recovered) if assert_failure is not None else set()
    if any(name in recovered for operand in operands for name, _ in operand.registers):
        return None
    readable = all(target.memory.read(operand.address or 0, max(operand.size, 1)) is not None for operand in operands)
    if not readable:
        return None
    where = ", ".join(f"{place:#x}" for place in places)
    return _contradicted(
        fault, f"{fault.text} accesses {where}, which is there, yet {fault.exception} was reported for it"
    )


def _contradicted(fault: _Fault, says: str) -> Plausibility | None:
    if fault.address is None and _privileged(fault.instruction):
        return None
    registers = []
    for operand in _operands(fault.instruction) if fault.instruction is not None else ():
        registers += [f"{name}={value:x}" for name, value in operand.registers if value is not None and name != "rip"]
    return _outcome(fault, CONTRADICTED, says, ", ".join(dict.fromkeys(registers)), remains=HARDWARE)


def _present(fault: _Fault, operand: MemoryOperand) -> Plausibility | None:
    """A read that failed although its memory is there, or a write to the stack in use that did."""
    target, address = fault.target, fault.address
    if address is None or not target.is_kernel_address(address) or not _mapped(target, address):
        return None
    used = crash_stack(target)
    on_stack = used is not None and used[0] <= address < used[1]
    if (operand.access == "read" and fault.access == "read") or on_stack:
        what = "on the stack in use" if on_stack else "in the dump"
        return _contradicted(fault, f"{fault.text} failed with {fault.exception}, but the memory there is {what}")
    return None


def _mapped(target: Target, address: int) -> bool:
    """Whether the processor could have read an address: its page is valid, not only to be found."""
    if target.memory.read(address, 1) is None:
        return False
    if target.physical_layer_name is None:
        # Small memory dumps are written with the same page tables, from valid pages only.
        return True
    from volatility3_kdump.windows.memory.translation import translate

    return translate(target, address).physical is not None


def _operands(instruction: Instruction) -> Iterator[MemoryOperand]:
    yield from (memory for memory in instruction.memories if memory.access is not None)
    if instruction.stack is not None:
        yield instruction.stack


def _covers(fault: _Fault, operand: MemoryOperand) -> bool:
    if operand.address is None or fault.address is None or fault.instruction is None:
        return False
    state = fault.instruction.mnemonic.startswith(_STATE)
    size = _STATE_SIZE if state else max(operand.size, 1)
    return operand.address <= fault.address < operand.address + size


def _misplaced(fault: _Fault, operand: MemoryOperand) -> bool:
    mnemonic = fault.instruction.mnemonic if fault.instruction is not None else ""
    if operand.address is None or operand.size < 16:
        return False
    # The older SSE instructions take only aligned operands, those of AVX any, but for the moves that say so.
    strict = mnemonic.startswith((*_ALIGNED, *_STATE)) or not mnemonic.startswith(("v", "movu", "lddqu"))
    return strict and operand.address % 16 != 0


def _hidden(instruction: Instruction) -> bool:
    """Whether the instruction may access memory that no operand names."""
    mnemonic = instruction.mnemonic.split()[-1]
    if mnemonic in ("mov", "pop"):
        # Only loads of segment, control and debug registers do.
        first = instruction.operands.split(",")[0].strip()
        return first in _SEGMENTS or first[:2] in ("cr", "dr")
    return mnemonic in _HIDDEN_ACCESS or mnemonic.startswith(_HIDDEN_FAMILIES)


def _privileged(instruction: Instruction | None) -> bool:
    """Whether a general protection fault can come from the instruction itself, whatever it accesses."""
    return instruction is not None and (_hidden(instruction) or "cr" in instruction.operands)
