"""Blocks of a tag and IRPs that are looked for in pool: what the made machine allocated, and what scenes put there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.pool_contents import USUAL
from tests.edited import edited
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.irp_search import Criterion, IrpSearch
from volatility3_kdump.findings.pool_search import PoolSearch, TagPattern
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target

Sample = Callable[..., Path]
Change = Callable[[dict[int, bytes]], Target]

WINDOWS_7 = 7601
#: The IRPs of the machine, as their scenes have them: notify, device control, blocked power request.
NOTIFY, CONTROL, POWER = 0xFFFF91894E250A60, 0xFFFF91894ED94D70, 0xFFFF91894EF3A010


@pytest.fixture(scope="module")
def machine(sample: Sample) -> Target:
    return volatility3_kdump.open(sample(scene="blocked-power-irp"))


@pytest.fixture
def changed(machine: Target, sample: Sample, tmp_path: Path) -> Change:
    """The machine with other bytes at some addresses."""
    return lambda changes: edited(
        machine, sample(scene="blocked-power-irp"), tmp_path / "changed.dmp", changes, offline=True
    )


def blocks(target: Target, tag: str, *pools: str) -> list[int]:
    search = PoolSearch(target, TagPattern(tag), pools or ("nonpaged",))
    return [block.data for area in search.areas for block in search.small(area)]


def irps(target: Target, criterion: Criterion | None = None) -> dict[int, str]:
    search = IrpSearch(target, criterion=criterion)
    found = [*search.large(), *(found for _, found in search.in_pool()), *search.of_threads()]
    return {entry.irp.address: entry.place for entry in found}


def test_every_slot_of_a_tag_with_its_state(sample: Sample, isf_path: Path) -> None:
    """The scene's slots say which of the blocks are in use."""
    target = volatility3_kdump.open(sample(isf=isf_path))
    slots = USUAL.slots[0]
    search = PoolSearch(target, TagPattern(slots.tag), large=False)
    if target.header.build_number == WINDOWS_7:
        assert search.notes == ["this machine has no region of nonpaged pool"]
        return
    found = [block for area in search.areas for block in search.small(area)]
    used = [block for block in found if block.state == "allocated"]
    assert len(used) == slots.used.bit_count()
    assert {block.end - block.address for block in used} == {slots.size}


def test_big_pages_of_a_tag(machine: Target) -> None:
    search = PoolSearch(machine, TagPattern("MmSt"), ("paged",), small=False)
    assert [(block.size, block.state) for block in search.large()] == [(0x900000, "allocated")]
    assert search.areas == ()
    assert [block.tag for block in PoolSearch(machine, TagPattern("Gon?"), ("paged",)).large()] == ["Gone"]
    assert not list(PoolSearch(machine, TagPattern("MmSt"), ("nonpaged",)).large())


@pytest.mark.parametrize(("pattern", "same"), [("Le?k", "Leak"), ("L*", "Leak"), ("*eak", "Leak"), ("????", "*")])
def test_wildcards(machine: Target, pattern: str, same: str) -> None:
    assert blocks(machine, pattern) == blocks(machine, same) != []


def test_a_tag_by_number_and_a_short_one() -> None:
    assert TagPattern.of_value(0x6B61654C).text == "Leak"
    assert TagPattern("Irp").text == "Irp "
    assert TagPattern("Irp").fits(0x20707249)
    # The top bit marks a protected block.
    assert TagPattern("Irp?").fits(0xA0707249)
    for wrong in ("", "Leaky", "Löck"):
        with pytest.raises(KdumpError, match="no pool tag"):
            TagPattern(wrong)
    with pytest.raises(KdumpError, match="no pool tag"):
        TagPattern.of_value(0x01020304)


def test_bytes_inside_a_block_are_no_header(machine: Target, changed: Change) -> None:
    """What looks like a header within the data of another block is not one: the heap knows where blocks begin."""
    first = blocks(machine, "Leak")[0]
    fake = bytes.fromhex("00000402") + b"Fake" + bytes(8)
    other = changed({first + 0x10: fake})
    assert blocks(other, "Fake") == []
    assert blocks(other, "Leak") == blocks(machine, "Leak")


def test_requests_in_pool(machine: Target, isf_path: Path, sample: Sample) -> None:
    """The request that nobody completes is on no thread's list: only its header tells of it."""
    assert irps(machine) == {NOTIFY: "pool", CONTROL: "pool", POWER: "pool"}
    other = volatility3_kdump.open(sample(isf=isf_path, scene="blocked-power-irp"))
    # On Windows 7 only those of threads are found: it does not tell where its pool lies.
    assert (POWER in irps(other)) == (other.header.build_number != WINDOWS_7)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("thread", 0xFFFF918952F55080, [CONTROL]),
        ("device", 0xFFFF91894EF42B10, [POWER]),
        ("device", 0xFFFF91894E238060, [NOTIFY]),
        ("fileobject", 0xFFFF91894E251A20, [NOTIFY]),
        ("arg", 0x51100, [POWER]),
        ("arg", 0x15F, [NOTIFY]),
        ("thread", 1, []),
    ],
)
def test_criteria(machine: Target, kind: str, value: int, expected: list[int]) -> None:
    assert list(irps(machine, Criterion(kind, value))) == expected


def test_the_process_of_the_mdl_and_the_event_of_the_user(changed: Change, layouts: Layouts) -> None:
    """MDL.Process and IRP.UserEvent, which no scene sets."""
    mdl, process, event = CONTROL + 0x150, 0xFFFF9189527E9080, 0xFFFF918953118260
    changes = {
        CONTROL + layouts.offset("_IRP", "MdlAddress"): mdl.to_bytes(8, "little"),
        mdl + layouts.offset("_MDL", "Process"): process.to_bytes(8, "little"),
        CONTROL + layouts.offset("_IRP", "UserEvent"): event.to_bytes(8, "little"),
    }
    other = changed(changes)
    assert list(irps(other, Criterion("mdlprocess", process))) == [CONTROL]
    assert list(irps(other, Criterion("userevent", event))) == [CONTROL]
    assert list(irps(other, Criterion("mdlprocess", event))) == []


def test_a_request_without_header_is_found_by_its_thread(changed: Change) -> None:
    assert irps(changed({CONTROL - 16: bytes(16)})) == {NOTIFY: "pool", CONTROL: "thread", POWER: "pool"}


def test_small_dumps_say_what_is_searched(sample: Sample) -> None:
    search = PoolSearch(volatility3_kdump.open(sample(4)), TagPattern("Leak"))
    assert [area.pool for area in search.areas] == [None]
    assert list(search.small(search.areas[0])) == []
    assert "all kernel memory that it holds is searched" in search.notes[0]
