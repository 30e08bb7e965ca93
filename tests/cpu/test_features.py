"""What instructions need of a processor: encodings from Intel's manual, and the table itself."""

from __future__ import annotations

import pytest

from volatility3_kdump import tables
from volatility3_kdump.cpu.features import feature, requirement


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("f30fb8d8", ["POPCNT"]),
        ("660f3a0ac101", ["SSE4.1"]),
        ("f20f38f0c1", ["SSE4.2"]),
        ("c5f877", ["AVX"]),
        ("c4e278f2c3", ["BMI1"]),
        ("c4e2fbf7c3", ["BMI2"]),
        ("660f38dcc1", ["AES"]),
        ("c4e271b8c2", ["FMA"]),
        ("0f38f007", ["MOVBE"]),
        ("0fc7f0", ["RDRAND"]),
    ],
)
def test_instructions_of_newer_processors(code: str, names: list[str]) -> None:
    need = requirement(bytes.fromhex(code))
    assert need is not None and [entry.name for entry in need.features] == names
    assert need.everywhere is None and not need.undefined


@pytest.mark.parametrize("code", ["4883ec28", "4c8ba424f0000000", "cc", "0faee8", "660f6fc1", "f3480fbdc1", "c3"])
def test_instructions_of_every_processor(code: str) -> None:
    """lzcnt is among them: processors without it run bsr."""
    need = requirement(bytes.fromhex(code))
    assert need is not None and need.everywhere and not need.features


def test_made_to_be_refused() -> None:
    need = requirement(bytes.fromhex("0f0b"))
    assert need is not None and need.undefined


def test_no_instruction() -> None:
    assert requirement(bytes.fromhex("06")) is None and requirement(b"") is None


def test_what_is_not_known_is_not_said() -> None:
    for code in ("0f01d0", "f00fb111"):
        need = requirement(bytes.fromhex(code))
        assert need is not None and need.everywhere is None and not need.features


def test_the_table() -> None:
    records = list(tables.json_lines("cpufeatures.jsonl"))
    names = {record["name"] for record in records}
    assert len(names) == len(records)
    for record in records:
        assert record.keys() <= {"name", "leaf", "register", "bit", "groups", "mnemonics", "prefixes", "needs"}
        assert set(record.get("needs", ())) <= names and 0 <= record["bit"] < 32
        assert record["register"] in ("eax", "ebx", "ecx", "edx") and int(record["leaf"], 16) >= 0
        assert feature(record["name"]).bit == record["bit"]


@pytest.mark.parametrize(
    ("code", "everywhere"),
    [("83ec08", True), ("8b4124", True), ("40", True), ("0f44c1", None), ("660f6fc1", None), ("0fa2", None)],
)
def test_what_every_x86_processor_runs(code: str, everywhere: bool | None) -> None:
    """Not what came later: conditional moves (Pentium Pro), vectors, CPUID. 40h is inc eax there, a prefix on x64."""
    need = requirement(bytes.fromhex(code), "x86")
    assert need is not None and need.everywhere is everywhere
