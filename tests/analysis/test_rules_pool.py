"""Pool (0x19, 0xC1, 0xC2, special pool) and page tables (0x1A)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.analysis.reasons import KERNEL, TRIAGE, MakeCase, both, value
from volatility3_kdump.analysis import rules  # noqa: F401  (registers them)
from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import RULES, Case
from volatility3_kdump.windows.memory.pool_header import block_before, read_header, tag_text
from volatility3_kdump.windows.memory.pte import mapped_address, parse_pte

POOL_PAGE, FREED = 0xFFFF91894EF70000, 0xFFFF91894EF72010
DAMAGED = POOL_PAGE + 0x230
BIG_PAGE = 0xFFFF91894D612000


@both
def test_the_block_that_was_overrun(case: MakeCase, dump_type: int) -> None:
    found = reason(case("pool-overrun", dump_type))
    words = " Nonpaged pool" if dump_type == KERNEL else ""
    assert value(found, "POOL_ADDRESS") == f"{DAMAGED:016x}{words}"
    assert value(found, "CORRUPTING_POOL_ADDRESS") == f"{POOL_PAGE + 0x1C0:016x}"
    assert value(found, "CORRUPTING_POOL_TAG") == "MyfB"
    assert found.specifiers == ("20",)
    assert any("with the tag MyfB" in sentence for sentence in found.sentences)
    if dump_type == KERNEL:
        assert value(found, "POOL_TAG_CANDIDATES") == "myfault.sys"
    assert found.culprit is None


def test_headers_that_do_not_agree_name_nobody(case: MakeCase) -> None:
    """The walk from the start of the page must meet consistent headers all the way."""
    target = case("pool-overrun").target
    before = block_before(target, DAMAGED)
    assert before is not None and (before.tag, before.block_size, before.previous_size) == ("MyfB", 0x70, 0xC0)
    assert block_before(target, DAMAGED + 0x160) is None
    assert block_before(target, POOL_PAGE) is None
    header = read_header(target, POOL_PAGE)
    assert header is not None and header.text == "tag Ntfx, 0x100 bytes, allocated, block before it 0x0 bytes"


@both
def test_pool_that_is_freed_twice(case: MakeCase, dump_type: int) -> None:
    found = reason(case("double-free", dump_type))
    assert value(found, "FREED_POOL_TAG") == "Leak"
    assert found.specifiers == ("7", "Leak")
    finding = found.finding("POOL_HEADER")
    assert finding is not None and "tag Leak, 0x210 bytes, free" in finding.note


def test_a_big_page_that_is_freed(other_arguments: MakeCase) -> None:
    """0xC2, P1 = 46: no header stands in front of a big page, but the table has it."""
    found = reason(other_arguments(0xC2, (0x46, BIG_PAGE, 0, 0)))
    finding = found.finding("POOL_BLOCK")
    assert finding is not None and finding.address == BIG_PAGE
    assert (
        "nonpaged NX pool big block" in finding.note and "tag MyFa, allocated, by nt!PoolBigPageTable" in finding.note
    )


def test_its_bucket(case: MakeCase) -> None:
    verdict = analyze_crash(case("double-free").target).verdict
    assert verdict.bucket == "0xc2_7_Leak_myfault!unknown_function"


def test_a_wrong_tag(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xC2, (0xA, FREED, 0x6B61654C, 0x21646142)))
    assert "It was allocated with the tag Leak and freed with Bad!." in found.sentences


def test_a_user_address_that_is_none(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xC2, (0x40, FREED, 0, 0)))
    assert "P1 says that P2 is a user-mode address" in found.notes[0]
    assert reason(other_arguments(0xC2, (0x40, 0x10000, 0, 0))).notes == ()


def test_who_asked_for_pool_with_a_bad_tag(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xC2, (0x9B, 0, 0x100, 0xFFFFF80060DA1981)))
    assert found.culprit is not None and found.culprit.image_name == "myfault.sys"
    assert value(found, "CODE_ADDRESS") == "myfault+0x1981"


def test_special_pool_with_a_wrong_bit(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xC1, (FREED, FREED + 0x24, 0, 0x32), "double-free"))
    assert value(found, "SPECIAL_POOL_CORRUPTION_TYPE") == "32"
    finding = found.finding("CORRUPTED_BYTES")
    assert finding is not None and finding.address == FREED + 0x20
    assert finding.value == " ".join(["10"] * 16)
    assert found.specifiers == ("32",)
    assert "A single bit is wrong" in found.sentences[-1]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0xCC, "freed before"), (0xD5, "freed before"), (0xCD, "beyond the end"), (0xD6, "beyond the end")],
)
def test_faults_in_special_pool(other_arguments: MakeCase, code: int, words: str) -> None:
    found = reason(other_arguments(code, (0xFFFFD8024AAA8010, 1, 0xFFFFF80060DA1981, 0)))
    assert value(found, "WRITE_ADDRESS") == "ffffd8024aaa8010 Paged pool"
    assert words in found.sentences[-1]


def test_a_driver_that_left_work_behind(other_arguments: MakeCase) -> None:
    for access in (0, 8, 0x10, 0x77):
        found = reason(other_arguments(0xCE, (0xFFFFF80060184A10, access, 0xFFFFF80060184A10, 0)))
        assert found.culprit is not None and found.culprit.image_name == "hwpolicy.sys"
    found = reason(other_arguments(0xCE, (0xFFFFA00000001000, 0, 0xFFFFA00000001000, 0)))
    assert "not in the list of unloaded drivers" in found.sentences[-1]


# page tables ---------------------------------------------------------------------------------------------------------


@both
def test_a_flipped_bit_in_a_pte(case: MakeCase, dump_type: int) -> None:
    """The bucket that WinDbg prints for memory with one wrong bit."""
    target = case("flipped-pte", dump_type).target
    found = reason(case("flipped-pte", dump_type))
    assert value(found, "PTE_ADDRESS") == "ffffbd00f1b01520"
    finding = found.finding("PTE_ADDRESS")
    if dump_type == KERNEL:
        assert finding is not None and "maps 000001e3602a4000" in finding.note
    assert value(found, "PTE") == "0000000010000000"
    assert value(found, "MEMORY_CORRUPTOR") == "ONE_BIT"
    assert (found.prefix, found.specifiers) == ("MEMORY_CORRUPTION_ONE_BIT", ())
    verdict = analyze_crash(target).verdict
    assert (verdict.bucket, verdict.module_name) == ("MEMORY_CORRUPTION_ONE_BIT", "hardware")
    assert verdict.bucket_hash == "e3faf315-c3d0-81db-819a-6c43d23c63a7"


@pytest.mark.parametrize(
    ("parameters", "one_bit"),
    [
        ((0x41792, 0xFFFFBD0000001000, 0x10000000, 0), True),
        ((0x41792, 0xFFFFBD0000001000, 0, 0x100), True),
        ((0x41792, 0xFFFFBD0000001000, 0x10000000, 1), False),
        ((0x41792, 0xFFFFBD0000001000, 0, 0), False),
        ((0x403, 0xFFFFBD0000001000, 0x8A00000123456867, 0x8A00000123456863), True),
        ((0x403, 0xFFFFBD0000001000, 0x8A00000123456867, 0x8A00000123456861), False),
        ((0x404, 0xFFFFBD0000001000, 0x8000, 0xFFFFBD0000001010), True),
        ((0x5200, FREED, 0, 1 << 63), True),
        ((0x41284, 1, 2, 3), False),
        ((0x777, 0, 0, 0), False),
    ],
)
def test_one_bit_differences(other_arguments: MakeCase, parameters: tuple[int, ...], one_bit: bool) -> None:
    found = reason(other_arguments(0x1A, parameters))
    assert (found.prefix == "MEMORY_CORRUPTION_ONE_BIT") is one_bit
    assert (found.culprit is not None) is one_bit
    assert found.specifiers == (() if one_bit else (f"{parameters[0]:x}",))


def test_a_pte_that_has_changed_since(other_arguments: MakeCase) -> None:
    """The PTE of the demonstration's fault, through the self-map: paged out in the dump."""
    base = 0xFFFFBD0000000000
    pte = base + ((0xFFFFD8024AAA8010 & 0xFFFFFFFFFFFF) >> 12) * 8
    found = reason(other_arguments(0x1A, (0x41202, pte, 0x8A00000123456867, 0)))
    finding = found.finding("PTE")
    assert finding is not None and finding.note == "valid, page frame 123456, writable, user, no execute"
    assert "it has changed since" in found.notes[0]


