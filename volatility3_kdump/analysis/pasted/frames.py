"""Rows of a stack in pasted text: ``k``, ``kb``, ``kn``, ``kv``, ``kf``, ``kc`` and STACK_TEXT, of 64 and 32 bits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

_ADDRESS64 = r"[0-9a-fA-F]{8}`?[0-9a-fA-F]{8}"
_ADDRESS32 = r"[0-9a-fA-F]{8}"
_MOST_FRAMES = 1024
_LONGEST_NAME = 1024

#: ``[nn] [memory] sp return [: arguments] : name`` and ``[nn] sp return name``.
_ROW64 = re.compile(
    rf"\s*(?:[0-9a-f]{{2,4}}\s+)?(?:[0-9a-f]{{1,8}}\s+)?(?P<sp>{_ADDRESS64})\s+(?P<ret>{_ADDRESS64})\s*(?P<rest>.*)$"
)
_ROW32 = re.compile(rf"\s*(?:[0-9a-f]{{2,4}}\s+)?(?P<sp>{_ADDRESS32})\s+(?P<ret>{_ADDRESS32})\s+(?P<rest>\S.*)$")
#: ``kb`` of 64 bits has no stack pointer, rows of some tools only that.
_ROW64_RETURN = re.compile(rf"\s*(?:[0-9a-f]{{2,4}}\s+)?(?P<ret>{_ADDRESS64})\s+(?P<rest>\S.*)$")
_INLINE = re.compile(r"\s*(?:[0-9a-f]{2,4}\s+)?(?:[0-9a-f]{1,8}\s+)?\(Inline(?: Function)?\)[-`\s]*(?P<rest>.*)$")
_ARGUMENTS = re.compile(rf"(?:\s*(?:{_ADDRESS64}|{_ADDRESS32}|\?+)){{1,4}}(?=\s|$)\s*")
_ELIDED = re.compile(r"\s*\.{3}\s*")
_NUMBERED = re.compile(r"\s*(?:\[?(?:0x)?[0-9a-f]{1,4}\]?:?\s+)?(?P<rest>\S.*)$", re.IGNORECASE)

_NAME = re.compile(
    r"(?P<module>[A-Za-z0-9_.$@?~-]{1,128})(?:!(?P<symbol>.{1,1024}?))?(?:\+0x(?P<offset>[0-9a-fA-F]{1,16}))?"
    r"(?:\(\))?$"
)
_PLACE = re.compile(r"(?:0x)?(?P<address>[0-9a-fA-F]{8}`?[0-9a-fA-F]{8}|[0-9a-fA-F]{8}|(?<=0x)[0-9a-fA-F]{1,16})$")
_UNLOADED = re.compile(r"<Unloaded_([^<>]{1,64}?)(?:\.(?:sys|SYS|dll|exe))?>")
#: What follows a name: its source line, 32-bit notes, a comment of whoever pasted it.
_TAIL = re.compile(
    r"\s+(?:\[[^\]]{0,400}(?:\]|$)|\((?:FPO|TrapFrame|CONV|Unloaded|No )[^)]{0,200}\)|;.*|\.{3}.*|//.*|<.*)$"
)


@dataclass(frozen=True)
class Row:
    """One row. ``module`` is ``None`` for a bare address, ``symbol`` where the row has only an offset into the module;
    ``returns_to`` is the row's return address, which lies in the frame below, ``arguments`` are those shown.
    """

    module: str | None
    symbol: str | None
    offset: int
    address: int | None
    stack_pointer: int | None
    returns_to: int | None
    arguments: tuple[int, ...] = ()
    unloaded: bool = False

    @property
    def name(self) -> str:
        stem = self.module if self.symbol is None else f"{self.module}!{self.symbol}"
        return f"{stem}+{self.offset:#x}" if self.module is not None else f"{self.address or 0:#x}"


def number(text: str) -> int:
    """A hexadecimal number with or without the debugger's backtick and 0x."""
    return int(text.replace("`", "").lower().removeprefix("0x") or "0", 16)


