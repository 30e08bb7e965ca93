"""Text from a dump, made fit for a terminal and for log files."""

from __future__ import annotations

import io
import unicodedata
from typing import IO

#: Unicode categories that must not reach a terminal raw: controls, format characters (direction overrides among them),
#: surrogates, private use, unassigned, and line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class _Shown(dict[int, str]):
    """What a code point is shown as, kept once it was asked for."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = shown = _escaped(code) if unicodedata.category(character) in _UNSAFE else character
        return shown


_SHOWN = _Shown()


def printable(text: str) -> str:
    """The text with every unsafe character as an escape (``\\x1b``, ``\\u202e``) and backslashes left alone."""
    return text if text.isprintable() else text.translate(_SHOWN)


def terminal_line(line: str) -> str:
    """A line fit for a terminal: as :func:`printable`, but with its tabs."""
    if line.isprintable():
        return line
    return "\t".join(printable(part) for part in line.split("\t"))


def show_every_character(stream: IO[str]) -> None:
    """Have a stream write what its encoding lacks as escapes too, instead of failing: names hold any character."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