def test_the_real_dump_of_an_undocumented_kind(shared_data: Path) -> None:
    target = volatility3_kdump.open(
        shared_data / "dumps" / "triage_x64_19041_0x1a.dmp", isf_directories=[shared_data / "isf"]
    )
    bug_check = header_bug_check(target)
    assert bug_check is not None
    found = reason(Case(target, bug_check, find_failure(target, bug_check)))
    assert found.specifiers == ("402",)
    assert found.prefix is None and found.notes == ()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (0, "zero"),
        (0x8A00000123456867, "valid, page frame 123456, writable, user, no execute"),
        (0x0900000045678121, "valid, page frame 45678, read-only, kernel, executable"),
        (0x0000000123456880, "transition, page frame 123456"),
        (0xFFFFA00000000480, "prototype"),
        (0x0002A31C00000090, "not valid"),
    ],
)
def test_what_a_pte_says(entry: int, text: str) -> None:
    assert parse_pte(entry).text == text


@pytest.mark.parametrize(
    ("pte", "address"),
    [
        # !pte of Windows 7: published pairs of addresses and PTEs
        (0xFFFFF6FC40000000, 0xFFFFF88000000000),
        (0xFFFFF68000000000, 0),
        (0xFFFFF6FB7DBEDF68, 0xFFFFF6FB7DBED000),
        (0xFFFFF67FFFFFFFF8, None),
    ],
)
def test_what_a_pte_maps_where_their_place_is_fixed(pte: int, address: int | None) -> None:
    header = SimpleNamespace(architecture="x64", build_number=7601)
    target = SimpleNamespace(header=header, symbol=lambda name: None, debugger=None)
    assert mapped_address(target, pte) == address  # type: ignore[arg-type]
    header.build_number = 19041
    assert mapped_address(target, pte) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (0x6B61654C, "Leak"),
        (0xE56C6946, "File"),
        (0x20707249, "Irp "),
        (0x00434241, "ABC"),
        (0, None),
        (0x01020304, None),
    ],
)
def test_pool_tags(tag: int, text: str | None) -> None:
    assert tag_text(tag) == text


