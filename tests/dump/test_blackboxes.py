"""Black boxes of real small memory dumps, and bytes of any kind."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.dump import BytesSource, TaggedBlob, open_dump
from volatility3_kdump.dump.blackboxes import BOXES, black_box
from volatility3_kdump.text.blackboxes import black_box_lines


def facts(path: Path, name: str) -> dict[str, object]:
    dump = open_dump(path)
    return {entry.name: entry.value for entry in black_box(dump.source, dump.tagged, name) or ()}


@pytest.mark.parametrize("name", ["triage_x64_26100_0xbe", "triage_x64_26100_0x13a", "triage_x64_26100_0x3b"])
def test_the_boot_is_that_of_the_header(shared_data: Path, name: str) -> None:
    """The header has the number of the boot, and the time of the crash is a little later than the last one noted."""
    path = shared_data / "dumps" / f"{name}.dmp"
    boot, header = facts(path, "bsd"), open_dump(path).header
    assert boot["Last update boot id"] == boot["Last boot id"] == header.boot_id
    reference = boot["Last reference time"]
    assert isinstance(reference, int) and header.system_time is not None
    assert 0 < header.system_time - reference < 24 * 3600 * 10_000_000


def test_real_black_boxes(shared_data: Path) -> None:
    path = shared_data / "dumps" / "triage_x64_19041_0x1e.dmp"
    assert facts(path, "winlogon") == {"State": "WluiRequestCredentials"}
    assert facts(path, "pnp")["Device"] == "USB\\VID_04A9&PID_31EA\\5&244075ae&0&5"
    dump = open_dump(path)
    lines = list(black_box_lines(black_box(dump.source, dump.tagged, "bsd") or ()))
    assert lines[2] == "Auto advanced boot: FALSE" and lines[4] == "Last boot succeeded: TRUE"
    assert "Last reference time: 0x1dac7fdbe677837 (2024-06-26 19:19:19 UTC)" in lines


@given(st.binary(max_size=300), st.sampled_from(sorted(BOXES.items())))
def test_any_bytes(data: bytes, box: tuple[str, str]) -> None:
    blob = TaggedBlob(0, uuid.UUID(box[0]), 0, len(data), None)
    found = black_box(BytesSource(data), [blob], box[1])
    assert (found is None) == (not data)
    assert all(isinstance(line, str) for line in black_box_lines(found or ()))
