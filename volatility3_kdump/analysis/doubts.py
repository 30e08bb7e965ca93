"""Why the stack of a crash may show nothing of its reason: what a bug check, or its arguments, say of that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.stack_entries import StackEntry

#: What stops the system, and how many frames that is.
_STOPS = re.compile(r"KeBugCheck|KiBugCheck(?!Dispatch)|DbgBreakPoint|RtlpBreakWithStatus", re.IGNORECASE)
_MOST_CALLS = 6


def doubt(
    bug_check: BugCheck | None, entries: Sequence[StackEntry], rules: OwnerRules, stopped_by: str | None = None
) -> Mapping[str, Any]:
    """The reason not to trust the stack (``uncertain``), whether it acquits all that is on it (``blameless``), and what
    is left to suspect (``remains``): for these arguments or for the code.

    ``stopped_by`` names the driver that called KeBugCheckEx, where more than the stack's names tells that. Nothing of
    it holds where a driver borrowed a code that Windows itself raises at start-up only, or has its own.
    """
    if bug_check is None:
        return {}
    startup, unknown = buckets.startup_only(bug_check.code), tables.bug_check_record(bug_check.code) is None
    if (startup or unknown) and (stopped_by is not None or _stopped_by_a_driver(entries, rules)):
        return {}
    if unknown:
        return {"uncertain": "what this code means is not known"}
    record = buckets.record_of(bug_check.code)
    for entry in record.get("doubts", ()):
        value = buckets.argument(bug_check, entry["argument"])
        if value is not None and f"{value & 0xFFFFFFFF:x}" in entry["values"]:
            conditional: Mapping[str, Any] = entry
            return conditional
    asked = buckets.asked_for(bug_check.code)
    return record if asked is None or "uncertain" in record else {"uncertain": asked, "blameless": True}


def _stopped_by_a_driver(entries: Sequence[StackEntry], rules: OwnerRules) -> bool:
    """Whether the caller of KeBugCheckEx is code of neither the kernel nor Windows."""
    for entry in entries[:_MOST_CALLS]:
        if not entry.trusted or entry.module is None:
            return False
        if entry.module.lower() == "nt" and _STOPS.match(entry.symbol or ""):
            continue
        return entry.module.lower() not in ("nt", "hal") and not rules.owner(entry.module, None).microsoft
    return False
