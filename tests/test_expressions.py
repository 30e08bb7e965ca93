"""Addresses and ids as users write them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.target import Target

NT = 0xFFFFF80062600000


@pytest.fixture(scope="module")
def target(sample) -> Target:
    return volatility3_kdump.open(sample())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("fffff800`60da1981", 0xFFFFF80060DA1981),
        ("0xfffff80060da1981", 0xFFFFF80060DA1981),
        ("0XFFFFF80060DA1981", 0xFFFFF80060DA1981),
        ("  1000 ", 0x1000),
        ("10", 0x10),
        ("0", 0),
        ("10+10", 0x20),
        ("0x10+0x10", 0x20),
        ("fffff800`60da0000+`1981", 0xFFFFF80060DA1981),
        ("ffffffffffffffff", 0xFFFFFFFFFFFFFFFF),
    ],
)
def test_numbers_are_hexadecimal(text: str, address: int) -> None:
    assert parse_address(text) == address


def test_names(target: Target) -> None:
    bug_check = target.symbol("KeBugCheckEx")
    assert parse_address("nt!KeBugCheckEx", target) == bug_check
    assert parse_address("nt!KeBugCheckEx+5", target) == bug_check + 5
    assert parse_address("NT!kebugcheckex+0x10", target) == bug_check + 0x10
    assert parse_address("nt", target) == NT
    assert parse_address("nt+1000", target) == NT + 0x1000
    assert parse_address("myfault+1981", target) == 0xFFFFF80060DA1981
    assert parse_address("win32k!NtUserMsgWaitForMultipleObjectsEx", target) == 0xFFFFECCBD15D6FB0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an address: use hexadecimal digits or module!symbol+offset"),
        ("+5", "is not an address: use hexadecimal digits or module!symbol+offset"),
        ("nt!", "is not an address: use hexadecimal digits or module!symbol+offset"),
        ("!KeBugCheckEx", "is not an address: use hexadecimal digits or module!symbol+offset"),
        ("nt!Ke BugCheckEx", "is not an address: use hexadecimal digits or module!symbol+offset"),
        ("@rip", "is not an address: use hexadecimal digits or module!symbol+offset"),
        ("nt+xyz", "'xyz' is no hexadecimal number of at most 64 bits"),
        ("nt!KeBugCheckEx+", "'' is no hexadecimal number of at most 64 bits"),
        ("nt+1+1", "'1+1' is no hexadecimal number of at most 64 bits"),
        ("1+-1", "'-1' is no hexadecimal number of at most 64 bits"),
        ("ffffffffffffffff+1", "is not an address: it is beyond 64 bits"),
        ("nt+ffffffffffffffff", "is not an address: it is beyond 64 bits"),
        ("0x12345678123456781", "no loaded module is named 0x12345678123456781"),
        ("nosuch!thing", "no loaded module is named nosuch"),
        ("nt!NoSuchThing", "nt has no symbol NoSuchThing (isf)"),
        ("myfault!main", "myfault has no symbol main (no symbols)"),
    ],
)
def test_what_is_wrong_is_said(target: Target, text: str, message: str) -> None:
    with pytest.raises(KdumpError) as caught:
        parse_address(text, target)
    assert str(caught.value).endswith(message)
    assert repr(text) in str(caught.value)


def test_names_need_a_dump() -> None:
    with pytest.raises(KdumpError, match="'nt!KeBugCheckEx' is not an address"):
        parse_address("nt!KeBugCheckEx")


def test_addresses_of_32_bit_targets_are_sign_extended() -> None:
    module = SimpleNamespace(name="nt", base=0xFFFFFFFF80400000)
    narrow = SimpleNamespace(memory=SimpleNamespace(pointer_size=4), modules=[module])
    assert parse_address("80401234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("ffffffff80401234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("80400000+1234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("nt+1234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("7ffe0000", narrow) == 0x7FFE0000
    wide = SimpleNamespace(memory=SimpleNamespace(pointer_size=8), modules=[])
    assert parse_address("80401234", wide) == 0x80401234


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_said_to_be_none(text: str) -> None:
    target = SimpleNamespace(memory=SimpleNamespace(pointer_size=8), modules=[])
    try:
        assert 0 <= parse_address(text, target) < 1 << 64
    except KdumpError as error:
        assert repr(text) in str(error)


@given(st.integers(0, (1 << 64) - 1))
def test_what_is_shown_can_be_typed(address: int) -> None:
    digits = f"{address:016x}"
    assert parse_address(f"{digits[:8]}`{digits[8:]}") == parse_address(f"{address:#x}") == address


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("7824", 7824), ("0x1e90", 0x1E90), ("0X1E90", 0x1E90)])
def test_ids(text: str, value: int) -> None:
    assert parse_id(text) == value


@pytest.mark.parametrize("text", ["", "1e90", "-4", "0x", "4294967296", "4.0", "nt"])
def test_bad_ids(text: str) -> None:
    with pytest.raises(KdumpError, match="is not an id: use decimal digits, or 0x and hexadecimal ones"):
        parse_id(text)
