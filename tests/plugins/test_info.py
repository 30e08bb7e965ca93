"""``kdump.info`` against the session's banner and the real dumps."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from tests import transcript
from tests.output import parsed
from volatility3_kdump.views.info import _kernel_rows


def test_banner_equals_the_session(sample, run_plugin):
    finished = run_plugin("-f", sample(), "-r", "windbg", "kdump.info")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.endswith(transcript.BANNER)
    assert finished.stdout.startswith("Loading Dump File [")


@pytest.mark.parametrize(
    ("dump_type", "phrase"),
    [
        (1, "Kernel Complete Dump File: Full address space is available"),
        (2, "Kernel Summary Dump File: Kernel address space is available, User address space may not be available."),
        (4, "Mini Kernel Dump File: Only registers and stack trace are available"),
        (5, "Kernel Bitmap Dump File: Full address space is available"),
        (6, "Kernel Bitmap Dump File: Kernel address space is available, User address space may not be available."),
        (8, "Kernel Range Dump File: Kernel address space is available, User address space may not be available."),
        (10, "Kernel Range Dump File: Full address space is available"),
    ],
)
def test_type_phrase(sample, run_plugin, dump_type, phrase):
    finished = run_plugin("-f", sample(dump_type), "-r", "windbg", "kdump.info")
    assert finished.stdout.splitlines()[1] == phrase


def table(finished) -> dict[tuple[str, str], dict]:
    assert finished.returncode == 0, finished.stderr
    return {(row["Topic"], row["Field"]): row for row in parsed(finished.stdout)}


def test_unset_fields_are_said_to_be_unset(sample, run_plugin):
    cells = table(run_plugin("-f", sample(), "-r", "json", "kdump.info"))
    attributes = cells["Dump", "Attributes"]
    assert attributes["Text"] == "not set"
    assert attributes["Value"] is None
    # The fill pattern must never show up as a value.
    assert not any(row["Value"] in (0x45474150, 0x4547415045474150) for row in cells.values())


def test_values_of_a_real_dump(shared_data: Path, run_plugin):
    cells = table(run_plugin("-f", shared_data / "dumps" / "triage_arm64_22000.dmp", "-r", "json", "kdump.info"))
    assert cells["Windows", "Architecture"]["Text"] == "ARM 64-bit (AArch64)"
    assert cells["Windows", "Processors"]["Value"] == 8
    assert cells["Time", "Session time (UTC)"]["Text"].startswith("Tue Sep 14 02:51:58.146")
    assert cells["Time", "Uptime"]["Text"] == "0 days 0:13:16.705"
    assert cells["Header", "BootId"]["Value"] == 0xD
    assert cells["Small memory dump", "Drivers"]["Value"] == 245
    assert cells["Small memory dump", "Unloaded drivers"]["Value"] == 11
    assert cells["Small memory dump", "Data blocks"]["Value"] == 679
    assert sum(section == "Tagged data" for section, _ in cells) <= 42
    assert cells["Kernel", "Base"]["Value"] == 0xFFFFF803F2E00000


def test_truncated_dump_says_how_many_pages_are_missing(sample, run_plugin, tmp_path: Path):
    data = sample().read_bytes()
    short = tmp_path / "short.dmp"
    short.write_bytes(data[: len(data) - 0x1000 * 5 - 0x123])
    whole = table(run_plugin("-f", sample(), "-r", "json", "kdump.info"))
    finished = run_plugin("-f", short, "-r", "json", "kdump.info")
    cells = table(finished)
    # The tagged data behind the pages is cut first, so the expected number follows from the size alone.
    header_size = int.from_bytes(data[0x2020:0x2028], "little")
    left = (short.stat().st_size - header_size) // 0x1000
    declared = whole["Pages", "Declared"]["Value"]
    assert cells["Pages", "Missing"]["Value"] == declared - left > 0
    assert f"{declared - left:,} of {declared:,} pages" in finished.stdout


@pytest.mark.parametrize(
    ("name", "image", "path"),
    [
        ("triage_x64_26100_0xbe", "Discord.exe", r"AppData\Local\Discord\app-1.0.9171\Discord.exe"),
        ("triage_x64_19041_0x9f", "EpicGamesLauncher.exe", r"Portal\Binaries\Win64\EpicGamesLauncher.exe"),
    ],
)
def test_the_process_and_its_full_path(shared_data: Path, name: str, image: str, path: str) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp")
    cells = {(row[1][0], row[1][1]): row[1] for row in _kernel_rows(target)}
    assert cells["Kernel", "Crashing process"][2] == image
    assert cells["Kernel", "Image path"][2].endswith(path)
