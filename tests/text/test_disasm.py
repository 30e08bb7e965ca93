"""``u`` and ``ub``: instructions of made code, written down by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from tests.edited import edited
from volatility3_kdump.analysis.code import instructions_before, instructions_from
from volatility3_kdump.target import Target
from volatility3_kdump.text.disasm import listing
from volatility3_kdump.views.disasm import disasm_grid

FUNCTION = 0xFFFFF80060DA1950
LISTING = """\
myfault+0x1950:
fffff800`60da1950 53              push    rbx
fffff800`60da1951 4883ec20        sub     rsp,20h
fffff800`60da1955 90              nop
fffff800`60da1956 ba90080000      mov     edx,890h
fffff800`60da195b b901000000      mov     ecx,1
fffff800`60da1960 41b84d794661    mov     r8d,6146794Dh
fffff800`60da1966 ff1594160000    call    qword ptr [myfault+0x3000 (fffff800`60da3000)]
fffff800`60da196c 488bd8          mov     rbx,rax
fffff800`60da196f 4885c0          test    rax,rax
fffff800`60da1972 740f            je      myfault+0x1983 (fffff800`60da1983)
fffff800`60da1974 0f1f8000000000  nop     dword ptr [rax]
fffff800`60da197b ff1597160000    call    qword ptr [myfault+0x3018 (fffff800`60da3018)]
fffff800`60da1981 8b03            mov     eax,dword ptr [rbx]
fffff800`60da1983 4883c420        add     rsp,20h
fffff800`60da1987 5b              pop     rbx
fffff800`60da1988 c3              ret
"""
LINES = LISTING.splitlines()
ADDRESSES = [int(line[:17].replace("`", ""), 16) for line in LINES[1:]]


@pytest.fixture(scope="module")
def target(sample) -> Target:
    return volatility3_kdump.open(sample())


def text(target: Target, start: int, count: int, before: bool = False) -> list[str]:
    return list(disasm_grid(target, start, count, before).kd_lines())


def test_forwards(target: Target) -> None:
    assert text(target, FUNCTION, 16) == LINES
    assert text(target, FUNCTION, 1) == LINES[:2]


@pytest.mark.parametrize("number", range(1, 16))
@pytest.mark.parametrize("count", [1, 4, 8])
def test_backwards_meets_the_address_exactly(target: Target, number: int, count: int) -> None:
    shown = text(target, ADDRESSES[number], count, before=True)
    held = min(number, count)
    assert len(shown) == count + 1
    assert shown[-held:] == LINES[1 + number - held : 1 + number]


def test_the_first_line_names_the_first_instruction(target: Target) -> None:
    assert text(target, ADDRESSES[3], 2, before=True)[0] == "myfault+0x1951:"
    bug_check = target.symbol("KeBugCheckEx")
    assert text(target, bug_check + 5, 1, before=True) == [
        "nt!KeBugCheckEx:",
        f"fffff800`{bug_check & 0xFFFFFFFF:08x} 48894c2408      mov     qword ptr [rsp+8],rcx",
    ]


def test_backwards_goes_on_in_front_of_a_symbol(target: Target, sample, tmp_path: Path) -> None:
    """The code in front of a function is the end of another one."""
    bug_check = target.symbol("KeBugCheckEx")
    changed = edited(target, sample(), tmp_path / "x.dmp", {bug_check - 16: b"\xcc" * 12 + b"\x48\x83\xc4\x28"})
    shown = text(changed, bug_check + 5, 3, before=True)
    assert [line.split(maxsplit=2)[1:] for line in shown[1:]] == [
        ["cc", "int     3"],
        ["4883c428", "add     rsp,28h"],
        ["48894c2408", "mov     qword ptr [rsp+8],rcx"],
    ]


def test_code_that_is_not_there(target: Target) -> None:
    assert text(target, 0x10, 4) == ["00000000`00000010:", "00000000`00000010 ??              ???"]
    assert text(target, 0x10, 4, before=True) == text(target, 0x10, 4)
    # The page in front of the header page is not mapped.
    assert instructions_before(target, 0xFFFFF80062600000, 8) == []
    assert instructions_before(target, 0, 8) == []


def test_a_listing_that_ends_early_says_where(target: Target, sample, tmp_path: Path) -> None:
    damaged = edited(target, sample(), tmp_path / "x.dmp", {ADDRESSES[2]: b"\x06"})
    assert text(damaged, FUNCTION, 4) == [*LINES[:3], "fffff800`60da1955 ??              ???"]


def test_backwards_without_a_way_to_the_address(target: Target, sample, tmp_path: Path) -> None:
    """Where no instruction ends at the address, there is none before it."""
    end = ADDRESSES[8]
    damaged = edited(target, sample(), tmp_path / "x.dmp", {end - 32: b"\x06" * 32})
    assert instructions_before(damaged, end, 4) == []


def test_arm64_backwards_stops_at_a_gap(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")
    held = {
        0x1000: bytes.fromhex("1f2003d5"),
        0x1004: None,
        0x1008: bytes.fromhex("c0035fd6"),
        0x100C: b"\x1f\x20\x03\xd5",
    }
    target.memory.read = lambda address, size: held.get(address) if size == 4 else None
    found = instructions_before(target, 0x1010, 4)
    assert [(item.address, item.mnemonic) for item in found] == [(0x1008, "ret"), (0x100C, "nop")]
    assert list(listing(0x1008, None, instructions_from(target, 0x1008, 1), 1, "arm64", 8))[1].split() == [
        "00000000`00001008",
        "d65f03c0",
        "ret",
    ]
