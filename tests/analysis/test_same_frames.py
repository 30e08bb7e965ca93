"""``kv``, STACK_TEXT, the rows of the analysis and the report have the same frames, on every scene and architecture.

The prompt is put where STACK_COMMAND says (the crash, a context record, a thread), as a reader would.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample.scenes import scene_names
from tests import small_machines
from tests.prompt import answer, session_on
from tests.windows.stacks.test_arm64_stacks import READ_ABORT
from tests.windows.stacks.test_arm64_stacks import crashed as crashed_arm64
from tests.windows.stacks.test_x86_stacks import dispatched, written
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.target import Target
from volatility3_kdump.text.analyze import analyze
from volatility3_kdump.text.stacks import call_site
from volatility3_kdump.views.analyze import _stack_rows
from volatility3_kdump.views.report import report

_TRAP_NOTE = re.compile(r" \(TrapFrame @ [0-9a-f`]+\)$")
_WARNING = "WARNING: "
#: As many rows of the stack as the analysis shows.
_MOST_ROWS = 64


def prompt_rows(path: Path, target: Target, crash: Crash) -> list[str]:
    """What ``kv`` shows where STACK_COMMAND leads to: without numbers and notes on trap frames."""
    session = session_on(target)
    for command in crash.facts.stack_command.split(";")[:-1]:
        if command.strip() not in (".thread", ".cxr"):
            answer(session, command.strip())
    lines = answer(session, "kv 400")
    if any(line.startswith("No stack") for line in lines):
        return []
    start = next(number for number, line in enumerate(lines) if line.startswith(" # "))
    rows = []
    for line in lines[start + 1 :]:
        if line.startswith(("Note: ", "Stack ends here")):
            break
        rows.append(line if line.startswith(_WARNING) else _TRAP_NOTE.sub("", line[3:]))
    return rows


def stack_text(target: Target, crash: Crash) -> list[str]:
    lines = list(analyze(crash, target.memory.pointer_size, None))
    if "STACK_TEXT:  " not in lines:
        return []
    start = lines.index("STACK_TEXT:  ") + 1
    return lines[start : lines.index("", start)]


def compare(path: Path, target: Target) -> None:
    crash = analyze_crash(target)
    size = target.memory.pointer_size
    sites = [call_site(frame, size) for frame in crash.stack.frames]
    text = stack_text(target, crash)
    assert prompt_rows(path, target, crash) == text
    shown = [line for line in text if not line.startswith(_WARNING)]
    assert [line.rsplit(" ", 1)[-1] for line in shown] == [site.rsplit(" ", 1)[-1] for site in sites]
    rows: list[Any] = [cells for _, cells in _stack_rows(target, crash)]
    numbered = [cells for cells in rows if re.fullmatch(r"[0-9a-f]{2,}", str(cells[1]))]
    assert [str(cells[2]) for cells in numbered] == sites[:_MOST_ROWS]
    assert [cells[4].split(";")[0].split(",")[0] for cells in numbered] == [
        frame.trust for frame in crash.stack.frames[:_MOST_ROWS]
    ]
    frames = report(target, crash)["stack"]["frames"]
    assert [frame["call_site"] for frame in frames] == sites
    assert [frame["child_sp"] for frame in frames] == [
        None if frame.sp is None else f"{frame.sp:#x}" for frame in crash.stack.frames
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("dump_type", [4, 6])
@pytest.mark.parametrize("name", scene_names())
def test_every_scene(sample: Callable[..., Path], name: str, dump_type: int) -> None:
    path = sample(dump_type, None, name)
    compare(path, volatility3_kdump.open(path))


@pytest.mark.thorough
def test_real_dumps(shared_data: Path) -> None:
    for path in sorted((shared_data / "dumps").glob("triage_*.dmp")):
        compare(path, volatility3_kdump.open(path))


def test_an_x86_machine(tmp_path: Path) -> None:
    machine = small_machines.x86_machine()
    trap = small_machines.x86_trap(machine)
    arguments = (small_machines.AV, small_machines.INNER_FAULT_32, trap, 0)
    _, ebp = dispatched(machine, trap, 0x8E, arguments)
    compare(tmp_path / "x86.dmp", written(machine, tmp_path, 0x8E, arguments, ebp))


def test_an_arm64_machine(tmp_path: Path) -> None:
    machine = small_machines.arm64_machine()
    trap = small_machines.arm64_trap(machine, READ_ABORT, 0x24)
    arguments = (0x24, 2, 0, small_machines.LEAF_FAULT_64)
    compare(tmp_path / "arm64.dmp", crashed_arm64(machine, tmp_path, trap, 0xD1, arguments))
