"""Times in KD's words."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.text.times import filetime, session_time, uptime

SESSION = 0x1D7BB6F1CC98CF9


def test_session_of_the_transcript():
    assert session_time(SESSION) == "Thu Oct  7 11:33:12.945 2021 (UTC + 0:00)"
    assert session_time(SESSION, -9 * 36_000_000_000) == "Thu Oct  7 20:33:12.945 2021 (UTC + 9:00)"
    assert session_time(SESSION, 5 * 36_000_000_000) == "Thu Oct  7 06:33:12.945 2021 (UTC - 5:00)"
    assert session_time(SESSION, -int(5.5 * 36_000_000_000)) == "Thu Oct  7 17:03:12.945 2021 (UTC + 5:30)"


@pytest.mark.parametrize(("ticks", "shown"), [(547_557_013, "0 days 0:00:54.755"), (37_470_000, "0 days 0:00:03.747")])
def test_uptime(ticks, shown):
    assert uptime(ticks) == shown


def test_long_uptime():
    assert uptime(((3 * 24 + 13) * 3600 + 62) * 10_000_000) == "3 days 13:01:02.000"


@given(st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1)))
def test_any_number(value):
    session_time(value)
    uptime(value)
    moment = filetime(value)
    assert moment is None or moment.tzinfo is datetime.timezone.utc
