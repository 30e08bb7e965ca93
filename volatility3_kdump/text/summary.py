"""The crash in plain words: what happened, where, who most probably did it, how sure that is, what to look at next.

At most six lines, each one statement; none says again what another has said, and none contradicts a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.analysis import plausibility
from volatility3_kdump.analysis.buckets import INCONCLUSIVE, UNKNOWN_IMAGE, asked_for
from volatility3_kdump.analysis.reasoning import Topic, topic_of
from volatility3_kdump.text.analyze import nobody
from volatility3_kdump.windows.stacks.frames import SCAN

if TYPE_CHECKING:
    from volatility3_kdump.analysis.crash import Crash

MOST_LINES = 6
#: Who it was, and what to look at next.
_LAST_LINES = 2

_CONFIDENCE = {
    "high": "{suspect} is most probably to blame",
    "medium": "{suspect} is likely to blame, but not certainly",
    "low": "{suspect} is the best candidate, but no more than a weak guess",
}
#: What the debugger's invented image names, and the words for what remains, stand for.
_STANDS_FOR = {
    "memory_corruption": "corrupted memory",
    "hardware": "the hardware (processor or memory)",
    "memory": "the memory",
    "processor": "the processor",
    "hypervisor": "the hypervisor",
    "disk": "the disk or the way to it",
    "GenuineIntel.sys": "the hardware",
    "AuthenticAMD.sys": "the hardware",
}

#: MANUALLY_INITIATED_CRASH: whoever asked for the dump as a rule did so because the machine hung.
_MANUAL = 0xE2
#: Sentences that say which address was accessed.
_ACCESSES = (Topic.ACCESS, Topic.FETCH, Topic.REPORTED, Topic.OPERAND)
#: What a code or its arguments alone can leave to suspect.
_BY_THE_CODE = (plausibility.MEMORY, plausibility.PROCESSOR, "hypervisor", "disk")


def summary(crash: Crash, named: bool) -> list[str]:
    """A few sentences, the most important first. ``named`` says that the kernel's symbols are at hand."""
    first = [_what(crash)]
    judged = _judged(crash)
    if judged:
        first.append(judged)
    where = _where(crash)
    if where:
        first.append(where)
    room = MOST_LINES - len(first) - _LAST_LINES
    between = [*crash.reasoning.sentences, *(f"Mind: {note}." for note in crash.notes)]
    said = [_unsaid(sentence, first) for sentence in between if _adds(crash, sentence)]
    lines = [*first, *(said or _meaning(crash))[:room]]
    return [*lines, _who(crash, lines), f"Next: {'; '.join(_next(crash, named))}."]


def _told(text: str, lines: list[str]) -> bool:
    """Whether one of the lines has said something already."""
    return any(text.lower() in line.lower() for line in lines)


def _unsaid(sentence: str, lines: list[str]) -> str:
    """A sentence without the reason behind its colon where a line has said that already."""
    head, colon, reason = sentence.rpartition(": ")
    return f"{head}." if colon and _told(reason.rstrip("."), lines) else sentence


def _what(crash: Crash) -> str:
    bug_check = crash.bug_check
    if bug_check is None:
        return f"{crash.no_bug_check}."
    name = bug_check.name or "a code that is not publicly known"
    code = f"bug check {bug_check.raw_code:X} ({name})"
    if crash.facts.live:
        return f"The system was not stopped: a live dump was taken, with {code}."
    return f"The system stopped with {code}."


def _meaning(crash: Crash) -> list[str]:
    """What the code and its arguments mean, for crashes of which nothing else can be told."""
    bug_check = crash.bug_check
    if bug_check is None or crash.plausibility is not None:
        return []
    meaning = bug_check.variant or bug_check.text
    # A summary's line is one statement.
    lines = [f"{meaning.split('. ', maxsplit=1)[0].rstrip('.')}."] if meaning else []
    kind = bug_check.arguments[0]
    if bug_check.variant is None and kind.value is not None and (kind.text or "").startswith("kind of "):
        lines.append(f"Its kind (argument 1) is {kind.value:x}, whose meaning is not published.")
    return lines


