"""Commands over symbols: ``x`` and ``ln``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError


@command("x", help="the symbols that a pattern fits", usage="[/n|/a|/0] module!pattern")
def examine(session: Session, arguments: Arguments) -> Iterator[str]:
    """By module and address; ``/n`` sorts by name, ``/0`` shows addresses alone."""
    from volatility3_kdump.symbols.listing import matching, modules_like
    from volatility3_kdump.text import symbols as text
    from volatility3_kdump.text.addresses import pointer

    size = session.target.memory.pointer_size
    options, pattern = _options(arguments.text, "nav0Dd")
    if not pattern:
        raise KdumpError("x needs a pattern: x nt!Ke*")
    if pattern.endswith("!"):
        yield "start             end                 module name"
        for module in modules_like(session.target.names, pattern[:-1]):
            yield f"{pointer(module.base, size)} {pointer(module.end, size)}   {module.name}"
        return
    found = matching(session.target.names, pattern)
    count = 0
    for symbol in sorted(found, key=lambda symbol: symbol.name.lower()) if "n" in options else found:
        count += 1
        yield pointer(symbol.address, size) if "0" in options else text.listed(symbol, size)
    if not count and not any(character in pattern for character in "*?[#"):
        raise KdumpError(f"Couldn't resolve 'x {pattern}'")


@command("!sym", help="noisy: tell where symbols and images are looked for; quiet: do not", usage="[noisy|quiet]")
def verbosity(session: Session, arguments: Arguments) -> Iterator[str]:
    word = arguments.text.strip().lower()
    if word in ("noisy", "quiet"):
        session.noisy = word == "noisy"
        for dump in session.dumps:
            dump.heard = len(dump.target.attempts)
    elif word:
        raise KdumpError("!sym takes noisy or quiet; nothing here prompts")
    yield f"{'noisy' if session.noisy else 'quiet'} mode - symbol prompts off"


@command("ln", help="the nearest symbols of an address", usage="[address]")
def nearest(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.symbols.listing import nearby
    from volatility3_kdump.text import symbols as text

    address = session.evaluate(arguments.text or "$ip")
    found = nearby(session.target.names, address)
    if found is None:
        raise KdumpError(f"{address:x} is in no loaded module")
    yield from text.nearest(found, session.target.memory.pointer_size)


def _options(text: str, known: str) -> tuple[str, str]:
    """The letters of options such as ``/n`` at the start of a text, and the rest. Raises :class:`KdumpError`."""
    letters = ""
    while match := re.match(r"/([A-Za-z0-9])(?:\s+|$)", text):
        if match[1] not in known:
            raise KdumpError(f"x has no option /{match[1]} here")
        letters += match[1]
        text = text[match.end() :]
    return letters, text.strip()
