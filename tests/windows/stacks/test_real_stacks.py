"""Stacks of real small dumps: switches, trap frames, exception records, and where the frames come from.

The expected places were read from the dumps' own bytes: the return address below each frame, the machine frames, the
exception records and KTHREAD.InitialStack.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from volatility3_kdump.target import Target
from volatility3_kdump.windows.stacks.frames import BUG_CHECK, FAULT, FAULT_PATH, INTERRUPTED, SWITCH, TRAP_FRAME, Stack
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.switched import DPC, SEPARATE, THREAD, interruption, live_stacks
from volatility3_kdump.windows.stacks.traps import failure_trap, stacked_exceptions
from volatility3_kdump.windows.stacks.walker import walker


def opened(shared_data: Path, name: str) -> Target:
    path = shared_data / "dumps" / f"{name}.dmp"
    if not path.exists():
        pytest.skip(f"{name} is not at hand")
    return volatility3_kdump.open(path)


def walked(target: Target) -> Stack:
    return walker(target).walk(crash_start(target))


def places(stack: Stack, first: int, last: int) -> list[tuple[int | None, str]]:
    return [(frame.sp, str(frame.name)) for frame in stack.frames[first:last]]


def test_an_exception_in_a_dpc_goes_over_three_stacks(shared_data):
    target = opened(shared_data, "triage_x64_19041_0x1e")
    stack = walked(target)
    assert [(live.low, live.high, live.kind) for live in live_stacks(target)] == [
        (0xFFFFF80311A8B158, 0xFFFFF80311A8C000, SEPARATE),
        (0xFFFFF80311A7D158, 0xFFFFF80311A7E000, DPC),
        (0xFFFF92047569EEB0, 0xFFFF9204756A0000, THREAD),
    ]
    assert places(stack, 2, 7) == [
        (0xFFFFF80311A8BFB0, "nt+0x3fecb2"),
        (0xFFFFF80311A7D158, "nt+0x3fec80"),
        (0xFFFFF80311A7D160, "nt+0x4124e5"),
        (0xFFFFF80311A7D340, "nt+0x40b265"),
        (0xFFFFF80311A7D4D8, "dxgmms2+0x2e69"),
    ]
    assert [frame.part for frame in stack.frames[:8]] == [BUG_CHECK, *[FAULT_PATH] * 5, FAULT, ""]
    assert stack.fault is not None and stack.fault.number == 6
    assert stack.frames[5].trap_frame == 0xFFFFF80311A7D340
    assert (stack.frames[-1].sp, stack.frames[-1].trust) == (0xFFFF92047569EEB0, SWITCH)
    assert "the stack at 0xffff92047569eeb0 is not in the dump" in stack.end
    (exception,) = stacked_exceptions(target)
    assert (exception.address, exception.trap_frame) == (0xFFFFF80311A7D298, 0xFFFFF80311A7D340)
    assert (exception.record.code, exception.record.address) == (0x80000003, 0xFFFFF80330EC2E68)
    found = interruption(target)
    assert found is not None and found.kind == DPC


def test_a_dpc_leads_to_the_stack_of_the_interrupted_thread(shared_data):
    target = opened(shared_data, "triage_x64_19041_0x9f")
    stack = walked(target)
    switched = next(frame for frame in stack.frames if frame.trust == SWITCH)
    assert (switched.sp, str(switched.name), switched.call_site) == (0xFFFFD007D914F040, "nt+0x406f90", False)
    # The home slots of the interrupted function hold nothing that counts.
    following = stack.frames[switched.number + 1]
    assert (following.sp, str(following.name)) == (0xFFFFD007D914F070, "nt+0x4066d5")
    assert failure_trap(target) is None
    assert stack.fault is None
    parts = [frame.part for frame in stack.frames]
    assert parts == [BUG_CHECK, *[""] * (switched.number - 1), *[INTERRUPTED] * (len(parts) - switched.number)]
    found = interruption(target)
    assert found is not None and found.kind == DPC


def test_the_trap_frame_that_an_argument_names_comes_before_residue(shared_data):
    target = opened(shared_data, "triage_x64_26100_0xbe")
    stack = walked(target)
    assert places(stack, 0, 4) == [
        (0xFFFFBD07C1D26818, "nt+0x4b87e0"),
        (0xFFFFBD07C1D26820, "nt+0x254c83"),
        (0xFFFFBD07C1D269D0, "nt+0x685dcb"),
        (0xFFFFBD07C1D26B60, "nt+0x2e8eac"),
    ]
    assert stack.fault is not None and stack.fault.number == 3
    assert "named by argument 3" in stack.remarks[0]
    # The user's trap frame lies at InitialStack - 190h and ends the kernel stack.
    assert (stack.frames[-2].trap_frame, stack.frames[-1].ip) == (0xFFFFBD07C1D27AA0, 0x7FFC3575F784)
    assert (stack.end, stack.complete) == ("user mode", True)


def test_the_trap_frame_with_the_address_of_the_arguments(shared_data):
    target = opened(shared_data, "triage_x64_26100_0x3b")
    stack = walked(target)
    assert places(stack, 2, 5) == [
        (0xFFFFF6825DE0F580, "nt+0x68ad45"),
        (0xFFFFF6825DE0F760, "nt+0x685e82"),
        (0xFFFFF6825DE0F8F0, "win32kfull+0x10f183"),
    ]
    assert stack.fault is not None and stack.fault.number == 4
    (exception,) = stacked_exceptions(target)
    # 238h below the interrupted stack pointer.
    assert exception.address == 0xFFFFF6825DE0F8F0 - 0x238
    assert exception.record.parameters == (0, 0x2000000068)
    assert stack.end == "user mode"


def test_a_call_of_the_kernel_by_itself_and_the_reason_why_a_process_ended(shared_data):
    target = opened(shared_data, "triage_x64_19041_0xef")
    stack = walked(target)
    traps = [(frame.trap_frame, stack.frames[frame.number + 1].ip) for frame in stack.frames if frame.trap_frame]
    assert traps == [
        (0xFFFF8C856C3F0150, 0xFFFFF8005E603370),
        (0xFFFF8C856C3F0C00, 0x7FFAF29B5438),
    ]
    assert (stack.frames[-1].trust, stack.frames[-1].sp) == (TRAP_FRAME, 0x4063EFE410)
    records = [(found.address, found.record.code, found.record.parameters) for found in stacked_exceptions(target)]
    assert records == [(0xFFFF8C856C3F01D0, 0xC0000409, (0x23,)), (0xFFFF8C856C3F0B58, 0xC0000409, (0x23,))]
    assert interruption(target) is None


def test_the_switch_of_windows_8(shared_data):
    target = opened(shared_data, "triage_x64_9600")
    stack = walked(target)
    assert (stack.frames[-1].sp, str(stack.frames[-1].name)) == (0xFFFFF802D6DEAAD0, "nt+0x14f13b")
    assert stack.frames[-1].trust == SWITCH


@pytest.mark.parametrize("name", ["triage_x64_17763", "triage_x64_19041", "triage_x64_19041_0x7e"])
def test_the_registers_of_an_exception_are_the_fault_itself(shared_data, name):
    stack = walked(opened(shared_data, name))
    assert [frame.part for frame in stack.frames[:2]] == [FAULT, ""]
    assert stack.remarks == ()
