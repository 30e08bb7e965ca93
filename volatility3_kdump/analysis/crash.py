"""The whole analysis of one crash: what every view of it is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.buckets import failure_facts
from volatility3_kdump.analysis.bugcheck import (
    BugCheck,
    RecordedBugCheck,
    header_bug_check,
    mismatch,
    recorded_bug_check,
    why_no_bug_check,
)
from volatility3_kdump.analysis.facts import Facts, gather_facts, version_of
from volatility3_kdump.analysis.failure import Failure, find_failure
from volatility3_kdump.analysis.own_bug_check import own_bug_check
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.plausibility import Plausibility, plausibility
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import Case, Reasoning
from volatility3_kdump.analysis.stack_entries import entry_at, stack_entries
from volatility3_kdump.analysis.verdict import Verdict, decide, no_verdict
from volatility3_kdump.analysis.weighing import weighed
from volatility3_kdump.dump.cpuid import processor_identity
from volatility3_kdump.windows.machine.processors import Processor
from volatility3_kdump.windows.processes.crashed import crash_process, crash_processor, crash_thread
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.threads import Thread, read_thread
from volatility3_kdump.windows.stacks.frames import Stack
from volatility3_kdump.windows.stacks.starts import context_start, crash_start, task_start, thread_start
from volatility3_kdump.windows.stacks.switched import DPC, INTERRUPT, interruption
from volatility3_kdump.windows.stacks.walker import walker

if TYPE_CHECKING:
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.symbols.lines import SourceLine
    from volatility3_kdump.target import Target


#: What a processor did that is not its thread's, by the kind of stack that it was on.
_INTERRUPTED = {
    DPC: "while a DPC ran",
    INTERRUPT: "while an interrupt was handled",
    "idle": "while the processor was idle",
}


@dataclass(frozen=True)
class Crash:
    """An analysed crash. ``None`` parts are not in the dump; ``notes`` are contradictions found, one line each.

    ``thread`` and ``process`` are those that the crash is about: the crashing ones unless the bug check names others.
    ``stack`` is the backtrace of the failure: of the thread that the bug check names, from the context record where an
    argument names one, else from the call that reported the bug check. It may be empty; its ``end`` then says why.
    ``image_version`` is that of the image held responsible. ``plausibility`` says whether the instruction that failed
    explains the exception, ``None`` where the dump does not tell. ``interrupted`` says on which stack the system was
    stopped where that is none of the thread's: process and thread are then only what the processor had been running.
    ``no_bug_check`` is the sentence that says why there is no bug check. ``crashed`` is false for an image of a machine
    that runs: then nobody is to blame, and what is shown is what its first processor does.
    ``faulting_module`` is the base of the module blamed where something else than a frame of the stack names it.
    """

    bug_check: BugCheck | None
    recorded: RecordedBugCheck
    processor: Processor | None
    thread: Thread | None
    process: Process | None
    failure: Failure | None
    stack: Stack
    reasoning: Reasoning
    verdict: Verdict
    facts: Facts
    image_version: str | None
    notes: tuple[str, ...]
    plausibility: Plausibility | None = None
    interrupted: str | None = None
    no_bug_check: str | None = None
    crashed: bool | None = True
    faulting_module: int | None = None

    @property
    def source(self) -> SourceLine | None:
        """The source line of the frame that is blamed; ``None`` where none is, or its symbols have no lines."""
        number = self.verdict.frame
        return self.stack.frames[number].line if number is not None and 0 <= number < len(self.stack.frames) else None


def analyze_crash(target: Target, rules: OwnerRules | None = None) -> Crash:
    """Analyse the crash of a dump; ``rules`` choose the culprit, by default the shipped ones."""
    bug_check = header_bug_check(target)
    recorded = recorded_bug_check(target)
    notes: list[str] = []
    if bug_check is not None:
        differing = mismatch(target, bug_check, recorded)
        if differing:
            notes.append(differing)
    failure = find_failure(target, bug_check)
    reasoning = reason(Case(target, bug_check, failure)) if bug_check is not None else Reasoning()
    notes += [note for note in reasoning.notes if note not in notes]
    rules = rules or OwnerRules.load()
    notes += rules.problems
    thread = read_thread(target, reasoning.thread) if reasoning.thread else crash_thread(target)
    stack = _stack(target, failure, reasoning.thread)
    facts = failure_facts(target, failure)
    reasoning += own_bug_check(target, bug_check, stack, rules, facts.live or bool(bug_check and bug_check.live))
    judged = plausibility(target, bug_check, failure)
    identity = processor_identity(target.dump.source, target.dump.tagged)
    decided = decide(
        bug_check,
        facts,
        stack_entries(target, stack),
        reasoning,
        rules,
        lambda address: entry_at(target, address),
    )
    verdict = weighed(decided, judged, failure, bug_check, notes, identity.vendor if identity else None)
    if target.header.crashed is False:
        verdict = no_verdict("the machine has not crashed")
    blamed = next((module for module in target.modules if module.name == verdict.module_name), None)
    named = blamed if verdict.frame is None else None
    return Crash(
        bug_check,
        recorded,
        crash_processor(target),
        thread,
        _process(target, reasoning, thread),
        failure,
        stack,
        reasoning,
        verdict,
        gather_facts(target, failure, thread.address if thread else None),
        version_of(target, blamed),
        tuple(notes),
        judged,
        None if reasoning.thread else _interrupted(target),
        None if bug_check is not None else why_no_bug_check(target),
        target.header.crashed,
        named.base if named is not None and named.name != "nt" else None,
    )


def _interrupted(target: Target) -> str | None:
    """What the processor did that is not the thread's; ``None`` where the bug check was raised by the thread itself."""
    interrupted = interruption(target)
    return None if interrupted is None else _INTERRUPTED.get(interrupted.kind, interrupted.reason)


def _process(target: Target, reasoning: Reasoning, thread: Thread | None) -> Process | None:
    """The process that the debugger names: that of the thread held responsible."""
    crashed = crash_thread(target)
    if reasoning.thread and (crashed is None or reasoning.thread != crashed.address):
        # The process that noticed is not that of the thread.
        return read_process(target, thread.process) if thread is not None and thread.process else None
    return crash_process(target)


def _stack(target: Target, failure: Failure | None, thread: int | None) -> Stack:
    if thread:
        return walker(target).walk_from(thread_start, thread)
    if failure is not None and failure.context_record is not None:
        return walker(target).walk_from(context_start, failure.context_record)
    if failure is not None and failure.task_state is not None:
        return walker(target).walk_from(task_start, failure.task_state)
    return walker(target).walk_from(crash_start)


def crash_modules(target: Target) -> list[Module]:
    """The kernel, and the modules on the stack of the crash and of its fault, in load order."""
    crash = analyze_crash(target)
    places = [frame.ip for frame in crash.stack.frames]
    if crash.failure is not None and crash.failure.context.ip is not None:
        places.append(crash.failure.context.ip)
    kernel = target.kernel
    return [
        module
        for module in target.modules
        if (kernel is not None and module.base == kernel.base)
        or any(module.base <= place < module.end for place in places)
    ]
