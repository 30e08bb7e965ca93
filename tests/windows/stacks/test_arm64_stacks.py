"""Stacks of ARM64 crashes: trap frames, leaf functions, jumps to nowhere, pointer authentication.

The driver's code was executed by unicorn. The trap frame lies 370h below the interrupted stack pointer, and the trap
handler's frame record right below it leads to the record (Fp, Pc) at its end: as in the real dump of the last tests.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import volatility3_kdump
from tests.small_machines import (
    AV,
    DRIVER_64,
    INNER_RETURN_64,
    KE_BUG_CHECK_64,
    KERNEL_CALLS_64,
    LEAF_FAULT_64,
    NT_64,
    OUTER_RETURN_64,
    SPSR_64,
    STACK_64,
    SmallMachine,
    arm64_blocks,
    arm64_context,
    arm64_machine,
    arm64_trap,
)
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.analysis.failure import failure_at_trap
from volatility3_kdump.cpu import arm64
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.target import Target
from volatility3_kdump.text.summary import summary
from volatility3_kdump.windows.stacks.starts import crash_start, start_at
from volatility3_kdump.windows.stacks.switched import live_stacks
from volatility3_kdump.windows.stacks.traps import stacked_exceptions, trap_frames
from volatility3_kdump.windows.stacks.walker import walker

#: ESR of a read that hit no page: data abort of the same exception level, translation fault of level 3.
READ_ABORT, FETCH_ABORT = 0x96000007, 0x86000007
#: Where the kernel of the real dump lies.
NT_22000 = 0xFFFFF803F2E00000


def crashed(machine: SmallMachine, path: Path, trap: int, code: int, arguments: tuple[int, ...]) -> Target:
    """KeBugCheckEx, KiBugCheckDispatch and the trap handler below the trap frame, each with its frame record."""
    handler, dispatch, reporter = trap - 0x10, trap - 0x80, trap - 0x200
    machine.put(handler, trap + arm64.RECORD_IN_TRAP_FRAME, KERNEL_CALLS_64["vector"])
    machine.put(dispatch, handler, KERNEL_CALLS_64["handler"])
    machine.put(reporter, dispatch, KERNEL_CALLS_64["dispatch"])
    machine.write(path / "arm64.dmp", code, arguments, arm64_context(KE_BUG_CHECK_64, reporter, reporter), reporter)
    return volatility3_kdump.open(path / "arm64.dmp")


def shown(crash: Crash) -> list[tuple[int, str, str]]:
    return [(frame.ip, frame.trust, frame.part) for frame in crash.stack.frames]


@pytest.mark.parametrize("sign", [False, True])
def test_a_fault_in_a_leaf_function(tmp_path: Path, sign: bool) -> None:
    """The leaf has no frame record: its caller is in lr, which the chain of records alone would leave out."""
    machine = arm64_machine(sign=sign)
    assert machine.registers["pc"] == LEAF_FAULT_64
    trap = arm64_trap(machine, READ_ABORT, 0x24)
    target = crashed(machine, tmp_path, trap, 0xD1, (0x24, 2, 0, LEAF_FAULT_64))
    crash = analyze_crash(target)
    assert shown(crash) == [
        (KE_BUG_CHECK_64, "context", "fault path"),
        (KERNEL_CALLS_64["dispatch"], "frame pointer", "fault path"),
        (KERNEL_CALLS_64["handler"], "frame pointer", "fault path"),
        (KERNEL_CALLS_64["vector"], "frame pointer", "fault path"),
        (LEAF_FAULT_64, "trap frame", "fault"),
        (INNER_RETURN_64, "unwind", ""),
        (OUTER_RETURN_64, "frame pointer", ""),
        (KERNEL_CALLS_64["thread"], "frame pointer", ""),
    ]
    assert crash.stack.complete
    assert [frame.trap_frame for frame in crash.stack.frames if frame.trap_frame] == [trap]
    failure = crash.failure
    assert failure is not None and failure.at_fault and failure.trap_frame == trap
    for name in (*(f"x{number}" for number in range(19)), "fp", "lr", "sp", "pc"):
        assert failure.context.get(name) == machine.registers[name], name
    assert failure.context.get("x19") is None
    assert (failure.context.get("esr"), failure.context.get("far")) == (READ_ABORT, 0x24)
    assert failure.operand == 0x24 and failure.operand_agrees
    assert crash.plausibility is not None and crash.plausibility.outcome == "explained"
    assert crash.verdict.module_name == "widget" and crash.verdict.confidence == "high"
    assert [entry.address for entry in trap_frames(target)] == [trap]


def test_a_broken_chain_goes_on_at_the_trap_frame(tmp_path: Path) -> None:
    machine = arm64_machine()
    trap = arm64_trap(machine, READ_ABORT, 0x24)
    crashed(machine, tmp_path, trap, 0xD1, (0x24, 2, 0, LEAF_FAULT_64))
    machine.put(trap - 0x80, 0x1234)
    low = trap - 0x200
    machine.write(tmp_path / "b.dmp", 0xD1, (0x24, 2, 0, LEAF_FAULT_64), arm64_context(KE_BUG_CHECK_64, low, low), low)
    crash = analyze_crash(volatility3_kdump.open(tmp_path / "b.dmp"))
    assert [ip for ip, _, _ in shown(crash)][-4:-1] == [LEAF_FAULT_64, INNER_RETURN_64, OUTER_RETURN_64]
    assert any("frames are left out" in remark for remark in crash.stack.remarks)


@pytest.mark.parametrize(
    ("pc", "says"),
    [
        (0, "PC 0x0 lies in no module"),
        (DRIVER_64 + 0x1042, "is no multiple of 4, where no instruction can be"),
        (DRIVER_64 + 0x1040 & ~(0xFFFF << 48) | 0xDFFF << 48, "lies in no module"),
    ],
)
def test_a_jump_to_nowhere(tmp_path: Path, pc: int, says: str) -> None:
    """lr has the caller; upper bits that are no extension are those of an authentication code."""
    machine = arm64_machine()
    trap = arm64_trap(machine, FETCH_ABORT, pc, pc=pc, lr=INNER_RETURN_64)
    machine.registers["pc"] = pc
    crash = analyze_crash(crashed(machine, tmp_path, trap, 0xD1, (pc, 2, 8, pc)))
    assert crash.plausibility is not None and crash.plausibility.outcome == "jump to nowhere"
    assert says in crash.plausibility.says
    assert "the return address in lr is widget+0x1050, behind a call of widget+0x1080" in crash.plausibility.evidence
    signed = any(
        "which hold an authentication code, it is widget+0x1040" in line for line in crash.plausibility.evidence
    )
    assert signed == (pc >> 48 == 0xDFFF)
    ips = [frame.ip for frame in crash.stack.frames]
    if pc & 3 == 0:
        assert ips[ips.index(pc) + 1] == INNER_RETURN_64
    assert crash.verdict.module_name == "widget"


@pytest.mark.parametrize(
    ("esr", "address", "outcome"),
    [
        (READ_ABORT, 0x24, "explained"),
        # Elsewhere than the operand, which is not in the dump: nothing can be said.
        (READ_ABORT, 0xFFFF800011112222, None),
        # The memory itself answered with an error.
        (0x96000010, 0x24, "contradicted"),
        (0x96000021, 0x24, "explained"),
    ],
)
def test_the_syndrome_and_the_instruction(tmp_path: Path, esr: int, address: int, outcome: str | None) -> None:
    machine = arm64_machine()
    trap = arm64_trap(machine, esr, address)
    crash = analyze_crash(crashed(machine, tmp_path, trap, 0xD1, (address, 2, 0, LEAF_FAULT_64)))
    assert (crash.plausibility.outcome if crash.plausibility else None) == outcome
    assert (crash.verdict.suspect == "hardware") == (outcome == "contradicted")
    if outcome is None:
        # What the instruction did not do is not said of it, and nobody is blamed for certain.
        lines = summary(crash, False)
        assert (
            "The processor reported a read of 0xffff800011112222 (kernel address space) at IRQL 2, but the instruction "
            "accesses 0x24."
        ) in lines
        assert not any("widget+0x1084 read" in line for line in lines)
        assert crash.verdict.confidence == "low"


def test_an_operand_that_is_there_acquits_the_code(tmp_path: Path) -> None:
    """The load is from the stack in use, yet the processor reported a read of another address."""
    machine = arm64_machine()
    place = machine.registers["sp"] + 0x20
    trap = arm64_trap(machine, READ_ABORT, 0xF025, x1=place)
    crash = analyze_crash(crashed(machine, tmp_path, trap, 0xD1, (0xF025, 2, 0, LEAF_FAULT_64)))
    assert crash.plausibility is not None and crash.plausibility.outcome == "contradicted"
    assert f"accesses {place + 0x14:#x}, which is there, yet a read of 0xf025" in crash.plausibility.says
    assert crash.verdict.suspect == "hardware"


def test_an_exception_record_finds_its_trap_frame(tmp_path: Path) -> None:
    machine = arm64_machine()
    trap = arm64_trap(machine, READ_ABORT, 0x24)
    record = trap - 0x180
    machine.put_bytes(record, struct.pack("<IIQQIIQQ", AV, 0, 0, LEAF_FAULT_64, 2, 0, 0, 0x24) + bytes(0x68))
    target = crashed(machine, tmp_path, trap, 0x1E, (AV | 0xFFFFFFFF << 32, LEAF_FAULT_64, 0, 0x24))
    (exception,) = stacked_exceptions(target)
    assert (exception.address, exception.trap_frame, exception.record.code) == (record, trap, AV)
    crash = analyze_crash(target)
    assert crash.reasoning.finding("EXCEPTION_RECORD") is not None
    assert crash.failure is not None and crash.failure.trap_frame == trap


def test_a_dpc_and_the_thread_that_it_interrupted(tmp_path: Path) -> None:
    """The chain of frame records leads from the DPC's stack to the thread's, which has no part in the crash."""
    machine = arm64_machine()
    trap = arm64_trap(machine, READ_ABORT, 0x24)
    other = 0xFFFFE00E0F145000
    thread = bytearray(0x1000)
    first, second = other + 0x400, other + 0x800
    struct.pack_into("<QQ", thread, 0x400, second, INNER_RETURN_64)
    struct.pack_into("<QQ", thread, 0x800, 0, 0)
    machine.put(STACK_64 + 0x7E00, first, KERNEL_CALLS_64["dispatch"])
    machine.blocks.append((other, bytes(thread)))
    arm64_blocks(machine, (other, other + 0x1000), STACK_64 + 0x8000)
    target = crashed(machine, tmp_path, trap, 0xD1, (0x24, 2, 0, LEAF_FAULT_64))
    crash = analyze_crash(target)
    assert [stack.kind for stack in live_stacks(target)] == ["DPC"] and crash.interrupted == "while a DPC ran"
    assert shown(crash)[4:] == [
        (LEAF_FAULT_64, "trap frame", "fault"),
        (INNER_RETURN_64, "unwind", ""),
        (OUTER_RETURN_64, "frame pointer", ""),
        (KERNEL_CALLS_64["thread"], "frame pointer", ""),
        (KERNEL_CALLS_64["dispatch"], "frame pointer", "interrupted"),
        (INNER_RETURN_64, "frame pointer", "interrupted"),
    ]


@pytest.mark.parametrize(
    ("esr", "name", "access"),
    [
        (0x96000007, "data abort", "read"),
        (0x96000047, "data abort", "write"),
        (0x86000007, "instruction abort", "execute"),
        (0x8A000000, "misaligned pc", None),
        (0x9A000000, "misaligned sp", None),
        (0xF2000000 | 0xF003, "break instruction", None),
        (0x56000000, "system call", None),
        (0x02000000, "undefined instruction", None),
        (0x72000000, "pointer authentication", None),
    ],
)
def test_syndromes(esr: int, name: str, access: str | None) -> None:
    """Arm ARM, ESR_EL1: the class in bits 31 to 26, WnR in bit 6 of a data abort."""
    assert (arm64.syndrome(esr).class_name, arm64.syndrome(esr).access) == (name, access)


@pytest.mark.parametrize(
    ("offset", "code", "value", "reason"),
    [
        (0x90, "<I", 0x10, "Spsr 0x10 is none of Windows"),
        (0x90, "<I", 0x45474150, "Spsr 0x45474150 is none of Windows"),
        (0x98, "<Q", STACK_64 + 8, "is no stack pointer of the kernel"),
        (0x98, "<Q", 0x7FF612340000, "is no stack pointer of the kernel"),
    ],
)
def test_what_is_no_trap_frame(offset: int, code: str, value: int, reason: str) -> None:
    frame = bytearray(0x150)
    struct.pack_into("<IIQ", frame, 0x90, SPSR_64, READ_ABORT, STACK_64 + 0x370)
    struct.pack_into("<3Q", frame, 0x138, 0, 0, NT_64 + 0x1234)
    assert arm64.why_not_trap_frame(lambda address, size: bytes(frame[:size]), STACK_64) is None
    struct.pack_into(code, frame, offset, value)
    found = arm64.why_not_trap_frame(lambda address, size: bytes(frame[:size]), STACK_64)
    assert found is not None and found.endswith(reason)


# a real dump ----------------------------------------------------------------------------------------------------------

#: A page fault in win32kbase on the stack of another thread, and below it the trap frame of code that went on.
FAULT_TRAP, FAULT_SP, LIVE_TRAP = 0xFFFFE00E0F14C0A0, 0xFFFFE00E0F14C410, 0xFFFFE00E0F14C4D0


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Target:
    return volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")


def test_a_real_trap_frame(real: Target) -> None:
    """ESR says a read that hit no page; the trap handler's record, right below, leads to Fp and Pc."""
    assert real.memory.pointer(FAULT_TRAP - 0x10) == FAULT_TRAP + arm64.RECORD_IN_TRAP_FRAME
    failure = failure_at_trap(real, FAULT_TRAP)
    assert failure.name == "win32kbase+0x34e80" and failure.context.sp == FAULT_SP
    assert real.name_of(failure.context.registers["lr"]) == "win32kbase+0x36c04"
    assert arm64.syndrome(failure.context.registers["esr"]).access == "read"