def row(line: str) -> Row | None:
    """A line with addresses as a row of a stack, ``None`` for every other line."""
    inline = _INLINE.match(line)
    if inline:
        return _named(_after_colon(inline["rest"]), None, None, ())
    matched = _ROW64.match(line)
    if matched:
        return _addressed(matched["rest"], number(matched["sp"]), number(matched["ret"]))
    matched = _ROW64_RETURN.match(line)
    if matched and (":" in matched["rest"] or "!" in matched["rest"] or "+0x" in matched["rest"]):
        return _addressed(matched["rest"], None, number(matched["ret"]))
    matched = _ROW32.match(line)
    if matched:
        return _addressed(matched["rest"], number(matched["sp"]), number(matched["ret"]))
    return None


def bare_row(line: str) -> Row | None:
    """A line that is only a name, as ``kc`` prints it and as writers shorten rows to."""
    if _ELIDED.match(line):
        line = _ELIDED.sub("", line, count=1)
    line = line.strip()
    if line.startswith(":"):
        line = line[1:].strip()
    matched = _NUMBERED.match(line)
    if not matched:
        return None
    for candidate in (matched["rest"], line):
        row = _named(candidate.split("   ")[0], None, None, ())
        if row is not None and row.module is not None and (row.symbol is not None or "+0x" in candidate):
            return row
    return None


def _addressed(rest: str, sp: int | None, returns_to: int | None) -> Row | None:
    arguments: tuple[int, ...] = ()
    remainder = rest.lstrip()
    if remainder.startswith(":"):
        remainder = remainder[1:].lstrip()
        shown = _ARGUMENTS.match(remainder)
        if shown:
            arguments = _numbers(shown[0])
            remainder = remainder[shown.end() :]
        remainder = _after_colon(remainder)
    else:
        shown = _ARGUMENTS.match(remainder)
        if shown and shown.end() < len(remainder):
            arguments = _numbers(shown[0])
            remainder = remainder[shown.end() :]
        remainder = _after_colon(remainder)
    return _named(remainder, sp, returns_to, arguments)


def _after_colon(line: str) -> str:
    """The name behind the last `` : `` of a row; symbols have ``::`` without spaces around it."""
    line = line.strip()
    _, colon, tail = line.rpartition(" : ")
    if colon:
        return tail.strip()
    return line[1:].strip() if line.startswith(":") and not line.startswith("::") else line


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(number(word) for word in text.split() if "?" not in word)


def _named(symbol_text: str, sp: int | None, returns_to: int | None, arguments: tuple[int, ...]) -> Row | None:
    symbol_text = symbol_text[:_LONGEST_NAME].strip()
    unloaded = symbol_text.startswith("<Unloaded_")
    if unloaded:
        symbol_text = _UNLOADED.sub(r"\1", symbol_text, count=1)
    for _ in range(4):
        shorter = _TAIL.sub("", symbol_text)
        if shorter == symbol_text:
            break
        symbol_text = shorter.rstrip()
    place = _PLACE.match(symbol_text)
    if place and (symbol_text.startswith("0x") or len(place["address"]) >= 8):
        return Row(None, None, 0, number(place["address"]), sp, returns_to, arguments)
    matched = _NAME.match(symbol_text)
    if not matched:
        return None
    module, symbol, offset = matched["module"], matched["symbol"], matched["offset"]
    if symbol is None and offset is None:
        return None
    if symbol is not None:
        symbol = symbol.strip()
        if (
            not symbol
            or symbol[0] in "=("
            or (offset is None and " " in symbol and "`" not in symbol and "<" not in symbol)
        ):
            return None
    return Row(module, symbol, int(offset or "0", 16), None, sp, returns_to, arguments, unloaded)


def with_addresses(rows: Sequence[Row], first: int | None = None) -> list[tuple[Row, int | None]]:
    """Each row with the address of its frame: the return address of the row above, ``first`` for the top one."""
    placed = []
    above = first
    for current in rows:
        placed.append((current, current.address if current.address is not None else above))
        above = current.returns_to
    return placed


_HEADER = re.compile(r"\s*(?:#\s+)?(?:Memory\s+)?(?:Child-SP|ChildEBP|RetAddr)\s.*|\s*#?\s*Call Site\s*$")
_FIELD = re.compile(r"[A-Z][A-Z0-9_]{3,40}:(?:\s|$)|Followup:|-{6,}|[0-9]{0,3}:? ?kd> ")


