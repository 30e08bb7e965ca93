"""Names as an attacker would choose them, for everything that shows names."""

from __future__ import annotations

import unicodedata

MARKUP = "</title></style><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\"' onload='alert(3)"
BIDI = "exe.\u202egnp\u202c\u2066sys\u2069\u200e"
TERMINAL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\n\0"
TEMPLATE = "{{ 7 * 7 }}{% raw %}"
NAME = f"{MARKUP}{BIDI}{TERMINAL}{TEMPLATE}\ud800\U000e0041"
#: What may be in text besides letters: the line ends of the page itself.
_FINE = "\n"


def unsafe(text: str) -> set[str]:
    """The control, format, surrogate and private characters of a text."""
    return {
        character
        for character in text
        if character not in _FINE and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    }
