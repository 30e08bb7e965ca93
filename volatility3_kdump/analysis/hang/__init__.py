"""Who holds up a machine that does not go on: the evidence by subject, and the verdict (KD: ``!analyze -hang``).

One function for each kind of evidence; what the dump cannot show says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.analysis.hang import evidence as subjects
from volatility3_kdump.analysis.hang.evidence import Evidence, Section, Suspicion
from volatility3_kdump.analysis.hang.memory import memory_section
from volatility3_kdump.analysis.hang.observed import Observed
from volatility3_kdump.analysis.hang.processors import (
    dpcs_section,
    processors_section,
    ready_section,
    spin_locks_section,
)
from volatility3_kdump.analysis.hang.requests import requests_section
from volatility3_kdump.analysis.hang.verdict import HangVerdict, judge
from volatility3_kdump.analysis.hang.waits import locks_section, stuck_section
from volatility3_kdump.analysis.hang.workers import timers_section, workers_section
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Bug checks that are raised because something does not go on; bits above 28 mark variants of small dumps.
_HANG_CODES = frozenset(
    (0x9F, 0xA0, 0x101, 0x102, 0x117, 0x119, 0x133, 0x141, 0x14F, 0x15F, 0x1A9, 0x1C8, 0x1CA, 0x1DB)
)
#: Bug checks that somebody asked for, and live dumps: they say nothing of what holds the machine up.
_ASKED_FOR = frozenset((0xE2, 0x161, 0xDEADDEAD, 0x15E))
_CODE = 0x0FFFFFFF

_SEARCHES: tuple[tuple[str, Callable[[Observed], Section]], ...] = (
    (subjects.PROCESSORS, processors_section),
    (subjects.SPIN_LOCKS, spin_locks_section),
    (subjects.READY, ready_section),
    (subjects.LOCKS, locks_section),
    (subjects.STUCK, stuck_section),
    (subjects.REQUESTS, requests_section),
    (subjects.WORKERS, workers_section),
    (subjects.MEMORY, memory_section),
    (subjects.TIMERS, timers_section),
    (subjects.DPCS, dpcs_section),
)


@dataclass(frozen=True)
class Hang:
    """The evidence by subject, and what it comes to."""

    sections: tuple[Section, ...]
    verdict: HangVerdict


def analyze_hang(target: Target, progress: Progress | None = None) -> Hang:
    """Look for everything that can hold a machine up."""
    observed = Observed(target, progress)
    sections = [_attempt(subjects.BUG_CHECK, _bug_check, observed)]
    sections += [_attempt(subject, search, observed) for subject, search in _SEARCHES]
    return Hang(tuple(sections), judge(sections))


def _attempt(subject: str, search: Callable[[Observed], Section], observed: Observed) -> Section:
    try:
        return search(observed)
    except KdumpError as error:
        prefix = f"{observed.target.name}: "
        return Section(subject, absent=str(error).removeprefix(prefix))


def _bug_check(observed: Observed) -> Section:
    """What the bug check says, where it is about something that does not go on."""
    check = header_bug_check(observed.target)
    if check is None or not check.code:
        return Section(subjects.BUG_CHECK, (Evidence("the machine has not crashed"),))
    name = f"{check.code:X} ({check.name})" if check.name else f"{check.code:X}"
    if check.code in _ASKED_FOR or check.code & _CODE in _ASKED_FOR:
        return Section(subjects.BUG_CHECK, (Evidence(f"bug check {name}: somebody asked for the dump"),))
    if check.code & _CODE not in _HANG_CODES:
        return Section(
            subjects.BUG_CHECK,
            (Evidence(f"bug check {name}: the machine crashed; !analyze says of what"),),
        )
    crash = analyze_crash(observed.target)
    verdict = crash.verdict
    suspicions: tuple[Suspicion, ...] = ()
    named = (verdict.suspect or verdict.module_name or "").lower()
    module = next(
        (module for module in observed.target.modules if named in (module.image_name.lower(), module.name.lower())),
        None,
    )
    why = verdict.confidence_reason or verdict.rule
    if module is not None and not verdict.all_microsoft:
        weight = {"high": 90, "medium": 75}.get(verdict.confidence, 50)
        thread = crash.reasoning.thread
        suspicions = (observed.suspect_driver(module, f"bug check {name} names it: {why}", weight, thread),)
    sentence = f"bug check {name}"
    if verdict.suspect:
        sentence += f" names {verdict.suspect}"
    return Section(
        subjects.BUG_CHECK,
        (Evidence(sentence, module=module.image_name if module is not None else None, suspicions=suspicions),),
    )