def _judged(crash: Crash) -> str | None:
    """What the instruction that failed says of the exception, where that is more than that it explains it."""
    judged = crash.plausibility
    if judged is None:
        return None
    if judged.outcome in (plausibility.CONTRADICTED, plausibility.LEGAL):
        return f"The instruction cannot have caused this: {judged.says}."
    if judged.outcome in (None, plausibility.EXPLAINED):
        if judged.flips:
            return f"Mind one bit: {judged.flips[0].says}."
        return f"The instruction {judged.says}." if _leads_nowhere(crash) else None
    if judged.instruction is not None and judged.says.startswith(judged.instruction):
        return f"The instruction {judged.says}."
    return f"{judged.says[0].upper()}{judged.says[1:]}."


def _leads_nowhere(crash: Crash) -> bool:
    """Whether the address that the processor could not report is known from the instruction."""
    judged = crash.plausibility
    return judged is not None and judged.outcome == plausibility.EXPLAINED and "not canonical" in judged.says


def _where(crash: Crash) -> str | None:
    failure = crash.failure
    parts = []
    if failure is not None and failure.at_fault and failure.context.ip is not None:
        parts.append(f"at {failure.name or hex(failure.context.ip)}")
    process = crash.process.name if crash.process is not None else None
    if process and crash.interrupted is None:
        parts.append(f"in process {process}")
    if crash.processor is not None:
        parts.append(f"on processor {crash.processor.number}")
    if failure is not None and failure.access and failure.address is not None and not _access_is_told(crash):
        verb = {"read": "reading", "write": "writing", "execute": "executing"}[failure.access]
        parts.append(f"while {verb} {failure.address:#x}")
    if crash.reasoning.thread:
        # The processor that noticed is not where the thread that the bug check is about ran.
        noticed = f"It was noticed on processor {crash.processor.number}" if crash.processor is not None else "It"
        joint = "; it is about" if crash.processor is not None else " is about"
        return f"{noticed}{joint} thread {crash.reasoning.thread:x}{f' of process {process}' if process else ''}."
    if not parts:
        return None
    if crash.crashed is False:
        return f"What is shown is what ran {' '.join(parts)}."
    interrupted = ""
    if crash.interrupted is not None:
        interrupted = f", {crash.interrupted}"
        if process:
            interrupted += f": process {process} was only interrupted"
    what = "The dump was taken" if crash.facts.live else "It happened"
    return f"{what} {' '.join(parts)}{interrupted}."


def _access_is_told(crash: Crash) -> bool:
    """Whether a sentence of the rules says which address was accessed, with what lies there."""
    told = any(topic_of(sentence) in _ACCESSES and _adds(crash, sentence) for sentence in crash.reasoning.sentences)
    judged, failure = crash.plausibility, crash.failure
    if judged is not None and judged.acquits:
        return failure is not None and failure.address is not None and f"{failure.address:#x}" in judged.says
    return told


def _adds(crash: Crash, sentence: str) -> bool:
    """Whether a sentence of the rules still holds and says more than the lines around it."""
    judged = crash.plausibility
    failure = crash.failure
    topic = topic_of(sentence)
    if judged is not None and judged.outcome == plausibility.NOWHERE:
        return topic not in (Topic.POINTER, Topic.FETCH)
    if judged is not None and judged.flips and failure is not None and failure.address is not None:
        if topic is Topic.UNMAPPED:
            return False
        # The flip names the address already, and what is wrong with it.
        if topic in (Topic.ACCESS, Topic.REPORTED) and f"{failure.address:#x}" in judged.flips[0].says:
            return False
    if topic is Topic.WRITER and failure is not None and failure.at_fault:
        return False
    if failure is not None and failure.unloaded is not None and failure.module is None:
        return topic not in (Topic.FETCH, Topic.UNLOADED)
    # Who made the access is not to be said where the instruction did not make it.
    if judged is not None and judged.acquits and failure is not None and failure.name:
        return topic not in (Topic.ACCESS, Topic.CODE, Topic.REPORTED, Topic.NO_ADDRESS, Topic.OPERAND)
    if _leads_nowhere(crash) or (judged is not None and judged.outcome == plausibility.UNEXPLAINED):
        return topic not in (Topic.NO_ADDRESS, Topic.OPERAND)
    return True


