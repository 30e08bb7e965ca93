"""Interrupts and levels: 0x3D (an exception while an interrupt is handled), 0x4A (a level that stayed raised)."""

from __future__ import annotations

from volatility3_kdump.analysis.faults import (
    access_reasoning,
    code_reasoning,
    exception_reasoning,
    exception_record_at,
    exception_words,
    fault_access,
    is_access_violation,
)
from volatility3_kdump.analysis.reasoning import Case, Finding, Reasoning, rule


@rule(0x3D)
def interrupt_exception_not_handled(case: Case) -> Reasoning:
    """P1 EXCEPTION_RECORD and P2 CONTEXT, where the kernel had them."""
    address = case.pointer(1)
    record = exception_record_at(case.target, address)
    if record is None:
        why = "the bug check names none"
        if address is not None:
            why = "nothing was written there"
            if case.target.memory.read(address, 1) is None:
                why = case.target.memory.why_unreadable(address)
        return Reasoning((Finding("EXCEPTION_RECORD", "not in the dump", address, why),))
    reasoning = exception_reasoning(case, record.code, record, address)
    if is_access_violation(record.code):
        reasoning = code_reasoning(case) + reasoning + access_reasoning(case, fault_access(case, record))
    return reasoning + Reasoning(specifiers=exception_words(record.code, record.parameters))


@rule(0x4A)
def raised_irql_at_system_service(case: Case) -> Reasoning:
    """P2 is the IRQL at which a system call was about to return."""
    irql = case.argument(2)
    level = "a raised IRQL" if not irql else f"IRQL {irql}"
    sentence = (
        f"A system call was about to return to its process at {level}: the kernel or a driver raised it in that call "
        "and did not lower it again."
    )
    return Reasoning(sentences=(sentence,))
