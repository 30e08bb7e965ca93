"""Made crashes on stacks that the processor switched to, and trap frames that arguments imply."""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.dispatch import RECORD_IN_FRAME
from kdump_sample.scene import Scene
from kdump_sample.scenes import make_scene
from kdump_sample.variants import draft_stack
from tests.edited import edited, write_scene
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target
from volatility3_kdump.windows.stacks.amd64_walk import Amd64Walk
from volatility3_kdump.windows.stacks.frames import BUG_CHECK, FAULT, FAULT_PATH, INTERRUPTED, SCAN, SWITCH, Stack
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.switched import DPC, SEPARATE, THREAD, interruption, live_stacks, switch_at
from volatility3_kdump.windows.stacks.traps import exception_of, failure_trap, stacked_exceptions, trap_frames
from volatility3_kdump.windows.stacks.walker import walker

both = pytest.mark.parametrize("dump_type", [4, 6])
CRASH_STACK_TOP = 0xFFFFD48F77AFA000
EXCEPTION_STACK_TOP = 0xFFFFC3014F48C000


def opened(scene: Scene, layouts: Layouts, path: Path, dump_type: int) -> Target:
    write_scene(path, scene, layouts, dump_type)
    return volatility3_kdump.open(path)


def walked(target: Target) -> Stack:
    return walker(target).walk(crash_start(target))


def names(stack: Stack) -> list[str]:
    return [str(frame.name).partition("+")[0] for frame in stack.frames]


IN_DPC = [
    ("nt!KeBugCheckEx", BUG_CHECK),
    ("nt!KiDispatchException", FAULT_PATH),
    ("nt!KxExceptionDispatchOnExceptionStack", FAULT_PATH),
    ("nt!KiExceptionDispatchOnExceptionStackContinue", FAULT_PATH),
    ("nt!KiExceptionDispatch", FAULT_PATH),
    ("nt!KiPageFault", FAULT_PATH),
    ("myfault", FAULT),
    ("nt!KiExecuteAllDpcs", ""),
    ("nt!KiRetireDpcList", ""),
    ("nt!KxRetireDpcList", ""),
    ("nt!KiDispatchInterruptContinue", INTERRUPTED),
    ("nt!KiDpcInterrupt", INTERRUPTED),
    ("myfault", INTERRUPTED),
]


@both
def test_an_exception_in_a_dpc_is_followed_over_three_stacks(layouts, tmp_path, dump_type) -> None:
    """With unwind data and without: the same frames at the same places, in both kinds of dump."""
    scene = make_scene("exception-in-dpc", layouts)
    target = opened(scene, layouts, tmp_path / "x.dmp", dump_type)
    stack, draft = walked(target), draft_stack(scene, layouts)
    assert list(zip(names(stack), [frame.part for frame in stack.frames], strict=True))[: len(IN_DPC)] == IN_DPC
    placed = [frame.child_sp for frame in reversed(draft.stack.placed)]
    # The outermost is the entry from user mode; KeBugCheckEx itself is not among the frames that the scene gives.
    assert [frame.sp for frame in stack.frames[1:-1]] == placed[: len(stack.frames) - 2]
    assert (stack.end, stack.complete) == ("user mode", True)
    switched = [frame for frame in stack.frames if frame.trust == SWITCH and not frame.call_site]
    assert [str(frame.name) for frame in switched] == [
        "nt!KiExceptionDispatchOnExceptionStackContinue",
        "nt!KiDispatchInterruptContinue",
    ]
    assert all(frame.trap_frame is None for frame in stack.frames if "Kx" in str(frame.name))
    trap = draft.trap_frame("KiPageFault")
    found = failure_trap(target)
    assert found is not None and (found.address, found.how) == (trap, "on the stack, its rip is argument 2")
    record = draft.frame("KiExceptionDispatch").child_sp + RECORD_IN_FRAME
    assert [(each.address, each.trap_frame, each.stack) for each in stacked_exceptions(target)] == [(record, trap, DPC)]
    one = exception_of(target, trap)
    assert one is not None and one[0] == record and one[1].parameters == (1, 0x10)
    assert [live.kind for live in live_stacks(target)] == [SEPARATE, DPC, THREAD]
    interrupted = interruption(target)
    assert interrupted is not None and interrupted.kind == DPC


