"""Where it failed: on scenes whose maker says what the registers were, and where records are damaged or absent."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample.machine import Machine
from kdump_sample.scenes import make_scene
from kdump_sample.variants import crashing
from tests.amounts import part
from tests.edited import edited, write_scene
from volatility3_kdump.analysis.bugcheck import describe, header_bug_check
from volatility3_kdump.analysis.failure import (
    Failure,
    crash_stack,
    failure_at_context,
    failure_at_trap,
    find_failure,
    goes_beyond,
    reported_address,
)
from volatility3_kdump.cpu import amd64
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.disasm import decode
from volatility3_kdump.cpu.exception import ExceptionRecord
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes import crashed
from volatility3_kdump.windows.processes.crashed import crash_processor, crash_thread
from volatility3_kdump.windows.stacks.traps import trap_frames

TRAP_FRAME = 0xFFFFD48F77AF97E0
FAULT_IP = 0xFFFFF80060DA1981
FAULT_ADDRESS = 0xFFFFD8024AAA8010


def failure_of(target: Target) -> Failure:
    found = find_failure(target, header_bug_check(target))
    assert found is not None
    return found


@pytest.fixture
def scene(layouts: Layouts, tmp_path: Path) -> Callable[[str], tuple[Target, Machine]]:
    def make(name: str) -> tuple[Target, Machine]:
        machine = write_scene(tmp_path / "scene.dmp", make_scene(name, layouts), layouts)
        return volatility3_kdump.open(tmp_path / "scene.dmp"), machine

    return make


@pytest.fixture
def with_header(sample, tmp_path: Path) -> Callable[..., Target]:
    """``with_header({offset: bytes})``: the demonstration with its header changed, opened."""

    def make(changes: dict[int, bytes]) -> Target:
        data = bytearray(sample().read_bytes())
        for offset, content in changes.items():
            data[offset : offset + len(content)] = content
        (tmp_path / "header.dmp").write_bytes(data)
        return volatility3_kdump.open(tmp_path / "header.dmp")

    return make


def test_the_fault_of_the_session(plain: Target) -> None:
    failure = failure_of(plain)
    assert failure.origin == "trap frame found by unwinding, its rip is argument 4"
    assert (failure.at_fault, failure.trap_frame, failure.context_record) == (True, TRAP_FRAME, None)
    assert (failure.context.ip, failure.context.sp) == (FAULT_IP, 0xFFFFD48F77AF9970)
    assert (failure.access, failure.address) == ("read", FAULT_ADDRESS)
    assert (failure.module.name, failure.name, failure.unloaded) == ("myfault", "myfault+0x1981", None)
    assert failure.instruction.operands == "eax,dword ptr [rbx]"
    assert (failure.operand, failure.operand_agrees) == (FAULT_ADDRESS, True)
    # The debugger shows rbx as zero.
    assert "rbx" not in failure.shown.registers
    assert failure.shown_instruction.memories[0].zeroed == 0
    assert failure.exception is None


@pytest.mark.parametrize("dump_type", [1, 4, 6])
def test_the_recovered_registers_are_those_that_the_frames_below_had(
    sample, layouts: Layouts, dump_type: int, tmp_path: Path
) -> None:
    machine = write_scene(tmp_path / "x.dmp", make_scene("myfault", layouts), layouts)
    _, thread = crashing(make_scene("myfault", layouts))
    at_fault = dict(thread.registers)
    for frame in thread.frames[:8]:
        at_fault.update(frame.sets)
    failure = failure_of(volatility3_kdump.open(sample(dump_type)))
    assert failure.recovered == ("r12", "r13", "r14", "r15", "rbx", "rdi", "rsi")
    for name in amd64.NONVOLATILE:
        assert failure.context.registers[name] == at_fault[name], name
    # rbp is in the trap frame itself; none of the others changed behind it.
    assert failure.shown.registers["rbp"] == at_fault["rbp"]
    registers = machine.processes.registers[thread.address]
    assert all(failure.context.registers[name] == registers[name] for name in failure.recovered)


def test_a_context_record_that_an_argument_names(scene) -> None:
    target, _ = scene("bad-pointer")
    failure = failure_of(target)
    record = target.header.bug_check_parameters[2]
    assert failure.origin == "context record of argument 3"
    assert (failure.context_record, failure.trap_frame, failure.recovered) == (record, None, ())
    assert failure.context.ip == target.header.bug_check_parameters[1]
    assert failure.operand == 0xFFFF118953118260
    assert failure.at_fault


def test_an_exception_record_and_a_context_record(scene) -> None:
    target, _ = scene("system-thread")
    failure = failure_of(target)
    assert failure.origin == "context record of argument 4"
    assert failure.exception_record == target.header.bug_check_parameters[2]
    assert (failure.exception.code, failure.exception.address) == (0xC0000094, failure.context.ip)
    assert (failure.access, failure.address) == (None, None)
    assert failure.instruction.mnemonic == "div"


@pytest.mark.parametrize(("name", "argument"), [("kernel-exception", 3), ("list-corruption", 2), ("double-fault", 2)])
def test_a_trap_frame_that_an_argument_names(scene, name: str, argument: int) -> None:
    target, _ = scene(name)
    failure = failure_of(target)
    assert failure.origin == f"trap frame of argument {argument}"
    assert failure.trap_frame == target.header.bug_check_parameters[argument - 1]
    assert "rbx" in failure.recovered
    assert failure.module.name == "myfault"


def test_a_bug_check_that_code_asks_for_has_no_fault(scene) -> None:
    target, _ = scene("integrity")
    failure = failure_of(target)
    assert (failure.origin, failure.at_fault) == ("registers in the dump header", False)
    assert failure.name == "nt!KeBugCheckEx"
    assert failure.context is failure.shown


def test_registers_of_the_call_are_not_compared_with_the_accessed_address(scene) -> None:
    """0xBE names an address, but no instruction."""
    target, _ = scene("read-only-write")
    failure = failure_of(target)
    assert (failure.access, failure.at_fault) == ("write", False)
    assert failure.address == target.header.bug_check_parameters[0]
    assert failure.operand_agrees is None


def test_code_of_a_driver_that_is_gone(scene) -> None:
    target, _ = scene("unloaded-driver")
    failure = failure_of(target)
    assert failure.module is None
    assert failure.unloaded.name == "hwpolicy.sys"
    assert failure.unloaded.start <= failure.context.ip < failure.unloaded.end
    assert failure.instruction is None
    assert failure.instruction_absent.startswith("not mapped")
    assert failure.access == "execute"


def test_where_the_stack_cannot_be_walked_it_is_searched(with_header) -> None:
    """The header's rip points nowhere, and no return address is on top of the stack."""
    target = with_header({0x348 + 0xF8: struct.pack("<Q", 0x10), 0x348 + 0x98: struct.pack("<Q", 0xFFFFD48F77AF96A8)})
    failure = failure_of(target)
    assert failure.origin == "trap frame found by a scan of the stack, its rip is argument 4"
    assert failure.trap_frame == TRAP_FRAME
    assert failure.recovered == ()
    assert (failure.operand, failure.operand_agrees) == (None, None)


