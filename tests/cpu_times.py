"""``--cpu-times``: which tests and files took the most processor time, that of finished child processes included.

The clock says what else the machine did; this does not. A fixture counts for the test that made it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from tests import vol_server

_PROPERTY = "processor time"
_BEGAN = pytest.StashKey[float]()
_SHOWN = 40


def processor_time() -> float:
    """Seconds that this process and the processes that it started have taken."""
    return sum(os.times()[:4]) + vol_server.uncounted[0]


class CpuTimes:
    """Measures each test; reports carry the figure from a worker to where it is shown."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        item.stash[_BEGAN] = processor_time()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "teardown" and _BEGAN in item.stash:
            report.user_properties.append((_PROPERTY, processor_time() - item.stash[_BEGAN]))
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        tests: Counter[str] = Counter()
        files: Counter[str] = Counter()
        for reports in terminalreporter.stats.values():
            for report in reports:
                if getattr(report, "when", None) == "teardown":
                    seconds = dict(report.user_properties).get(_PROPERTY, 0.0)
                    tests[report.nodeid] += seconds
                    files[report.nodeid.partition("::")[0]] += seconds
        for title, times in (("files", files), ("tests", tests)):
            terminalreporter.section(f"processor time of {title}: {times.total():.0f} s in all")
            for name, seconds in times.most_common(_SHOWN):
                terminalreporter.write_line(f"{seconds:8.2f} {name}")