def test_a_previous_stack_that_the_dump_lacks_is_named(layouts, tmp_path) -> None:
    target = opened(make_scene("exception-in-dpc", layouts), layouts, tmp_path / "x.dmp", 6)
    previous = live_stacks(target)[-1].low
    damaged = edited(target, tmp_path / "x.dmp", tmp_path / "y.dmp", {}, (previous & -0x1000,))
    stack = walked(damaged)
    assert (stack.frames[-1].sp, stack.frames[-1].trust) == (previous, SWITCH)
    assert f"{previous:#x}" in stack.end and "not in the dump" in stack.end and not stack.complete


@pytest.mark.parametrize(
    "words",
    [
        {0x10: EXCEPTION_STACK_TOP - 0x100},
        {0x10: 0x10},
        {0x10: 0xFFFFD48F77AF97B3},
        {0x10: 0xFFFF << 48 | 1},
        {0x58: 0},
        {0x28: 0, 0x10: CRASH_STACK_TOP - 0x800},
    ],
)
def test_what_cannot_be_a_switch_is_none(layouts, tmp_path, words) -> None:
    target = opened(make_scene("exception-in-dpc", layouts), layouts, tmp_path / "x.dmp", 6)
    assert switch_at(target, EXCEPTION_STACK_TOP) is not None
    changes = {EXCEPTION_STACK_TOP - below: struct.pack("<Q", value) for below, value in words.items()}
    damaged = edited(target, tmp_path / "x.dmp", tmp_path / "y.dmp", changes)
    assert switch_at(damaged, EXCEPTION_STACK_TOP) is None
    assert walked(damaged).end


def test_a_switch_that_keeps_only_the_stack_pointer(layouts, tmp_path) -> None:
    """As on the interrupt stack: a return address lies where the stack pointer was."""
    path = tmp_path / "x.dmp"
    target = opened(make_scene("exception-in-dpc", layouts), layouts, path, 6)
    whole = opened(make_scene("exception-in-dpc", layouts), layouts, tmp_path / "small.dmp", 4)
    damaged = edited(target, path, tmp_path / "y.dmp", {EXCEPTION_STACK_TOP - 0x28: bytes(8)})
    switch = switch_at(damaged, EXCEPTION_STACK_TOP)
    assert switch is not None and switch.goes_on is None
    assert switch.previous == live_stacks(whole)[1].low
    walk = Amd64Walk(walker(damaged), crash_start(damaged), 10)
    registers, trust, call_site = walk.follow(switch)
    assert (registers.rsp, trust, call_site) == (switch.previous + 8, SWITCH, True)
    assert str(walker(damaged).name_at(registers.rip, True)).startswith("nt!KiExceptionDispatch+")


@both
def test_a_double_fault_leads_to_the_stack_that_was_used_up(layouts, tmp_path, dump_type) -> None:
    scene = make_scene("double-fault", layouts)
    target = opened(scene, layouts, tmp_path / "x.dmp", dump_type)
    first, second = live_stacks(target)
    trap = draft_stack(scene, layouts).trap_frame("KiDoubleFaultAbort")
    assert first.low <= trap < first.high and first.kind == SEPARATE
    assert (second.high, second.kind) == (CRASH_STACK_TOP, THREAD)
    assert second.low == next(found.context.sp for found in trap_frames(target) if found.address == trap)


def test_stacks_that_lead_to_each_other_end(layouts, tmp_path) -> None:
    target = opened(make_scene("exception-in-dpc", layouts), layouts, tmp_path / "x.dmp", 6)
    first, second, _ = live_stacks(target)
    changes = {second.high - 0x10: struct.pack("<Q", first.low)}
    damaged = edited(target, tmp_path / "x.dmp", tmp_path / "y.dmp", changes)
    assert [live.low for live in live_stacks(damaged)] == [first.low, second.low]
    assert len(walked(damaged).frames) < 40


