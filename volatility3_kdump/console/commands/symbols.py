"""Commands over symbols: ``x`` and ``ln``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError


@command("x", help="the symbols that a pattern fits", usage="[/n|/a|/0] module!pattern", plugin="symbols")
def examine(session: Session, arguments: Arguments) -> Iterable[str]:
    """By module and address; ``/n`` sorts by name, ``/0`` shows addresses alone."""
    from volatility3_kdump.views.symbols import matching_grid

    options, pattern = _options(arguments.text, "nav0Dd")
    if not pattern:
        raise KdumpError("x needs a pattern: x nt!Ke*")
    return matching_grid(session.target, pattern, "n" in options, "0" in options).kd_lines()


@command("!sym", help="noisy: tell where symbols and images are looked for; quiet: do not", usage="[noisy|quiet]")
def verbosity(session: Session, arguments: Arguments) -> Iterator[str]:
    word = arguments.text.strip().lower()
    if word in ("noisy", "quiet"):
        session.noisy = word == "noisy"
        for dump in session.dumps:
            dump.heard = len(dump.target.places.attempts)
    elif word:
        raise KdumpError("!sym takes noisy or quiet; nothing here prompts")
    yield f"{'noisy' if session.noisy else 'quiet'} mode - symbol prompts off"


@command("ln", help="the nearest symbols of an address", usage="[address]", plugin="symbols")
def nearest(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.symbols import nearest_grid

    return nearest_grid(session.target, session.evaluate(arguments.text or "$ip")).kd_lines()


def _options(text: str, known: str) -> tuple[str, str]:
    """The letters of options such as ``/n`` at the start of a text, and the rest. Raises :class:`KdumpError`."""
    letters = ""
    while match := re.match(r"/([A-Za-z0-9])(?:\s+|$)", text):
        if match[1] not in known:
            raise KdumpError(f"x has no option /{match[1]} here")
        letters += match[1]
        text = text[match.end() :]
    return letters, text.strip()
