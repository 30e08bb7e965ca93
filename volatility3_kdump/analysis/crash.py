"""The whole analysis of one crash: what every view of it is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.bugcheck import (
    BugCheck,
    RecordedBugCheck,
    header_bug_check,
    mismatch,
    recorded_bug_check,
)
from volatility3_kdump.analysis.failure import Failure, find_failure
from volatility3_kdump.windows.processes import Process, Thread
from volatility3_kdump.windows.processors import Processor
from volatility3_kdump.windows.stacks import NoStack, Stack, context_start, crash_start

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class Crash:
    """An analysed crash. ``None`` parts are not in the dump; ``notes`` are contradictions found, one line each.

    ``stack`` is the backtrace of the failure: from the context record where an argument names one, else from the call
    that reported the bug check. It may be empty; its ``end`` then says why.
    """

    bug_check: BugCheck | None
    recorded: RecordedBugCheck
    processor: Processor | None
    thread: Thread | None
    process: Process | None
    failure: Failure | None
    stack: Stack
    notes: tuple[str, ...]


def analyze_crash(target: Target) -> Crash:
    """Analyse the crash of a dump."""
    bug_check = header_bug_check(target)
    recorded = recorded_bug_check(target)
    notes = []
    if bug_check is not None:
        differing = mismatch(target, bug_check, recorded)
        if differing:
            notes.append(differing)
    failure = find_failure(target, bug_check)
    if failure is not None and failure.operand_agrees is False:
        notes.append(
            f"the instruction accesses {failure.operand:#x}, but the bug check names {failure.address:#x}: "
            "one of the two is not what the processor saw"
        )
    return Crash(
        bug_check,
        recorded,
        target.crash_processor,
        target.crash_thread,
        target.crash_process,
        failure,
        _failure_stack(target, failure),
        tuple(notes),
    )


def _failure_stack(target: Target, failure: Failure | None) -> Stack:
    try:
        if failure is not None and failure.context_record is not None:
            return target.walker.walk(context_start(target, failure.context_record))
        return target.walker.walk(crash_start(target))
    except NoStack as error:
        return Stack((), str(error), False)
