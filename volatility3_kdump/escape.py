"""Text from a dump, made fit for a terminal and for log files."""

from __future__ import annotations

import unicodedata

#: Unicode categories that must not reach a terminal raw: controls, format characters (direction overrides among them),
#: surrogates, private use, unassigned, and line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    """The text with every unsafe character as an escape (``\\x1b``, ``\\u202e``) and backslashes left alone."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if unicodedata.category(character) not in _UNSAFE else _escaped(character) for character in text
    )


def terminal_line(line: str) -> str:
    """A line fit for a terminal: as :func:`printable`, but with its tabs."""
    if line.isascii() and line.isprintable():
        return line
    return "\t".join(printable(part) for part in line.split("\t"))


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