def stacks(lines: Sequence[str]) -> list[tuple[str, list[Row]]]:
    """Every stack in a text, with where it stands: ``STACK_TEXT`` or ``k``. Stacks of one row only count in
    STACK_TEXT."""
    sections: list[tuple[str, list[Row]]] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        if line.lstrip().startswith("STACK_TEXT:"):
            rows, index = _section(lines, index, line.split(":", 1)[1])
            sections.append(("STACK_TEXT", rows))
            continue
        if _HEADER.match(line):
            rows, index = _section(lines, index, "")
            sections.append(("k", rows))
            continue
        current = row(line)
        if current is not None and current.module is not None:
            rows, end = _section(lines, index - 1, "")
            if len(rows) > 1:
                sections.append(("k", rows))
            index = max(end, index + 1)
            continue
        bare = bare_row(line)
        if bare is not None and bare.symbol is not None:
            rows = list(_bare_run(lines, index))
            if len(rows) > 1:
                sections.append(("k", rows))
            index += max(len(rows), 1)
            continue
        index += 1
    return [(place, rows) for place, rows in sections if rows]


def _section(lines: Sequence[str], start: int, first: str) -> tuple[list[Row], int]:
    """The rows after a heading, to the next field, prompt, or four lines that are none."""
    rows: list[Row] = []
    misses = 0
    index = start + 1
    pending: Row | None = None
    if first.strip():
        only = row(first) or bare_row(first)
        rows += [only] if only is not None else []
    while index < len(lines) and len(rows) < _MOST_FRAMES:
        line = lines[index]
        stripped = line.strip()
        if _FIELD.match(stripped) and not stripped.startswith("WARNING:"):
            break
        if stripped:
            rest = _CONTINUED.match(line) if pending is not None else None
            current = bare_row(rest["rest"]) if rest else row(line) or bare_row(line)
            if current is not None:
                if pending is not None and (rest or current.returns_to is None):
                    # The name of a row that was broken into two lines.
                    current = replace(
                        current,
                        stack_pointer=pending.stack_pointer,
                        returns_to=pending.returns_to,
                        arguments=pending.arguments,
                    )
                rows.append(current)
                misses, pending = 0, None
            else:
                broken = _broken(line)
                pending = broken or pending
                misses += 0 if broken is not None or _passable(stripped) else 1
                if misses > 3:
                    break
        index += 1
    return rows, index


_BROKEN64 = re.compile(
    rf"\s*(?:[0-9a-f]{{2,4}}\s+)?(?P<sp>{_ADDRESS64})\s+(?P<ret>{_ADDRESS64})\s*:?(?P<args>(?:\s+{_ADDRESS64}){{0,4}})\s*:?\s*$"
)
_BROKEN32 = re.compile(
    rf"\s*(?:[0-9a-f]{{2,4}}\s+)?(?P<sp>{_ADDRESS32})\s+(?P<ret>{_ADDRESS32})(?P<args>(?:\s+{_ADDRESS32}){{0,3}})\s*$"
)

#: The rest of a row that was broken: arguments, a colon, the name.
_CONTINUED = re.compile(
    rf"\s*(?:(?:{_ADDRESS64}|{_ADDRESS32})\s+){{0,3}}:?\s*(?P<rest>[A-Za-z0-9_.$@?~-]+(?:!|\+0x).*)$"
)


def _broken(line: str) -> Row | None:
    """The first line of a row whose name is on the next one."""
    matched = _BROKEN64.match(line) or _BROKEN32.match(line)
    if not matched:
        return None
    return Row(None, None, 0, None, number(matched["sp"]), number(matched["ret"]), _numbers(matched["args"]))


def _passable(text: str) -> bool:
    return text.startswith(("WARNING:", "***", "Unable to load", "#", "Child", "RetAddr", "...", "```"))


def _bare_run(lines: Sequence[str], start: int) -> Iterator[Row]:
    for line in lines[start : start + _MOST_FRAMES]:
        current = bare_row(line) or row(line)
        if current is None:
            return
        yield current
