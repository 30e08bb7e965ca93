"""Reads of the target's memory: addresses of either width."""

from __future__ import annotations

import pytest

from volatility3_kdump.memory import sign_extended


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (0x7FFFFFFF, 4, 0x7FFFFFFF),
        (0x80000000, 4, 0xFFFFFFFF80000000),
        (0xFFDF0000, 4, 0xFFFFFFFFFFDF0000),
        (0xFFFFFFFF80000000, 4, 0xFFFFFFFF80000000),
        (0x80000000, 8, 0x80000000),
    ],
)
def test_addresses_of_32_bit_targets_are_extended_by_their_sign(value: int, size: int, expected: int) -> None:
    assert sign_extended(value, size) == expected
