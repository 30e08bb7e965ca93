"""Commands on code: ``u``, ``ub``, ``uf``, and the search in it, ``#``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.wildcards import Wildcard

_COUNT = re.compile(r"(?P<start>.*?)(?:^|\s+)L\s*\??(?P<count>[^\s]+)$", re.IGNORECASE)
_MOST_INSTRUCTIONS = 100_000
#: The most instructions that a search goes through.
_MOST_SEARCHED = 1_000_000
_SEARCHED = re.compile(r'("(?P<quoted>[^"]*)"|(?P<plain>\S+))?\s*(?P<rest>.*)$')


@command(
    "u",
    *("up", "uu"),
    help="disassembles; goes on where the last u ended",
    usage="[ADDRESS] [L[?] COUNT | END]",
    own=True,
    examples=(Example("u @rip L5", "five instructions"),),
    plugin="disasm",
)
def unassemble(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.analysis.code import instructions_between, instructions_from
    from volatility3_kdump.views.disasm import instructions_grid

    target, state = session.seen, session.state
    start, count, end = _code_range(session, arguments)
    if start is None:
        start = state.code if state.code is not None else _current_ip(session)
    if end is not None:
        instructions = instructions_between(target, start, end, _MOST_INSTRUCTIONS)
        ends = instructions[-1].address + instructions[-1].size if instructions else start
        count = len(instructions) + (ends < end)
    else:
        instructions = instructions_from(target, start, count)
        ends = instructions[-1].address + instructions[-1].size if instructions else start
    state.code = ends
    return instructions_grid(target, start, instructions, count).kd_lines()


@command(
    "ub",
    help="disassembles the instructions before an address",
    usage="[ADDRESS] [L COUNT]",
    own=True,
    examples=(Example("ub @rip"),),
    plugin="disasm",
)
def unassemble_before(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.disasm import disasm_grid

    start, count, end = _code_range(session, arguments)
    if end is not None:
        raise KdumpError("ub takes an address and L COUNT")
    if start is None:
        start = session.state.code if session.state.code is not None else _current_ip(session)
    return disasm_grid(session.seen, start, count, True).kd_lines()


@command(
    "uf",
    help="disassembles a whole function",
    usage="[/c | /i] [/D] [/o] [/O] [/m] [ADDRESS]",
    own=True,
    options=(
        Option("/c", "its calls alone"),
        Option("/i", "says how many instructions it has"),
        Option("/o /D /O /m", "accepted, as in KD: the order is by address, and there are no links"),
    ),
    examples=(Example("uf nt!KeBugCheckEx"), Example("uf /c nt!KeBugCheckEx", "what it calls")),
    plugin="disasm",
)
def unassemble_function(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.analysis.code import function_around, instructions_between, names_of
    from volatility3_kdump.text.disasm import calls, goal_of, is_call
    from volatility3_kdump.views.disasm import instructions_grid

    target = session.seen
    expression, letters = arguments.text, ""
    while match := re.match(r"/(\S+)\s*", expression):
        if match[1] not in ("c", "i", "D", "o", "O", "m"):
            raise arguments.unknown(f"/{match[1]}")
        letters, expression = letters + match[1], expression[match.end() :]
    address = session.evaluate(expression) if expression else _current_ip(session)
    extent = function_around(target, address)
    if extent is None:
        raise KdumpError(
            f"{target.name}: where the function at {address:#x} begins and ends is not known: "
            "it has no unwind data, or the dump does not hold it; u shows the code"
        )
    start, end = extent
    instructions = instructions_between(target, start, end, _MOST_INSTRUCTIONS)
    complete = bool(instructions) and instructions[-1].address + instructions[-1].size >= end
    if "c" in letters:
        made = [instruction for instruction in instructions if is_call(instruction)]
        places = {start, *(call.address for call in made), *(goal for goal in map(goal_of, made) if goal is not None)}
        names = names_of(target, places)
        yield from calls(start, made, names, target.memory.pointer_size)
        if not complete:
            yield "NOTE: the rest of its code is not in the dump"
        return
    if "i" in letters:
        yield f"{len(instructions)} instructions scanned"
    yield from instructions_grid(target, start, instructions, len(instructions) + (not complete)).kd_lines()


@command(
    "#",
    help="searches disassembly for text; goes on where the last search ended",
    usage='[PATTERN|"PATTERN"] [ADDRESS [L COUNT]]',
    own=True,
    examples=(Example("# call nt!KeBugCheckEx"), Example('# "mov*eax" @rip L100', "every one of 256 instructions")),
    plugin="disasm",
)
def search_code(session: Session, arguments: Arguments) -> Iterator[str]:
    """Address, bytes, mnemonic and operands are searched; without L up to the first that fits."""
    state = session.state
    match = _SEARCHED.match(arguments.text)
    pattern = (match["quoted"] or match["plain"]) if match else None
    begun = state.search is not None
    start, count = None, None
    if match is not None and match["rest"]:
        counted = _COUNT.fullmatch(match["rest"])
        if counted is not None:
            count = session.evaluate(counted["count"])
            if not 1 <= count <= _MOST_SEARCHED:
                raise KdumpError(f"# searches 1 to {_MOST_SEARCHED:x} instructions (hexadecimal), not {count:x}")
        place = counted["start"] if counted is not None else match["rest"]
        start = session.evaluate(place) if place else None
    before = state.search or ("", 0)
    pattern = before[0] if pattern is None else pattern
    start = (before[1] if begun else _current_ip(session)) if start is None else start
    state.search = pattern, start
    if not begun and (match is None or not match["rest"]):
        raise KdumpError("# needs an address the first time: # PATTERN ADDRESS")
    yield from _found(session, pattern, start, count)


def _found(session: Session, pattern: str, start: int, count: int | None) -> Iterator[str]:
    from volatility3_kdump.analysis.code import instructions_from, place_name, why_no_code
    from volatility3_kdump.text.registers import code_line

    target, wildcard = session.seen, Wildcard(f"*{pattern}*")
    address, left, matched = start, count or _MOST_SEARCHED, False
    while left > 0:
        batch = instructions_from(target, address, min(64, left))
        for instruction in batch:
            address = instruction.address + instruction.size
            session.state.search = pattern, address
            line = code_line(instruction)
            if wildcard.matches(line):
                matched = True
                yield f"{place_name(session.seen, instruction.address)}:"
                yield line
                if count is None:
                    return
        if not batch:
            if not matched:
                yield f"No match for '{pattern}' up to {address:x}: {why_no_code(target, address)}"
            return
        left -= len(batch)
    if not matched:
        yield f"No match for '{pattern}' in {count or _MOST_SEARCHED:x} instructions (hexadecimal)"


@command(
    ".fnent",
    help="the function table's entry for an address, and its unwind information",
    arguments=(number("ADDRESS", "in the function", required=True),),
    examples=(Example(".fnent nt!KeBugCheckEx"),),
)
def function_entry(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.analysis.function_entry import function_entries
    from volatility3_kdump.text.function_entry import entry_lines
    from volatility3_kdump.views.symbols import nearest_grid

    target, address = session.seen, arguments.number("ADDRESS") or 0
    entries = function_entries(target, address)
    yield from nearest_grid(target, address).kd_lines()
    for number_, entry in enumerate(entries):
        yield "Chained info:" if number_ else ""
        yield from entry_lines(entry)
        if number_ + 1 < len(entries):
            yield ""


def _current_ip(session: Session) -> int:
    context = session.current.registers
    if context is None or context.ip is None:
        raise KdumpError("the dump holds no registers: name an address")
    return context.ip


def _code_range(session: Session, arguments: Arguments) -> tuple[int | None, int, int | None]:
    """(start, number of instructions, end) of ``ADDRESS L5``, ``ADDRESS END`` or less."""
    operand_text = arguments.text
    match = _COUNT.fullmatch(operand_text)
    if match is not None:
        count = session.evaluate(match["count"])
        if not 1 <= count <= _MOST_INSTRUCTIONS:
            raise KdumpError(f"u shows 1 to {_MOST_INSTRUCTIONS:x} instructions (hexadecimal), not {count:x}")
        return (session.evaluate(match["start"]) if match["start"] else None), count, None
    operands = operand_text.split()
    if len(operands) == 2 and operands[1][0] not in "+-*/&|^<>=":
        start, end = map(session.evaluate, operands)
        if end < start:
            raise KdumpError(f"the range ends before it begins: {operand_text}")
        return start, 0, end + 1
    return (session.evaluate(operand_text) if operand_text else None), 8, None
