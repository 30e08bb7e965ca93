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


def test_the_surer_dump_of_a_crash_tells_whatever_comes_first() -> None:
    """A small dump whose stack is a scan, and the kernel dump of the same crash, which has no SMBIOS tables."""
    small, large = line(1, suspect="b.sys", path="/dumps/mini.dmp"), line(1, machine=None, path="/dumps/MEMORY.DMP")
    small["verdict"]["confidence"], large["verdict"]["confidence"] = "low", "high"
    small["bug_check"].update(code="0x100000d1", name="0xd1_M")
    large["system"].update(boot_id=None, os_version=None)
    for order in ((small, large), (large, small)):
        machines = Machines()
        for entry in order:
            machines.add(entry)
        [machine] = machines.document()
        [crash] = machine["crashes"]
        assert (crash["suspect"], crash["bug_check"], crash["boot_id"]) == ("a.sys", "0xd1", 1)
        assert crash["kernel"] == "10.0.26100.1"
        assert crash["files"] == ["/dumps/MEMORY.DMP", "/dumps/mini.dmp"]


def test_a_dump_of_unknown_machine_joins_none_of_two() -> None:
    """Two machines that crashed at the same moment with the same arguments: nobody knows whose it is."""
    machines = Machines()
    for machine in ("0123456789abcdef", "fedcba9876543210", None):
        machines.add(line(1, machine=machine))
    assert [len(machine["crashes"][0]["files"]) for machine in machines.document()] == [1, 1]


def test_the_mark_of_small_dumps_makes_no_other_bug_check() -> None:
    lines = [line(1), line(2), line(3, "0x50", "b.sys")]
    lines[0]["bug_check"]["name"] = "0xd1_M"
    assert not any("different bug checks" in sentence for sentence in patterns(*lines))


def test_a_fleet_with_known_answers() -> None:
    """Three machines: bad memory, one bad driver, crashes that have nothing in common; and one crash, which is none."""
    fleet = {
        "a": [
            line(1, "0x1a", "memory", (5,)),
            line(2, "0x50", "x.sys", (5,)),
            line(3, "0x3b", "y.sys"),
            line(4, "0xd1"),
        ],
        "b": [line(1, "0xd1", "bad.sys"), line(2, "0x3b", "bad.sys"), line(3, "0xa", "nt"), line(4, "0x50", "bad.sys")],
        "c": [line(1, "0x9f", "p.sys"), line(2, "0x9f", "q.sys")],
        "d": [line(1, "0xef", "z.sys")],
    }
    machines = Machines()
    for name, crashes in fleet.items():
        for crash in crashes:
            machines.add({**crash, "machine": {"smbios_digest": name, "product": name}})
    answers = {machine["name"]: machine["patterns"] for machine in machines.document()}
    assert answers == {
        "a": [
            "bit 5 had changed in 2 of 4 crashes: the memory or the processor is at fault",
            "4 crashes with 4 different bug checks and no driver in common: suspect the hardware",
        ],
        "b": ["bad.sys is suspected in 3 of 4 crashes"],
        "c": [],
        "d": [],
    }
    shown = list(machine_lines(machines.document()))
    assert [text for text in shown if text.startswith("machine")] == [
        *("machine a: 4 crashes", "machine b: 4 crashes", "machine c: 2 crashes"),
    ]
    days = [text.split("T")[0].strip() for text in shown if "boot" in text]
    assert days[:4] == ["2024-11-01", "2024-11-02", "2024-11-03", "2024-11-04"]


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


def test_the_kernel_s_own_version_and_a_name_without_placeholders() -> None:
    """Builds of one year share a build lab; boards whose maker was not filled in are named by what is."""
    entry = line(1)
    entry["system"] |= {"kernel_version": "10.0.19041.4522", "os_version": "10.0.19041.1"}
    names = {"manufacturer": "To Be Filled By O.E.M.", "product": "Default string", "board": ["ASRock", "B560M"]}
    entry["machine"] |= names
    machines = Machines()
    machines.add(entry)
    [machine] = machines.document()
    assert machine["crashes"][0]["kernel"] == "10.0.19041.4522"
    assert machine["name"].startswith("ASRock, B560M")
