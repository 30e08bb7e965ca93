"""Callbacks that drivers have registered for a bug check: KBUGCHECK_CALLBACK_RECORD and its variant with a reason.

Public symbols do not describe these structures of ``wdm.h``; drivers are compiled against them, so that
they do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_RECORDS = 4096
#: KBUGCHECK_CALLBACK_REASON of ``wdm.h``.
_REASONS = (
    *("KbCallbackInvalid", "KbCallbackReserved1", "KbCallbackSecondaryDumpData", "KbCallbackDumpIo"),
    *("KbCallbackAddPages", "KbCallbackSecondaryMultiPartDumpData", "KbCallbackRemovePages"),
    "KbCallbackTriageDumpData",
)


@dataclass(frozen=True)
class BugCheckCallback:
    """A record: ``reason`` is empty for a plain callback, which has a buffer of ``length`` bytes."""

    address: int
    routine: int | None
    symbol: str | None
    component: str | None
    reason: str
    buffer: int | None = None
    length: int | None = None


def bug_check_callbacks(target: Target, problems: list[str]) -> Iterator[BugCheckCallback]:
    """The records of both lists. Raises :class:`KdumpError` without symbols; what is wrong goes to ``problems``."""
    require_symbols(target, "bug check callbacks", names=True)
    size = target.memory.pointer_size
    for name, with_reason in (("KeBugCheckCallbackListHead", False), ("KeBugCheckReasonCallbackListHead", True)):
        head = target.symbol(name)
        if head is None:
            raise KdumpError(f"{target.name}: the symbols do not have {name}")
        if not target.memory.pointer(head):
            problems.append(f"{name} is not in the dump")
            continue
        walk = walk_list(target.memory, head, _MOST_RECORDS, name)
        problems += walk.problems
        for entry in walk.entries:
            yield _record(target, entry, size, with_reason)


def _record(target: Target, entry: int, size: int, with_reason: bool) -> BugCheckCallback:
    memory = target.memory
    routine = memory.pointer(entry + 2 * size)
    symbol = target.name_of(routine) if routine else None
    if with_reason:
        # LIST_ENTRY, routine, component, checksum, reason, state
        component, reason = memory.pointer(entry + 3 * size), memory.unsigned(entry + 5 * size, 4)
        named = "?" if reason is None else _REASONS[reason] if reason < len(_REASONS) else f"{reason:x}"
        return BugCheckCallback(entry, routine, symbol, _text(target, component), named)
    # LIST_ENTRY, routine, buffer, length, component, checksum, state
    buffer, length = memory.pointer(entry + 3 * size), memory.unsigned(entry + 4 * size, 4)
    component = memory.pointer(entry + 5 * size)
    return BugCheckCallback(entry, routine, symbol, _text(target, component), "", buffer, length)


def _text(target: Target, address: int | None) -> str | None:
    return target.memory.c_string(address) if address else None
