"""The verdict on the stack, weighed against what the instruction itself can have done.

Where the dump's own bytes acquit the code at the failure, no driver is named: what remains is the hardware. The
component on the stack stays as the place where it showed. The bucket stays the debugger's, so that it can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.failure import Failure
from volatility3_kdump.analysis.plausibility import (
    HARDWARE,
    IP_MISALIGNED,
    LACKS_FEATURE,
    MEMORY,
    NOT_DECODABLE,
    NOWHERE,
    PROCESSOR,
    UNEXPLAINED,
    Plausibility,
)
from volatility3_kdump.analysis.reasoning import Topic, topic_of
from volatility3_kdump.analysis.verdict import HIGH, LOW, MEDIUM, SHOWED, Verdict, turned_to

_LEVELS = (LOW, MEDIUM, HIGH)
_CORRUPTION = "memory_corruption"
#: What is left to suspect where it is no module, and the name for it: the debugger's invented one where it has one.
INVENTED = {
    HARDWARE: HARDWARE,
    PROCESSOR: HARDWARE,
    MEMORY: _CORRUPTION,
    "hypervisor": "hypervisor",
    "disk": "disk",
}
#: Exceptions that say something of the instruction itself, which has to be seen for that.
_OF_THE_INSTRUCTION = {0xC000001D: "illegal", 0xC0000096: "privileged"}


def weighed(
    verdict: Verdict,
    judged: Plausibility | None,
    failure: Failure | None,
    bug_check: BugCheck | None,
    notes: Sequence[str],
    vendor: str | None,
) -> Verdict:
    """The verdict on the stack after all evidence of the dump; ``notes`` are what contradicts the arguments."""
    verdict = placed(weigh(verdict, judged, bug_check, vendor), failure)
    verdict = unseen(astray(verdict, judged, failure), bug_check, judged)
    verdict = at_odds(unread(verdict, failure), notes)
    return settled(verdict, bug_check)


def weigh(verdict: Verdict, judged: Plausibility | None, bug_check: BugCheck | None, vendor: str | None) -> Verdict:
    """The verdict that is left. ``vendor`` is the maker of the processor, for the buckets that carry its name."""
    if judged is None:
        return verdict
    if judged.acquits:
        return _hardware(verdict, judged, bug_check, vendor)
    if judged.outcome == LACKS_FEATURE:
        return replace(
            verdict, rule=judged.says, confidence=HIGH, confidence_reason=judged.evidence[0] if judged.evidence else ""
        )
    if judged.outcome == UNEXPLAINED:
        return turned_to(verdict, judged.remains or HARDWARE, judged.says, LOW, "nothing tells which of the two it was")
    if judged.outcome == NOT_DECODABLE:
        return _capped(verdict, LOW, "the bytes at RIP are no code")
    strong = next((flip for flip in judged.flips if flip.strong), None)
    if strong is not None:
        return turned_to(verdict, MEMORY, strong.says, MEDIUM, "one changed bit explains the failure")
    if judged.outcome == NOWHERE:
        verdict = _capped(verdict, MEDIUM, "RIP lies in no module")
    if judged.flips:
        flip = judged.flips[0]
        if verdict.all_microsoft or verdict.suspect is None:
            return turned_to(verdict, MEMORY, flip.says, LOW, "one bit can differ for other reasons, too")
        return _capped(verdict, LOW, f"one bit of {flip.subject} may have flipped")
    return verdict


def placed(verdict: Verdict, failure: Failure | None) -> Verdict:
    """A failure that nobody on the stack is held responsible for showed where the instruction is, not at its caller."""
    if verdict.runner_up_rule != SHOWED or failure is None or not failure.at_fault or failure.context.ip is None:
        return verdict
    return replace(verdict, runner_up=(failure.name or f"{failure.context.ip:#x}").replace("+0x", "+"))


def astray(verdict: Verdict, judged: Plausibility | None, failure: Failure | None) -> Verdict:
    """Little certainty for a component whose instruction accesses another address than the bug check reports."""
    # A changed bit that explains the difference has been weighed already.
    told = judged is not None and (judged.outcome is not None or any(flip.strong for flip in judged.flips))
    if failure is None or told or failure.operand_agrees is not False:
        return verdict
    return _capped(verdict, LOW, f"its instruction accesses {failure.operand:#x}, not the address that is reported")


def at_odds(verdict: Verdict, notes: Sequence[str]) -> Verdict:
    """No certainty where an argument of the bug check contradicts what it names."""
    if not any(topic_of(note) is Topic.ARGUMENT for note in notes):
        return verdict
    return _capped(verdict, MEDIUM, "an argument of the bug check does not agree with what it names")


def unread(verdict: Verdict, failure: Failure | None) -> Verdict:
    """No certainty for a component whose instruction is said to have made an access, and is not in the dump."""
    if failure is None or not failure.at_fault or failure.instruction is not None or failure.access is None:
        return verdict
    if failure.module is None or failure.module.name != verdict.module_name:
        return verdict
    return _capped(verdict, MEDIUM, "the dump does not tell whether its instruction can have made that access")


def unseen(verdict: Verdict, bug_check: BugCheck | None, judged: Plausibility | None) -> Verdict:
    """Little certainty where the processor refused an instruction that nobody can look at."""
    code = buckets.exception_code(bug_check) if bug_check is not None else None
    word = _OF_THE_INSTRUCTION.get(code or 0)
    if word is None or (judged is not None and judged.outcome is not None):
        return verdict
    return _capped(verdict, LOW, f"nothing tells what the instruction was that the processor called {word}")


def settled(verdict: Verdict, bug_check: BugCheck | None) -> Verdict:
    """The verdict as every view tells it: one name in all its fields, and nobody's where somebody asked for the dump.

    Where no module is left to suspect, module and image have the debugger's invented names, as in its own verdicts of
    that kind; the symbol stays, as the place where it showed, and the bucket, so that it can be compared.
    """
    if bug_check is not None and buckets.asked_for(bug_check.code):
        return replace(verdict, suspect=None)
    invented = INVENTED.get(verdict.suspect or "")
    if invented is None or verdict.image_name == invented:
        return verdict
    followup = _CORRUPTION if invented == _CORRUPTION else verdict.followup
    return replace(verdict, module_name=invented, image_name=invented, followup=followup)


def _hardware(verdict: Verdict, judged: Plausibility, bug_check: BugCheck | None, vendor: str | None) -> Verdict:
    """No code raised the exception: the pseudo module that KD has for that, and its bucket where it has a word."""
    remains = judged.remains or HARDWARE
    certain = judged.debugger_word is not None or bool(judged.flips) or judged.outcome != "padding"
    reason = "the bytes in the dump rule the code out" if certain else "a stray jump can be a driver's doing, too"
    turned = turned_to(verdict, remains, judged.says, MEDIUM if certain else LOW, reason)
    turned = replace(turned, module_name=HARDWARE, image_name=HARDWARE, symbol_name=None, function_offset=None)
    if judged.debugger_word is None:
        return turned
    image = f"{vendor}.sys" if vendor and judged.debugger_word == IP_MISALIGNED else None
    special = buckets.special(judged.debugger_word, bug_check, image)
    bucket = special.bucket if special is not None else judged.debugger_word
    return replace(
        turned,
        symbol_name=judged.debugger_word,
        bucket=bucket,
        bucket_hash=buckets.failure_hash(bucket),
    )


def _capped(verdict: Verdict, most: str, reason: str) -> Verdict:
    if _LEVELS.index(verdict.confidence) <= _LEVELS.index(most):
        return verdict
    return replace(verdict, confidence=most, confidence_reason=reason)
