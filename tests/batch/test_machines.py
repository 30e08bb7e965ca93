"""The machines of a batch: what their crashes have in common, on made lines and on real dumps of one machine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.batch.machines import Machines, machine_lines
from volatility3_kdump.views.report import report


def line(
    number: int,
    code: str = "0xd1",
    suspect: str = "a.sys",
    bits: tuple[int, ...] = (),
    machine: str | None = "0123456789abcdef",
    remains: str | None = None,
    path: str = "",
) -> dict[str, Any]:
    return {
        "file": {"path": path or f"/dumps/{number}.dmp", "member": None},
        "machine": {"smbios_digest": machine, "product": "B550M-C", "processor": "Ryzen"},
        "system": {"time_utc": f"2024-11-{number:02d}T00:00:00+00:00", "boot_id": number, "os_version": "10.0.26100.1"},
        "bug_check": {"base_code": code, "name": code, "arguments": [{"value": hex(number)}]},
        "verdict": {"suspect": suspect, "image_name": suspect},
        "plausibility": {"remains": remains, "flips": [{"bit": bit} for bit in bits]},
    }


def patterns(*lines: dict[str, Any]) -> list[str]:
    machines = Machines()
    for entry in lines:
        machines.add(entry)
    [machine] = machines.document()
    found: list[str] = machine["patterns"]
    return found


def test_one_bit() -> None:
    assert patterns(line(1, bits=(37,)), line(2, "0xbe", "memory", (37, 4)), line(3, "0x1a", "b.sys")) == [
        "bit 37 had changed in 2 of 3 crashes: the memory or the processor is at fault",
        "3 crashes with 3 different bug checks and no driver in common: suspect the hardware",
    ]


def test_one_driver() -> None:
    assert patterns(line(1), line(2, "0x50"), line(3, "0x1a", "ntkrnlmp.exe")) == [
        "a.sys is suspected in 2 of 3 crashes"
    ]
    assert patterns(line(1)) == []


def test_code_that_is_acquitted() -> None:
    [sentence] = patterns(
        line(1, suspect="hardware", remains="hardware"), line(2, suspect="hardware", remains="processor")
    )
    assert sentence == "in 2 of 2 crashes no code can have raised the exception: suspect the hardware"


def test_two_dumps_of_one_crash_are_one() -> None:
    machines = Machines()
    for path in ("/dumps/MEMORY.DMP", "/dumps/mini.dmp"):
        machines.add(line(1, path=path))
    [machine] = machines.document()
    [crash] = machine["crashes"]
    assert crash["files"] == ["/dumps/MEMORY.DMP", "/dumps/mini.dmp"]
    assert list(machine_lines(machines.document())) == []


def test_the_order_of_lines_is_of_no_consequence() -> None:
    lines = [line(1), line(2, bits=(5,)), line(3, machine="fedcba9876543210"), line(4, machine=None)]
    documents = []
    for order in itertools.permutations(lines):
        machines = Machines()
        for entry in order:
            machines.add(entry)
        documents.append(machines.document())
    assert all(document == documents[0] for document in documents)
    assert [len(machine["crashes"]) for machine in documents[0]] == [2, 1]


def test_a_real_machine(shared_data: Path) -> None:
    """Three crashes in three hours: two of them have one and the same bit of an address changed."""
    machines = Machines()
    for name in ("0x13a", "0xbe", "0x3b"):
        path = shared_data / "dumps" / f"triage_x64_26100_{name}.dmp"
        target = volatility3_kdump.open(path)
        machines.add({"file": {"path": path.name}, **report(target, analyze_crash(target))})
    [machine] = machines.document()
    assert [crash["boot_id"] for crash in machine["crashes"]] == [171, 181, 183]
    assert machine["patterns"][0] == "bit 37 had changed in 2 of 3 crashes: the memory or the processor is at fault"
    shown = list(machine_lines([machine]))
    assert "B550M-C" in shown[0] and shown[0].endswith(": 3 crashes")


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                (
                    *("machine", "smbios_digest", "system", "time_utc", "bug_check", "arguments", "value"),
                    *("plausibility", "flips", "bit", "verdict", "suspect", "file", "path", "member", "name", "board"),
                )
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["machine", "system", "bug_check", "verdict", "plausibility"]), _ANY)))
def test_lines_of_any_shape(lines: list[dict[str, Any]]) -> None:
    machines = Machines()
    for entry in lines:
        entry.setdefault("machine", {"smbios_digest": "a"})
        machines.add(entry)
    for shown in machine_lines(machines.document()):
        assert isinstance(shown, str)


@pytest.mark.parametrize("digest", [None, "", 7, []])
def test_a_machine_that_is_not_known(digest: object) -> None:
    machines = Machines()
    machines.add({"machine": {"smbios_digest": digest}})
    assert machines.document() == []
