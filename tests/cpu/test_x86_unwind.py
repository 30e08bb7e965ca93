"""The x86 frame-pointer chain on stacks made by hand, and on those that an executed program makes."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.x86_unwind import Registers, Unwound, frame_pointer_step

STACK = 0x8A3B0000


def memory_of(values: dict[int, int]) -> Read:
    """Memory that holds the 32-bit values at the given offsets of the stack, and nothing else."""
    held = {
        STACK + offset + index: byte for offset, value in values.items() for index, byte in enumerate(_dword(value))
    }

    def read(address: int, size: int) -> bytes | None:
        found = [held.get(address + index) for index in range(size)]
        return None if None in found else bytes(byte for byte in found if byte is not None)

    return read


def _dword(value: int) -> bytes:
    return struct.pack("<I", value)


def at(ebp: int | None, esp: int | None = None) -> Registers:
    return Registers(0x82801234, esp, ebp)


def test_frames_are_followed_to_the_outermost() -> None:
    read = memory_of({0x10: STACK + 0x40, 0x14: 0x82805678, 0x40: 0, 0x44: 0x8280ABCD})
    first = frame_pointer_step(at(STACK + 0x10, STACK), read, (STACK, STACK + 0x48))
    assert first == Unwound(Registers(0x82805678, STACK + 0x18, STACK + 0x40), STACK + 0x10)
    assert first.registers is not None
    second = frame_pointer_step(first.registers, read, (STACK, STACK + 0x48))
    assert second == Unwound(Registers(0x8280ABCD, STACK + 0x48, 0), STACK + 0x40)
    assert second.registers is not None
    assert frame_pointer_step(second.registers, read) == Unwound(None, None, "the frame-pointer chain ends")


@pytest.mark.parametrize(
    "registers, limits, reason",
    [
        (at(None), None, "ebp is not known"),
        (at(0), None, "the frame-pointer chain ends"),
        (at(STACK + 0x12), None, "not a multiple of 4"),
        (at(STACK + 0x10), (STACK + 0x14, STACK + 0x100), "outside the stack"),
        (at(STACK + 0x10), (STACK, STACK + 0x14), "outside the stack"),
        (at(STACK + 0x10, STACK + 0x14), None, "below esp"),
        (at(STACK + 0x80), None, "not in the dump"),
        (at(STACK + 0x18), None, "the frame-pointer chain ends"),
        (at(STACK + 0x20), None, "goes down"),
        (at(STACK + 0x28), None, "goes down"),
        (at(0xFFFFFFFC), None, "outside the stack"),
    ],
)
def test_a_broken_chain_says_why(registers: Registers, limits: tuple[int, int] | None, reason: str) -> None:
    read = memory_of(
        {
            **{0x10: STACK + 0x40, 0x14: 0x82805678},
            **{0x18: STACK + 0x40, 0x1C: 0},
            **{0x20: STACK + 0x20, 0x24: 0x82805678},
            **{0x28: STACK + 0x10, 0x2C: 0x82805678},
        }
    )
    outcome = frame_pointer_step(registers, read, limits)
    assert outcome.registers is None
    assert reason in (outcome.reason or "")


def test_limits_may_be_sign_extended_and_end_at_the_top_of_the_address_space() -> None:
    def read(address: int, size: int) -> bytes | None:
        return struct.pack("<II", 0, 0x82805678) if (address, size) == (0xFFFFFFF8, 8) else None

    outcome = frame_pointer_step(at(0xFFFFFFF8), read, (0xFFFFFFFFFFFF0000, 0x10000000000000000))
    assert outcome.registers == Registers(0x82805678, 0, 0)


def test_a_chain_may_leave_its_stack_downwards() -> None:
    """From the stack of deferred procedure calls to the thread's: the next step is given the other limits."""
    read = memory_of({0x8010: STACK + 0x40, 0x8014: 0x82805678})
    outcome = frame_pointer_step(at(STACK + 0x8010, STACK + 0x8000), read, (STACK + 0x8000, STACK + 0x9000))
    assert outcome.registers == Registers(0x82805678, STACK + 0x8018, STACK + 0x40)


