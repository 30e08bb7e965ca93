"""``kdump.drivers`` against the host's own plugins, on every kernel layout, and on real small memory dumps."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample import pe
from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from tests.amounts import part
from tests.archives import packing
from tests.output import lines, parsed
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target
from volatility3_kdump.views.drivers import drivers_grid

ADDRESS = 0xFFFFFFFFFFFF
MYFAULT = 0xFFFFF80060DA0000
SESSION_KERNEL = "1B4A6F5E0766C552C90710C8ACC0295C-1.json.xz"


def rows(finished) -> list[dict[str, Any]]:
    assert finished.returncode == 0, finished.stderr
    return parsed(finished.stdout)


def of_kind(table: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in table if row["Kind"] == kind]


def flat(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in table:
        found.append(row)
        found += flat(row.get("__children") or [])
    return found


@pytest.fixture(scope="module")
def drivers(sample, run_plugin) -> list[dict[str, Any]]:
    return rows(run_plugin("-q", "-r", "json", "-f", sample(), "kdump.drivers"))


@pytest.fixture(scope="module")
def host(shared_data: Path, sample, run_vol, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """``host("windows.modules")``: the rows of a plugin of the host on the full dump."""
    table = shared_data / "isf" / "windows" / "ntkrnlmp.pdb" / SESSION_KERNEL
    if not table.exists():
        pytest.skip(f"no {SESSION_KERNEL} in the test data")
    symbols = tmp_path_factory.mktemp("symbols")
    (symbols / "windows" / "ntkrnlmp.pdb").mkdir(parents=True)
    (symbols / "windows" / "ntkrnlmp.pdb" / SESSION_KERNEL).symlink_to(table)
    return lambda plugin: rows(run_vol("-q", "-r", "json", "-s", symbols, "-f", sample(1), plugin))


# against the host ---------------------------------------------------------------------------------------------------


def test_loaded_modules_are_the_hosts(drivers, host) -> None:
    expected = {(row["Base"], row["Size"], row["Name"], row["Path"]) for row in host("windows.modules")}
    ours = {(row["Start"] & ADDRESS, row["Size"], row["Image"], row["Path"]) for row in of_kind(drivers, "module")}
    assert len(ours) == 18
    assert ours == expected


@pytest.mark.newest_host
def test_unloaded_modules_are_the_hosts(drivers, host) -> None:
    expected = {(row["Name"], row["StartAddress"], row["EndAddress"]) for row in host("windows.unloadedmodules")}
    ours = {(row["Image"], row["Start"] & ADDRESS, row["End"] & ADDRESS) for row in of_kind(drivers, "unloaded")}
    assert len(ours) == 3
    assert ours == expected


def test_driver_objects_are_those_of_the_hosts_scan(drivers, host) -> None:
    """The host scans memory for pool tags; we walk the object directory."""
    expected = {(row["Name"], row["Offset"], row["Start"]) for row in host("windows.driverscan")}
    ours = {
        (row["DriverObjects"].split(" (")[0], int(row["DriverObjects"].split("(")[1][:-1], 16), row["Start"])
        for row in of_kind(drivers, "module")
        if row["DriverObjects"]
    }
    assert len(ours) == 6
    assert {(name, address & ADDRESS, start & ADDRESS) for name, address, start in ours} == expected


def test_devices_are_those_of_the_hosts_tree(sample, run_plugin, host) -> None:
    shown = flat(rows(run_plugin("-q", "-r", "json", "-f", sample(), "kdump.drivers", "--verbose")))
    ours: dict[str, list[str]] = {}
    for row in shown:
        if row["Kind"] == "driver object":
            devices = ours.setdefault(row["Name"].rsplit("\\", 1)[-1], [])
        elif row["Kind"] == "device":
            devices.append(row["Name"] or "-")
    expected = {row["DriverName"]: row for row in flat(host("windows.devicetree")) if row["Type"] == "DEV"}
    assert set(expected) == set(ours) == {"ACPI", "pci", "intelppm", "Ntfs", "FltMgr", "MYFAULT"}
    for driver, row in expected.items():
        assert (row["DeviceName"] or "-") in ours[driver]
    assert ours["ACPI"] == ["0000001c", "00000018", "-"]


def test_versions_and_sections_are_pefiles(drivers) -> None:
    pefile = pytest.importorskip("pefile")
    machine = Machine(high_irql_fault(), load_table_file(kernel_table_path()))
    image = machine.images.module("myfault").image
    file = bytearray(image.size)
    for rva, data in pe.build(image).items():
        file[rva : rva + len(data)] = data
    parsed = pefile.PE(data=bytes(file))
    row = next(row for row in drivers if row["Name"] == "myfault")
    code = sum(section.Misc_VirtualSize for section in parsed.sections if section.IMAGE_SCN_MEM_EXECUTE)
    data = sum(section.Misc_VirtualSize for section in parsed.sections if not section.IMAGE_SCN_MEM_EXECUTE)
    discardable = sum(section.Misc_VirtualSize for section in parsed.sections if section.IMAGE_SCN_MEM_DISCARDABLE)
    assert (row["Code"], row["Data"], row["Discardable"]) == (code, data, discardable)
    assert (row["TimeDateStamp"], row["CheckSum"]) == (
        parsed.FILE_HEADER.TimeDateStamp,
        parsed.OPTIONAL_HEADER.CheckSum,
    )
    (table,) = (part for part in parsed.FileInfo[0] if part.Key == b"StringFileInfo")
    strings = {key.decode(): value.decode() for key, value in table.StringTable[0].entries.items()}
    assert (row["Company"], row["Version"]) == (strings["CompanyName"], strings["FileVersion"])
    assert row["Vendor"] == "third party"


# KD's text ------------------------------------------------------------------------------------------------------------


def test_list_text(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-r", "windbg", "-f", sample(), "kdump.drivers"))
    assert shown[0] == "start             end                 module name"
    assert "fffff800`60da0000 fffff800`60da9000   myfault  myfault.sys  Wed Jul 17 18:39:54 2019 (5D2F6B7A)" in shown
    assert shown.index("Unloaded modules:") == 20
    assert "fffff800`600e0000 fffff800`600ef000   dump_storport.sys" in shown
    starts = [line.split()[0] for line in shown[1:19]]
    assert starts == sorted(starts)
    assert shown[-2].startswith("TOTAL: 18 modules, ")
    assert shown[-1].strip() == "1 of them not from Microsoft"


def test_sizes_text(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-r", "windbg", "-f", sample(), "kdump.drivers", "--sizes"))
    assert shown[0] == "Loaded System Driver Summary"
    assert shown[2] == "Base              Code Size          Data Size          Driver Name      Creation Time"
    row = "fffff800`60da0000    3000 (   12 kb)    5000 (   20 kb) myfault.sys      Wed Jul 17 18:39:54 2019 (5D2F6B7A)"
    assert row in shown
    assert row.index("myfault") == shown[2].index("Driver Name") and row.index("Wed") == shown[2].index("Creation")
    assert shown[-2].startswith("TOTAL: 18 modules, ")
    finished = run_plugin("-q", "-f", sample(), "kdump.drivers", "--sizes", "--verbose")
    assert finished.returncode == 1 and "choose one of --verbose and --sizes" in finished.stderr


def test_sizes_of_modules_without_headers(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_9600.dmp")
    shown = list(drivers_grid(target, ["ntfs"], False, sizes=True).kd_lines())
    assert shown[3].split()[1:3] == ["?", "?"]


def test_verbose_text(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-r", "windbg", "-f", sample(), "kdump.drivers", "--verbose", "--module", "MyFault"))
    assert shown[1:12] == [
        "fffff800`60da0000 fffff800`60da9000   myfault     (deferred)             ",
        "    Image path: \\??\\C:\\Windows\\system32\\drivers\\myfault.sys",
        "    Image name: myfault.sys",
        "    Timestamp:        Wed Jul 17 18:39:54 2019 (5D2F6B7A)",
        "    CheckSum:         0000F2C1",
        "    ImageSize:        00009000",
        "    File version:     4.0.0.0",
        "    Product version:  4.0.0.0",
        "    File flags:       0 (Mask 3F)",
        "    File OS:          40004 NT Win32",
        "    File type:        3.7 Driver",
    ]
    assert "    Translations:     0409.04b0" in shown
    assert "        FileDescription:  NotMyfault crash driver" in shown
    assert "    Driver object:    ffff91894ed30c80 \\Driver\\MYFAULT, 1 device" in shown


def test_address(sample, run_plugin) -> None:
    arguments = ("kdump.drivers", "--address", "fffff800`60da1981", "fffff80060184a10", "nt!KeBugCheckEx+5", "1234")
    table = rows(run_plugin("-q", "-r", "json", "-f", sample(), *arguments))
    assert [row["State"] for row in table] == ["loaded", "unloaded", "loaded", "no module"]
    assert [(row["Module"], row["Offset"]) for row in table[:3]] == [
        ("myfault", 0x1981),
        ("hwpolicy", 0x4A10),
        ("nt", table[2]["Address"] - 0xFFFFF80062600000),
    ]
    assert (table[0]["Section"], table[0]["SectionOffset"], table[0]["Symbol"]) == (".text", 0x981, "myfault+0x1981")
    assert table[2]["Symbol"] == "nt!KeBugCheckEx+0x5"
    shown = lines(run_plugin("-q", "-r", "windbg", "-f", sample(), *arguments))
    assert "    fffff800`60184a10 = <Unloaded_hwpolicy.sys>+0x4a10" in shown
    assert shown[-1] == "00000000`00001234 lies in no loaded or unloaded module"


def test_check(sample, run_plugin, tmp_path: Path) -> None:
    machine = Machine(high_irql_fault(), load_table_file(kernel_table_path()))
    image = machine.images.module("myfault").image
    file = bytearray(image.size)
    for rva, data in pe.build(image).items():
        file[rva : rva + len(data)] = data
    file[0x1981] ^= 0x10
    (tmp_path / "myfault.sys").write_bytes(file)
    arguments = ("kdump.drivers", "--check", "--image-path", tmp_path, "--module", "myfault", "pci")
    shown = lines(run_plugin("-q", "-r", "windbg", "-f", sample(), *arguments))
    assert shown == [
        "pci: not compared: no file for pci.sys on the image path",
        "    fffff80060da1981 - myfault+0x1981  single bit: bit 4 is clear in memory",
        "\t[ 9b:8b ]",
        "1 error : myfault (fffff80060da1981)",
        f"    4096 of 8192 bytes of code compared with {tmp_path}/myfault.sys",
    ]
    table = flat(rows(run_plugin("-q", "-r", "json", "-f", sample(), *arguments)))
    (found,) = (row for row in table if row["Kind"] == "single bit")
    assert (found["Address"], found["Bit"], found["MemoryBytes"]) == (MYFAULT + 0x1981, 4, "8b")


# every layout -------------------------------------------------------------------------------------------------------


def test_every_kernel_layout(isf_path: Path, sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path)
    table = drivers_grid(target, [], True)
    seen = [values for _, values in table._generator]
    objects = {(values[1], int(values[2])) for values in seen if values[0] == "driver object"}
    assert objects == {(item.name, item.address) for item in high_irql_fault().driver_objects}
    devices = [(values[1], int(values[2])) for values in seen if values[0] == "device"]
    assert len(devices) == 9
    assert ("NTPNP_PCI0007", 0xFFFF91894E233060) in devices
    assert [values[-1] for values in seen if values[0] == "warning"] == []
    modules = {values[1]: values for values in seen if values[0] == "module"}
    assert len(modules) == 18
    # Kernels from Windows 10 1607 on say how the signature was checked.
    known = target.nt is not None and target.nt.has("_KLDR_DATA_TABLE_ENTRY", "u1.SignatureLevel")
    assert (modules["nt"][20] == "unchecked") == known


# small memory dumps -------------------------------------------------------------------------------------------------

#: Count of modules and unloaded ones, the kernel, and its neighbours in load order, as read by hand from the files.
REAL = {
    "triage_x64_19041.dmp": (
        151,
        [("dam.sys", None), ("WdBoot.sys", None), ("hwpolicy.sys", None), ("mcupdate.dll", None)],
        (0xFFFFF8047BA00000, 0x1046000, 0x0D8333E6, 0xA5938C),
        {
            "hal.dll": (0xFFFFF80479440000, 0x6000, 0x1A7BE8E9),
            "kd.dll": (0xFFFFF80479450000, 0xB000, 0xFE185FA8),
            "CLFS.SYS": (0xFFFFF80479490000, 0x6A000, 0x503208A5),
        },
    ),
    "triage_arm64_22000.dmp": (
        245,
        [("MSKSSRV.sys", None), ("WdFilter.sys", None), ("WdNisDrv.sys", None), ("WdNisDrv.sys", None)],
        (0xFFFFF803F2E00000, 0x103E000, 0xDF291B09, 0xA892FC),
        {
            "hal.dll": (0xFFFFF803F0110000, 0x5000, 0x4F8E85A9),
            "kd.dll": (0xFFFFF803F0120000, 0xB000, 0x6C31A20E),
            "HalExtQCWdogTimer.dll": (0xFFFFF803F0130000, 0x9000, 0x5F8555EF),
        },
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_small_memory_dumps(shared_data: Path, run_plugin, name: str) -> None:
    count, unloaded, kernel, others = REAL[name]
    table = rows(run_plugin("-q", "-r", "json", "-f", shared_data / "dumps" / name, "kdump.drivers"))
    modules = {row["Image"]: row for row in of_kind(table, "module")}
    assert len(of_kind(table, "module")) == count
    nt = modules["ntoskrnl.exe"]
    assert (nt["Start"], nt["Size"], nt["TimeDateStamp"], nt["CheckSum"]) == kernel
    for image, expected in others.items():
        row = modules[image]
        assert (row["Start"], row["Size"], row["TimeDateStamp"]) == expected
    listed = [row["Image"] for row in of_kind(table, "unloaded")]
    assert listed[: len(unloaded)] == [image for image, _ in unloaded]
    # What cannot be there is said, and never shown as zero.
    assert modules["hal.dll"]["Code"] is None
    assert modules["hal.dll"]["Notes"] == "headers not in the dump"
    warnings = " ".join(row["Notes"] for row in of_kind(table, "warning"))
    assert "\\Driver: the object directory is not reachable" in warnings


def test_third_parties_of_a_real_dump(shared_data: Path, run_plugin) -> None:
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    table = rows(run_plugin("-q", "-r", "json", "-f", dump, "kdump.drivers"))
    foreign = {row["Image"] for row in of_kind(table, "module") if row["Vendor"] != "Microsoft"}
    assert {"nvlddmkm.sys", "VBoxDrv.sys", "npcap.sys", "AsIO2.sys", "vmci.sys", "rt640x64.sys"} <= foreign
    assert not foreign & {"ntoskrnl.exe", "hal.dll", "amdppm.sys", "tcpip.sys", "Ntfs.sys", "ks.sys"}
    # The amdppm of this dump is Microsoft's: only its name says so, for its resources are not in the file.
    shown = run_plugin("-q", "-r", "windbg", "-f", dump, "kdump.drivers", "--module", "amdppm", "--verbose").stdout
    assert "Vendor:           Microsoft (list of Windows's components)" in shown


@pytest.mark.parametrize("dump_type", (1, 2, 4, 5, 8, 9, 10))
def test_every_type_lists_the_same_modules(sample, run_plugin, drivers, dump_type: int) -> None:
    table = rows(run_plugin("-q", "-r", "json", "-f", sample(dump_type), "kdump.drivers"))
    names = ("Name", "Start", "End", "Image", "Path", "TimeDateStamp", "CheckSum", "Built")
    for row, expected in zip(of_kind(table, "module"), of_kind(drivers, "module"), strict=True):
        if dump_type == 4:
            row["Built"] = (row["Built"] or "").replace(", or a reproducible build hash", "")
        assert {name: row[name] for name in names} == {name: expected[name] for name in names}
    if dump_type == 4:
        assert {row["DriverObjects"] for row in of_kind(table, "module")} == {""}


def test_32_bit_small_memory_dump(run_plugin, tmp_path: Path) -> None:
    """Made by hand: no image of it is in the dump, so there are no sums, rather than zeros."""
    drivers = [
        ("\\WINDOWS\\system32\\ntkrnlpa.exe", 0x804D7000, 0x1F8000, 0x1234, 0x48025222),
        ("\\dri\x1bver.sys", 0xF7000000, 0x8000, 0, 0x4B1E2F30),
    ]
    dump = packing.triage(32, drivers, [("old.sys", 0xF8000000, 0xF8008000)], [(0xF7001000, b"\x90" * 64)])
    (tmp_path / "small.dmp").write_bytes(dump)
    shown = lines(run_plugin("-q", "-r", "windbg", "-f", tmp_path / "small.dmp", "kdump.drivers"))
    kernel, driver = shown[1].split()[:4], shown[2].split()[:4]
    assert shown[0] == "start    end        module name"
    assert kernel == ["804d7000", "806cf000", "nt", "ntkrnlpa.exe"]
    assert driver == ["f7000000", "f7008000", "dri_ver", "dri\\x1bver.sys"]
    assert shown[5] == "f8000000 f8008000   old.sys"
    assert shown[6:9] == [
        "    Timestamp: unavailable (00000000)",
        "    Checksum:  00000000",
        "    ImageSize:  00008000",
    ]
    assert shown[10] == "TOTAL: 2 modules, 200000 (2048 kb)  In dump: 4 kb"
    assert shown[11].strip() == "code and data of 2 modules are not known: their headers cannot be read"
    finished = run_plugin("-q", "-f", tmp_path / "small.dmp", "kdump.irp", "--device", "80000000")
    assert finished.returncode == 1
    assert "small.dmp: IRPs and devices of 32-bit kernels need symbols" in finished.stderr


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--check", "--symbol-path", ""), "--check needs the drivers' files"),
        (("--module", "nosuch"), "no module is named nosuch"),
        (("--address", "zz!"), "is not an address"),
    ],
)
def test_bad_arguments(sample, run_plugin, arguments: tuple[str, ...], message: str) -> None:
    finished = run_plugin("-q", "-f", sample(), "kdump.drivers", *arguments)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def changed_headers(sample, tmp_path: Path, change: Callable[[bytearray], None]) -> Target:
    """The sample with other headers of myfault.sys; they are found by its only checksum."""
    data = bytearray(sample().read_bytes())
    original = volatility3_kdump.open(sample())
    page = original.memory.read(MYFAULT, 0x400)
    assert page is not None
    start = data.find(page)
    assert start > 0 and data.find(page, start + 1) < 0
    headers = bytearray(page)
    change(headers)
    data[start : start + len(headers)] = headers
    path = tmp_path / "changed.dmp"
    path.write_bytes(data)
    return volatility3_kdump.open(path)


def section_table(headers: bytes) -> int:
    start = struct.unpack_from("<I", headers, 0x3C)[0]
    return start + 0x18 + struct.unpack_from("<H", headers, start + 0x14)[0]


def test_sections_that_lie(sample, tmp_path: Path) -> None:
    def change(headers: bytearray) -> None:
        table = section_table(headers)
        struct.pack_into("<II", headers, table + 8, 0xFFFFFFFF, 0x1000)
        struct.pack_into("<II", headers, table + 40 + 8, 0x1000, 0xFFFFF000)
        headers[table + 80 : table + 88] = b"\x1b[31mA\x07\x00"

    target = changed_headers(sample, tmp_path, change)
    grid = drivers_grid(target, ["myfault"], True)
    values = [row for _, row in grid._generator]
    module = next(row for row in values if row[0] == "module")
    assert "reaches beyond the image" in module[-1]
    sections = [row for row in values if row[0] == "section"]
    assert all(int(row[4]) <= 0x9000 for row in sections)
    assert sections[2][1] == "\\x1b[31mA\\x07"
    text = "\n".join(drivers_grid(target, ["myfault"], True).kd_lines())
    assert "\x1b" not in text and "\x07" not in text


def test_more_sections_than_there_are(sample, tmp_path: Path) -> None:
    def change(headers: bytearray) -> None:
        struct.pack_into("<H", headers, struct.unpack_from("<I", headers, 0x3C)[0] + 6, 0xFFFF)

    values = [row for _, row in drivers_grid(changed_headers(sample, tmp_path, change), ["myfault"], True)._generator]
    assert [row[1] for row in values if row[0] == "section"] == [
        ".text",
        ".rdata",
        ".data",
        ".pdata",
        ".xdata",
        "INIT",
        ".rsrc",
    ]
    assert next(row for row in values if row[0] == "module")[-1] == "its headers claim more sections than there are"


def test_headers_that_are_none(sample, tmp_path: Path) -> None:
    def change(headers: bytearray) -> None:
        struct.pack_into("<I", headers, 0x3C, 0xFFFFFFF0)

    said = list(drivers_grid(changed_headers(sample, tmp_path, change), ["myfault"], True).kd_lines())
    assert sum("what is where its headers should be is no image" in line for line in said) == 1
    assert any(line.endswith("code and data of 1 module are not known: its headers cannot be read") for line in said)


def test_a_truncated_dump_without_modules(sample, run_plugin, tmp_path: Path) -> None:
    path = tmp_path / "short.dmp"
    data = sample().read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    for plugin in ("kdump.drivers", "kdump.locks"):
        finished = run_plugin("-q", "-f", path, plugin)
        assert finished.returncode == 1
        assert "in the dump: the file is truncated" in finished.stderr


@settings(max_examples=part(25), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x3FF), st.integers(0, 255)), min_size=1, max_size=24))
def test_damaged_headers_never_fail(sample, tmp_path_factory: pytest.TempPathFactory, damage) -> None:
    def change(headers: bytearray) -> None:
        for offset, value in damage:
            headers[offset] = value

    target = changed_headers(sample, tmp_path_factory.mktemp("damaged"), change)
    grid = drivers_grid(target, ["myfault"], True)
    for _, row in grid._generator:
        if row[0] in ("module", "section"):
            assert int(row[4]) <= 0x9000
