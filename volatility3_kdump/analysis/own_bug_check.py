"""Drivers that stop the system themselves: whose own code calls KeBugCheckEx, and with which code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump import tables
from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.reasoning import Finding, Reasoning
from volatility3_kdump.windows.stacks.frames import BUG_CHECK, SCAN, Stack

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

CALLER = "BUGCHECK_CALLER"
_KERNEL = ("nt", "hal")
#: Frames at the top that are the call of the bug check itself.
_MOST_CALLS = 4


def own_bug_check(
    target: Target, bug_check: BugCheck | None, stack: Stack, rules: OwnerRules, live: bool = False
) -> Reasoning:
    """What it means that a third party's driver called KeBugCheckEx: it found something, or it borrowed a code."""
    if bug_check is None or not stack.frames or live or buckets.asked_for(bug_check.code):
        return Reasoning()
    caller = None
    for frame in stack.frames[:_MOST_CALLS]:
        module = target.names.module_of(frame.ip)
        if module is None or frame.trust == SCAN:
            return Reasoning()
        if module.name.lower() not in _KERNEL:
            caller = frame, module
            break
        if frame.part != BUG_CHECK:
            return Reasoning()
    if caller is None or caller[0].number == 0 or rules.owner(caller[1].name, None).microsoft:
        return Reasoning()
    frame, module = caller
    record = tables.bug_check_record(bug_check.code)
    if record is None:
        said = "with a code of its own"
    elif buckets.startup_only(bug_check.code):
        said = "with a code that is not meant for drivers: Windows itself raises it only at start-up"
    else:
        said = "after a check of its own"
    place = target.name_of(frame.ip) or f"{frame.ip:#x}"
    return Reasoning(
        (Finding(CALLER, place, frame.ip, f"{module.image_name} called KeBugCheckEx"),),
        (f"{module.image_name} itself stopped the system, {said}.",),
    )
