"""Stacks of x86 crashes: trap frames, what has no frame pointer, task states, the DPC stack.

The driver's code was executed by unicorn. What the kernel has below a trap frame is laid out as in published stacks
(Windows Internals, 6th edition, part 2, chapter 14; Microsoft's pages on 0x8E and 0x7F): CommonDispatchException's
return address right below the trap frame, the exception record 54h below it, the trap handler's ebp at the trap frame.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.patched import patched
from tests.prompt import answer, session_on
from tests.small_machines import (
    AV,
    FPO_FAULT_32,
    FPO_THREAD_RETURN_32,
    INNER_FAULT_32,
    KE_BUG_CHECK_32,
    KERNEL_CALLS_32,
    LEAFCALLER_RETURN_32,
    OUTER_RETURN_32,
    PRCB_32,
    PROCESS_32,
    STACK_32,
    THREAD_32,
    THREAD_RETURN_32,
    SmallMachine,
    x86_blocks,
    x86_bug_check,
    x86_context,
    x86_machine,
    x86_trap,
)
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.cpu import x86
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import crash_context
from volatility3_kdump.windows.stacks.frames import MOST_FRAMES
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.switched import live_stacks
from volatility3_kdump.windows.stacks.traps import stacked_exceptions, trap_frames
from volatility3_kdump.windows.stacks.walker import walker

HIGH = 0xFFFFFFFF00000000


def written(machine: SmallMachine, path: Path, code: int, arguments: tuple[int, ...], ebp: int, **more: Any) -> Target:
    machine.write(path / "x86.dmp", code, arguments, x86_context(ebp, ebp - 0x20), ebp - 0x20, **more)
    return volatility3_kdump.open(path / "x86.dmp")


def shown(crash: Crash) -> list[tuple[int, str, str]]:
    return [(frame.ip & 0xFFFFFFFF, frame.trust, frame.part) for frame in crash.stack.frames]


FAULTING = [
    (INNER_FAULT_32, "trap frame", "fault"),
    (OUTER_RETURN_32, "frame pointer", ""),
    (THREAD_RETURN_32, "frame pointer", ""),
]


@pytest.mark.parametrize("newer", [False, True])
def test_the_trap_handler_that_stops_the_system(tmp_path: Path, newer: bool) -> None:
    """0xD1: KiTrap0E calls KeBugCheckEx. Both layouts of the frame's lower half give the volatile registers."""
    machine = x86_machine()
    machine.registers["edx"] = 0x12345678
    trap = x86_trap(machine, newer)
    arguments = (0x24, 2, 0, INNER_FAULT_32)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    crash = analyze_crash(target := written(machine, tmp_path, 0xD1, arguments, ebp))
    assert shown(crash) == [
        (KE_BUG_CHECK_32, "context", "bug check"),
        (KERNEL_CALLS_32["KiTrap0E_bugcheck"], "frame pointer", "fault path"),
        *FAULTING,
    ]
    assert crash.failure is not None and crash.failure.at_fault and crash.failure.trap_frame == HIGH | trap
    for name in ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip"):
        assert crash.failure.context.get(name) == machine.registers[name], name
    assert crash.failure.context.has_segments
    # The fault's own frame has the stack pointer of the fault, and so its caller the right arguments.
    frame = crash.stack.fault
    assert (
        frame is not None
        and frame.sp == HIGH | machine.registers["esp"]
        and frame.fp == HIGH | machine.registers["ebp"]
    )
    assert crash.plausibility is not None and crash.plausibility.outcome == "explained"
    assert crash.verdict.module_name == "widget" and crash.stack.complete
    # The frame that faulted is the one that is blamed, and none is made up for it.
    assert crash.verdict.frame == 2 and "the walk starts at the instruction that failed, frame 2" in crash.verdict.rule
    assert [entry.address for entry in trap_frames(target)] == [HIGH | trap]


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0x8E, (AV, INNER_FAULT_32, None, 0)),
        (0x1E, (AV, INNER_FAULT_32, 0, 0x24)),
    ],
)
def test_the_dispatcher_of_exceptions(tmp_path: Path, code: int, arguments: tuple[int | None, ...]) -> None:
    machine = x86_machine()
    trap = x86_trap(machine)
    named = tuple(trap if value is None else value for value in arguments)
    record, ebp = dispatched(machine, trap, code, named)
    crash = analyze_crash(target := written(machine, tmp_path, code, named, ebp))
    assert shown(crash) == [
        (KE_BUG_CHECK_32, "context", "bug check"),
        (KERNEL_CALLS_32["KiDispatchException"], "frame pointer", "fault path"),
        (KERNEL_CALLS_32["CommonDispatchException"], "frame pointer", "fault path"),
        (KERNEL_CALLS_32["KiTrap0E_dispatch"], "frame pointer", "fault path"),
        *FAULTING,
    ]
    assert [frame.trap_frame for frame in crash.stack.frames if frame.trap_frame] == [HIGH | trap]
    (exception,) = stacked_exceptions(target)
    assert (exception.address, exception.trap_frame) == (HIGH | record, HIGH | trap)
    assert (exception.record.code, exception.record.address) == (AV, INNER_FAULT_32)
    assert crash.failure is not None and crash.failure.trap_frame == HIGH | trap
    assert crash.verdict.module_name == "widget" and crash.plausibility is not None


