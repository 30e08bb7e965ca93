"""What rules out that a call returns to an address, by the bytes there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.amounts import only
from tests.cpu.code_images import BASE, REAL_IMAGES, functions_of, reader
from volatility3_kdump.cpu.calls import cannot_follow_call
from volatility3_kdump.cpu.disasm import decode_many


def cannot(code: str, size: int = 0x40) -> bool:
    return cannot_follow_call(reader(bytes.fromhex(code).ljust(size, b"\x90")), BASE, "x64")


@pytest.mark.parametrize(
    "code",
    [
        # what real stacks of small dumps point at: data, and the beginnings of functions
        "0000000016000000 4019361200000000",
        "0800000000000000 80f7588b00000000",
        "070b0b0b0b080b0b",
        "50e0cddf8fd6ffff b006bb0d8fd6ffff",
        "48895c2408 4889742410 57 4883ec20",
        "488bc4 48895808 48896810",
        "4c8bdc 49895b08",
        "4053 4883ec20",
        "4156 4883ec30",
        "4883ec28",
        "894c2408 4883ec38",
        "4c89442418 48895c2410",
    ],
)
def test_no_call_returns_to_data_or_to_the_beginning_of_a_function(code: str) -> None:
    assert cannot(code)


@pytest.mark.parametrize(
    "code",
    [
        "488bd8 4885c0 0f8570010000",
        "90 488b5c2430 8bc7 4883c420 5f c3",
        "4c8d5c2470 498b5b20",
        # what stands behind a return, a jump or a breakpoint is not looked at
        "4883c438 c3 cc 000000000000",
        "e92fffffff 0000000000000000",
        "cc 0000000000000000",
        # the fifth argument of the next call
        "4889442420 488bcb",
        "65488b042588010000",
        # mov [rbp+24h],eax; or [rcx],cl: no base of rsp
        "894524 0809 90",
    ],
)
def test_calls_return_to_code(code: str) -> None:
    assert not cannot(code)


def test_without_bytes_nothing_is_ruled_out() -> None:
    assert not cannot_follow_call(lambda address, size: None, BASE, "x64")
    assert not cannot_follow_call(reader(b"\x8b\xd8\x85\xc0\x0f\x84\x00\x00"), BASE, "x64")
    assert not cannot_follow_call(reader(bytes(0x40)), BASE, "arm64")


@pytest.mark.parametrize("image", only(REAL_IMAGES[1:], REAL_IMAGES))
def test_no_call_of_a_real_image_is_ruled_out(shared_data, image: str) -> None:
    read, functions = functions_of(shared_data, image)
    judged = 0
    for function in functions[::2]:
        for instruction in decode_many(read, function.begin, 120, "x64"):
            behind = instruction.address + instruction.size
            if instruction.mnemonic == "call" and behind < function.end:
                judged += 1
                assert not cannot_follow_call(read, behind, "x64"), hex(behind)
    assert judged > 50


@given(st.binary(max_size=0x50), st.integers(0, 0x50))
def test_any_bytes_end_in_an_answer(code: bytes, offset: int) -> None:
    assert cannot_follow_call(reader(code), BASE + offset, "x64") in (True, False)
