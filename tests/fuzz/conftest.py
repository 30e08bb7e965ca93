"""The runner of damaged input, and what it has run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.running import MINUTES, Runner


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """Each run gets its share of ``KDUMP_FUZZ_MINUTES``, over all workers."""
    runs = sum("fuzz" in getattr(item, "fixturenames", ()) for item in request.session.items)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return Runner(request, 60 * MINUTES * workers / max(runs, 1), tmp_path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many inputs there were, when that is what was asked for."""
    reports = terminalreporter.stats.get("passed", []) if MINUTES else []
    inputs = [(value, report.nodeid) for report in reports for key, value in report.user_properties if key == "inputs"]
    for value, name in sorted(inputs):
        terminalreporter.write_line(f"{value:10,} {name}")
    if inputs:
        terminalreporter.write_line(f"{sum(value for value, _ in inputs):10,} inputs")