def _who(crash: Crash, lines: list[str]) -> str:
    verdict = crash.verdict
    if crash.crashed is False:
        return "No component is to blame: nothing has failed."
    asked = asked_for(crash.bug_check.code) if crash.bug_check is not None else None
    if asked is not None:
        return "No component is to blame." if _told(asked, lines) else nobody(asked)
    suspect = verdict.suspect
    if verdict.symbol_name == INCONCLUSIVE or suspect is None or suspect == UNKNOWN_IMAGE:
        return f"No component can be named: {_short(verdict.rule).removeprefix('nobody can be blamed: ')}."
    judged = crash.plausibility
    if judged is not None and judged.outcome == plausibility.UNEXPLAINED:
        showed = f", not {verdict.runner_up}, where it showed" if verdict.runner_up else ""
        return f"Suspect a hypervisor or the hardware{showed} (confidence {verdict.confidence})."
    turned = judged is not None and (judged.acquits or judged.flips)
    if suspect in _STANDS_FOR and (turned or suspect in _BY_THE_CODE):
        showed = f", not {verdict.runner_up}, where it showed" if verdict.runner_up else ""
        return f"Suspect {_STANDS_FOR[suspect]}{showed} (confidence {verdict.confidence}: {verdict.confidence_reason})."
    if judged is not None and judged.outcome == plausibility.LACKS_FEATURE:
        return f"{suspect} does not suit this processor: {verdict.confidence_reason} (an older version may)."
    # Where the arguments name a part of Windows, or are sure of it, the stack is not what decided.
    if verdict.all_microsoft and verdict.confidence != "high" and not _by_argument(crash):
        shown = f"; {_showed(crash, suspect)}" if verdict.module_name != "nt" else ""
        return f"Every frame of the stack is Windows' own, so that the cause need not be on it{shown}."
    stated = _CONFIDENCE.get(verdict.confidence)
    if stated is None:
        return f"No component can be named: {_short(verdict.rule)}."
    named = _STANDS_FOR.get(suspect, suspect)
    sentence = stated.format(suspect=f"{named[0].upper()}{named[1:]}" if suspect in _STANDS_FOR else named)
    reasons = [_short(verdict.rule), verdict.confidence_reason.rstrip(".")]
    why = "; ".join(dict.fromkeys(reason for reason in reasons if reason and not _told(reason, lines)))
    return f"{sentence}: {why}." if why else f"{sentence}."


def _by_argument(crash: Crash) -> bool:
    """Whether neither a frame nor the instruction that failed is why a driver is named: what is left are arguments."""
    verdict = crash.verdict
    return verdict.frame is None and verdict.module_name not in ("nt", _failed_in(crash))


def _failed_in(crash: Crash) -> str | None:
    """The module of the instruction that failed."""
    failure = crash.failure
    return failure.module.name if failure is not None and failure.at_fault and failure.module is not None else None


def _showed(crash: Crash, suspect: str) -> str:
    """What a component of Windows has to do with the failure: the instruction is its own, or no more than a frame."""
    if crash.verdict.frame is None or _failed_in(crash) == crash.verdict.module_name:
        return f"it showed in {suspect}"
    return f"the first frame outside the kernel is that of {suspect}"


def _short(rule: str) -> str:
    """A verdict's rule without its line of triage.ini, which stands in the verdict's own rows."""
    return rule.split(" (rule ", maxsplit=1)[0].split("; ", maxsplit=1)[0].rstrip(".")


def _next(crash: Crash, named: bool) -> list[str]:
    """Commands of our own that show more of this crash."""
    commands = []
    if crash.failure is not None and crash.failure.at_fault:
        commands.append("kdump.trap for the registers")
    commands.append("kdump.stack for the whole stack")
    if crash.crashed is False:
        commands[-1:] = ["kdump.ready and kdump.stack --all-cpus for what runs", "kdump.hang for what holds it up"]
    if crash.bug_check is not None and crash.bug_check.code == _MANUAL:
        commands.append("kdump.hang for what holds the machine up")
    if any(frame.trust == SCAN for frame in crash.stack.frames):
        commands.append("--image-path with the drivers' files turns the stack scan into a real backtrace")
    if not named:
        commands.append("--symbol-path for names (the warning about symbols says which file)")
    elif crash.failure is not None and crash.failure.at_fault:
        commands.append("kdump.disasm for the code")
    return commands
