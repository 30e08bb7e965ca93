"""String wildcards, against the standard library's and an exhaustive matcher."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.wildcards import Wildcard


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("Ke*Check*", "KeBugCheckEx", True),
        ("ke*check", "KeBugCheckEx", False),
        ("?eBugCheck??", "KeBugCheckEx", True),
        ("[kn]eBugCheck", "nebugcheck", True),
        ("[a-j]eBugCheck", "KeBugCheck", False),
        ("[a-k]eBugCheck", "KeBugCheck", True),
        ("[z-a]b", "zb", True),
        ("[z-a]b", "-b", True),
        ("[^a]b", "^b", True),
        ("[^a]b", "cb", False),
        ("ab#c", "ac", True),
        ("ab#c", "abbbbc", True),
        ("ab#c", "adc", False),
        ("[0-9]#", "12345", True),
        ("x[0-9]#*y", "x12zzy", True),
        ("#a", "#a", True),
        # The documentation's examples of a plus sign.
        ("Lo+p", "Lp", False),
        ("Lo+p", "Looop", True),
        ("m[ia]+n", "mn", False),
        ("m[ia]+n", "miain", True),
        ("a?+b", "ab", False),
        ("a?+b", "axyb", True),
        ("notepad\\+\\+", "notepad++", True),
        ("+a", "+a", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("a[b", "a[b", True),
        ("a.b", "axb", False),
        ("*a*b", "xaybzb", True),
        ("*ab*ba*", "xababay", True),
        ("ab*ba", "aba", False),
    ],
)
def test_by_hand(pattern: str, text: str, fits: bool) -> None:
    assert Wildcard(pattern).matches(text) is fits


@given(st.text(alphabet="aAb*?", max_size=8), st.text(alphabet="abc", max_size=10))
def test_against_the_standard_library(pattern: str, text: str) -> None:
    assert Wildcard(pattern).matches(text) == fnmatch.fnmatchcase(text.lower(), pattern.lower())


def exhaustive(pattern: str, text: str) -> bool:
    """All ways to match a pattern of letters, ``*``, ``?`` and letters followed by ``#``."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(exhaustive(pattern[1:], text[start:]) for start in range(len(text) + 1))
    fits = bool(text) and pattern[0] in ("?", text[0])
    if pattern[1:2] == "#":
        return exhaustive(pattern[2:], text) or (fits and exhaustive(pattern, text[1:]))
    return fits and exhaustive(pattern[1:], text[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "?", "*", "a#", "b#", "?#"]), max_size=6).map("".join),
    st.text(alphabet="ab", max_size=7),
)
def test_against_all_ways_to_match(pattern: str, text: str) -> None:
    assert Wildcard(pattern).matches(text) == exhaustive(pattern, text)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_pattern_can_be_tried(pattern: str, text: str) -> None:
    assert Wildcard(pattern).matches(text) in (True, False)


def test_patterns_that_invite_backtracking() -> None:
    assert not Wildcard("*a" * 40 + "*b").matches("a" * 2000)
    assert not Wildcard("a#" * 200 + "b").matches("a" * 2000)
    with pytest.raises(KdumpError, match="longer than 512"):
        Wildcard("a" * 513)