def test_another_address_than_that_of_any_trap_frame(with_header) -> None:
    target = with_header({0x58: struct.pack("<Q", FAULT_IP + 2)})
    failure = failure_of(target)
    assert (failure.origin, failure.at_fault) == ("registers in the dump header", False)


def test_registers_that_were_never_written_are_the_processor_s(with_header) -> None:
    plain, target = with_header({}), with_header({0x348: b"PAGE" * 750})
    assert target.header_context is None
    expected, failure = failure_of(plain), failure_of(target)
    assert (failure.origin, failure.trap_frame) == (expected.origin, expected.trap_frame)
    assert failure.context.ip == expected.context.ip


def test_registers_that_were_never_written_anywhere(with_header, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashed, "_BUG_CHECK_ROUTINES", set())
    target = with_header({0x348: b"PAGE" * 750})
    assert find_failure(target, header_bug_check(target)) is None
    assert crash_stack(target) is None
    assert trap_frames(target) == ()


def test_the_header_context_is_the_failure_where_it_is_at_that_instruction(with_header) -> None:
    target = with_header({0x348 + 0xF8: struct.pack("<Q", FAULT_IP)})
    failure = failure_of(target)
    assert (failure.origin, failure.at_fault) == ("registers in the dump header", True)


def test_a_real_small_dump_whose_header_was_replaced(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    failure = failure_of(target)
    assert failure.origin == "context record of argument 4"
    assert (failure.context.ip, failure.context.sp) == (0xFFFFF8048B58334C, 0xFFFF850429892120)
    assert failure.context.registers == target.header_context.registers
    assert failure.access == "write"
    # All ones is what the processor reports for a general protection fault: no address.
    assert failure.address is None
    assert (failure.exception.code, failure.module.name) == (0xC0000005, "amdppm")


def test_all_ones_are_an_address_where_the_instruction_accesses_it() -> None:
    ones = (1 << 64) - 1
    code = bytes.fromhex("8908")  # mov dword ptr [rax],ecx
    held = 0xFFFFF80060DA1B20

    def read(address: int, size: int) -> bytes | None:
        return code if address == held and size <= len(code) else None

    def reported(kind: int, address: int, rax: int | None) -> int | None:
        registers = {} if rax is None else {"rax": rax}
        instruction = decode(read, held, "x64", Context("x64", registers, "made"))
        assert instruction is not None
        return reported_address(ExceptionRecord(0xC0000005, 0, held, (kind, address), None, 8), instruction)

    assert reported(1, ones, 0x7FFF123456789ABC) is None
    assert reported(1, ones, None) is None
    assert reported(1, ones, ones) == ones
    assert reported(1, ones, ones - 3) == ones
    assert reported(1, ones, ones - 4) is None
    assert reported(8, ones, None) == ones
    assert reported(1, 0x10, None) == 0x10


# records by their address ---------------------------------------------------------------------------------------------


def test_a_trap_frame_by_its_address(plain: Target) -> None:
    failure = failure_at_trap(plain, TRAP_FRAME)
    assert failure.context == failure_of(plain).context
    assert (failure.access, failure.address) == (None, None)
    user = failure_at_trap(plain, 0xFFFFD48F77AF9E40)
    assert (user.context.ip, user.module, user.name) == (0x00007FF8F16ECE54, None, None)
    assert user.instruction_absent is not None


def test_a_context_record_by_its_address(plain: Target) -> None:
    record = plain.memory.pointer(crash_processor(plain).prcb + plain.nt.offset("_KPRCB", "Context"))
    failure = failure_at_context(plain, record)
    assert failure.context.registers == plain.header_context.registers
    assert (failure.origin, failure.context_record) == ("context record", record)


@pytest.mark.parametrize(
    ("find", "address", "message"),
    [
        (failure_at_trap, 0x10, "no trap frame at 0x10: Rip, SegCs, EFlags, Rsp at 0x10 not in the dump"),
        (failure_at_trap, TRAP_FRAME + 8, "is not 16-byte aligned"),
        (failure_at_trap, 0xFFFFF80062600000, "no trap frame at 0xfffff80062600000: "),
        (failure_at_context, 0x10, "no context record at 0x10: not mapped"),
        (failure_at_context, 0xFFFFF80062600000, "no context record at 0xfffff80062600000: ContextFlags"),
    ],
)
def test_no_record_at_an_address(plain: Target, find, address: int, message: str) -> None:
    with pytest.raises(KdumpError) as caught:
        find(plain, address)
    assert message in str(caught.value)
    assert str(caught.value).startswith(plain.name)


def test_no_trap_frame_of_a_real_arm64_dump(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")
    with pytest.raises(KdumpError, match="no trap frame at 0xffffe00e0f14b670: Pc 0x2 and Sp "):
        failure_at_trap(target, 0xFFFFE00E0F14B670)
    failure = failure_of(target)
    assert failure.context.architecture == "arm64"


@pytest.mark.parametrize(
    ("code", "beyond"), [("0fa310", True), ("f00fab08", True), ("0fba2005", False), ("8b00", False)]
)
def test_a_bit_that_a_register_numbers_may_lie_far_from_the_operand(code: str, beyond: bool) -> None:
    """Intel SDM volume 2, BT: with a register for the bit, memory up to 2^63 bits away is accessed."""
    data = bytes.fromhex(code)
    instruction = decode(lambda address, size: (data + bytes(15))[:size], 0x1000, "x64")
    assert instruction is not None and goes_beyond(instruction) is beyond


# the stack ------------------------------------------------------------------------------------------------------------


def test_the_used_part_of_the_stack(plain: Target, sample) -> None:
    assert crash_stack(plain) == (0xFFFFD48F77AF9698, 0xFFFFD48F77AFA000)
    small = volatility3_kdump.open(sample(4))
    assert crash_stack(small) == (0xFFFFD48F77AF9698, 0xFFFFD48F77AFA000)
    assert [trap.address for trap in trap_frames(plain)] == [TRAP_FRAME, 0xFFFFD48F77AF9E40]


def test_a_stack_of_unknown_extent_ends_where_its_pages_do(scene) -> None:
    target, machine = scene("double-fault")
    low, high = crash_stack(target)
    thread = crash_thread(target).address
    assert (low, high) == machine.processes.stacks[thread].used[0]


def test_an_exception_record_that_is_absent(scene, tmp_path: Path) -> None:
    target, _ = scene("system-thread")
    page = {target.header.bug_check_parameters[2] & ~0xFFF}
    damaged = edited(target, tmp_path / "scene.dmp", tmp_path / "absent.dmp", absent=page)
    failure = find_failure(damaged, header_bug_check(damaged))
    assert failure.exception is None
    assert failure.exception_record == target.header.bug_check_parameters[2]
    # The context record lies on the same page.
    assert target.header.bug_check_parameters[3] & ~0xFFF in page
    assert failure.origin != "context record of argument 4"


@pytest.mark.parametrize("told", [(None, None), (1, None), (None, FAULT_ADDRESS)])
def test_an_access_that_the_arguments_do_not_tell_is_not_known(plain: Target, told: tuple[int | None, ...]) -> None:
    whole = find_failure(plain, describe(0x1E, (0xC0000005, 0x1234, 1, FAULT_ADDRESS)))
    assert (whole.access, whole.address) == ("write", FAULT_ADDRESS)
    failure = find_failure(plain, describe(0x1E, (0xC0000005, 0x1234, *told)))
    assert (failure.access, failure.address) == (None, None)


# any arguments --------------------------------------------------------------------------------------------------------

_CODES = [0xA, 0xD1, 0xC5, 0x50, 0x1E, 0x3B, 0x7E, 0x1000007E, 0x3D, 0x8E, 0x7F, 0xBE, 0xFC, 0x139, 0x124, 0x12345]
_VALUES = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 2, 8, TRAP_FRAME, TRAP_FRAME + 8, FAULT_IP, FAULT_ADDRESS, (1 << 64) - 1, 1 << 63]),
    st.integers(0xFFFFD48F77AF4000, 0xFFFFD48F77AFA000),
    st.integers(0, (1 << 64) - 1),
)


@settings(max_examples=part(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_CODES), st.lists(_VALUES, min_size=4, max_size=4))
def test_any_arguments_give_a_failure(plain: Target, code: int, values: list[int | None]) -> None:
    failure = find_failure(plain, describe(code, values))
    assert failure.context.ip is not None
    assert set(failure.shown.registers) <= set(failure.context.registers)
    assert set(failure.recovered) <= set(amd64.NONVOLATILE)
    assert failure.instruction is not None or failure.instruction_absent
    assert failure.operand_agrees in (None, True, False)
