"""``!analyze -hang``: the evidence by subject, and the verdict; KD's tags where it has them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from volatility3_kdump.analysis.hang import Hang
from volatility3_kdump.analysis.hang.evidence import LOCKS, Evidence, Section
from volatility3_kdump.analysis.hang.verdict import HangVerdict, Suspect
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.bugcheck import box
from volatility3_kdump.text.stacks import stack_text
from volatility3_kdump.text.waits import wait_line
from volatility3_kdump.windows.stacks.frames import Stack

SCANNING = "Scanning for threads blocked on locks ..."
_WIDTH = 119
_MOST_THREADS = 16


def hang_lines(hang: Hang, suspect_stack: Stack | None, verbose: bool, size: int = 8) -> Iterator[str]:
    """The whole text; ``suspect_stack`` is that of the thread that the verdict names."""
    yield from box()
    yield SCANNING
    yield ""
    for section in hang.sections:
        yield from section_lines(section, verbose, size)
    yield from verdict_lines(hang.verdict)
    suspect = hang.verdict.suspect
    if suspect is None:
        return
    lock = next((fact.object for fact in _of(hang, LOCKS) if fact.thread == suspect.thread and fact.object), None)
    yield ""
    if lock:
        yield f"LOCK_ADDRESS:  {pointer(lock, size, tick=False)} -- (!locks {pointer(lock, size, tick=False)})"
        yield ""
    if suspect.thread:
        yield f"BLOCKING_THREAD:  {pointer(suspect.thread, size, tick=False)}"
        yield ""
    if suspect.module:
        yield f"IMAGE_NAME:  {suspect.module}"
        yield ""
    if suspect_stack is not None:
        yield "STACK_TEXT:  "
        yield from stack_text(suspect_stack, size)
        if not suspect_stack.complete:
            yield f"NOTE: the stack ends here: {suspect_stack.end}"


def _of(hang: Hang, subject: str) -> Iterator[Evidence]:
    for section in hang.sections:
        if section.subject == subject:
            yield from section.evidence


def section_lines(section: Section, verbose: bool, size: int = 8) -> Iterator[str]:
    """A subject with its facts. Without ``verbose`` it is left out where it has none, and stacks are not shown."""
    if section.absent is not None:
        yield from _wrapped(f"{section.subject.upper()}: not known: {section.absent}", "", "    ")
        yield ""
        return
    notes = section.notes if verbose or section.evidence else ()
    if not section.evidence and not notes:
        if verbose:
            yield f"{section.subject.upper()}: nothing unusual"
            yield ""
        return
    yield f"{section.subject.upper()}:"
    for fact in section.evidence:
        yield from _wrapped(fact.text, "    ", "        ")
        for line in fact.details:
            yield from _wrapped(line, "        ", "            ")
        for wait in fact.waits:
            yield f"        {wait_line(wait)}"
        if verbose and len(fact.threads) > 1:
            yield from _threads(fact.threads, size)
        if verbose and fact.stack is not None:
            yield from (f"        {line}" for line in stack_text(fact.stack, size))
    for note in notes:
        yield from _wrapped(f"NOTE: {note}", "    ", "        ")
    yield ""


def _threads(threads: tuple[int, ...], size: int) -> Iterator[str]:
    shown = " ".join(pointer(thread, size, tick=False) for thread in threads[:_MOST_THREADS])
    more = f" and {len(threads) - _MOST_THREADS} more" if len(threads) > _MOST_THREADS else ""
    yield from _wrapped(f"threads {shown}{more}", "        ", "            ")


def verdict_lines(verdict: HangVerdict) -> Iterator[str]:
    """Who it is, why, how sure that is, and who came second."""
    yield from _wrapped(f"VERDICT: {_capital(verdict.sentence)}.", "", "    ")
    if verdict.suspect is not None:
        yield from _reasons(verdict.suspect)
        yield from _wrapped(f"Confidence: {verdict.confidence}, {verdict.confidence_reason}.", "    ", "        ")
    if verdict.runner_up is not None:
        word = "Runner-up" if verdict.suspect is not None else "Weakly"
        yield from _wrapped(
            f"{word}: {verdict.runner_up.who} ({verdict.runner_up.weight} of 100): {verdict.runner_up.reasons[0]}.",
            "    ",
            "        ",
        )


def _reasons(suspect: Suspect) -> Iterator[str]:
    for reason in suspect.reasons:
        yield from _wrapped(f"Evidence: {reason}.", "    ", "        ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrapped(line: str, first: str, following: str) -> Iterator[str]:
    yield from textwrap.wrap(
        line,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )
