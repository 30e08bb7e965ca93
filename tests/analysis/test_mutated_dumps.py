"""Real small dumps, changed so that they stay plausible: no statement that the rows refute, no error, no long run."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import volatility3_kdump
from tests.analysis import mutations
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.summary import MOST_LINES, summary
from volatility3_kdump.views.analyze import analyze_grid

#: Processor time of one analysis, in seconds.
_MOST_TIME = 3.0
#: What is suspected where no module is: KD's invented images, and what remains.
_INVENTED = {"hardware", "memory", "processor", "memory_corruption", "GenuineIntel", "AuthenticAMD", "Unknown_Module"}

DUMPS = (
    *("triage_arm64_22000", "triage_x64_9600", "triage_x64_17763", "triage_x64_19041", "triage_x64_19041_0x1a"),
    *("triage_x64_19041_0x1e", "triage_x64_19041_0x7e", "triage_x64_19041_0x7e_q9400", "triage_x64_19041_0x9f"),
    *("triage_x64_19041_0xef", "triage_x64_26100_0x13a", "triage_x64_26100_0x3b", "triage_x64_26100_0xbe"),
)


def changed(path: Path) -> list[tuple[str, bytes]]:
    data, target = path.read_bytes(), volatility3_kdump.open(path)
    crash = analyze_crash(target)
    failure = crash.failure
    assert failure is not None
    ip, sp = failure.context.ip or 0, failure.context.sp or 0
    module = failure.module.base if failure.module is not None else 0
    kernel = target.kernel.base if target.kernel is not None else 0
    thread = crash.thread.address if crash.thread is not None else 0
    process = crash.process.address if crash.process is not None else 0
    return [
        *mutations.other_codes(data, ip, sp, thread, process),
        *mutations.other_modules(data, module, kernel),
        *mutations.other_registers(data, target.header.architecture, ip, sp),
        *mutations.other_parts(data, ip),
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("name", DUMPS)
def test_plausible_changes(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "changed.dmp"
    wrong = []
    for what, data in changed(shared_data / "dumps" / f"{name}.dmp"):
        path.write_bytes(data)
        began = time.process_time()
        try:
            target = volatility3_kdump.open(path)
            crash = analyze_crash(target)
            assert list(analyze_grid(target).kd_lines())
        except KdumpError as error:
            assert "\n" not in str(error)
            continue
        spent = time.process_time() - began
        wrong += [f"{what}: {problem}" for problem in refuted(target, crash)]
        if spent > _MOST_TIME:
            wrong.append(f"{what}: {spent:.1f} s")
    assert wrong == []


def refuted(target: Target, crash: Crash) -> list[str]:
    """What the summary and the verdict say that the rows do not bear out."""
    lines, verdict, failure = summary(crash, target.has_names), crash.verdict, crash.failure
    problems = []
    if len(lines) > MOST_LINES or len(set(lines)) < len(lines):
        problems.append("too many lines, or one twice")
    problems += [f"odd: {line}" for line in lines if re.search(r"\bNone\b|\.\.| ,|\(\)|\xff\xff", line)]
    if crash.plausibility is not None and crash.plausibility.acquits and verdict.suspect not in _INVENTED:
        problems.append(f"{verdict.suspect} is suspected although the code is acquitted")
    elsewhere = failure is not None and failure.operand_agrees is False
    explained = crash.plausibility is not None and crash.plausibility.outcome is not None
    if elsewhere and not explained and verdict.confidence == "high" and verdict.frame is not None:
        problems.append("high, though the instruction accesses something else")
    if elsewhere and failure is not None and failure.name and failure.address is not None:
        did = re.compile(re.escape(failure.name) + r" (read|wrote to) " + f"{failure.address:#x}")
        problems += [f"the instruction did not: {line}" for line in lines if did.match(line)]
    known = {module.name for module in target.modules} | {
        entry.name.rsplit(".", 1)[0] for entry in target.unloaded_modules
    }
    # Driver objects name drivers as well.
    if target.modules and verdict.module_name is not None and verdict.module_name not in known | _INVENTED:
        problems.append(f"no module {verdict.module_name}")
    if failure is not None and not failure.at_fault and any(line.startswith("It happened at ") for line in lines):
        problems.append("a place of the fault, though none is known")
    if crash.stack.fault is not None and failure is not None and failure.at_fault:
        mask = (1 << 8 * target.memory.pointer_size) - 1
        if crash.stack.fault.ip & mask != (failure.context.ip or 0) & mask:
            problems.append("the frame that faulted is not at the failure")
    return problems
