"""Accesses to memory: can the instruction have accessed that address, and can the access have failed there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.failure import crash_stack, goes_beyond
from volatility3_kdump.analysis.judging import (
    CONTRADICTED,
    EXPLAINED,
    HARDWARE,
    UNEXPLAINED,
    Fault,
    Plausibility,
    outcome_of,
)
from volatility3_kdump.cpu.exception import ACCESS_VIOLATION
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand
from volatility3_kdump.findings.regions import canonical

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Instructions that save or restore state of a size that the processor knows.
_STATE_SIZE = 0x1000
_STATE_ALIGNMENT = 64
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
        # ARM64: maintenance of caches and translations, loads that authenticate their address.
        *("dc", "ic", "at", "tlbi", "ldraa", "ldrab", "dgh", "hvc", "smc", "svc", "eret", "eretaa", "eretab"),
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
#: Branches: a general protection fault at one can come from where it leads.
_BRANCHES = ("call", "jmp", "ret")
#: Instructions that raise general protection faults for values, whatever they access.
_CHECKED_VALUES = frozenset(
    {
        *("rdpmc", "rdtsc", "rdtscp", "xgetbv", "getsec", "encls", "wrpkru", "rdpkru", "popfq", "lmsw", "ldmxcsr"),
        *("vldmxcsr", "wrfsbase", "wrgsbase", "rdfsbase", "rdgsbase", "wrssq", "wrussq", "incsspq", "sti", "cli"),
    }
)
_LAST_ADDRESS = (1 << 64) - 1
_LONGEST_INSTRUCTION = 15
_SEGMENTS = ("ds", "es", "fs", "gs", "ss", "cs")
#: Instructions that fault on an operand that is not aligned at its size, by mnemonic.
_ALIGNED = ("movaps", "movapd", "movdqa", "movnt", "vmovaps", "vmovapd", "vmovdqa", "vmovnt", "cmpxchg16b")


def access(fault: Fault) -> Plausibility | None:
    """An access violation or a page fault: does the instruction access that address, and can it fail there?"""
    if fault.code != ACCESS_VIOLATION or fault.instruction is None or not fault.reported:
        return None
    if fault.access is None:
        return _likely(fault)
    if fault.address is not None and fault.address == fault.ip:
        if fault.target.dump.triage is not None and fault.target.memory.read(fault.ip, 1) is not None:
            # The page is there: it may not be executable, which the dump does not tell.
            return None
        return outcome_of(fault, EXPLAINED, f"the processor could not fetch the instruction at {fault.ip:#x}")
    if fault.access == "execute":
        return _fetched_elsewhere(fault)
    if fault.address is None and fault.instruction.mnemonic.split()[-1] in _BRANCHES:
        return _branch(fault)
    operands = list(_operands(fault.instruction))
    if not operands:
        if _hidden(fault.instruction):
            return None
        return _contradicted(fault, f"{fault.text} touches no memory, yet {fault.exception} was reported for it")
    if fault.failure is None or any(operand.address is None or _of_unknown_size(operand) for operand in operands):
        return None
    covering = next((operand for operand in operands if _covers(fault, operand)), None)
    if covering is not None:
        return _present(fault, covering) or outcome_of(
            fault, EXPLAINED, f"{fault.text} accesses {fault.address or 0:#x}, where the access failed"
        )
    if _hidden(fault.instruction):
        return None
    return _elsewhere(fault, operands)


def _fetched_elsewhere(fault: Fault) -> Plausibility | None:
    """A fetch that failed at an address where the processor was not: it fails at RIP, or where that instruction ends.

    On ARM64 the upper bits of pc may be an authentication code.
    """
    if fault.address is None or fault.target.header.architecture != "x64":
        return None
    if fault.ip <= fault.address < fault.ip + _LONGEST_INSTRUCTION:
        return None
    return _contradicted(fault, f"{fault.exception} was reported, but the processor was at {fault.ip:#x}: {fault.text}")


def _branch(fault: Fault) -> Plausibility | None:
    """A general protection fault at a branch: where it leads is not canonical, which the processor reports there."""
    instruction = fault.instruction
    if instruction is None:
        return None
    place = instruction.indirect
    if instruction.mnemonic.split()[-1] == "ret" and instruction.stack is not None and instruction.stack.address:
        place = fault.target.memory.pointer(instruction.stack.address)
    if place is None or canonical(fault.target, place):
        return None
    return outcome_of(fault, EXPLAINED, f"{fault.text} leads to {place:#x}, which is not canonical")


def _likely(fault: Fault) -> Plausibility | None:
    """An access violation whose exception record is not in the dump: an operand that is not there explains it."""
    for operand in _operands(fault.instruction) if fault.failure is not None and fault.instruction is not None else ():
        place = operand.address
        if place is None:
            continue
        if not canonical(fault.target, place):
            return outcome_of(fault, EXPLAINED, f"{fault.text} accesses {place:#x}, which is not canonical")
        if not fault.target.is_kernel_address(place) and fault.target.memory.read(place, 1) is None:
            return outcome_of(fault, EXPLAINED, f"{fault.text} accesses {place:#x}, which is not in the dump")
    return None


def _elsewhere(fault: Fault, operands: list[MemoryOperand]) -> Plausibility | None:
    """None of the operands covers the address."""
    target, assert_failure = fault.target, fault.failure
    places = [operand.address for operand in operands if operand.address is not None]
    if fault.address is None:
        # No address is reported for a general protection fault.
        if any(not canonical(target, place) for place in places):
            return outcome_of(fault, EXPLAINED, f"{fault.text} accesses an address that is not canonical")
        if any(_misplaced(fault, operand) for operand in operands):
            return outcome_of(fault, EXPLAINED, f"{fault.text} accesses memory that is not aligned as it needs")
        if any(operand.address is not None and _reaches_the_end(operand) for operand in operands):
            return outcome_of(fault, EXPLAINED, f"{fault.text} accesses the last byte of the address space")
    recovered = set(assert_failure.recovered) if assert_failure is not None else set()
    if any(name in recovered for operand in operands for name, _ in operand.registers):
        return None
    readable = all(target.memory.read(operand.address or 0, max(operand.size, 1)) is not None for operand in operands)
    if not readable:
        return _general_protection(fault, places) if fault.address is None else None
    where = ", ".join(f"{place:#x}" for place in places)
    return _contradicted(
        fault, f"{fault.text} accesses {where}, which is there, yet {fault.exception} was reported for it"
    )


def _general_protection(fault: Fault, places: list[int]) -> Plausibility | None:
    """A general protection fault at an operand whose address is canonical and aligned, and whose page the dump lacks.

    In 64-bit mode an access to memory raises it for addresses that are not canonical, and for nothing else (Intel SDM
    volume 2, "64-Bit Mode Exceptions" of MOV): who runs below the system can, a page of a device can lead to it.
    """
    if fault.target.header.architecture != "x64" or _privileged(fault.instruction):
        return None
    where = ", ".join(f"{place:#x}" for place in places)
    says = (
        f"{fault.text} accesses {where}, a canonical address, at which no processor raises the general protection "
        "fault that was reported: a hypervisor or the hardware did"
    )
    return outcome_of(fault, UNEXPLAINED, says, *_values(fault), remains=HARDWARE)


def _reaches_the_end(operand: MemoryOperand) -> bool:
    """Whether an operand covers the address that is also the sign of "no address"."""
    return operand.address is not None and operand.address + max(operand.size, 1) > _LAST_ADDRESS


def _contradicted(fault: Fault, says: str) -> Plausibility | None:
    if fault.address is None and _privileged(fault.instruction):
        return None
    return outcome_of(fault, CONTRADICTED, says, *_values(fault), remains=HARDWARE)


def _values(fault: Fault) -> list[str]:
    """The registers that make the operands' addresses, in one line."""
    registers = []
    for operand in _operands(fault.instruction) if fault.instruction is not None else ():
        registers += [f"{name}={value:x}" for name, value in operand.registers if value is not None and name != "rip"]
    return [", ".join(dict.fromkeys(registers))]


