"""String wildcards of the debugger ("String Wildcard Syntax" of its documentation).

``*`` is any number of any characters, ``?`` one character, ``[abc]`` and ``[a-f]`` one of those, ``#`` any number of
the character or bracket before it, ``+`` at least one of it; a backslash makes the next character an ordinary one. Case
does not matter.

Matching takes time in proportion to the lengths of pattern and text, whatever they are.
"""

from __future__ import annotations

import re

from volatility3_kdump.errors import KdumpError

_LONGEST = 512
_MANY = ".*"


class Wildcard:
    """A compiled pattern. Raises :class:`KdumpError` for one of more than 512 characters."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > _LONGEST:
            raise KdumpError(f"the pattern is longer than {_LONGEST} characters")
        self.pattern = pattern
        self._items = _items(pattern)
        self._regex = None if any(many and piece != "." for piece, many in self._items) else _regex(self._items)
        self._automaton = _Automaton(self._items) if self._regex is None else None

    def matches(self, text: str) -> bool:
        """Whether all of the text fits the pattern."""
        if self._regex is not None:
            return self._regex.fullmatch(text) is not None
        assert self._automaton is not None
        return self._automaton.matches(text)


def _items(pattern: str) -> list[tuple[str, bool]]:
    """The pattern as regular expressions for one character each, and whether any number of it may be there."""
    items: list[tuple[str, bool]] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            # Two in a row are one.
            if items[-1:] != [(".", True)]:
                items.append((".", True))
        elif character == "?":
            items.append((".", False))
        elif character == "#" and items and not items[-1][1]:
            items[-1] = (items[-1][0], True)
        elif character == "+" and items:
            # One more of what stands before it, and then any number.
            if not items[-1][1]:
                items.append((items[-1][0], True))
        elif character == "[" and "]" in pattern[position + 1 :]:
            end = pattern.index("]", position + 1)
            items.append((_bracket(pattern[position:end]), False))
            position = end + 1
        elif character == "\\" and position < len(pattern):
            items.append((re.escape(pattern[position]), False))
            position += 1
        else:
            items.append((re.escape(character), False))
    return items


def _bracket(content: str) -> str:
    """The content of brackets as a set: a hyphen between two characters in order makes a range."""
    parts = []
    position = 0
    while position < len(content):
        if content[position + 1 : position + 2] == "-" and content[position] <= content[position + 2 : position + 3]:
            parts.append(f"{re.escape(content[position])}-{re.escape(content[position + 2])}")
            position += 3
        else:
            parts.append(re.escape(content[position]))
            position += 1
    return f"[{''.join(parts)}]"


def _regex(items: list[tuple[str, bool]]) -> re.Pattern[str]:
    """A regular expression that does not go back behind what an asterisk was followed by."""
    stretches = [""]
    for piece, many in items:
        if many:
            stretches.append("")
        else:
            stretches[-1] += piece
    first, *middle = stretches
    if not middle:
        return _compiled(first)
    last = middle.pop()
    # The first place where a stretch fits is as good as any: a lookahead keeps it, and the group takes it.
    fixed = "".join(f"(?=(?P<g{number}>.*?{stretch}))(?P=g{number})" for number, stretch in enumerate(middle))
    return _compiled(f"{first}{fixed}{_MANY}{last}")


def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE | re.DOTALL)


class _Automaton:
    """All the places in a pattern where a text can be, one bit each."""

    def __init__(self, items: list[tuple[str, bool]]) -> None:
        self._items = [(_compiled(piece), many) for piece, many in items]
        self._end = 1 << len(items)
        self._masks: dict[str, tuple[int, int]] = {}
        self._many = sum(1 << index for index, (_, many) in enumerate(items) if many)

    def matches(self, text: str) -> bool:
        places = self._skipped(1)
        for character in text:
            going, staying = self._mask(character)
            places = self._skipped((places & going) << 1 | places & staying)
            if not places:
                return False
        return bool(places & self._end)

    def _skipped(self, places: int) -> int:
        """The places, and those behind items that may be there no time at all."""
        while (grown := places | (places & self._many) << 1) != places:
            places = grown
        return places

    def _mask(self, character: str) -> tuple[int, int]:
        """The places from which a character leads on, and those where it leads back to the same."""
        masks = self._masks.get(character)
        if masks is None:
            going = staying = 0
            for index, (piece, many) in enumerate(self._items):
                if piece.fullmatch(character):
                    staying |= many << index
                    going |= (not many) << index
            masks = self._masks[character] = going, staying
        return masks
