"""``kdump.errlog``: text, rows, and what cannot be shown."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import volatility3_kdump
from kdump_sample.scenes import error_log as scene
from tests.edited import edited
from tests.output import parsed
from volatility3_kdump.views import error_log
from volatility3_kdump.views.error_log import errlog_grid

Sample = Callable[..., Path]
RunVol = Callable[..., "subprocess.CompletedProcess[str]"]

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "errlog-schema.md"

TEXT = """\
I/O error log (nt!IopErrorLogListHead, fffff800`63245af0): 4 pending entries

Entry ffff9189`61b00010  Size 0x6c
    Time:             Thu Oct  7 20:33:03.695 2021 (UTC + 9:00)
    Driver:           \\Driver\\pci (pci.sys), driver object ffff91894e214df0
    Device:           \\Device\\NTPNP_PCI0007, device object ffff91894e233060
    Error:            c0040007 IO_ERR_BAD_BLOCK: error, facility 0x4 (I/O errors), event 7
                      The device has a bad block.
    Final status:     c000009c STATUS_DEVICE_DATA_ERROR
    Request:          IRP_MJ_READ, control code 0x0
    Sequence:         8615, retries 8, unique error value 0x105
    Category:         0
    Device offset:    0x1f4800000
    Dump data:        0000: 00040110 00000028 c000009c 03110700
                      0010: 00fa4000

Entry ffff9189`61b00210  Size 0x98
    Time:             Thu Oct  7 20:33:09.445 2021 (UTC + 9:00)
    Driver:           \\FileSystem\\Ntfs (Ntfs.sys), driver object ffff91894e21cdf0
    Device:           \\Ntfs, device object ffff91894e237060
    Error:            c0040037 IO_FILE_SYSTEM_CORRUPT_WITH_NAME: error, facility 0x4 (I/O errors), event 55
                      The structure of the file system on the named volume is damaged.
    Final status:     c0000102 STATUS_FILE_CORRUPT_ERROR
    Request:          IRP_MJ_CREATE, control code 0x0
    Sequence:         0, retries 0, unique error value 0x0
    Category:         2
    Device offset:    0x0
    Strings:          "\\Device\\HarddiskVolume3"
                      "C:"
    Dump data:        0000: 00040004 00300002 0000

Entry ffff9189`61b00410  Size 0x66
    Time:             Thu Oct  7 20:33:12.195 2021 (UTC + 9:00)
    Driver:           \\Driver\\MYFAULT (myfault.sys), driver object ffff91894ed30c80
    Device:           none
    Error:            e0060011: error, facility 0x6, customer's, event 17
                      (the text of this code is the driver's own)
    Final status:     00000000 STATUS_SUCCESS
    Request:          IRP_MJ_PNP, control code 0x0
    Sequence:         0, retries 0, unique error value 0x0
    Category:         0
    Device offset:    0x0
    Strings:          ""
                      "bell\\x07"

Entry ffff9189`61b00610  Size 0x58
    Time:             Thu Oct  7 20:33:12.820 2021 (UTC + 9:00)
    Driver:           \\Driver\\MYFAULT (myfault.sys), driver object ffff91894ed30c80
    Device:           device object ffff91894ed31e00
    Error:            c000009a STATUS_INSUFFICIENT_RESOURCES: error, facility 0x0 (system), event 154
    Final status:     c000009a STATUS_INSUFFICIENT_RESOURCES
    Request:          IRP_MJ_DEVICE_CONTROL, control code 0x83360018
    Sequence:         1, retries 0, unique error value 0x0
    Category:         0
    Device offset:    0x0
""".splitlines()


def test_the_text(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(6, None, "error-log"), "-r", "windbg", "kdump.errlog")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == TEXT


def test_rows(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(6, None, "error-log"), "-r", "json", "kdump.errlog")
    assert finished.returncode == 0, finished.stderr
    first, second, third, fourth = parsed(finished.stdout)
    assert first["Time"] == "2021-10-07T11:33:03.695381+00:00"
    assert (first["Driver"], first["Image"], first["Device"]) == ("\\Driver\\pci", "pci.sys", "\\Device\\NTPNP_PCI0007")
    assert (first["ErrorCode"], first["ErrorName"], first["Event"]) == (scene.BAD_BLOCK, "IO_ERR_BAD_BLOCK", 7)
    assert (first["Severity"], first["Facility"], first["FacilityName"]) == ("error", 4, "I/O errors")
    assert (first["FinalStatus"], first["FinalStatusName"]) == (0xC000009C, "STATUS_DEVICE_DATA_ERROR")
    assert (first["Major"], first["Retries"], first["Sequence"]) == ("IRP_MJ_READ", 8, 0x21A7)
    assert (first["DeviceOffset"], first["UniqueErrorValue"], first["InsertionStrings"]) == (0x1F4800000, 0x105, None)
    assert first["DumpData"] == "10 01 04 00 28 00 00 00 9c 00 00 c0 00 07 11 03 00 40 fa 00"
    assert (second["InsertionStrings"], second["Category"]) == ("\\Device\\HarddiskVolume3; C:", 2)
    assert (third["Device"], third["DeviceObject"], third["ErrorName"], third["Message"]) == (None,) * 4
    assert third["InsertionStrings"] == "; bell\\x07"
    assert (fourth["IoControlCode"], fourth["DumpData"], fourth["Size"]) == (0x83360018, None, 0x58)


def test_impossible_entries(sample: Sample, tmp_path: Path) -> None:
    """Sizes, dump data and string offsets that cannot be, each in another entry."""
    path = sample(6, None, "error-log")
    target = volatility3_kdump.open(path)
    at = scene.entry_address
    changes = {
        at(0) + 2: struct.pack("<H", 0xFFFF),
        at(1) + 0x30 + 2: struct.pack("<H", 0x8000),
        at(2) + 0x30 + 6: struct.pack("<H", 3),
        at(3): struct.pack("<H", 3),
    }
    grid = errlog_grid(edited(target, path, tmp_path / "impossible.dmp", changes))
    lines = list(grid.kd_lines())
    notes = [line.strip() for line in lines if "NOTE:" in line]
    assert notes == [
        "NOTE: Size leaves 0xffcf bytes for the packet: impossible, it takes 0x28 to 0xff",
        "NOTE: DumpDataSize is 0x8000, more than the packet has room for",
        "NOTE: StringOffset is 0x3: it is odd",
        "NOTE: its type is 0x3, not 0xb: it is no error log entry",
    ]
    # the codes stand nevertheless
    assert sum(" IO_" in line for line in lines if line.startswith("    Error:")) == 2
    rows = [values for _, values in grid._generator]
    assert {len(values) for values in rows} == {len(error_log.ERRLOG.columns)}


def test_a_device_that_is_not_in_the_dump(sample: Sample, tmp_path: Path) -> None:
    path = sample(scene="error-log")
    target = volatility3_kdump.open(path)
    link = target.memory.pointer(target.symbol("IopErrorLogListHead") or 0)
    assert link is not None
    # ERROR_LOG_ENTRY.DeviceObject lies behind the links.
    damaged = edited(target, path, tmp_path / "x.dmp", {link + 16: struct.pack("<Q", 0xFFFF800000000000)})
    said = list(errlog_grid(damaged).kd_lines())
    assert "    Device:           device object ffff800000000000" in said
    assert any("the name of its device: _DEVICE_OBJECT at 0xffff800000000000: not mapped" in line for line in said)


def test_nothing_is_pending(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.errlog")
    assert finished.stdout.splitlines() == [
        "I/O error log (nt!IopErrorLogListHead, fffff800`63245af0): no pending entries"
    ]
    rows = list(errlog_grid(volatility3_kdump.open(sample()))._generator)
    assert [values[-1] for _, values in rows] == ["no pending entries"]


def test_small_memory_dumps(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(4), "-r", "windbg", "kdump.errlog")
    assert (finished.returncode, finished.stdout.strip()) == (1, "")
    assert "a small memory dump does not hold the pool that the I/O error log lies in" in finished.stderr