@both
def test_the_trap_frame_that_an_argument_implies_ends_the_kernel_stack(layouts, tmp_path, dump_type) -> None:
    scene = make_scene("raised-irql-at-exit", layouts)
    target = opened(scene, layouts, tmp_path / "x.dmp", dump_type)
    stack = walked(target)
    trap = failure_trap(target)
    assert trap is not None and trap.how == "implied by argument 4"
    assert trap.address + 0x80 == target.header.bug_check_parameters[3]
    assert names(stack)[:2] == ["nt!KeBugCheckEx", "nt!KiBugCheckDispatch"]
    assert stack.frames[-1].ip == trap.context.ip and (stack.end, stack.complete) == ("user mode", True)
    # Code in user mode is not what failed.
    assert stack.fault is None
    assert [frame.trust for frame in stack.frames if frame.trust == SCAN] == []


@both
def test_nested_faults_are_told_as_such(layouts, tmp_path, dump_type) -> None:
    target = opened(make_scene("nested-faults", layouts), layouts, tmp_path / "x.dmp", dump_type)
    stack = walked(target)
    again = [frame for frame in stack.frames if str(frame.name) == "nt!KiPageFault+0x60"]
    assert len(again) == 20
    traps = [frame.trap_frame or 0 for frame in again]
    assert {after - before for before, after in itertools.pairwise(traps)} == {0x190}
    assert any("faults again while handling its fault" in remark for remark in stack.remarks)
    assert "20 trap frames 190h apart" in " ".join(stack.remarks)
    assert stack.end == "user mode"


@pytest.mark.parametrize(
    "offset, value, reason",
    [
        (0x170, 0x11, "SegCs 0x11 is no code segment of Windows"),
        (0x178, 0, "EFlags 0x0 have reserved bits wrong"),
        (0x168, 1 << 62, "Rip 0x4000000000000000 is not canonical"),
        (0x188, 0x2B, "SegSs 0x2b does not go with the kernel code segment"),
        (0x180, 0x1000, "kernel code segment with Rsp 0x1000"),
    ],
)
def test_a_trap_frame_that_cannot_be_is_damaged(layouts, tmp_path, offset, value, reason) -> None:
    scene = make_scene("myfault", layouts)
    target = opened(scene, layouts, tmp_path / "x.dmp", 6)
    trap = draft_stack(scene, layouts).trap_frame("KiPageFault")
    changes = {trap + offset: struct.pack("<Q", value)}
    stack = walked(edited(target, tmp_path / "x.dmp", tmp_path / "y.dmp", changes))
    assert stack.end == f"the trap frame at {trap:#x} is damaged: {reason}"
    assert stack.frames[-1].trap_frame is None and not stack.complete


@pytest.mark.parametrize("seed", range(8))
def test_damaged_stacks_end_with_a_reason(layouts, tmp_path, seed) -> None:
    """Quadwords of the stacks replaced by what leads walks astray: stack addresses, selectors, code, codes."""
    path = tmp_path / "x.dmp"
    target = opened(make_scene("exception-in-dpc", layouts), layouts, path, 6)
    stacks, choose = live_stacks(target), random.Random(seed)
    values = [stack.low + 8 * choose.randrange((stack.high - stack.low) // 8) for stack in stacks for _ in range(4)]
    values += [0, 1, 0x10, 0x33, 0x2B, 0xC0000005, (1 << 64) - 8, target.modules[0].base + 0x1000]
    changes = {}
    for _ in range(choose.choice((1, 8, 60))):
        stack = choose.choice(stacks)
        changes[stack.low + 8 * choose.randrange((stack.high - stack.low) // 8)] = struct.pack(
            "<Q", choose.choice(values)
        )
    damaged = edited(target, path, tmp_path / "y.dmp", changes)
    stack = walked(damaged)
    assert stack.end and len(stack.frames) <= 1024
    assert len(live_stacks(damaged)) <= 8
    for found in stacked_exceptions(damaged):
        assert len(found.record.parameters) <= 15
    interruption(damaged)