def dispatched(machine: SmallMachine, trap: int, code: int, arguments: tuple[int, ...]) -> tuple[int, int]:
    """CommonDispatchException and KiDispatchException below a trap frame; the record, and KeBugCheckEx's ebp."""
    machine.put(trap - 4, KERNEL_CALLS_32["KiTrap0E_dispatch"])
    record = trap - 0x54
    machine.put_bytes(record, struct.pack("<IIIIIII", AV, 0, 0, INNER_FAULT_32, 2, 0, 0x24) + bytes(0x34))
    below = record - 20
    machine.put(below, record, 0, trap, 0, 1)
    # KiDispatchException: its frame with CommonDispatchException's ebp, which is the trap handler's.
    dispatcher = below - 8
    machine.put(dispatcher, trap, KERNEL_CALLS_32["CommonDispatchException"])
    at = dispatcher - 0x300
    return record, x86_bug_check(machine, at, KERNEL_CALLS_32["KiDispatchException"], dispatcher, code, arguments)


def test_a_page_fault_that_the_memory_manager_reports(tmp_path: Path) -> None:
    """0x50: MmAccessFault has a frame of its own between KeBugCheckEx and KiTrap0E."""
    machine = x86_machine(null=0)
    trap = x86_trap(machine)
    arguments = (0x24, 0, INNER_FAULT_32, 0)
    fault = trap - 0x30
    machine.put(fault, trap, KERNEL_CALLS_32["KiTrap0E_fault"], 0, 0x24, 0, trap)
    ebp = x86_bug_check(machine, fault - 0x60, KERNEL_CALLS_32["MmAccessFault"], fault, 0x50, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0x50, arguments, ebp))
    assert shown(crash) == [
        (KE_BUG_CHECK_32, "context", "bug check"),
        (KERNEL_CALLS_32["MmAccessFault"], "frame pointer", "fault path"),
        (KERNEL_CALLS_32["KiTrap0E_fault"], "frame pointer", "fault path"),
        *FAULTING,
    ]


def test_a_broken_chain_goes_on_at_the_trap_frame(tmp_path: Path) -> None:
    """Nothing between the bug check and the trap frame counts, and what is left out is told."""
    machine = x86_machine()
    trap = x86_trap(machine)
    arguments = (AV, INNER_FAULT_32, trap, 0)
    _, ebp = dispatched(machine, trap, 0x8E, arguments)
    machine.put(ebp, 0x1234)
    crash = analyze_crash(written(machine, tmp_path, 0x8E, arguments, ebp))
    assert shown(crash)[2:] == FAULTING and len(shown(crash)) == 5
    assert crash.stack.frames[1].return_address is None
    assert any("frames are left out" in remark for remark in crash.stack.remarks)


def test_a_function_without_a_frame_is_found_by_the_call_that_leads_to_it(tmp_path: Path) -> None:
    machine = x86_machine(thread=0x1120)
    assert machine.registers["eip"] == FPO_FAULT_32
    trap = x86_trap(machine)
    arguments = (0x24, 2, 0, FPO_FAULT_32)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0xD1, arguments, ebp))
    assert shown(crash)[2:] == [
        (FPO_FAULT_32, "trap frame", "fault"),
        # The chain of frame pointers alone would have left out this one.
        (LEAFCALLER_RETURN_32, "scan", ""),
        (FPO_THREAD_RETURN_32, "frame pointer", ""),
    ]
    assert any("without a frame pointer are passed over" in remark for remark in crash.stack.remarks)


