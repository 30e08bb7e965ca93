"""Accounts of hosts, by a clock of their own."""

from __future__ import annotations

import time

import pytest

from volatility3_kdump.stores.patience import Patience


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def test_only_waiting_costs_and_several_at_a_time_cost_once(clock: Clock) -> None:
    patience = Patience(3.0, 10.0)
    clock.now += 100
    assert patience.left == 3.0
    with patience:
        clock.now += 1
        with patience:
            clock.now += 0.5
        clock.now += 0.5
    clock.now += 100
    assert patience.left == pytest.approx(1.0)
    with patience:
        clock.now += 4
        assert patience.left == pytest.approx(-3.0)


def test_what_is_earned_is_never_more_than_the_most(clock: Clock) -> None:
    patience = Patience(3.0, 10.0)
    with patience:
        clock.now += 2
        patience.pay(0.5)
        assert patience.left == pytest.approx(1.5)
        patience.pay(100)
        assert patience.left == pytest.approx(10.0)
        clock.now += 9
        patience.fill()
        clock.now += 1
        assert patience.left == pytest.approx(9.0)
