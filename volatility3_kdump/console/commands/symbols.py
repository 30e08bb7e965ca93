"""Commands over symbols: ``x``, ``ln`` and ``.lines``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, word
from volatility3_kdump.errors import KdumpError


@command(
    "x",
    help="the symbols that a pattern fits",
    usage="[/0 | /1 | /2] [/a | /A | /n | /N] [/t] [/q] MODULE!PATTERN",
    own=True,
    options=(
        Option("/0", "addresses alone"),
        Option("/1", "names alone"),
        Option("/2", "addresses and names alone"),
        Option("/a /A", "sorted by address, upwards or downwards"),
        Option("/n /N", "sorted by name, upwards or downwards"),
        Option("/t", "with the type of each variable, where it is known"),
        Option("/q", 'names in the quoted form, @!"name"'),
        Option("/D /p", "accepted, as in KD: there are no links, and no arguments of functions"),
        Option("/v", "with kind and size, which is 0 where it is not known, as of all public symbols"),
        Option("/f /d", "functions or data alone"),
        Option("/s", "of SIZE bytes, and all whose size is not known", value="SIZE"),
        Option("/z /Z", "by size", refused="public symbols have none"),
    ),
    examples=(
        Example("x nt!Ke*", "names of the kernel that begin with Ke"),
        Example("x /0 nt!Ps*", "for .foreach"),
    ),
    plugin="symbols",
)
def examine(session: Session, arguments: Arguments) -> Iterable[str]:
    """By module and address; ``/n`` sorts by name, ``/0`` shows addresses alone."""
    from volatility3_kdump.views.symbols import matching_grid

    options, pattern = _options(arguments, "012aAnNtqDpvfds", "zZ")
    if not pattern:
        raise KdumpError("x needs a pattern: x nt!Ke*")
    if not set(options) & set("12tqANvfd"):
        return matching_grid(session.seen, pattern, "n" in options, "0" in options).kd_lines()
    return _symbol_lines(session, pattern, options)


def _symbol_lines(session: Session, pattern: str, options: str) -> Iterator[str]:
    from volatility3_kdump.symbols.listing import matching
    from volatility3_kdump.text.addresses import pointer
    from volatility3_kdump.text.symbols import described

    size = session.target.memory.pointer_size
    wanted = {True} if "f" in options else {False} if "d" in options else {True, False}
    symbols = [symbol for symbol in matching(session.seen.names, pattern) if symbol.code in wanted]
    if "n" in options or "N" in options:
        symbols.sort(key=lambda symbol: symbol.name.lower(), reverse="N" in options)
    elif "A" in options:
        symbols.reverse()
    for symbol in symbols:
        name = f'@!"{symbol}"' if "q" in options else str(symbol)
        if "0" in options:
            yield pointer(symbol.address, size)
        elif "1" in options:
            yield name
        elif "2" in options:
            yield f"{pointer(symbol.address, size)} {name}"
        else:
            kind = f"pub {'func' if symbol.code else 'global':<6} " if "v" in options else ""
            length = "    0" if kind else ""
            type_name = f"{_type_of(session, str(symbol), symbol.code)} " if "t" in options else ""
            place = f"{kind}{pointer(symbol.address, size)}{length}"
            yield f"{place} {type_name}{described(symbol).replace(str(symbol), name, 1)}"
    if not symbols and not any(character in pattern for character in "*?[#"):
        raise KdumpError(f"Couldn't resolve 'x {pattern}'")


def _type_of(session: Session, name: str, code: bool) -> str:
    """The type of a variable as ``x /t`` shows it."""
    from volatility3_kdump.console.commands.evaluate import cpp_names
    from volatility3_kdump.text.dx import cpp_type

    try:
        value = None if code else cpp_names(session).symbol(name)
    except KdumpError:
        value = None
    return "<NoType>" if value is None or value.type.kind == "untyped" else cpp_type(value.type)


@command(
    "!sym",
    help="whether it is told where symbols and images are looked for",
    arguments=(word("MODE", "noisy or quiet; without it the present mode is shown"),),
    examples=(Example("!sym noisy"),),
)
def verbosity(session: Session, arguments: Arguments) -> Iterator[str]:
    mode = (arguments.word("MODE") or "").lower()
    if mode in ("noisy", "quiet"):
        session.noisy = mode == "noisy"
        for dump in session.dumps:
            dump.heard = len(dump.target.places.attempts)
    elif mode:
        raise KdumpError("!sym takes noisy or quiet; nothing here prompts")
    yield f"{'noisy' if session.noisy else 'quiet'} mode - symbol prompts off"


@command(
    "ln",
    help="the nearest symbols of an address",
    usage="[/D] [ADDRESS]",
    own=True,
    options=(Option("/D", "accepted, as in KD: there are no links"),),
    examples=(Example("ln @rip"),),
    plugin="symbols",
)
def nearest(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.symbols import nearest_grid

    _, place = _options(arguments, "D")
    return nearest_grid(session.seen, session.evaluate(place or "@$ip"), session.lines).kd_lines()


@command(
    ".lines",
    help="turns source lines in k and ln on or off",
    options=(
        Option("-e", "on"),
        Option("-d", "off"),
        Option("-t", "on if they are off, off if they are on: as without an option"),
    ),
    examples=(Example(".lines"), Example(".lines -e", "source lines in k and ln")),
)
def source_lines(session: Session, arguments: Arguments) -> Iterator[str]:
    """Symbols have them where the linker wrote them: private PDB files, and the DWARF of gcc, clang and Rust."""
    session.lines = arguments.has("-e") or (not arguments.has("-d") and not session.lines)
    yield f"Line number information will {'' if session.lines else 'not '}be loaded"


def _options(arguments: Arguments, accepted: str, refused: str = "") -> tuple[str, str]:
    """The letters of options such as ``/n`` at the start of a text, and the rest. Raises :class:`KdumpError`."""
    letters, operands = "", arguments.text
    while match := re.match(r"/(\S+)(?:\s+|$)", operands):
        if match[1] in refused:
            raise KdumpError(f"{arguments.name} /{match[1]}: public symbols have no size")
        if match[1] not in accepted:
            raise arguments.unknown(f"/{match[1]}")
        letters += match[1]
        operands = operands[match.end() :]
        if match[1] == "s":
            # SIZE: no public symbol has one, and those whose size is not known are always shown.
            operands = operands.partition(" ")[2].strip()
    return letters, operands.strip()