def test_registers_from_and_to_a_context() -> None:
    context = Context("x86", {"eip": 0x82801234, "esp": 0x8A3B0000, "ebp": 0x8A3B0010, "eax": 1}, "header context")
    registers = Registers.from_context(context)
    assert registers == Registers(0x82801234, 0x8A3B0000, 0x8A3B0010)
    assert registers.to_context("frame pointer") == Context(
        "x86", {"eip": 0x82801234, "esp": 0x8A3B0000, "ebp": 0x8A3B0010}, "frame pointer"
    )
    assert Registers(1, None, None).to_context("frame pointer").known == {"eip"}
    with pytest.raises(ValueError, match="x64"):
        Registers.from_context(Context("x64", {"rip": 1}, "header context"))
    with pytest.raises(ValueError, match="eip"):
        Registers.from_context(Context("x86", {"esp": 1}, "header context"))


def test_an_executed_recursion_is_walked_back() -> None:
    """Code of the standard prolog that calls itself ten deep: the chain gives each return address and ``esp``."""
    unicorn = pytest.importorskip("unicorn")
    from unicorn.x86_const import UC_X86_REG_EBP, UC_X86_REG_EIP, UC_X86_REG_ESP

    # push ebp; mov ebp, esp; sub esp, 12; dec dword [ebp+8]; jz +8; push [ebp+8]; call start; leave; ret
    code = bytes.fromhex("55 8bec 83ec0c ff4d08 7408 ff7508 e8edffffff c9 c3")
    start, returned = 0x82800000, 0x82801000
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    cpu.mem_map(start, 0x2000)
    cpu.mem_write(start, code)
    cpu.mem_map(STACK, 0x10000)
    top = STACK + 0x8000
    cpu.mem_write(top, struct.pack("<II", returned, 10))
    cpu.reg_write(UC_X86_REG_ESP, top)
    leave = start + code.index(b"\xc9\xc3")
    calls = [(returned, top + 4)]
    stopped: list[int] = []

    def step(cpu: Any, address: int, size: int, data: object) -> None:
        state = [int(cpu.reg_read(each)) for each in (UC_X86_REG_EIP, UC_X86_REG_ESP, UC_X86_REG_EBP)]
        if address == leave:
            stopped.extend(state)
            cpu.emu_stop()
        elif code[address - start] == 0xE8:
            calls.append((leave, state[1]))

    cpu.hook_add(unicorn.UC_HOOK_CODE, step)
    cpu.emu_start(start, returned)
    assert len(calls) == 10

    def read(address: int, size: int) -> bytes | None:
        return bytes(cpu.mem_read(address, size)) if STACK <= address <= STACK + 0x10000 - size else None

    registers = Registers(*stopped[:3])
    found = []
    while True:
        outcome = frame_pointer_step(registers, read, (STACK, STACK + 0x10000))
        if outcome.registers is None:
            break
        registers = outcome.registers
        found.append((registers.eip, registers.esp))
    assert outcome.reason == "the frame-pointer chain ends"
    assert found == calls[::-1]


@settings(max_examples=part(300), deadline=None)
@given(st.binary(max_size=64), st.integers(0, 0xFFFFFFFF), st.integers(0, 40), st.integers(0, 80))
def test_random_stacks_never_raise_and_ascend(content: bytes, eip: int, ebp: int, end: int) -> None:
    def read(address: int, size: int) -> bytes | None:
        start = address - STACK
        return content[start : start + size] if start >= 0 and start + size <= len(content) else None

    registers = Registers(eip, STACK, STACK + ebp)
    for _ in range(len(content) + 1):
        outcome = frame_pointer_step(registers, read, (STACK, STACK + end))
        assert (outcome.registers is None) == (outcome.reason is not None)
        if outcome.registers is None:
            return
        assert outcome.registers.esp is not None
        assert registers.esp is not None
        assert outcome.registers.esp > registers.esp
        registers = outcome.registers
    raise AssertionError("the chain does not end")
