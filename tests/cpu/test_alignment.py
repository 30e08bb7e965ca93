"""Instruction pointers at the start of an instruction and inside one."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.amounts import only
from tests.cpu.code_images import BASE, REAL_IMAGES, functions_of, reader
from volatility3_kdump.cpu.alignment import ALIGNED, MISALIGNED, UNKNOWN, alignment
from volatility3_kdump.cpu.disasm import decode_many

#: nt!KiPageFault and KeBugCheckEx have such instructions; each entry is one.
INSTRUCTIONS = [
    bytes.fromhex(text)
    for text in (
        "48895c2408 48896c2410 4889742418 57 4156 4157 4883ec20 488bd9 4c8bf2 418bf8 488b0d11223344 4885c9 7412"
        " 488b4110 488b5808 4c8d0520112233 baabcd0000 e811223344 85c0 0f8811223344 488b442450 8b4c2458 4803c8"
        " 48894c2440 0fb7442438 66894310 f30f6f4500 f30f7f03 c7431811223344 4c8b442460 488bd3 498bce e811223344"
        " 8bf8 85c0 7905 ba01000000 488b5c2440 488b6c2448 488b742450 4883c420 415f 415e 5f c3 cccccc"
    ).split()
]


def starts_of(instructions: list[bytes]) -> list[int]:
    starts = [BASE]
    for instruction in instructions:
        starts.append(starts[-1] + len(instruction))
    return starts


def test_every_byte_of_a_function_is_told_apart():
    code = b"".join(INSTRUCTIONS)
    starts = starts_of(INSTRUCTIONS[:-1])
    for ip in range(BASE + 0x60, starts[-1]):
        answer = alignment(reader(code), ip, "x64")
        index = bisect.bisect_right(starts, ip) - 1
        if starts[index] == ip:
            assert (answer.state, answer.instruction) == (ALIGNED, None), hex(ip)
            assert answer.met == answer.runs
        else:
            assert answer.state == MISALIGNED, hex(ip)
            assert answer.instruction is not None
            assert (answer.instruction.address, answer.instruction.raw) == (starts[index], INSTRUCTIONS[index])
            assert answer.met == 0
            assert f"{starts[index]:#x}" in answer.evidence


def test_code_that_the_dump_lacks_says_nothing():
    code = b"".join(INSTRUCTIONS)
    near = alignment(reader(code), BASE + 0x20, "x64")
    assert near.state == UNKNOWN and "only 32 bytes" in near.evidence
    absent = alignment(lambda address, size: None, BASE, "x64")
    assert absent.state == UNKNOWN and absent.runs == 0


def test_bytes_that_are_no_code_say_nothing():
    # 06 is no instruction in 64-bit mode.
    answer = alignment(reader(b"\x06" * 0x100), BASE + 0x80, "x64")
    assert answer.state == UNKNOWN and answer.runs == 0


def test_arm64_needs_a_multiple_of_four():
    assert alignment(reader(b""), BASE, "arm64").state == ALIGNED
    assert alignment(reader(b""), BASE + 2, "arm64").state == MISALIGNED


def test_other_processors_are_not_judged():
    assert alignment(reader(b""), BASE, "arm").state == UNKNOWN


@pytest.mark.parametrize("image", only(REAL_IMAGES[1:], REAL_IMAGES))
def test_against_the_functions_of_real_images(shared_data, image):
    """Every function's own start gives its boundaries; the answer looks at the bytes before the place alone."""
    read, functions = functions_of(shared_data, image)
    judged = wrong = 0
    for function in functions[::3]:
        boundaries = {instruction.address for instruction in decode_many(read, function.begin, 200, "x64")}
        for rva in range(function.begin + 0x40, min(function.end, max(boundaries, default=0)), 7):
            answer = alignment(read, rva, "x64")
            if answer.state != UNKNOWN:
                judged += 1
                wrong += (answer.state == ALIGNED) != (rva in boundaries)
    assert judged > 50
    assert wrong == 0


@given(st.binary(max_size=0x120), st.integers(0, 0x120))
def test_any_bytes_end_in_an_answer(code, offset):
    answer = alignment(reader(code), BASE + offset, "x64")
    assert answer.state in (ALIGNED, MISALIGNED, UNKNOWN)
    if answer.instruction is not None:
        assert answer.instruction.address < answer.ip < answer.instruction.address + answer.instruction.size