ADDRESSES = [0, POOL_PAGE, DAMAGED, FREED, 0xFFFFBD0000001000, 0xFFFFF80060DA1981, 0x10000, 2**64 - 1]
ARGUMENTS = st.one_of(st.sampled_from(ADDRESSES), st.integers(0, 2**64 - 1), st.none())
KINDS = st.sampled_from(
    [
        *range(0x30),
        0x40,
        0x99,
        0x9B,
        0x402,
        0x403,
        0x404,
        0x411,
        0x3300,
        0x5200,
        0x6001,
        0x41201,
        0x41792,
        0x41793,
        0x61941,
    ]
)


@settings(max_examples=part(150), deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from([0x19, 0x1A, 0xC1, 0xC2, 0xCC, 0xCE, 0xD6]),
    kind=st.one_of(KINDS, ARGUMENTS),
    rest=st.tuples(ARGUMENTS, ARGUMENTS, st.one_of(KINDS, ARGUMENTS)),
    name=st.sampled_from(["pool-overrun", "double-free"]),
    dump_type=st.sampled_from([KERNEL, TRIAGE]),
)
def test_any_arguments(other_arguments: MakeCase, code, kind, rest, name, dump_type) -> None:
    found = RULES[code](other_arguments(code, (kind, *rest), name, dump_type))
    assert not any("stopped" in note for note in found.notes)
    assert all(sentence.endswith(".") for sentence in found.sentences)
