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
HEADER = SimpleNamespace(architecture="")


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
    assert parse_address("!KeBugCheckEx", target) == parse_address("nt!KeBugCheckEx", target)
    assert parse_address("myfault+1981", target) == 0xFFFFF80060DA1981
    assert parse_address("win32k!NtUserMsgWaitForMultipleObjectsEx", target) == 0xFFFFECCBD15D6FB0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Numeric expression missing from '<EOL>'"),
        ("nt!", "Syntax error at '!': no symbol after the module's name"),
        ("!NoSuchThing", "Couldn't resolve error at '!NoSuchThing'"),
        ("nt!Ke BugCheckEx", "Couldn't resolve error at 'nt!Ke BugCheckEx': nt has no symbol Ke (pdb symbols)"),
        ("nt+xyz", "Couldn't resolve error at 'xyz'"),
        ("nt!KeBugCheckEx+", "Numeric expression missing from '<EOL>'"),
        ("nt 5", "Extra character error at '5'"),
        ("0x12345678123456781", "Overflow error at '0x12345678123456781': the number is beyond 64 bits"),
        ("nosuch!thing", "Couldn't resolve error at 'nosuch!thing': no loaded module is named nosuch"),
        ("5+nt!NoSuchThing", "Couldn't resolve error at 'nt!NoSuchThing': nt has no symbol NoSuchThing (pdb symbols)"),
        ("myfault!main", "Couldn't resolve error at 'myfault!main': myfault has no symbol main (no symbols)"),
    ],
)
def test_what_is_wrong_is_said(target: Target, text: str, message: str) -> None:
    with pytest.raises(KdumpError) as caught:
        parse_address(text, target)
    assert str(caught.value) == f"{text!r} is not an address: {message}"


def test_addresses_are_expressions(target: Target) -> None:
    assert parse_address("poi(nt!PsInitialSystemProcess)", target) == 0xFFFF91894C27A040
    assert parse_address("@rip", target) == target.symbol("KeBugCheckEx")
    assert parse_address("+5") == 5
    assert parse_address("ffffffffffffffff+1") == 0


def test_names_need_a_dump() -> None:
    with pytest.raises(KdumpError, match=r"'nt!KeBugCheckEx' is not an address: .*: names need a dump"):
        parse_address("nt!KeBugCheckEx")


def test_addresses_of_32_bit_targets_are_sign_extended() -> None:
    module = SimpleNamespace(name="nt", base=0xFFFFFFFF80400000)
    narrow = SimpleNamespace(memory=SimpleNamespace(pointer_size=4), modules=[module], header=HEADER)
    assert parse_address("80401234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("ffffffff80401234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("80400000+1234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("nt+1234", narrow) == 0xFFFFFFFF80401234
    assert parse_address("7ffe0000", narrow) == 0x7FFE0000
    wide = SimpleNamespace(memory=SimpleNamespace(pointer_size=8), modules=[], header=HEADER)
    assert parse_address("80401234", wide) == 0x80401234


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_said_to_be_none(text: str) -> None:
    memory = SimpleNamespace(pointer_size=8)
    # Nothing is known of its registers, which "." asks for.
    target = SimpleNamespace(memory=memory, modules=[], header=HEADER, once=lambda make: None)
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
