"""Bug checks: what a code and its four arguments mean, and what the kernel itself recorded.

The table is ``symbols/kdump/bugchecks.jsonl``, one code a line: name, meaning, arguments and their kinds, values of
enumerated arguments, and variants that one argument selects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: In small memory dumps the kernel sets this bit when it replaced the header's context by that of the exception.
MINIDUMP_VARIANT = 0x10000000


@dataclass(frozen=True)
class Argument:
    """One of the four arguments: its number, value (``None`` if never set), what it means for this code, and what this
    value means where the argument is an enumeration. ``None`` meanings are not documented. ``kind`` names what the
    argument is, where that is more than a number: one of the names in ``analysis/arguments.py``."""

    number: int
    value: int | None
    meaning: str | None
    value_meaning: str | None
    kind: str | None = None

    @property
    def text(self) -> str | None:
        """The meaning, with that of the value behind it."""
        if self.meaning and self.value_meaning:
            return f"{self.meaning}: {self.value_meaning}"
        return self.meaning or self.value_meaning


@dataclass(frozen=True)
class BugCheck:
    """A bug check explained.

    ``raw_code`` is the header's value, ``code`` the one that the arguments follow (without the minidump bit). ``name``
    is ``None`` for codes that no table knows. ``text`` says what the code means, ``variant`` what this combination of
    arguments adds. ``live`` marks codes of live dumps, where the system did not stop. ``kd_text`` and ``kd_arguments``
    are the debugger's own words where they are known.
    """

    raw_code: int
    code: int
    name: str | None
    aliases: tuple[str, ...]
    text: str | None
    variant: str | None
    arguments: tuple[Argument, ...]
    live: bool
    kd_text: tuple[str, ...]
    kd_arguments: tuple[str | None, ...]

    @property
    def minidump_variant(self) -> bool:
        """Whether the raw code carries the bit that small memory dumps add."""
        return self.raw_code != self.code


def describe(code: int, parameters: Sequence[int | None]) -> BugCheck:
    """Explain a bug check code with its arguments (missing ones count as not set)."""
    values = [*parameters, None, None, None, None][:4]
    raw = tables.bug_check_record(code)
    base = code
    if raw is not None and "same_as" in raw:
        base = int(raw["same_as"], 16)
    elif raw is None and code >> 28 == 1:
        base = code & ~MINIDUMP_VARIANT
    record = tables.bug_check_record(base) or {}
    name = (raw or record).get("name")
    chosen = _variant(record, values)
    meanings = _merge(record, chosen)
    value_tables: Mapping[str, Mapping[str, str]] = {**record.get("values", {}), **chosen.get("values", {})}
    arguments = []
    for number, (value, (meaning, kind)) in enumerate(zip(values, meanings, strict=True), 1):
        names = value_tables.get(str(number), {})
        value_meaning = None if value is None else _value_meaning(names, value)
        arguments.append(Argument(number, value, meaning, value_meaning, kind))
    kd_sentences = record.get("kd", {})
    return BugCheck(
        raw_code=code,
        code=base,
        name=name,
        aliases=tuple((raw or record).get("aliases", ())),
        text=record.get("text"),
        variant=chosen.get("text"),
        arguments=tuple(arguments),
        live=bool((raw or record).get("live")),
        kd_text=tuple(kd_sentences.get("text", ())),
        kd_arguments=tuple(kd_sentences.get("args", (None, None, None, None))),
    )


def known_codes() -> dict[int, str]:
    """Every code of the table and its name."""
    return {int(record["code"], 16): record["name"] for record in tables.json_lines(tables.BUG_CHECKS)}


def _variant(record: Mapping[str, Any], values: Sequence[int | None]) -> Mapping[str, Any]:
    """The first variant that fits; specific ones stand before general ones in the table."""
    key = values[record.get("key", 1) - 1]
    for variant in record.get("variants", ()):
        if key is None or not _matches(variant["when"], key):
            continue
        conditions = variant.get("and", {}).items()
        if all(_matches(wanted, values[int(number) - 1]) for number, wanted in conditions):
            chosen: Mapping[str, Any] = variant
            return chosen
    return {}


def _matches(wanted: Sequence[str], value: int | None) -> bool:
    """Whether a value is among hexadecimal values and ranges; symbolic entries have no public number and never fit."""
    if value is None:
        return False
    for entry in wanted:
        low, _, high = entry.partition("-")
        try:
            if int(low, 16) <= value <= int(high or low, 16):
                return True
        except ValueError:
            continue
    return False


def _value_meaning(meanings: Mapping[str, str], value: int) -> str | None:
    exact = meanings.get(f"{value:x}")
    if exact is not None:
        return exact
    return next((meaning for entry, meaning in meanings.items() if "-" in entry and _matches([entry], value)), None)


def _merge(general: Mapping[str, Any], special: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    """(meaning, kind) of each argument: those of a variant where it has a meaning, else those of the code."""
    merged = _meanings(general)
    for index, (meaning, kind) in enumerate(_meanings(special)):
        if meaning is not None:
            merged[index] = meaning, kind
    return merged


def _meanings(record: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    meanings = [*record.get("args", ()), None, None, None, None][:4]
    kinds = [*record.get("kinds", ()), None, None, None, None][:4]
    return list(zip(meanings, kinds, strict=True))


@dataclass(frozen=True)
class RecordedBugCheck:
    """What nt!KiBugCheckData and nt!KiBugCheckDriver hold; ``None`` where that is not in the dump."""

    code: int | None
    parameters: tuple[int, ...] | None
    driver: str | None


def recorded_bug_check(target: Target) -> RecordedBugCheck:
    """The kernel's own record of the bug check: five pointer-sized values, and the driver that it blames if any."""
    memory = target.memory
    width = memory.pointer_size
    address = target.variable("KiBugCheckData", "KiBugCheckData")
    data = memory.read(address, 5 * width) if address else None
    values = None if data is None else [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(5)]
    driver_variable = target.symbol("KiBugCheckDriver")
    driver = memory.pointer(driver_variable) if driver_variable else None
    name = memory.unicode_string(driver) if driver else None
    if values is None or values[0] == 0:
        return RecordedBugCheck(None, None, name or None)
    return RecordedBugCheck(values[0] & 0xFFFFFFFF, tuple(values[1:]), name or None)


