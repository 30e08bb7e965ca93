"""Numbers as ``?`` and ``.formats`` show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.text.numbers import evaluated, formats, signed


@pytest.mark.parametrize(
    ("value", "size", "line"),
    [
        (0x1234, 8, "Evaluate expression: 4660 = 00000000`00001234"),
        (0xFFFFF80062600000, 8, "Evaluate expression: -8794442563584 = fffff800`62600000"),
        (0, 8, "Evaluate expression: 0 = 00000000`00000000"),
        (0xFFFFFFFF80401234, 4, "Evaluate expression: -2143284684 = 80401234"),
        (0x1234, 4, "Evaluate expression: 4660 = 00001234"),
    ],
)
def test_evaluated(value: int, size: int, line: str) -> None:
    assert evaluated(value, size) == line


def test_formats_of_the_documentation() -> None:
    """The value that the debugger's documentation of ``.formats`` uses."""
    assert list(formats(0x1C407E62, 4)) == [
        "Evaluate expression:",
        "  Hex:     1c407e62",
        "  Decimal: 473988706",
        "  Octal:   03420077142",
        "  Binary:  00011100 01000000 01111110 01100010",
        "  Chars:   .@~b",
        "  Time:    Mon Jan  7 23:31:46 1985 (UTC)",
        "  Float:   low 6.36908e-22 high 0",
        "  Double:  2.34182e-315",
    ]


def test_formats_of_64_bits() -> None:
    assert list(formats(0x01D7BB6DF8B3D7A0)) == [
        "Evaluate expression:",
        "  Hex:     01d7bb6d`f8b3d7a0",
        "  Decimal: 132780795029084064",
        "  Octal:   0007275666677054753640",
        "  Binary:  00000001 11010111 10111011 01101101 11111000 10110011 11010111 10100000",
        "  Chars:   ...m....",
        "  Time:    Thu Oct  7 11:25:02.908 2021 (UTC)",
        "  Float:   low -2.91811e+34 high 7.92475e-38",
        "  Double:  8.85934e-300",
    ]
    assert "  Decimal (unsigned) : 18446744073709551615" in list(formats((1 << 64) - 1))
    assert "  Time:    ***** Invalid FILETIME" in list(formats((1 << 64) - 1))


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([4, 8]))
def test_every_value_can_be_shown(value: int, size: int) -> None:
    lines = list(formats(value, size))
    assert int(lines[1].split()[-1].replace("`", ""), 16) == value & ((1 << 8 * size) - 1)
    assert int(lines[2].split()[-1]) == signed(value, size)
