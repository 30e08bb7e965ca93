"""Rows of ``kdump.bugcheck``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.analysis.bugcheck import (
    BugCheck,
    RecordedBugCheck,
    describe,
    header_bug_check,
    mismatch,
    recorded_bug_check,
    why_no_bug_check,
)
from volatility3_kdump.errors import CorruptDump, KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.bugcheck import bugcheck_command, explanation
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, TEXT, Column, table

BUGCHECK = table(
    "kdump.bugcheck",
    Column("Item", TEXT, "the code, an argument, or what is said of them"),
    keys.VALUE(),
    keys.MEANING(),
    keys.SOURCE(),
)


def bug_check_grid(target: Target) -> KdumpGrid:
    """The bug check of a dump. Raises :class:`CorruptDump` when the header's code was never set."""
    bug_check = header_bug_check(target)
    recorded = recorded_bug_check(target)
    if bug_check is None:
        if target.header.container is not None:
            why = why_no_bug_check(target)
            return BUGCHECK.grid([_row("Code", None, why, _source(target))], lambda: [f"{why}."])
        offset = 0x38 if target.header.bits == 64 else 0x28
        raise CorruptDump(f"{target.name}: the bug check code at offset {offset:#x} of the dump header was never set")
    differing = mismatch(target, bug_check, recorded)

    def rows() -> Iterator[Row]:
        yield from _bug_check_rows(bug_check, _source(target))
        yield from _recorded_rows(target, recorded, differing)

    def kd_lines() -> Iterator[str]:
        yield from bugcheck_command(bug_check, target.memory.pointer_size)
        if differing:
            yield f"WARNING: {differing}"

    return BUGCHECK.grid(rows(), kd_lines)


def _source(target: Target) -> str:
    return target.header.source_of("bug_check_code") or "nt!KiBugCheckData"


def shown_bug_check(typed: Sequence[str]) -> KdumpGrid:
    """Any bug check explained, from hexadecimal words: code and up to four arguments, zero where left out."""
    numbers = [_number(word) for word in typed]
    bug_check = describe(numbers[0], [*numbers[1:], 0, 0, 0, 0][:4])
    return BUGCHECK.grid(_bug_check_rows(bug_check, "command line"), lambda: explanation(bug_check, 8))


def _number(word: str) -> int:
    try:
        value = int(word.replace("`", ""), 16)
    except ValueError:
        raise KdumpError(f"--show takes hexadecimal numbers, not {word!r}") from None
    if not 0 <= value < 1 << 64:
        raise KdumpError(f"--show takes numbers of 64 bits at most, not {word!r}")
    return value


def _row(what: str, value: object, meaning: object, source: str) -> Row:
    return BUGCHECK.row(0, Item=what, Value=value, Meaning=meaning, Source=source)


def _bug_check_rows(bug_check: BugCheck, source: str) -> Iterator[Row]:
    name = bug_check.name or "not a code that is publicly known"
    yield _row("Code", bug_check.raw_code, name, source)
    if bug_check.minidump_variant:
        meaning = "the same code without the bit that marks an exception's context in a small memory dump"
        yield _row("Base code", bug_check.code, meaning, source)
    for alias in bug_check.aliases:
        yield _row("Also named", BLANK, alias, "table")
    if bug_check.live:
        yield _row("Live dump", BLANK, "a live dump: the system was not stopped", "table")
    for what, sentence in (("Description", bug_check.text), ("This case", bug_check.variant)):
        if sentence:
            yield _row(what, BLANK, sentence, "table")
    for argument in bug_check.arguments:
        yield _row(f"Argument {argument.number}", argument.value, argument.text, source)


def _recorded_rows(target: Target, recorded: RecordedBugCheck, differing: str | None) -> Iterator[Row]:
    source = "nt!KiBugCheckData"
    if recorded.code is None:
        why = "not in the dump, or the kernel's symbols are not at hand"
        yield _row("Recorded by the kernel", None, why, source)
    else:
        own = target.header.container is not None
        meaning = differing or ("where the code is from" if own else "agrees with the dump header")
        yield _row("Recorded by the kernel", recorded.code, meaning, source)
    if recorded.driver is not None:
        yield _row("Driver blamed by the kernel", BLANK, recorded.driver, "nt!KiBugCheckDriver")
