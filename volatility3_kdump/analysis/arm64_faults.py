"""ARM64: what the exception syndrome and the fault address, which trap frames keep, say of an exception."""

from __future__ import annotations

from volatility3_kdump.analysis.judging import (
    CONTRADICTED,
    EXPLAINED,
    HARDWARE,
    NOWHERE,
    Fault,
    Plausibility,
    outcome_of,
)
from volatility3_kdump.cpu import arm64
from volatility3_kdump.cpu.exception import ACCESS_VIOLATION

#: STATUS_DATATYPE_MISALIGNMENT.
_MISALIGNMENT = 0x80000002
_POINTER_AUTHENTICATION = 0x1C


def told(fault: Fault) -> Plausibility | None:
    """What the processor itself said of the exception, where the trap frame has it."""
    context = fault.failure.context if fault.failure is not None else None
    esr = context.get("esr") if context is not None else None
    if context is None or esr is None:
        return None
    syndrome, far = arm64.syndrome(esr), context.get("far")
    evidence = f"ESR {esr:#x}: {syndrome.class_name or f'class {syndrome.number:#x}'}"
    if syndrome.number == _POINTER_AUTHENTICATION:
        says = f"{fault.text} found a pointer whose authentication code is wrong: the memory that held it was changed"
        return outcome_of(fault, EXPLAINED, says, evidence)
    if syndrome.external:
        says = f"the memory answered {fault.text} with an error: that is the hardware's doing"
        return outcome_of(fault, CONTRADICTED, says, evidence, remains=HARDWARE)
    if syndrome.alignment and (fault.code in (ACCESS_VIOLATION, _MISALIGNMENT)):
        says = f"{fault.text} accesses {far or 0:#x}, which is not aligned as it needs"
        return outcome_of(fault, EXPLAINED, says, evidence)
    if syndrome.access is None or fault.code != ACCESS_VIOLATION:
        return None
    return _disagreement(fault, syndrome, far, evidence)


def _disagreement(fault: Fault, syndrome: arm64.Syndrome, far: int | None, evidence: str) -> Plausibility | None:
    """An access that the bug check tells otherwise than the processor did."""
    if syndrome.access == "execute" and far == fault.ip and fault.target.names.module_of(fault.ip) is None:
        says = f"PC {fault.ip:#x} lies in no module: a function pointer or a return address was wrong"
        return outcome_of(fault, NOWHERE, says, evidence)
    return None
