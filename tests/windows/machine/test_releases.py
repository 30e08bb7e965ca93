"""The kernel's version by its image, and the release that has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from volatility3_kdump.options import Options
from volatility3_kdump.target import Target
from volatility3_kdump.text.banner import version
from volatility3_kdump.windows.machine import releases
from volatility3_kdump.windows.machine.releases import kernel_version, release, release_name
from volatility3_kdump.windows.machine.system import read_system


@pytest.mark.parametrize(
    ("dump", "text", "name"),
    [
        # The symbol tables of the first two say which kernels they are.
        ("triage_x64_19041", "10.0.19041.804", "Windows 10 2004 to 22H2"),
        ("triage_x64_19041_0x1a", "10.0.19041.3448", "Windows 10 21H2 or 22H2"),
        ("triage_x64_19041_0x9f", "10.0.19041.5247", "Windows 10 22H2 or LTSC 2021"),
        ("triage_x64_26100_0x3b", "10.0.26100.2314", "Windows 11 24H2"),
        ("triage_x64_17763", "10.0.17763.973", "Windows 10 1809"),
        ("triage_x64_9600", None, "Windows 8.1"),
        ("triage_arm64_22000", None, "Windows 11 21H2"),
    ],
)
def test_real_small_dumps(shared_data: Path, dump: str, text: str | None, name: str) -> None:
    options = Options(symbol_path="", image_path="", offline=True)
    target = Target.open(shared_data / "dumps" / f"{dump}.dmp", options)
    found = kernel_version(target)
    assert (found.text if found else None) == text
    assert release(target) == name
    lines = list(version(read_system(target)))
    assert (f"Kernel file version: {text}, {name}" in lines) == (text is not None)


def test_what_windbg_printed_for_a_real_dump() -> None:
    assert releases._known()[0x8664, 0x5DEE2B07, 0x1046000] == ("10.0.19041.3803",)


def test_all_versions_are_of_four_numbers_and_nearly_all_are_told_apart() -> None:
    known = releases._known()
    assert len(known) > 3_600
    assert all(len(text.split(".")) == 4 for versions in known.values() for text in versions)
    assert sum(len(versions) > 1 for versions in known.values()) <= 1


@pytest.mark.parametrize(
    ("build", "revision", "product", "name"),
    [
        (26100, 4946, 3, "Windows Server 2025"),
        (26100, 4946, 1, "Windows 11 24H2"),
        (26100, None, 1, "Windows 11 24H2 or 25H2"),
        (26100, 6584, 1, "Windows 11 24H2 or 25H2"),
        (19041, None, 1, "Windows 10 2004 to 22H2"),
        (19041, 3803, 3, "Windows Server 2004 or 20H2"),
        (14393, 10, None, "Windows 10 1607 / Windows Server 2016"),
        (20348, 1, 2, "Windows Server 2022"),
        (29648, 1000, 1, "Windows 11 Insider Preview"),
        (29648, 1000, 3, "Windows Server Insider Preview"),
        (20231, 1000, 1, "Windows 10 Insider Preview"),
        (3790, None, 1, None),
        (None, None, None, None),
    ],
)
def test_names(build: int | None, revision: int | None, product: int | None, name: str | None) -> None:
    assert release_name(build, revision, product) == name