def mismatch(target: Target, bug_check: BugCheck, recorded: RecordedBugCheck) -> str | None:
    """One line when the header and nt!KiBugCheckData disagree, ``None`` when they agree or one is absent."""
    if recorded.code is None or recorded.parameters is None:
        return None
    differing = []
    if recorded.code not in (bug_check.raw_code, bug_check.code):
        differing.append(f"code {bug_check.raw_code:#x} against {recorded.code:#x}")
    mask = (1 << 8 * target.memory.pointer_size) - 1
    for argument, value in zip(bug_check.arguments, recorded.parameters, strict=False):
        if argument.value is not None and argument.value & mask != value:
            differing.append(f"P{argument.number} {argument.value & mask:#x} against {value:#x}")
    if not differing:
        return None
    return f"the dump header and nt!KiBugCheckData disagree: {', '.join(differing)}"


def why_no_bug_check(target: Target) -> str:
    """Why there is no bug check to explain, in a sentence without its end."""
    header = target.header
    if header.container is None:
        return "The bug check code in the dump header was never set"
    if header.crashed is False:
        return "This machine has not crashed: nt!KiBugCheckData is zero in the memory image"
    if target.variable("KiBugCheckData", "KiBugCheckData") is None:
        return "Whether this machine has crashed is not known: nt!KiBugCheckData is not located without symbols"
    return "Whether this machine has crashed is not known: nt!KiBugCheckData is not in the memory image"


def header_bug_check(target: Target) -> BugCheck | None:
    """The header's bug check explained; ``None`` when its code was never set."""
    code = target.header.bug_check_code
    return None if code is None else describe(code, target.header.bug_check_parameters)
