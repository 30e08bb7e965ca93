"""Commands over symbols: ``x`` and ``ln``."""

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
    usage="[/n] [/a] [/0] [/v] MODULE!PATTERN",
    own=True,
    options=(
        Option("/n", "sorted by name"),
        Option("/a", "sorted by address, as without it"),
        Option("/0", "addresses alone"),
        Option("/v /D /d", "accepted, as in KD; they change nothing here"),
    ),
    examples=(Example("x nt!Ke*", "names of the kernel that begin with Ke"),),
    plugin="symbols",
)
def examine(session: Session, arguments: Arguments) -> Iterable[str]:
    """By module and address; ``/n`` sorts by name, ``/0`` shows addresses alone."""
    from volatility3_kdump.views.symbols import matching_grid

    options, pattern = _options(arguments, "nav0Dd")
    if not pattern:
        raise KdumpError("x needs a pattern: x nt!Ke*")
    return matching_grid(session.target, pattern, "n" in options, "0" in options).kd_lines()


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
    usage="[ADDRESS]",
    own=True,
    examples=(Example("ln @rip"),),
    plugin="symbols",
)
def nearest(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.symbols import nearest_grid

    return nearest_grid(session.target, session.evaluate(arguments.text or "$ip")).kd_lines()


def _options(arguments: Arguments, known: str) -> tuple[str, str]:
    """The letters of options such as ``/n`` at the start of a text, and the rest. Raises :class:`KdumpError`."""
    letters, text = "", arguments.text
    while match := re.match(r"/(\S+)(?:\s+|$)", text):
        if match[1] not in known:
            raise arguments.unknown(f"/{match[1]}")
        letters += match[1]
        text = text[match.end() :]
    return letters, text.strip()
