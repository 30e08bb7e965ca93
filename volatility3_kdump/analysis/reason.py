"""What a crash means: the rule of its bug check code, and the checks that every code gets."""

from __future__ import annotations

from dataclasses import replace

from volatility3_kdump.analysis import consistency, rules  # noqa: F401  (the rules register themselves)
from volatility3_kdump.analysis.reasoning import RULES, Case, Reasoning, attempt, contradicted
from volatility3_kdump.windows.processes.dispatcher import why_no_dispatcher


def reason(case: Case) -> Reasoning:
    """Run the rule of the case's code, and the checks that every code gets.

    A rule that fails leaves a note. Evidence of bad memory is stronger than what the rule found: its culprit and bucket
    prefix replace the rule's.
    """
    function = RULES.get(case.bug_check.code)
    ruled = attempt(lambda: function(case), f"bug check {case.bug_check.code:#x}") if function else Reasoning()
    checked = consistency.check(case)
    if checked.culprit is not None:
        ruled = replace(ruled, prefix=None, specifiers=(), culprit=None)
    return _without_others(case, ruled + checked)


def _without_others(case: Case, reasoning: Reasoning) -> Reasoning:
    """Without a thread or process that an argument names where no such object is."""
    for kind, address in (("thread", reasoning.thread), ("process", reasoning.process)):
        against = why_no_dispatcher(case.target, address, kind) if address else None
        if against is not None:
            note = contradicted(f"argument that names the {kind}: no {kind} at {address:#x}: {against}")
            notes = (*reasoning.notes, note)
            if kind == "thread":
                reasoning = replace(reasoning, thread=None, notes=notes)
            else:
                reasoning = replace(reasoning, process=None, notes=notes)
    return reasoning
