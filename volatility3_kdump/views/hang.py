"""Rows of ``kdump.hang``: the verdict, then the evidence by subject."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.analysis.hang import Hang, analyze_hang
from volatility3_kdump.analysis.hang.evidence import Evidence, Section
from volatility3_kdump.analysis.hang.verdict import HangVerdict, Suspect
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import stacks as stack_text
from volatility3_kdump.text.hang import hang_lines
from volatility3_kdump.text.waits import wait_line
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, NUMBER, SECONDS, Column, Missing, Part, Table
from volatility3_kdump.windows.listing.threads import stack_of
from volatility3_kdump.windows.stacks.frames import Stack

_FACT = Part[Evidence](
    "",
    keys.TEXT(lambda fact: fact.text, "the fact, the suspect, or what it is made of"),
    Column(
        "Weight",
        NUMBER,
        "how strongly it points at somebody, 0 to 100; of a suspect all that points at it",
        lambda fact: max((suspicion.weight for suspicion in fact.suspicions), default=None) or BLANK,
    ),
    Column(
        "Age",
        SECONDS,
        "how long it has been so, at least",
        lambda fact: BLANK if fact.age is None else fact.age,
    ),
    keys.COUNT(lambda fact: BLANK if fact.count is None else fact.count, "threads, requests, items or timers"),
    keys.THREAD(lambda fact: fact.thread or BLANK),
    keys.PROCESSOR(lambda fact: BLANK if fact.processor is None else fact.processor),
    keys.IMAGE(lambda fact: fact.module or BLANK, "the driver's"),
    keys.OBJECT(lambda fact: fact.object or BLANK, "the lock, request, queue or timer"),
    keys.NOTES(lambda fact: [f"points at {suspicion.who}: {suspicion.why}" for suspicion in fact.suspicions]),
)
HANG = Table(
    "kdump.hang",
    Part[Section]("", keys.TOPIC(lambda section: section.subject, "`verdict`, or what the evidence is about")),
    Part[object](
        "", keys.KIND(more="`suspect`, `reason`, `runner-up`, `confidence`, `none`; `fact`, `detail`, `frame`, `note`")
    ),
    _FACT,
)


def hang_grid(target: Target, verbose: bool = False, progress: Progress | None = None) -> KdumpGrid:
    """The verdict and its reasons, then a row for each fact, below it what it is made of; ``verbose`` adds stacks."""
    hang = analyze_hang(target, progress)
    return HANG.grid(
        _rows(target, hang, verbose), lambda: hang_lines(hang, _stack(target, hang), verbose, _size(target))
    )


def _size(target: Target) -> int:
    return target.memory.pointer_size


def _stack(target: Target, hang: Hang) -> Stack | None:
    suspect = hang.verdict.suspect
    return stack_of(target, suspect.thread) if suspect is not None and suspect.thread else None


def _rows(target: Target, hang: Hang, verbose: bool) -> Iterator[Row]:
    yield from _verdict_rows(hang.verdict)
    for section in hang.sections:
        if section.absent is not None:
            why = Missing(section.absent)
            yield HANG.row(0, Topic=section.subject, Kind="fact", Text=why, Notes=[section.absent])
            continue
        for fact in section.evidence:
            yield HANG.row(0, {_FACT: fact}, Topic=section.subject, Kind="fact")
            for line in (*fact.details, *(wait_line(wait) for wait in fact.waits)):
                yield HANG.row(1, Topic=section.subject, Kind="detail", Text=line)
            for frame in fact.stack.frames if verbose and fact.stack is not None else ():
                site = stack_text.call_site(frame, _size(target))
                yield HANG.row(1, Topic=section.subject, Kind="frame", Text=site)
        for note in section.notes:
            yield HANG.row(0, Topic=section.subject, Kind="note", Notes=[note])


def _verdict_rows(verdict: HangVerdict) -> Iterator[Row]:
    suspect = verdict.suspect
    if suspect is None:
        yield HANG.row(0, Topic="verdict", Kind="none", Text=verdict.sentence)
    else:
        yield _suspect_row(0, "suspect", suspect)
        for reason in suspect.reasons:
            yield HANG.row(1, Topic="verdict", Kind="reason", Text=reason)
    yield HANG.row(
        0,
        Topic="verdict",
        Kind="confidence",
        Text=verdict.confidence,
        Notes=[verdict.confidence_reason] if verdict.confidence_reason else BLANK,
    )
    if verdict.runner_up is not None:
        yield _suspect_row(0, "runner-up", verdict.runner_up)


def _suspect_row(level: int, kind: str, suspect: Suspect) -> Row:
    return HANG.row(
        level,
        Topic="verdict",
        Kind=kind,
        Text=suspect.who,
        Weight=suspect.weight,
        Thread=suspect.thread or BLANK,
        Image=suspect.module or BLANK,
        Notes=suspect.reasons[:1] if kind == "runner-up" else BLANK,
    )
