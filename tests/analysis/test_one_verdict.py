"""One crash, one verdict: every view of it names the same component, and none that the summary acquits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample.scenes import scene_names
from tests.analysis.test_mutated_dumps import DUMPS
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.analysis.pasted.evidence import judge
from volatility3_kdump.analysis.pasted.report import read_report
from volatility3_kdump.analysis.weighing import INVENTED
from volatility3_kdump.batch.machines import Machines
from volatility3_kdump.batch.summary import Summary
from volatility3_kdump.target import Target
from volatility3_kdump.text.analyze import analyze, brief
from volatility3_kdump.text.summary import summary
from volatility3_kdump.views.analyze import analyze_grid
from volatility3_kdump.views.report import report

#: One scene for every way to a verdict; the others take longer than they tell.
EVERY_WAY = (
    *("myfault", "legal-instruction", "bit-flip", "raid-power-irp", "critical-process", "manual", "pcie-error"),
    *("display-timeout", "page-read-failure", "null-plus-bit", "live-dump", "stuck-display-thread", "missing-feature"),
)
UNKNOWN = "Unknown_Image"


def named_in(lines: list[str]) -> str | None:
    """The component that the short form names, ``None`` where it names nobody."""
    told = [match[1] for line in lines if (match := re.match(r"Probably caused by : (.+?)(?: \( .* \))?$", line))]
    assert len(told) <= 1
    return told[0] if told else None


def fields(lines: list[str]) -> dict[str, str]:
    return {match[1]: match[2] for line in lines if (match := re.match(r"([A-Z_]+): +(.+)$", line))}


def problems(target: Target) -> list[str]:
    crash = analyze_crash(target)
    if crash.crashed is False or crash.bug_check is None:
        return []
    suspect, image = crash.verdict.suspect, crash.verdict.image_name
    expected = INVENTED.get(suspect or "", suspect)
    long_form = list(analyze(crash, target.memory.pointer_size, None))
    wrong = []

    def same(what: str, value: str | None, other: str | None) -> None:
        if value != other:
            wrong.append(f"{what}: {value}, not {other}")

    short = named_in(list(brief(crash)))
    same("short form", None if short == UNKNOWN else short, None if expected == UNKNOWN else expected)
    told = fields(long_form)
    same("IMAGE_NAME", told.get("IMAGE_NAME"), image)
    if expected != image and suspect is not None:
        same("SUSPECT", told.get("SUSPECT", "").split(" ")[0], suspect)
    wrong += [f"acquitted: {name}" for name in acquitted(crash, target) if expected is not None and name in expected]
    document = report(target, crash)
    same("JSON", document["verdict"]["suspect"], suspect)
    same("JSON's image", document["verdict"]["image_name"], image)
    rows = {row["Field"]: row["Text"] for row in analyze_grid(target).records() if row["Topic"] == "Verdict"}
    same("row", rows.get("Suspect", rows.get("Image")), suspect or ("nobody" if image else None))
    same("batch", culprit(document), suspect)
    pasted = judge(read_report(long_form, "text")).verdict
    same("kdump verdict", pasted.suspect, suspect)
    same("kdump verdict's image", pasted.image_name, image)
    return wrong


def acquitted(crash: Crash, target: Target) -> list[str]:
    """What the summary says is not to blame: ``not amdppm+334c, where it showed``."""
    lines = summary(crash, target.has_names)
    names = [match[1] for line in lines for match in re.finditer(r"\bnot ([\w.$~-]+)[+!]\S+, where it showed", line)]
    if any(line.startswith(("No component is to blame", "No component can be named")) for line in lines):
        names.append("")
    return names


def culprit(document: dict[str, Any]) -> str | None:
    line = {"error": None, "file": {"path": "a.dmp", "member": None, "size": 1}, **document}
    crashes = Summary()
    crashes.add(line)
    machines = Machines()
    machines.add(line)
    for machine in machines.document():
        assert [entry["suspect"] for entry in machine["crashes"]] == [document["verdict"]["suspect"]]
    group = crashes.document()["groups"][0]
    name: str | None = group["culprit"]
    return name


@pytest.mark.parametrize("name", DUMPS)
def test_real_dumps(shared_data: Path, name: str) -> None:
    assert problems(volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp")) == []


@pytest.mark.parametrize("name", EVERY_WAY)
def test_scenes(scene: Callable[..., Target], name: str) -> None:
    assert problems(scene(name, 4)) == []


@pytest.mark.thorough
@pytest.mark.parametrize("dump_type", [4, 6])
@pytest.mark.parametrize("name", scene_names())
def test_every_scene(scene: Callable[..., Target], name: str, dump_type: int) -> None:
    assert problems(scene(name, dump_type)) == []
