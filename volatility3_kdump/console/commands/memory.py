"""Commands over memory: ``d`` and its relatives, ``s``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import Range, TargetNames, parse_bounds, parse_first

_LETTERS = ("a", "b", "c", "d", "D", "f", "p", "q", "s", "S", "u", "w", "W", "yb", "yd")
_POINTED = tuple(f"{size}{what}" for size in "dpq" for what in "sapu")
_POINTERS = ("p", "ps", "pp", "pa", "pu")
_OPTION = re.compile(r"/(?:c\s*(?P<columns>[0-9]+)|p(?P<caching>\[(?:c|uc|wc)\])?)(?:\s+|$)")
_SEARCH = re.compile(r"-(\[(?P<flags>[^\]]*)\])?(?P<kind>s[au]|[bwdqau])(?=\s|$)\s*")
#: Flags in brackets, and those of KD that change nothing here.
_FLAGS = re.compile(r"1|l[0-9]+|[\s,]+")
_UNUSED = {
    "s": "results are not kept: .foreach goes through those of -[1]",
    "r": "results are not kept: the whole range is searched",
    "n": "results are never kept",
    "w": "pages that cannot be written are searched too",
}
_LEAST = re.compile(r"l([0-9]+)")


@command(
    "d",
    *(f"d{letters}" for letters in _LETTERS + _POINTED),
    help="memory as bytes, numbers, text, or pointers with symbols",
    usage="[/c COLUMNS] [/p] [ADDRESS [LCOUNT | END]]",
    own=True,
    options=(
        Option("/c", "how many in a line", value="COLUMNS"),
        Option("/p", "ADDRESS is a physical one; /p[c], /p[uc], /p[wc] are the same in a dump"),
    ),
    examples=(Example("dd @rsp L8"), Example("dps @rsp", "pointers with their symbols")),
    plugin="memory",
)
def display(session: Session, arguments: Arguments) -> Iterator[str]:
    """Without an address it goes on where the last one ended; ``d`` keeps its format."""
    from volatility3_kdump.views.memory import MemoryView

    state = session.state
    layout = arguments.name[1:] or state.data_format
    if state.machine == "x86" and layout in _POINTERS:
        layout = layout.replace("p", "d", 1)
    rest, columns, physical = arguments.text, None, False
    while match := _OPTION.match(rest):
        rest = rest[match.end() :]
        if match["columns"]:
            columns = int(match["columns"][:4])
        else:
            physical = True
    if rest.startswith("/"):
        raise arguments.unknown(rest.split()[0])
    if physical and session.target.physical_layer_name is None:
        raise KdumpError(f"{session.target.name}: a small memory dump holds no physical memory")
    if physical and layout in _POINTED:
        raise KdumpError(f"{arguments.name} /p: what is pointed to has no physical address: !d shows memory")
    wanted, rest = parse_bounds(rest, session.names, state.radix)
    if rest:
        raise KdumpError(f"Extra character error at '{rest[:40]}'")
    if wanted is None:
        wanted = Range(session.evaluate("$ip") if state.data is None else state.data)
    memory = session.target.physical_memory if physical else session.current.memory
    view = MemoryView(session.seen, wanted, layout, memory, columns)
    state.data_format = layout
    yield from view.lines()
    state.data = view.next
    if view.first is not None:
        state.variables["p"] = view.first


@command(
    "s",
    help="searches memory for bytes, numbers or text",
    usage='[-[FLAGS]b|w|d|q|a|u|sa|su] ADDRESS LCOUNT|END PATTERN|"TEXT"',
    own=True,
    options=(
        Option("-b -w -d -q", "for numbers of 1, 2, 4, 8 bytes"),
        Option("-a -u", "for text, for UTF-16 text"),
        Option("-sa -su", "for all texts; -[l5]sa for those of 5 characters or more"),
        Option("-[1]b", "addresses alone"),
        Option("-v", "objects of one C++ class", refused="the classes of C++ objects need private symbols"),
    ),
    examples=(Example('s -a nt L1000 "text"'), Example("s -[1]d @rsp L100 deadbeef", "addresses alone")),
    plugin="memory",
)
def search(session: Session, arguments: Arguments) -> Iterator[str]:
    """Only what the dump holds is searched; ``[1]`` shows addresses alone, ``[lN]`` wants N characters of a string."""
    from volatility3_kdump.text.addresses import pointer
    from volatility3_kdump.views.memory import SearchView, string_lines

    match = _SEARCH.match(arguments.text)
    if match is None and arguments.text.startswith("-"):
        if re.match(r"-(\[[^\]]*\])?v\b", arguments.text):
            raise KdumpError("s -v: the classes of C++ objects need private symbols")
        raise arguments.unknown(arguments.text.split()[0])
    kind, flags = (match["kind"], match["flags"] or "") if match else ("b", "")
    unknown = _FLAGS.sub("", flags)
    for letter in unknown:
        if letter not in _UNUSED:
            raise KdumpError(f"s knows no flag {letter} in [{flags}]: 1 shows addresses, lN wants N characters")
        yield f"NOTE: s -[{letter}]: {_UNUSED[letter]}"
    names, radix, memory = session.names, session.state.radix, session.current.memory
    wanted, rest = parse_bounds(arguments.text[match.end() :] if match else arguments.text, names, radix)
    if wanted is None:
        raise KdumpError('s needs a range and a pattern: s -a nt L1000 "text"')
    if kind in ("sa", "su"):
        least = _LEAST.search(flags)
        yield from string_lines(memory, wanted, 1 if kind == "sa" else 2, max(int(least[1][:4]), 1) if least else 3)
        return
    view = SearchView(session.seen, wanted, kind, _pattern(rest, kind, names, radix), memory)
    if "1" in flags:
        for place in view.places():
            yield f"0x{pointer(place, memory.pointer_size)}"
    else:
        yield from view.lines()


def _pattern(typed_pattern: str, kind: str, names: TargetNames, radix: int) -> bytes:
    """The bytes that are searched for. Raises :class:`KdumpError`."""
    typed_pattern = typed_pattern.strip()
    if kind in ("a", "u"):
        if len(typed_pattern) > 1 and typed_pattern[0] == typed_pattern[-1] == '"':
            typed_pattern = typed_pattern[1:-1]
        try:
            return typed_pattern.encode("utf-16-le" if kind == "u" else "latin-1")
        except UnicodeError:
            raise KdumpError(
                f"{typed_pattern!r} cannot be searched for as {'UTF-16' if kind == 'u' else '8-bit'} text"
            ) from None
    size = {"b": 1, "w": 2, "d": 4, "q": 8}[kind]
    data = bytearray()
    while typed_pattern:
        if typed_pattern[0] in "\"'" and (end := typed_pattern.find(typed_pattern[0], 1)) > 0:
            data += b"".join((ord(c) & 0xFF).to_bytes(size, "little") for c in typed_pattern[1:end])
            typed_pattern = typed_pattern[end + 1 :].lstrip()
            continue
        value, typed_pattern = parse_first(typed_pattern, names, radix)
        if value >> 8 * size and (1 << 64) - value > 1 << 8 * size - 1:
            raise KdumpError(f"Overflow error: {value:x} does not fit into {size} bytes")
        data += (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(data)