@pytest.mark.parametrize("eip", [0x0, 0xB2340000])
def test_a_jump_to_nowhere_has_its_caller_on_top_of_the_stack(tmp_path: Path, eip: int) -> None:
    machine = x86_machine()
    esp = machine.registers["esp"]
    # A call by a pointer pushed where it returns to, as the call of inner did.
    machine.registers.update(esp=esp + 4, eip=eip, ebp=esp + 0x1C)
    assert struct.unpack_from("<I", machine.stack, esp + 4 - STACK_32)[0] == OUTER_RETURN_32
    trap = x86_trap(machine)
    arguments = (eip, 2, 8, eip)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0xD1, arguments, ebp))
    assert [ip for ip, _, _ in shown(crash)][2:4] == [eip, OUTER_RETURN_32]
    if eip:
        assert crash.plausibility is not None and crash.plausibility.outcome == "jump to nowhere"
        assert crash.plausibility.says.startswith("EIP 0xb2340000 lies in no module")
    assert crash.verdict.module_name == "widget"


def test_a_function_that_has_just_begun(tmp_path: Path) -> None:
    """At its first instruction a function's return address is on top of the stack, and ebp is its caller's."""
    machine = x86_machine()
    esp = machine.registers["esp"]
    machine.registers.update(esp=esp + 4, eip=INNER_FAULT_32 - 6, ebp=esp + 0x1C)
    trap = x86_trap(machine)
    arguments = (0x24, 2, 0, INNER_FAULT_32 - 6)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0xD1, arguments, ebp))
    assert shown(crash)[2:] == [
        (INNER_FAULT_32 - 6, "trap frame", "fault"),
        (OUTER_RETURN_32, "unwind", ""),
        (THREAD_RETURN_32, "frame pointer", ""),
    ]


def test_a_double_fault_is_where_its_task_state_says(tmp_path: Path) -> None:
    """0x7F, P1 = 8: the processor switched to another task, and saved the registers in the one before."""
    machine = x86_machine()
    registers = machine.registers
    state = bytearray(0x68)
    struct.pack_into("<II", state, 4, 0xB2342FF0, 0x10)
    order = ("eip", "eflags", "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    struct.pack_into("<10I", state, 0x20, *(registers[name] | (0x2 if name == "eflags" else 0) for name in order))
    struct.pack_into("<6I", state, 0x48, 0x23, 8, 0x10, 0x23, 0x30, 0)
    machine.blocks.append((0x80042000, bytes(state)))
    arguments = (8, 0x80042000, 0, 0)
    ebp = x86_bug_check(machine, STACK_32 + 0x800, KERNEL_CALLS_32["KiTrap0E_bugcheck"], 0, 0x7F, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0x7F, arguments, ebp))
    assert crash.failure is not None and crash.failure.at_fault and crash.failure.task_state == 0x80042000
    assert [crash.failure.context.get(name) for name in order[2:]] == [registers[name] for name in order[2:]]
    assert [ip for ip, _, _ in shown(crash)] == [INNER_FAULT_32, OUTER_RETURN_32, THREAD_RETURN_32]
    assert shown(crash)[0][2] == "fault"


def test_a_trap_that_is_no_double_fault_names_no_instruction(tmp_path: Path) -> None:
    """0x7F with zeros for arguments: argument 4 is not a jump to null."""
    machine = x86_machine()
    ebp = x86_bug_check(machine, STACK_32 + 0x800, KERNEL_CALLS_32["KiTrap0E_bugcheck"], 0, 0x7F, (0, 0, 0, 0))
    crash = analyze_crash(written(machine, tmp_path, 0x7F, (0, 0, 0, 0), ebp))
    assert crash.plausibility is None and crash.failure is not None and not crash.failure.at_fault


@pytest.mark.parametrize(
    ("changes", "arguments", "outcome", "suspect"),
    [
        # A load from the stack in use, where the processor reported another address.
        ({"ecx": STACK_32 + 0x2E00}, (0xF025, 2, 0, INNER_FAULT_32), "contradicted", "hardware"),
        # Neither the address nor in the dump: nothing can be said, but no one is blamed for certain.
        ({"ecx": 0x90000000}, (0xF025, 2, 0, INNER_FAULT_32), None, "widget.sys"),
        # In the fill between two functions.
        ({"eip": OUTER_RETURN_32 + 0x14}, (0x24, 2, 0, OUTER_RETURN_32 + 0x14), "padding", "hardware"),
    ],
)
def test_what_the_instruction_says_of_the_exception(
    tmp_path: Path, changes: dict[str, int], arguments: tuple[int, ...], outcome: str | None, suspect: str
) -> None:
    machine = x86_machine()
    machine.registers.update(changes)
    trap = x86_trap(machine)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0xD1, arguments, ebp))
    assert (crash.plausibility.outcome if crash.plausibility else None) == outcome
    assert crash.verdict.suspect == suspect and crash.verdict.confidence != "high"


