"""Checks that stopped the system: 0xF7 (a stack cookie), 0x7A (a page that could not be read)."""

from __future__ import annotations

from volatility3_kdump.analysis.arguments import follow
from volatility3_kdump.analysis.faults import page_status
from volatility3_kdump.analysis.reasoning import Case, Finding, Reasoning, contradicted, rule
from volatility3_kdump.cpu.exception import code_name

_LOCK_TYPES = (1, 2, 3)


@rule(0xF7)
def driver_overran_stack_buffer(case: Case) -> Reasoning:
    """P1 the cookie found, P2 the one expected, P3 the complement of that. The caller of the report is the driver."""
    actual, expected, complement = (case.argument(number) for number in (1, 2, 3))
    if actual is None or expected is None:
        return Reasoning()
    width = 2 * case.target.memory.pointer_size
    mask = (1 << 4 * width) - 1
    difference = actual ^ expected
    notes = []
    uncertain = None
    sentences = ["A function's stack cookie was changed, by a write beyond a buffer on the stack or by bad memory."]
    if difference.bit_count() == 1:
        bit = difference.bit_length() - 1
        notes.append(f"the cookies differ only in bit {bit}: possible bit flip, in memory or in the processor")
        uncertain = f"one changed bit ({bit}) of the cookie explains it, and no write beyond a buffer changes one bit"
    if complement is not None and complement != ~expected & mask:
        changed = "argument 3 is not the complement of argument 2: the expected cookie itself was changed"
        notes.append(contradicted(changed))
        uncertain = uncertain or "it is the module's own cookie that was changed, not that on the stack"
    value = f"Expected {expected:0{width}x} found {actual:0{width}x}"
    return Reasoning((Finding("SECURITY_COOKIE", value, None),), tuple(sentences), tuple(notes), uncertain=uncertain)


@rule(0x7A)
def kernel_data_inpage_error(case: Case) -> Reasoning:
    """P1 a lock type (1 to 3) or the address of the PTE, P2 the status, P3 the process or the PTE, P4 the address."""
    kind, status = case.argument(1), case.argument(2)
    reasoning = follow(case, (3,)) if kind in _LOCK_TYPES else Reasoning()
    findings = []
    if status is not None:
        code = status & 0xFFFFFFFF
        status_words = page_status(code)
        name = code_name(code)
        note = ": ".join(word for word in (name, status_words) if word)
        findings.append(
            Finding(
                "ERROR_CODE", f"(NTSTATUS) {code:#x}{f' - {status_words or name}' if note else ''}", code, name or ""
            )
        )
        sentence = f"A page of the kernel could not be read back: status {code:#x}{f' ({note})' if note else ''}."
        reasoning += Reasoning(tuple(findings), (sentence, "Look at the disk, its cable and its controller first."))
    address = case.pointer(4)
    if address is not None:
        reasoning += Reasoning(
            (Finding("FAULTING_ADDRESS", f"{address:x}", address, "the address whose page was to be read"),)
        )
    return reasoning