def test_the_marks_of_real_trap_frames(real: Target) -> None:
    """The four on the stack that the dump holds whole; the last of them has no vector registers, only the record."""
    low, high = 0xFFFFE00E0F145000, 0xFFFFE00E0F14D000
    marked = [address for address in range(low, high, 16) if arm64.is_marked(real.memory.read, address)]
    assert marked == [0xFFFFE00E0F149520, 0xFFFFE00E0F149E00, FAULT_TRAP, LIVE_TRAP]


def test_a_real_stack_through_a_trap_frame(real: Target) -> None:
    """From the trap handler on, and to the same routines at its end that the stack of the crash ends in."""
    record = LIVE_TRAP + arm64.RECORD_IN_TRAP_FRAME
    assert real.memory.pointer(LIVE_TRAP - 0x10) == record
    handler = Context("arm64", {"pc": NT_22000 + 0x207EE0, "fp": record, "sp": LIVE_TRAP - 0x10}, "handler")
    stack = walker(real).walk(start_at(real, handler))
    assert stack.complete and stack.frames[0].trap_frame == LIVE_TRAP
    assert (str(stack.frames[1].name), stack.frames[1].trust) == ("nt+0x679804", "trap frame")
    crash = walker(real).walk_from(crash_start)
    assert [frame.ip for frame in stack.frames[-3:]] == [frame.ip for frame in crash.frames[-3:]]
