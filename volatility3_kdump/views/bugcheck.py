"""Rows of ``kdump.bugcheck``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3.framework.renderers import format_hints

from volatility3_kdump.analysis.bugcheck import (
    BugCheck,
    RecordedBugCheck,
    describe,
    header_bug_check,
    mismatch,
    recorded_bug_check,
)
from volatility3_kdump.errors import CorruptDump, KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.bugcheck import bugcheck_command, explanation
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address, text

_COLUMNS = [("Item", str), ("Value", format_hints.Hex), ("Meaning", str), ("Source", str)]


def bug_check_grid(target: Target) -> KdumpGrid:
    """The bug check of a dump. Raises :class:`CorruptDump` when the header's code was never set."""
    bug_check = header_bug_check(target)
    recorded = recorded_bug_check(target)
    if bug_check is None:
        offset = 0x38 if target.header.bits == 64 else 0x28
        raise CorruptDump(f"{target.name}: the bug check code at offset {offset:#x} of the dump header was never set")
    differing = mismatch(target, bug_check, recorded)

    def rows() -> Iterator[Row]:
        yield from _bug_check_rows(bug_check, "dump header")
        yield from _recorded_rows(target, recorded, differing)

    def kd_lines() -> Iterator[str]:
        yield from bugcheck_command(bug_check, target.memory.pointer_size)
        if differing:
            yield f"WARNING: {differing}"

    return KdumpGrid(_COLUMNS, rows(), kd_lines)


def shown_bug_check(words: Sequence[str]) -> KdumpGrid:
    """Any bug check explained, from hexadecimal words: code and up to four arguments, zero where left out."""
    numbers = [_number(word) for word in words]
    bug_check = describe(numbers[0], [*numbers[1:], 0, 0, 0, 0][:4])
    return KdumpGrid(_COLUMNS, _bug_check_rows(bug_check, "command line"), lambda: explanation(bug_check, 8))


def _number(word: str) -> int:
    try:
        value = int(word.replace("`", ""), 16)
    except ValueError:
        raise KdumpError(f"--show takes hexadecimal numbers, not {word!r}") from None
    if not 0 <= value < 1 << 64:
        raise KdumpError(f"--show takes numbers of 64 bits at most, not {word!r}")
    return value


def _bug_check_rows(bug_check: BugCheck, source: str) -> Iterator[Row]:
    name = bug_check.name or "not a code that is publicly known"
    yield 0, ("Code", format_hints.Hex(bug_check.raw_code), name, source)
    if bug_check.minidump_variant:
        meaning = "the same code without the bit that marks an exception's context in a small memory dump"
        yield 0, ("Base code", format_hints.Hex(bug_check.code), meaning, source)
    for alias in bug_check.aliases:
        yield 0, ("Also named", absent(), alias, "table")
    if bug_check.live:
        yield 0, ("Live dump", absent(), "a live dump: the system was not stopped", "table")
    for what, words in (("Description", bug_check.text), ("This case", bug_check.variant)):
        if words:
            yield 0, (what, absent(), words, "table")
    for argument in bug_check.arguments:
        yield 0, (f"Argument {argument.number}", address(argument.value), text(argument.text), source)


def _recorded_rows(target: Target, recorded: RecordedBugCheck, differing: str | None) -> Iterator[Row]:
    source = "nt!KiBugCheckData"
    if recorded.code is None:
        why = "not in the dump, or the kernel's symbols are not at hand"
        yield 0, ("Recorded by the kernel", address(None), why, source)
    else:
        meaning = differing or "agrees with the dump header"
        yield 0, ("Recorded by the kernel", format_hints.Hex(recorded.code), meaning, source)
    if recorded.driver is not None:
        yield 0, ("Driver blamed by the kernel", absent(), recorded.driver, "nt!KiBugCheckDriver")
