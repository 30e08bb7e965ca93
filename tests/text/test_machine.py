"""The words of ``!sysinfo machineid`` and ``.dumpdebug``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from volatility3_kdump.dump import open_dump
from volatility3_kdump.dump.smbios import MachineInformation
from volatility3_kdump.text.dump_header import header_lines
from volatility3_kdump.text.machine import machine_lines


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