@pytest.mark.parametrize(("eip", "outcome"), [(INNER_FAULT_32 - 3, "legal though called illegal"), (0x1234, None)])
def test_an_illegal_instruction(tmp_path: Path, eip: int, outcome: str | None) -> None:
    """``mov ecx,[ebp+8]`` is one that every processor of x86 runs; code that is not in the dump tells nothing."""
    machine = x86_machine()
    place = eip if outcome else INNER_FAULT_32 + 0x2000
    machine.registers["eip"] = place
    trap = x86_trap(machine)
    arguments = (0xC000001D, place, trap, 0)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0x8E, arguments)
    crash = analyze_crash(written(machine, tmp_path, 0x8E, arguments, ebp))
    assert (crash.plausibility.outcome if crash.plausibility else None) == outcome
    if outcome and crash.plausibility is not None:
        assert crash.plausibility.evidence[0] == "every x86 processor runs it"
        assert crash.verdict.suspect == "processor"


DPC_STACK = 0x8D0A0000


def test_a_dpc_and_the_thread_that_it_interrupted(tmp_path: Path) -> None:
    """The DPC stack has the stack pointer before below its top: that of the thread, whose interrupt left a trap frame.

    The thread has no part in the crash, and what it ran is not to blame.
    """
    thread = x86_machine()
    interrupted = x86_trap(thread, eip=OUTER_RETURN_32, ebp=thread.registers["ebp"] + 0x1C)
    machine = x86_machine()
    # What ran in the DPC: the same code on the DPC stack.
    moved = DPC_STACK - 0x3000 - STACK_32
    words = struct.unpack(f"<{len(machine.stack) // 4}I", bytes(machine.stack))
    shifted = [word + moved if STACK_32 <= word < STACK_32 + 0x3000 else word for word in words]
    machine.stack = bytearray(struct.pack(f"<{len(shifted)}I", *shifted))
    machine.stack_base = DPC_STACK - 0x3000
    for name in ("ebp", "esp"):
        machine.registers[name] += moved
    # thread's frame of the driver returns into KiRetireDpcList, whose frame is the outermost one.
    outermost = machine.registers["ebp"] + 0x1C + 0xC
    retire = DPC_STACK - 0x40
    machine.put(outermost, retire, KERNEL_CALLS_32["KiRetireDpcList"])
    machine.put(retire, 0, KERNEL_CALLS_32["KiDispatchInterrupt"])
    machine.put(DPC_STACK - 4, interrupted - 0x20)
    trap = x86_trap(machine)
    arguments = (0x24, 2, 0, INNER_FAULT_32)
    ebp = x86_bug_check(machine, trap, KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    machine.blocks.append((STACK_32, bytes(thread.stack)))
    x86_blocks(machine, DPC_STACK)
    target = written(machine, tmp_path, 0xD1, arguments, ebp)
    assert [(stack.kind, stack.high & 0xFFFFFFFF) for stack in live_stacks(target)] == [
        ("DPC", DPC_STACK),
        ("thread", STACK_32 + 0x3000),
    ]
    crash = analyze_crash(target)
    assert shown(crash)[2:5] == [
        (INNER_FAULT_32, "trap frame", "fault"),
        (OUTER_RETURN_32, "frame pointer", ""),
        (THREAD_RETURN_32, "frame pointer", ""),
    ]
    assert (OUTER_RETURN_32, "stack switch", "interrupted") in shown(crash)
    behind = [part for _, trust, part in shown(crash)][[trust for _, trust, _ in shown(crash)].index("stack switch") :]
    assert set(behind) == {"interrupted"}
    assert crash.interrupted == "while a DPC ran"
    assert {HIGH | trap, HIGH | interrupted} == {entry.address for entry in trap_frames(target)}


def test_the_thread_and_the_process_of_a_small_dump(tmp_path: Path) -> None:
    """KDDEBUGGER_DATA64 alone leads to the copies of processor, thread and process."""
    machine = x86_machine()
    trap = x86_trap(machine)
    arguments = (AV, INNER_FAULT_32, trap, 0)
    _, ebp = dispatched(machine, trap, 0x8E, arguments)
    x86_blocks(machine)
    crash = analyze_crash(target := written(machine, tmp_path, 0x8E, arguments, ebp))
    assert crash.thread is not None and crash.thread.address == HIGH | THREAD_32
    assert crash.process is not None and crash.process.address == HIGH | PROCESS_32
    assert (crash.thread.stack_limit, crash.thread.stack_base) == (HIGH | STACK_32, HIGH | STACK_32 + 0x3000)
    assert crash.processor is not None and crash.processor.prcb == HIGH | PRCB_32
    assert shown(crash)[4:] == FAULTING and crash.interrupted is None
    # Sign extension is no contradiction.
    assert crash.notes == ()
    assert crash_context(target) is not None


@pytest.mark.parametrize("command", ["r", "kv", "lm", "lmvm widget", ".ecxr", "!thread", "!process", "!analyze -v"])
def test_the_prompt_over_a_small_dump(tmp_path: Path, command: str) -> None:
    machine = x86_machine()
    machine.unloaded = [("old.sys", 0xF7B00000, 0xF7B08000)]
    trap = x86_trap(machine)
    arguments = (AV, INNER_FAULT_32, trap, 0)
    _, ebp = dispatched(machine, trap, 0x8E, arguments)
    x86_blocks(machine)
    target = written(machine, tmp_path, 0x8E, arguments, ebp)
    session = session_on(target)
    expected = {
        "r": "eip=8040001e esp=",
        "kv": f"04 {machine.registers['ebp']:08x} f7a01014 00000000 00000000 00000000 widget+0x1046",
        "lm": "f7b00000 f7b08000   old.sys",
        "lmvm widget": "    Image path: \\SystemRoot\\system32\\drivers\\widget.sys",
        ".ecxr": "eip=f7a01046 esp=",
        "!thread": "THREAD 86df0a48",
        "!process": "PROCESS 86c2e030",
        "!analyze -v": "IMAGE_NAME:  widget.sys",
    }
    lines = answer(session, command)
    assert any(line.startswith(expected[command]) for line in lines), lines


def test_an_edited_trap_frame_has_its_stack_pointer_elsewhere() -> None:
    """SegCs without a selector: TempSegCs and TempEsp have the true ones (the kernel changed the stack pointer)."""
    frame = bytearray(0x8C)
    struct.pack_into("<I", frame, 0x10, 8)
    struct.pack_into("<I", frame, 0x14, 0xB2342F00)
    struct.pack_into("<III", frame, 0x30, 0, 0x23, 0x23)
    struct.pack_into("<III", frame, 0x68, 0x80401234, 0, 0x246)
    context = x86.trap_frame(lambda address, size: bytes(frame[:size]), 0xB2340000)
    assert context is not None and (context.sp, context.get("cs")) == (0xB2342F00, 8)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0x70, 0, "EFlags 0x0 have reserved bits wrong"),
        (0x70, 0x45474150, "EFlags 0x45474150 have reserved bits wrong"),
        (0x6C, 0x33, "SegCs 0x33 is no code segment of Windows"),
        (0x6C, 0x1B, "HardwareSegSs 0x0 does not go with user code segment 0x1b"),
    ],
)
def test_what_is_no_trap_frame(offset: int, value: int, reason: str) -> None:
    frame = bytearray(0x8C)
    struct.pack_into("<III", frame, 0x68, 0x80401234, 8, 0x246)
    struct.pack_into("<I", frame, offset, value)
    read = lambda address, size: bytes(frame[:size])  # noqa: E731
    assert x86.why_not_trap_frame(read, 0xB2340000) == reason
    assert x86.trap_frame(read, 0xB2340000) is None
    assert x86.why_not_trap_frame(lambda address, size: None, 0xB2340000) == "0xb2340000 not in the dump"


