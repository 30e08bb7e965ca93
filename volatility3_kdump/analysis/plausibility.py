"""Does the instruction explain the exception? What lies between the evidence of a crash and its verdict.

The processor reports an exception for the instruction at RIP. Code bytes, registers and the exception record, which
even small memory dumps hold, tell whether that instruction can raise it: whether its operand is the address that was
accessed, whether its opcode is illegal on this processor, whether anything but a stray jump leads to it. Where it
cannot, no driver raised the exception, and the processor or the memory is what remains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.arm64_faults import told
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.code_places import absent, misaligned, nowhere, padding
from volatility3_kdump.analysis.failure import Failure, failure_rule, named_ip
from volatility3_kdump.analysis.flips import pointer_flips
from volatility3_kdump.analysis.judging import (
    CALL_ERROR,
    CONTRADICTED,
    EXPLAINED,
    HARDWARE,
    IP_MISALIGNED,
    LACKS_FEATURE,
    LEGAL,
    MEMORY,
    MISALIGNED,
    NOT_DECODABLE,
    NOWHERE,
    PADDING,
    PROCESSOR,
    UNEXPLAINED,
    Fault,
    Plausibility,
    outcome_of,
    software_may_have_raised,
)
from volatility3_kdump.analysis.memory_accesses import access
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.disasm import decode
from volatility3_kdump.cpu.exception import ACCESS_VIOLATION, STACK_BUFFER_OVERRUN, ExceptionRecord
from volatility3_kdump.cpu.features import Feature, feature, requirement
from volatility3_kdump.dump.cpuid import ProcessorIdentity, processor_identity

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

__all__ = [
    "CALL_ERROR",
    "CONTRADICTED",
    "EXPLAINED",
    "HARDWARE",
    "IP_MISALIGNED",
    "LACKS_FEATURE",
    "LEGAL",
    "MEMORY",
    "MISALIGNED",
    "NOT_DECODABLE",
    "NOWHERE",
    "PADDING",
    "PROCESSOR",
    "UNEXPLAINED",
    "Plausibility",
    "plausibility",
]

_ILLEGAL_INSTRUCTION = 0xC000001D
_BREAKPOINT = 0x80000003
_INT3 = b"\xcc"
#: The privilege level in a selector of user mode.
_USER_MODE = 3
_EXCEPTION_LEVEL = 0xC
#: Of ARM64: what the compiler puts where a check of the code itself failed (__fastfail), and where a division did.
_FAST_FAIL_ARM64, _DIVIDE_ARM64 = "0xF003", "0xF004"
_DIVIDE_BY_ZERO, _INTEGER_OVERFLOW = 0xC0000094, 0xC0000095


def plausibility(target: Target, bug_check: BugCheck | None, failure: Failure | None) -> Plausibility | None:
    """Judge the instruction of a crash; ``None`` where the dump does not hold what it takes to judge."""
    fault = _fault(target, bug_check, failure)
    flips = tuple(pointer_flips(target, bug_check, failure))
    if fault is None:
        return Plausibility(None, "", None, flips=flips) if flips else None
    instruction_text = fault.text if fault.instruction is not None else None
    judged = _judge(fault)
    if judged is None:
        return Plausibility(None, "", fault.ip, instruction_text, flips=flips) if flips else None
    return replace(judged, instruction=instruction_text, flips=(*judged.flips, *flips))


def _fault(target: Target, bug_check: BugCheck | None, failure: Failure | None) -> Fault | None:
    if bug_check is None or target.header.architecture not in ("x64", "x86", "arm64"):
        return None
    at_fault = failure is not None and failure.at_fault
    ip = failure.context.ip if failure is not None and at_fault else None
    named = named_ip(bug_check)
    # A breakpoint's trap frame points behind it; the argument names the breakpoint itself.
    if named is not None and (ip is None or (ip == named + 1 and target.memory.read(named, 1) == _INT3)):
        ip = named
    # Where the processor was in user mode, what the process ran explains nothing that the kernel reports.
    if ip is None or (failure is not None and at_fault and _in_user_mode(failure.context)):
        return None
    record = failure.exception if failure is not None else None
    code = _exception_code(bug_check, record)
    instruction = failure.instruction if failure is not None and at_fault else None
    if instruction is None or instruction.address != ip:
        instruction = decode(target.memory.read, ip, target.header.architecture, name_of=target.name_of)
    access = failure.access if failure is not None else None
    address = failure.address if failure is not None else None
    reported = record is None or code != ACCESS_VIOLATION or len(record.parameters) >= 2
    return Fault(target, failure if at_fault else None, ip, instruction, code, access, address, reported)


def _exception_code(bug_check: BugCheck, record: ExceptionRecord | None) -> int | None:
    """The code of the exception: of an access violation, of its record, or as an argument has it."""
    if buckets.is_access_violation(bug_check):
        return ACCESS_VIOLATION
    if record is not None:
        return record.code
    rule = failure_rule(bug_check.code)
    if "exception_code" in rule:
        value: int | None = bug_check.arguments[rule["exception_code"] - 1].value
        return None if value is None else value & 0xFFFFFFFF
    return ACCESS_VIOLATION if "access" in rule or "access_is" in rule else None


def _in_user_mode(context: Context) -> bool:
    """By the code segment, or on ARM64 by the exception level in the saved program status."""
    if context.architecture == "arm64":
        return context.get("cpsr") is not None and not context.registers["cpsr"] & _EXCEPTION_LEVEL
    return bool((context.get("cs") or 0) & _USER_MODE)


def _judge(fault: Fault) -> Plausibility | None:
    for judge in (nowhere, misaligned, absent, padding, told, _illegal, _breakpoint, _fast_fail, _divide, access):
        judgement = judge(fault)
        if judgement is not None:
            return judgement
    return None


def _illegal(fault: Fault) -> Plausibility | None:
    architecture = fault.target.header.architecture
    if fault.code != _ILLEGAL_INSTRUCTION or fault.instruction is None or architecture not in ("x64", "x86"):
        return None
    need = requirement(fault.instruction.raw, architecture)
    if need is None:
        return None
    if need.undefined:
        return outcome_of(fault, EXPLAINED, f"{fault.text} is made to raise this exception: a check of the code itself")
    identity = processor_identity(fault.target.dump.source, fault.target.dump.tagged)
    lacking = [entry for entry in need.features if identity is not None and _has(identity, entry) is False]
    if identity is not None and lacking:
        entry = lacking[0]
        says = (
            f"this processor ({identity.brand or identity.vendor}) lacks {entry.name}, which {fault.text} needs: the "
            "driver needs a newer processor"
        )
        bit = f"CPUID leaf {entry.leaf:x}h, {entry.register.upper()} bit {entry.bit} is clear"
        return outcome_of(fault, LACKS_FEATURE, says, bit, f"processor: {identity.text}")
    all_present = identity is not None and need.features and all(_has(identity, entry) for entry in need.features)
    if not need.everywhere and not all_present:
        return None
    if software_may_have_raised(fault):
        return None
    why = f"its processor has {need.features[0].name}" if need.features else f"every {architecture} processor runs it"
    return outcome_of(
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


def _breakpoint(fault: Fault) -> Plausibility | None:
    if fault.code != _BREAKPOINT or fault.instruction is None:
        return None
    if fault.instruction.mnemonic in ("int", "brk"):
        return outcome_of(fault, EXPLAINED, "the instruction is a breakpoint that somebody put there")
    if software_may_have_raised(fault):
        return None
    return outcome_of(
        fault,
        CONTRADICTED,
        f"a breakpoint was reported at {fault.ip:#x}, where the instruction is {fault.text}",
        remains=HARDWARE,
    )


def _fast_fail(fault: Fault) -> Plausibility | None:
    if fault.code != STACK_BUFFER_OVERRUN or fault.instruction is None or fault.failure is None:
        return None
    if fault.failure.trap_frame is None:
        return None
    on_arm64 = fault.instruction.mnemonic == "brk" and _FAST_FAIL_ARM64 in fault.instruction.operands
    if fault.instruction.raw[:2] == b"\xcd\x29" or on_arm64:
        return outcome_of(fault, EXPLAINED, "a check in the code itself found the damage and stopped the system")
    return None


def _divide(fault: Fault) -> Plausibility | None:
    if fault.code not in (_DIVIDE_BY_ZERO, _INTEGER_OVERFLOW) or fault.instruction is None:
        return None
    on_arm64 = fault.instruction.mnemonic == "brk" and _DIVIDE_ARM64 in fault.instruction.operands
    if on_arm64 or fault.instruction.mnemonic in ("div", "idiv", "into"):
        return outcome_of(fault, EXPLAINED, f"{fault.text} divides")
    if software_may_have_raised(fault):
        return None
    return outcome_of(
        fault,
        CONTRADICTED,
        f"a failed division was reported at {fault.ip:#x}, but {fault.text} does not divide",
        remains=HARDWARE,
    )
