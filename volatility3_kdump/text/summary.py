"""The crash in plain words: what happened, where, who most probably did it, how sure that is, what to look at next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.windows.stacks.frames import SCAN

if TYPE_CHECKING:
    from volatility3_kdump.analysis.crash import Crash
    from volatility3_kdump.target import Target

_CONFIDENCE = {
    "high": "{image} is most probably to blame: {because}",
    "medium": "{image} is likely to blame, but not certainly: {because}",
    "low": "{image} is the best candidate, no more than a weak guess: {because}",
}
#: What the debugger's invented image names stand for.
_STANDS_FOR = {
    "memory_corruption": "Corrupted memory",
    "hardware": "The hardware",
    "GenuineIntel.sys": "The hardware",
    "AuthenticAMD.sys": "The hardware",
}


def summary(target: Target, crash: Crash) -> list[str]:
    """A few sentences, the most important first."""
    sentences = [_what(crash)]
    where = _where(target, crash)
    if where:
        sentences.append(where)
    sentences += crash.reasoning.sentences
    sentences.append(_who(crash))
    sentences += [f"Mind: {note}." for note in crash.notes]
    sentences.append(f"Next: {'; '.join(_next(target, crash))}.")
    return sentences


def _what(crash: Crash) -> str:
    bug_check = crash.bug_check
    if bug_check is None:
        return "The dump header does not say what happened: its bug check code was never set."
    name = bug_check.name or "a code that is not publicly known"
    action = "A live dump was taken" if bug_check.live else "The system stopped"
    meaning = f" {bug_check.variant or bug_check.text}" if bug_check.variant or bug_check.text else ""
    return f"{action} with bug check {bug_check.raw_code:X} ({name}).{meaning}"


def _where(target: Target, crash: Crash) -> str | None:
    parts = []
    failure = crash.failure
    if failure is not None and failure.at_fault and failure.context.ip is not None:
        parts.append(f"at {failure.name or hex(failure.context.ip)}")
    if crash.process is not None and crash.process.name:
        parts.append(f"in process {crash.process.name}")
    if crash.processor is not None:
        parts.append(f"on processor {crash.processor.number}")
    if failure is not None and failure.access and failure.address is not None:
        verb = {"read": "reading", "write": "writing", "execute": "executing"}[failure.access]
        parts.append(f"while {verb} {failure.address:#x}")
    return f"It happened {' '.join(parts)}." if parts else None


def _who(crash: Crash) -> str:
    verdict = crash.verdict
    image = verdict.suspect or verdict.image_name or verdict.module_name
    # The rule in full, with its line of triage.ini, stands in the verdict's own rows.
    because = verdict.rule.split(" (rule ")[0].split("; ")[0].rstrip(".")
    if verdict.all_microsoft:
        shown = f" It showed in {image}." if image and verdict.module_name != "nt" else ""
        return f"Every frame of the stack belongs to Windows itself: what caused the failure may have left none.{shown}"
    if image is None or verdict.confidence not in _CONFIDENCE:
        return f"No component can be named: {because}."
    reason = f" ({verdict.confidence_reason.rstrip('.')})" if verdict.confidence_reason else ""
    sentence = _CONFIDENCE[verdict.confidence].format(image=_STANDS_FOR.get(image, image), because=because)
    second = f" Next candidate: {verdict.runner_up}." if verdict.runner_up and image not in _STANDS_FOR else ""
    return f"{sentence}{reason}.{second}"


def _next(target: Target, crash: Crash) -> list[str]:
    """Commands of our own that show more of this crash."""
    commands = []
    if crash.failure is not None and crash.failure.at_fault:
        commands.append("kdump.trap for the registers")
    commands.append("kdump.stack for the whole stack")
    if any(frame.trust == SCAN for frame in crash.stack.frames):
        commands.append("--image-path with the drivers' files turns the stack scan into a real backtrace")
    if not target.has_names:
        commands.append(f"kernel symbols would tell more: {target.symbol_status}")
    elif crash.failure is not None and crash.failure.at_fault:
        commands.append("kdump.disasm for the code")
    return commands
