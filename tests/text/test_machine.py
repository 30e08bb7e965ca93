"""The words of ``!sysinfo machineid`` and ``.dumpdebug``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import volatility3_kdump
from volatility3_kdump.dump import open_dump
from volatility3_kdump.dump.smbios import MachineInformation
from volatility3_kdump.text.dump_header import header_lines
from volatility3_kdump.text.machine import machine_lines
from volatility3_kdump.text.ready import missing
from volatility3_kdump.views.analyze import analyze_grid
from volatility3_kdump.views.ready import ready_lines, running_lines


def test_what_the_firmware_leaves_out_is_left_out() -> None:
    machine = MachineInformation(
        "American Megatrends Inc.", "2801", None, "ASUS", None, None, None, None, (3, 4), 0, 74
    )
    assert list(machine_lines(machine)) == [
        "Machine ID Information [From Smbios 3.4, DMIVersion 0, Size=74]",
        "BiosVendor = American Megatrends Inc.",
        "BiosVersion = 2801",
        "SystemManufacturer = ASUS",
    ]


def test_header_fields(sample: Callable[..., Path]) -> None:
    shown = list(header_lines(open_dump(sample(6)).header))
    assert shown[0] == "DUMP_HEADER64:"
    assert "DirectoryTableBase  00000001`f3a2a000" in shown
    assert "PsLoadedModuleList  fffff800`6322a230" in shown
    assert "BugCheckCode        000000d1" in shown
    assert "BugCheckParameter1  ffffd802`4aaa8010" in shown
    assert "BootId              never written by the dump's writer" in shown
    assert shown[-1] == "Comment             none"


def test_physical_memory_runs(sample: Callable[..., Path]) -> None:
    header = open_dump(sample(1)).header
    shown = list(header_lines(header))
    runs = header.runs()
    start = shown.index("    Start Address      Length") + 1
    assert shown[start - 1 - 1] == f"Number of runs: {len(runs):08x}"
    lengths = [int(line.split()[1].replace("`", ""), 16) for line in shown[start : start + len(runs)]]
    assert sum(lengths) == (header.number_of_pages or 0) << 12
    assert shown[-1] == f"Number of pages: {header.number_of_pages:08x}"


def test_processors_that_a_small_dump_lacks(shared_data: Path) -> None:
    """A mask of one processor of twelve is not the machine's."""
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_26100_0x3b.dmp")
    for lines in (list(running_lines(target, True, False)), list(ready_lines(target))):
        assert lines[-1] == "    NOTE: the control blocks of 11 of 12 processors are not in the dump"
    assert not list(missing((), None)) and not list(missing((), 0))
    assert list(missing((), 2)) == ["    NOTE: the control blocks of 2 of 2 processors are not in the dump"]


def test_the_name_that_windows_was_released_under(shared_data: Path) -> None:
    """Windows 11, although the debugger still says Windows 10 of its builds."""
    for name, released, version in (
        ("triage_x64_26100_0x3b", "Windows 11 24H2", "10.0.26100.2314"),
        ("triage_arm64_22000", "Windows 11 21H2", "22000.1.arm64fre"),
    ):
        target = volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp")
        [row] = [row for row in analyze_grid(target).records() if row.get("Field") == "Windows"]
        assert row["Text"] == released and version in str(row["Notes"])
