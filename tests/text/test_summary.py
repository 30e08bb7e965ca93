"""The summary of every scene: at most six lines, each one statement, none twice, and none against a row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdump_sample.scenes import scene_names
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.target import Target
from volatility3_kdump.text.summary import MOST_LINES, summary

#: Scenes of kinds that differ; the rest with the thorough tests.
FEW = (
    "myfault",
    "acquitted-read",
    "blocked-power-irp",
    "critical-process",
    "dpc-timeout",
    "live-dump",
    "machine-check",
)


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.thorough) for name in scene_names()]
)
def test_six_lines_of_one_statement(scene: Callable[..., Target], name: str) -> None:
    target = scene(name, 4)
    crash = analyze_crash(target)
    lines = summary(crash, target.has_names)
    assert 3 <= len(lines) <= MOST_LINES
    assert len({line.casefold() for line in lines}) == len(lines)
    assert all((line.endswith((".", "!")) and ". " not in line.replace("e.g. ", "")) or "; " in line for line in lines)
    assert lines[-1].startswith("Next: ")
    judged, verdict = crash.plausibility, crash.verdict
    if judged is not None and judged.acquits:
        assert not any(line.startswith(f"{verdict.runner_up}") or "is most probably to blame" in line for line in lines)
    if crash.facts.live:
        assert not any("The system stopped" in line for line in lines)
    if crash.interrupted is not None and crash.process is not None and crash.process.name:
        assert not any(f"in process {crash.process.name}" in line for line in lines)