def _present(fault: Fault, operand: MemoryOperand) -> Plausibility | None:
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


def _covers(fault: Fault, operand: MemoryOperand) -> bool:
    if operand.address is None or fault.address is None or fault.instruction is None:
        return False
    state = fault.instruction.mnemonic.startswith(_STATE)
    size = _STATE_SIZE if state else max(operand.size, 1)
    return operand.address <= fault.address < operand.address + size


def _misplaced(fault: Fault, operand: MemoryOperand) -> bool:
    mnemonic = fault.instruction.mnemonic if fault.instruction is not None else ""
    if operand.address is None:
        return False
    if mnemonic.startswith(_STATE):
        return operand.address % (_STATE_ALIGNMENT if mnemonic.startswith("x") else 16) != 0
    if operand.size < 16:
        return False
    if mnemonic.startswith(_ALIGNED):
        return operand.address % operand.size != 0
    # The older SSE instructions take only aligned operands, those of AVX any, but for the moves that say so.
    return not mnemonic.startswith(("v", "movu", "lddqu")) and operand.address % 16 != 0


def _of_unknown_size(operand: MemoryOperand) -> bool:
    """Whether nothing is known of how many bytes an ARM64 instruction accesses; those of x86 always say so."""
    return operand.size == 0 and not operand.segment


def _hidden(instruction: Instruction) -> bool:
    """Whether the instruction may access memory that no operand names."""
    mnemonic = instruction.mnemonic.split()[-1]
    if goes_beyond(instruction):
        return True
    if mnemonic in ("mov", "pop"):
        # Only loads of segment, control and debug registers do.
        first = instruction.operands.split(",")[0].strip()
        return first in _SEGMENTS or first[:2] in ("cr", "dr")
    return mnemonic in _HIDDEN_ACCESS or mnemonic.startswith(_HIDDEN_FAMILIES)


def _privileged(instruction: Instruction | None) -> bool:
    """Whether a general protection fault can come from the instruction itself, whatever it accesses."""
    if instruction is None:
        return False
    mnemonic = instruction.mnemonic.split()[-1]
    checked = mnemonic in _CHECKED_VALUES or mnemonic.startswith(_STATE)
    return checked or _hidden(instruction) or "cr" in instruction.operands
