"""Checks that hold for every bug check: does the hardware look sound, and is the code what it should be?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, attempt
from volatility3_kdump.memory import PAGE_SIZE

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_CORRUPTION = "memory_corruption"
#: A counter beyond this is no counter: a damaged dump.
_MOST_ERRORS = 1 << 24
_MOST_NAMED = 4


def check(case: Case) -> Reasoning:
    """All checks together."""
    reasoning = Reasoning()
    for step, subject in (
        (lambda: _code(case), "the faulting code"),
        (lambda: memory_errors(case.target), "the memory manager's error counters"),
    ):
        reasoning += attempt(step, subject)
    return reasoning


def _code(case: Case) -> Reasoning:
    """Compare the page of code at the fault with the module's own image file.

    One differing bit is a hardware error or a stray write. More differences can be the kernel's own patches (retpoline,
    hot patches), so they are told and nothing is concluded.
    """
    failure, target = case.failure, case.target
    if failure is None or failure.module is None or failure.context.ip is None:
        return Reasoning()
    module, page = failure.module, failure.context.ip & -PAGE_SIZE
    start = max(page - module.base, 0)
    compared, changed = target.images.image_of(module).differences(start, min(PAGE_SIZE, module.size - start))
    differences = [(module.base + rva, held, stored) for rva, held, stored in changed]
    if not compared:
        return Reasoning()
    if not differences:
        note = f"{compared:#x} bytes compared"
        return Reasoning((Finding("CODE_CHECK", f"the code at the fault equals {module.image_name}", page, note),))
    where = ", ".join(target.name_of(address) or f"{address:x}" for address, _, _ in differences[:_MOST_NAMED])
    single = len(differences) == 1 and (differences[0][1] ^ differences[0][2]).bit_count() == 1
    if not single:
        count = f"{len(differences)} of {compared:#x} bytes"
        note = f"{count} of the code at the fault differ from {module.image_name}: {where}"
        return Reasoning(
            (Finding("CODE_CHECK", f"{len(differences)} bytes differ from {module.image_name}", differences[0][0]),),
            notes=(note + "; the kernel patches code as it loads it, so this alone proves nothing",),
        )
    address, held_byte, stored_byte = differences[0]
    bytes_differ = f"{held_byte:02x} in memory, {stored_byte:02x} in the file"
    why = f"one bit of the code at {where} differs from the file: {bytes_differ}"
    return Reasoning(
        (Finding("CODE_CHECK", f"one bit differs from {module.image_name}", address, why),),
        ("The code that failed was changed in one bit after it was loaded: suspect the memory hardware.",),
        (why + ": possible bit flip",),
        prefix="MEMORY_CORRUPTION_ONE_BIT",
        culprit=Culprit(_CORRUPTION, _CORRUPTION, address, why),
    )


def memory_errors(target: Target) -> Reasoning:
    """The memory manager's own count of bad pages and single-bit errors, where it is above zero.

    ``nt!MiState.Errors`` (``_MI_ERROR_STATE``), and on older kernels ``nt!MmBadPagesDetected`` and
    ``nt!MmZeroedPageSingleBitErrorsDetected``.
    """
    findings, sentences = [], []
    prefix = None
    for tag, field, variable, debugger_field, description in (
        ("BAD_PAGES_DETECTED", "BadPagesDetected", "MmBadPagesDetected", "MmBadPagesDetected", "bad pages"),
        (
            "SINGLE_BIT_ERROR",
            "ZeroedPageSingleBitErrorsDetected",
            "MmZeroedPageSingleBitErrorsDetected",
            "MmZeroedPageSingleBitErrorsDetected",
            "single-bit errors in pages that should be zero",
        ),
        ("PAGE_HASH_ERRORS", "PageHashErrors", None, None, "pages whose hash is wrong"),
    ):
        count = _counter(target, field, variable, debugger_field)
        if count and count < _MOST_ERRORS:
            findings.append(Finding(tag, f"{count}", None, "counted by the memory manager since the system started"))
            prefix = prefix or ("PAGE_NOT_ZERO" if tag == "BAD_PAGES_DETECTED" else None)
            sentences.append(
                f"The memory manager has counted {description}: {count}. Test the memory before you blame a driver."
            )
    return Reasoning(tuple(findings), tuple(sentences), prefix=prefix)


def _counter(target: Target, field: str, variable: str | None, debugger_field: str | None) -> int | None:
    nt, state = target.nt, target.symbol("MiState")
    located = nt.find("_MI_SYSTEM_INFORMATION", f"Errors.{field}") if nt is not None else None
    if state is not None and located is not None:
        return target.memory.unsigned(state + located.offset, located.size)
    address = target.variable(variable, debugger_field) if variable else None
    return target.memory.unsigned(address, 4) if address else None