# random damage --------------------------------------------------------------------------------------------------------

_WORDS = st.one_of(
    st.sampled_from(
        [
            0,
            8,
            0x1B,
            0x23,
            0x30,
            0x246,
            0xBADB0D00,
            INNER_FAULT_32,
            OUTER_RETURN_32,
            STACK_32 + 0x2E60,
            STACK_32 + 0x2FFC,
        ]
    ),
    st.integers(STACK_32, STACK_32 + 0x3000),
    st.integers(0, 0xFFFFFFFF),
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Target:
    machine = x86_machine()
    trap = x86_trap(machine)
    arguments = (AV, INNER_FAULT_32, trap, 0)
    _, ebp = dispatched(machine, trap, 0x8E, arguments)
    return written(machine, tmp_path_factory.mktemp("x86"), 0x8E, arguments, ebp)


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 0x110), st.lists(_WORDS, min_size=1, max_size=0x40))
def test_no_stack_makes_a_walk_fail(damaged: Target, index: int, words: list[int]) -> None:
    context = crash_context(damaged)
    assert context is not None and context.sp is not None
    place = HIGH | (context.sp & 0xFFFFFFFF) + 4 * index
    target = patched(damaged, {place: struct.pack(f"<{len(words)}I", *words)})
    stack = walker(target).walk_from(crash_start)
    assert 1 <= len(stack.frames) <= MOST_FRAMES and stack.end
    for before, after in itertools.pairwise(stack.frames):
        assert before.return_address in (after.ip, None)
    stacked_exceptions(target)
