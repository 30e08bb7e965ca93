"""Scanning in chunks: what lies across bounds, across gaps, and at the ends."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.dump import BytesSource
from volatility3_kdump.findings import yara_scan
from volatility3_kdump.findings.yara_rules import YARA_PYTHON, YARA_X, Rules, load_rules
from volatility3_kdump.findings.yara_scan import scan
from volatility3_kdump.layers.present import SIGN, PresentMemory

BASE = -0x10000000000
EVERYTHING = [(-SIGN, SIGN - 1)]
Pieces = list[tuple[int, bytes]]


@pytest.fixture(scope="module", params=[YARA_X, YARA_PYTHON])
def rules(request: pytest.FixtureRequest) -> Rules:
    pytest.importorskip("yara_x" if request.param == YARA_X else "yara")
    text = 'rule r { strings: $ab = "abcab" $word = "abc" fullword $many = /a[bc]{2,9}d/ condition: any of them }'
    return load_rules(text, library=request.param)


def memory_of(pieces: Iterable[tuple[int, bytes]]) -> PresentMemory:
    """Pieces of memory by address, stored in a file in reversed order."""
    pieces = sorted(pieces)
    offsets: dict[int, int] = {}
    file = b""
    for address, data in reversed(pieces):
        offsets[address] = len(file)
        file += data
    columns = np.array([(address, len(data), offsets[address]) for address, data in pieces], np.int64).reshape(-1, 3).T
    return PresentMemory([BytesSource(file)], *columns, np.zeros(len(pieces), np.uint8))


def hits(pieces: Pieces, rules: Rules, areas: Any = EVERYTHING) -> list[tuple[int, str, int, bytes]]:
    found = scan(memory_of(pieces), areas, rules)
    return [(hit.address - BASE - (1 << 64), hit.string, hit.length, hit.data) for hit in found]


def expected(pieces: Pieces) -> list[tuple[int, str, int, bytes]]:
    """What is in each run, found without YARA."""
    runs: Pieces = []
    for address, data in sorted(pieces):
        if runs and runs[-1][0] + len(runs[-1][1]) == address:
            runs[-1] = runs[-1][0], runs[-1][1] + data
        else:
            runs.append((address, data))
    found = []
    for start, data in runs:
        for name, pattern in (
            ("$ab", rb"(?=(abcab))"),
            ("$word", rb"(?<![a-zA-Z0-9])(?=(abc)(?![a-zA-Z0-9]))"),
            ("$many", rb"(?=(a[bc]{2,9}d))"),
        ):
            for match in re.finditer(pattern, data, re.DOTALL):
                found.append((start + match.start() - BASE, name, len(match[1]), match[1]))
    return sorted(found)


@given(
    sizes=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.binary(min_size=1, max_size=80).map(lambda data: bytes(b"abcd."[byte % 5] for byte in data)),
        ),
        min_size=1,
        max_size=6,
    ),
    chunk=st.integers(12, 40),
    batch=st.integers(1, 100),
)
@settings(max_examples=part(200), deadline=None)
def test_every_match_is_found_once_whatever_the_chunks(
    rules: Rules, sizes: list[tuple[int, bytes]], chunk: int, batch: int
) -> None:
    pieces = []
    position = BASE
    for gap, data in sizes:
        position += gap
        pieces.append((position, data))
        position += len(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yara_scan, "CHUNK", chunk)
        patch.setattr(yara_scan, "OVERLAP", 12)
        patch.setattr(yara_scan, "_LEAD", 2)
        patch.setattr(yara_scan, "_BATCH", batch)
        found = hits(pieces, rules)
    assert found == expected(pieces)


@pytest.mark.parametrize("shift", range(-6, 2))
def test_a_match_across_the_bounds_of_a_chunk_of_the_real_size(rules: Rules, shift: int) -> None:
    data = bytearray(yara_scan.CHUNK + 0x20000)
    place = yara_scan.CHUNK + shift
    data[place : place + 5] = b"abcab"
    assert hits([(BASE, bytes(data))], rules) == [(place, "$ab", 5, b"abcab")]


def test_chunks_are_large_and_overlap() -> None:
    assert yara_scan.CHUNK >= 1 << 20
    assert yara_scan.OVERLAP >= 0x1000


def test_absent_memory_is_not_zeros(rules: Rules) -> None:
    zeros = load_rules("{ 61 62 00 00 00 }", library=rules.library)
    first, second = (BASE, b"." * 0xFFE + b"ab"), (BASE + 0x2000, bytes(0x1000))
    assert hits([first, second], zeros) == []
    assert hits([first, (BASE + 0x1000, bytes(0x1000))], zeros) == [(0xFFE, "$a", 5, b"ab\0\0\0")]
    # Nor are the two sides of a gap beside each other.
    assert hits([(BASE, b"abc"), (BASE + 4, b"ab")], rules) == [(0, "$word", 3, b"abc")]
    assert hits([(BASE, b"abc"), (BASE + 3, b"ab")], rules) == [(0, "$ab", 5, b"abcab")]


def test_areas_are_scanned_by_themselves(rules: Rules) -> None:
    pieces = [(BASE, b"abcab..abcab")]
    assert hits(pieces, rules, [(BASE, BASE + 5)]) == [(0, "$ab", 5, b"abcab")]
    assert hits(pieces, rules, [(BASE, BASE + 4), (BASE + 4, BASE + 12)]) == [(7, "$ab", 5, b"abcab")]
    assert hits(pieces, rules, [(BASE + 100, BASE + 200)]) == []


def test_long_matches_are_cut_but_measured(rules: Rules) -> None:
    long = load_rules("/x[y]{600}z/", library=rules.library)
    ((address, _, length, data),) = hits([(BASE, b"..x" + b"y" * 600 + b"z")], long)
    assert (address, length, data) == (2, 602, b"x" + b"y" * (yara_scan.MOST_BYTES - 1))


def test_progress_rises_to_the_end(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yara_scan, "_BATCH", 0x1000)
    told: list[tuple[float, str]] = []
    pieces = [(BASE + index * 0x2000, bytes(0x1000)) for index in range(10)]
    assert list(scan(memory_of(pieces), EVERYTHING, rules, lambda value, text: told.append((value, text)))) == []
    assert [value for value, _ in told] == [index * 10.0 for index in range(10)]
    assert {text for _, text in told} == {f"Scanning with {rules.library}"}


def test_a_scan_that_is_not_read_to_its_end_stops(rules: Rules) -> None:
    pieces = [(BASE + index * 0x2000, b"abcab".ljust(0x1000)) for index in range(100)]
    found = scan(memory_of(pieces), EVERYTHING, rules)
    assert next(found).address == BASE + (1 << 64)
    found.close()
