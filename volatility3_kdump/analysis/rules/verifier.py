"""Rules that were broken: of Driver Verifier (0xC4, 0xC9, 0xE6), KMDF (0x10D), USB (0xFE, 0x144), PnP (0x1D5)."""

from __future__ import annotations

from volatility3_kdump.analysis.arguments import follow, hexadecimal, subtype, thread_text
from volatility3_kdump.analysis.reasoning import Case, Finding, Reasoning, rule

#: 0xC4: an unloading driver has left allocations behind.
_LEAKED_POOL = 0x62


@rule(0xC4)
def driver_verifier_violation(case: Case) -> Reasoning:
    """P1 the violation; what the other arguments are depends on it."""
    kind = case.argument(1)
    reasoning = follow(case)
    if kind is None:
        return reasoning
    reasoning = Reasoning((Finding("VERIFIER_STOP", f"{kind:x}", None, case.bug_check.variant or ""),)) + reasoning
    rule_text = reasoning.finding("RULE")
    if rule_text is not None and rule_text.value != "not in the dump":
        reasoning += Reasoning(sentences=(f"The rule says: {rule_text.value}.",))
    if kind == _LEAKED_POOL:
        count = case.argument(4)
        if count:
            reasoning += Reasoning((Finding("UNFREED_ALLOCATIONS", f"{count}", None, "P4"),))
    if reasoning.culprit is None:
        sentence = "The arguments name no driver: it is the one that called the verified routine, on the stack."
        reasoning += Reasoning(sentences=(sentence,))
    return reasoning


@rule(0xC9, 0xE6)
def io_violation(case: Case) -> Reasoning:
    """P1 the violation; most have the driver's address in P2 and the IRP in P3."""
    reasoning = Reasoning(specifiers=subtype(case)) + follow(case)
    kind = case.argument(1)
    if kind is not None and case.bug_check.code == 0xC9:
        reasoning = Reasoning((Finding("DRIVER_VERIFIER_IO_VIOLATION_TYPE", f"{kind:x}", kind),)) + reasoning
    return reasoning


@rule(0x10D, 0x144, 0xFE)
def framework_violation(case: Case) -> Reasoning:
    """P1 the violation; P2 to P4 as the table says: IRPs, device objects of client drivers, callers."""
    return Reasoning(specifiers=subtype(case)) + follow(case)


@rule(0x1D5)
def pnp_watchdog(case: Case) -> Reasoning:
    """P1 the first characters of the service's name, P3 the thread that Plug and Play waits for, P4 milliseconds."""
    target = case.target
    characters, thread, waited = case.argument(1), case.pointer(3), case.argument(4)
    findings = []
    if characters:
        data = characters.to_bytes(8, "little").rstrip(b"\0")
        if data and all(0x20 <= byte < 0x7F for byte in data):
            findings.append(Finding("SERVICE", data.decode("ascii"), None, "P1: the name starts like this"))
    if thread is not None:
        findings.append(Finding("FAULTING_THREAD", hexadecimal(target, thread), thread, thread_text(target, thread)))
    if waited:
        findings.append(Finding("WATCHDOG_TIME", f"{waited} ms", None, "P4"))
    sentences = ("A Plug and Play operation does not end: what the thread of argument 3 waits for is the reason.",)
    return Reasoning(tuple(findings), sentences, thread=thread)
