"""``kdump.irp`` on the sample's requests and devices, against the host's plugins, and on damaged ones."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample import containers
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import DriverObject, Scene
from tests.output import parsed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.requests import view_irp
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target
from volatility3_kdump.views import irp as views
from volatility3_kdump.views.drivers import drivers_grid
from volatility3_kdump.windows.io.devices import device_stack, driver_devices, read_driver
from volatility3_kdump.windows.io.drivers import BY_DEVICE, driver_objects
from volatility3_kdump.windows.io.requests import read_irp
from volatility3_kdump.windows.processes.namespace import object_name, object_type, read_directory

CONTROL, NOTIFY = 0xFFFF91894ED94D70, 0xFFFF91894E250A60
PDO, FILTER, PROCESSOR_FDO, ROOT_PDO = 0xFFFF91894E233060, 0xFFFF91894E234A20, 0xFFFF91894E236A20, 0xFFFF91894E232060
ACPI, MYFAULT_DRIVER, MYFAULT_DEVICE = 0xFFFF91894E210DF0, 0xFFFF91894ED30C80, 0xFFFF91894ED31E00
MYFAULT = 0xFFFFF80060DA0000
SESSION_KERNEL = "1B4A6F5E0766C552C90710C8ACC0295C-1.json.xz"


def rows(finished) -> list[dict[str, Any]]:
    assert finished.returncode == 0, finished.stderr
    return parsed(finished.stdout)


def text(finished) -> str:
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture
def irp(sample, run_plugin) -> Callable[..., Any]:
    """``irp("--pending")``: KD's text; ``irp("--pending", table=True)``: the rows."""

    def run(*arguments: str, table: bool = False, dump: Path | None = None) -> Any:
        renderer = "json" if table else "windbg"
        done = run_plugin("-q", "-r", renderer, "-f", dump or sample(), "kdump.irp", *arguments)
        return rows(done) if table else text(done)

    return run


# KD's text ----------------------------------------------------------------------------------------------------------

CONTROL_TEXT = """\
Irp is active with 1 stacks 1 is current (= 0xffff91894ed94e40)
 No Mdl: No System Buffer: Thread ffff918952f55080:  Irp stack trace. \x20
     cmd  flg cl Device   File     Completion-Context
>[IRP_MJ_DEVICE_CONTROL(e), N/A(0)]
             5  0 ffff91894ed31e00 ffff91894f0d2a20 00000000-00000000
\t       \\Driver\\MYFAULT
\t\t\tArgs: 00000000 000000f0 83360018 00000000
\t\t\tcontrol code 0x83360018: device type 0x8336, function 0x6, method buffered
Held by: \\Driver\\MYFAULT (myfault.sys), device 0xffff91894ed31e00
Thread: 0xffff918952f55080, Cid 1c58.1c5c of notmyfault64.exe
"""

NOTIFY_TEXT = """\
Irp is active with 2 stacks 1 is current (= 0xffff91894e250b30)
 No Mdl: No System Buffer: Thread ffff91894f389080:  Irp stack trace. \x20
     cmd  flg cl Device   File     Completion-Context
>[IRP_MJ_DIRECTORY_CONTROL(c), IRP_MN_NOTIFY_CHANGE_DIRECTORY(2)]
             1 e1 ffff91894e237060 ffff91894e251a20 fffff8005f731420-ffff91894e252b10 Success Error Cancel pending
\t       \\FileSystem\\Ntfs\tFLTMGR+0x1420
\t\t\tArgs: 00001000 0000015f 00000000 00000000
 [IRP_MJ_DIRECTORY_CONTROL(c), IRP_MN_NOTIFY_CHANGE_DIRECTORY(2)]
             1  1 ffff91894e238060 ffff91894e251a20 00000000-00000000 pending
\t       \\FileSystem\\FltMgr
\t\t\tArgs: 00001000 0000015f 00000000 00000000
Held by: \\FileSystem\\Ntfs (Ntfs.sys), device 0xffff91894e237060
File: 0xffff91894e251a20 \\Users\\user\\Desktop
Thread: 0xffff91894f389080, Cid 15e8.15ec of explorer.exe
"""

STACK_TEXT = """\
  !DevObj           !DrvObj            !DevExt          ObjectName
  ffff91894e234a20  \\Driver\\ACPI       ffff91894c4e0010
> ffff91894e233060  \\Driver\\pci        ffff91894e2331b0 NTPNP_PCI0007
!DevNode ffff91894e243a20 :
  DeviceInst is "PCI\\VEN_8086&DEV_A36D&SUBSYS_86941043&REV_10\\3&11583659&0&A0"
"""

PROCESSOR_STACK_TEXT = """\
  !DevObj           !DrvObj            !DevExt          ObjectName
> ffff91894e236a20  \\Driver\\intelppm   ffff91894e236b70
  ffff91894e231060  \\Driver\\ACPI       00000000         0000001c
!DevNode ffff91894e241a20 :
  DeviceInst is "ACPI\\GenuineIntel_-_Intel64_Family_6_Model_158\\_1"
  ServiceName is "intelppm"
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--address", "ffff9189`4ed94d70"), CONTROL_TEXT),
        (("--address", "ffff91894e250a60"), NOTIFY_TEXT),
        (("--device", "ffff91894e233060"), STACK_TEXT),
        (("--device", "ffff91894e236a20"), PROCESSOR_STACK_TEXT),
    ],
)
def test_text(irp, arguments: tuple[str, ...], expected: str) -> None:
    assert irp(*arguments) == expected


def test_driver_text(irp) -> None:
    shown = irp("--driver", "MYFAULT").splitlines()
    assert shown[:2] == ["Driver object (ffff91894ed30c80) is for:", " \\Driver\\MYFAULT"]
    assert shown[shown.index("Device Object list:") + 1] == "ffff91894ed31e00"
    table = shown[shown.index("Dispatch routines:") + 1 :]
    assert len(table) == 28
    assert table[0x0E] == "[0e] IRP_MJ_DEVICE_CONTROL              fffff80060da1e40\tmyfault+0x1e40"
    assert table[0x16].endswith("\tnt!IopInvalidDeviceRequest")


@pytest.mark.parametrize("name", ["\\Driver\\MYFAULT", "myfault", "myfault.sys", "ffff91894ed30c80"])
def test_a_driver_by_any_of_its_names(irp, name: str) -> None:
    table = irp("--driver", name, table=True)
    assert {(row["DriverObject"], row["Driver"]) for row in table} == {(MYFAULT_DRIVER, "\\Driver\\MYFAULT")}


def test_pending(irp) -> None:
    table = irp("--pending", table=True)
    assert [(row["Irp"], row["Image"], row["Driver"], row["FileName"]) for row in table] == [
        (NOTIFY, "explorer.exe", "\\FileSystem\\Ntfs", "\\Users\\user\\Desktop"),
        (CONTROL, "notmyfault64.exe", "\\Driver\\MYFAULT", None),
    ]
    shown = irp("--pending").splitlines()
    assert shown[-1] == "2 pending IRPs"
    assert "IRP_MN_NOTIFY_CHANGE_DIRECTORY" in shown[1]


# against the host ---------------------------------------------------------------------------------------------------


def test_dispatch_tables_are_the_hosts(shared_data: Path, sample, run_vol, irp, tmp_path: Path) -> None:
    table = shared_data / "isf" / "windows" / "ntkrnlmp.pdb" / SESSION_KERNEL
    if not table.exists():
        pytest.skip(f"no {SESSION_KERNEL} in the test data")
    (tmp_path / "windows" / "ntkrnlmp.pdb").mkdir(parents=True)
    (tmp_path / "windows" / "ntkrnlmp.pdb" / SESSION_KERNEL).symlink_to(table)
    found = rows(run_vol("-q", "-r", "json", "-s", tmp_path, "-f", sample(1), "windows.driverirp"))
    expected: dict[str, list[tuple[str, int]]] = {}
    for row in found:
        expected.setdefault(row["Driver Name"], []).append((row["IRP"], row["Address"]))
    assert set(expected) == {"ACPI", "pci", "intelppm", "Ntfs", "FltMgr", "MYFAULT"}
    for name, dispatch in expected.items():
        ours = [row for row in irp("--driver", name, table=True) if row["Kind"] == "dispatch"]
        assert [(row["Name"], row["Address"] & 0xFFFFFFFFFFFF) for row in ours] == dispatch


# every layout -------------------------------------------------------------------------------------------------------


def test_every_kernel_layout(isf_path: Path, sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path)
    view = view_irp(target, read_irp(target, NOTIFY))
    assert view.notes == ()
    assert view.holder == "\\FileSystem\\Ntfs (Ntfs.sys), device 0xffff91894e237060"
    assert view.request == "IRP_MJ_DIRECTORY_CONTROL, IRP_MN_NOTIFY_CHANGE_DIRECTORY"
    assert [item.driver for item in view.locations] == ["\\FileSystem\\Ntfs", "\\FileSystem\\FltMgr"]
    assert view.locations[0].completion == "FLTMGR+0x1420"
    assert "explorer.exe" in (view.thread or "")
    assert [device.address for device in device_stack(target, FILTER)] == [FILTER, PDO]
    assert [device.address for device in device_stack(target, PDO)] == [FILTER, PDO]
    devices, problem = driver_devices(target, read_driver(target, ACPI))
    assert (devices, problem) == ([0xFFFF91894E231060, ROOT_PDO, FILTER], None)
    assert object_name(target, PDO) == "NTPNP_PCI0007"
    assert object_name(target, FILTER) == ""
    assert (object_type(target, PDO), object_type(target, ACPI)) == ("Device", "Driver")
    names = {item.name for item in read_directory(target, "\\").objects}
    assert names == {"Driver", "Device", "FileSystem", "Ntfs"}
    assert len(rows_of(views.pending_grid(target))) == 2


@pytest.mark.parametrize("dump_type", (1, 2, 5, 8, 9, 10))
def test_every_type_of_dump(irp, sample, dump_type: int) -> None:
    assert irp("--address", f"{NOTIFY:x}", dump=sample(dump_type)) == NOTIFY_TEXT


# foreign pointers ---------------------------------------------------------------------------------------------------


def rows_of(grid) -> list[tuple[Any, ...]]:
    return [values for _, values in grid._generator]


def opened(scene: Scene, tmp_path: Path) -> Target:
    layouts = load_table_file(kernel_table_path())
    path = tmp_path / "made.dmp"
    containers.write(path, 6, make_contents(Machine(scene, layouts)))
    return volatility3_kdump.open(path)


def with_driver(change: Callable[[DriverObject], DriverObject], name: str = "ACPI") -> Scene:
    scene = high_irql_fault()
    return dataclasses.replace(
        scene,
        driver_objects=tuple(change(item) if item.module == name else item for item in scene.driver_objects),
    )


def test_foreign_dispatch_routines_are_marked(tmp_path: Path) -> None:
    def hook(item: DriverObject) -> DriverObject:
        # In another driver; where hwpolicy.sys was unloaded; in no module at all.
        offset = {3: MYFAULT + 0x1950, 4: 0xFFFFF80060184A10, 5: 0xFFFF91894D700000}
        base = 0xFFFFF8005FB90000
        return dataclasses.replace(item, majors={**item.majors, **{m: a - base for m, a in offset.items()}})

    target = opened(with_driver(hook), tmp_path)
    table = [row for row in rows_of(views.driver_grid(target, "ACPI")) if row[3] == "dispatch"]
    foreign = {row[4]: (row[7], row[9]) for row in table if row[8]}
    assert foreign == {
        "IRP_MJ_READ": ("other module", "foreign: in myfault.sys"),
        "IRP_MJ_WRITE": ("no module", "foreign: where hwpolicy.sys was unloaded"),
        "IRP_MJ_QUERY_INFORMATION": ("no module", "foreign: in no loaded module"),
    }
    assert [row[7] for row in table if row[4] in ("IRP_MJ_CREATE", "IRP_MJ_SET_EA")] == ["own image", "kernel"]
    shown = "\n".join(views.driver_grid(target, "ACPI").kd_lines())
    assert "fffff80060da1950\tmyfault+0x1950\t<- foreign: in myfault.sys" in shown
    assert (
        "NOTE: 3 dispatch routines lie outside of the driver's image and of the kernel, 2 of them in no module" in shown
    )


def test_a_driver_that_hides_from_the_object_directory(tmp_path: Path) -> None:
    """Its device lies over another driver's, which leads to it."""
    target = opened(with_driver(lambda item: dataclasses.replace(item, hidden=True), "intelppm"), tmp_path)
    assert {item.name for item in read_directory(target, "\\Driver").objects} == {"ACPI", "pci", "MYFAULT"}
    found = {item.driver.name: item.known_by for item in driver_objects(target).found}
    assert found["\\Driver\\intelppm"] == BY_DEVICE
    assert len(found) == 6


# damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(sample, tmp_path: Path) -> Callable[..., Target]:
    """``damaged((address, bytes), ...)``: the sample with other bytes in its memory."""

    def make(*changes: tuple[int, bytes]) -> Target:
        original = volatility3_kdump.open(sample())
        layer = original.context.layers[original.layer_name or ""]
        data = bytearray(sample().read_bytes())
        for address, held in changes:
            physical = next(iter(layer.mapping(address & layer.address_mask, 1)))[2]
            assert original.dump.pages is not None
            start = original.dump.pages.offset_of(physical >> 12)
            assert start is not None
            data[start + physical % 0x1000 : start + physical % 0x1000 + len(held)] = held
        path = tmp_path / "damaged.dmp"
        path.write_bytes(data)
        return volatility3_kdump.open(path)

    return make


#: Offsets of wdm.h: IRP.StackCount and CurrentLocation, DEVICE_OBJECT.NextDevice and AttachedDevice.
STACK_COUNT, CURRENT, NEXT_DEVICE, ATTACHED = 0x42, 0x43, 0x10, 0x18


@pytest.mark.parametrize("count", [0, 0x80, 0xFF])
def test_impossible_stack_counts(damaged, count: int) -> None:
    target = damaged((NOTIFY + STACK_COUNT, bytes([count])))
    shown = list(views.irp_grid(target, NOTIFY).kd_lines())
    assert any(line.startswith(f"NOTE: the IRP at {NOTIFY:#x} claims ") for line in shown)
    # What CurrentStackLocation points at is shown nevertheless.
    assert any("\\FileSystem\\Ntfs" in line for line in shown)
    assert len(rows_of(views.irp_grid(target, NOTIFY))) == 1


def test_more_locations_than_the_dump_holds(damaged) -> None:
    target = damaged((NOTIFY + STACK_COUNT, b"\x7f"))
    view = view_irp(target, read_irp(target, NOTIFY))
    assert len(view.locations) <= 127
    assert len(list(views.irp_grid(target, NOTIFY).kd_lines())) < 127 * 5


def test_completed_irp(damaged) -> None:
    target = damaged((NOTIFY + CURRENT, b"\x03"))
    shown = list(views.irp_grid(target, NOTIFY).kd_lines())
    assert shown[0] == "Irp is complete (CurrentLocation 3 > StackCount 2)"
    assert any(line.startswith("Held by: no driver") for line in shown)


def test_cyclic_device_stack(damaged) -> None:
    target = damaged((FILTER + ATTACHED, struct.pack("<Q", PDO)))
    shown = list(views.stack_grid(target, PDO).kd_lines())
    assert sum(line.startswith(("> ", "  f")) for line in shown) == 2
    assert any(line.endswith("the stack is cyclic") for line in shown)


def test_device_stack_that_leads_nowhere(damaged) -> None:
    target = damaged((FILTER + ATTACHED, struct.pack("<Q", 0xFFFF918912340000)))
    shown = list(views.stack_grid(target, PDO).kd_lines())
    assert f"NOTE: above {FILTER:#x} lies 0xffff918912340000: which is no device in the dump" in shown


def test_cyclic_device_list(damaged) -> None:
    target = damaged((ROOT_PDO + NEXT_DEVICE, struct.pack("<Q", ROOT_PDO)))
    devices, problem = driver_devices(target, read_driver(target, ACPI))
    assert devices == [0xFFFF91894E231060, ROOT_PDO]
    assert "cyclic" in (problem or "")
    shown = list(views.driver_grid(target, "ACPI").kd_lines())
    assert any(line.startswith("NOTE: the device list of \\Driver\\ACPI") for line in shown)


def test_device_list_that_leads_nowhere(damaged) -> None:
    target = damaged((ROOT_PDO + NEXT_DEVICE, struct.pack("<Q", 0xFFFF918912340000)))
    devices, problem = driver_devices(target, read_driver(target, ACPI))
    assert devices[-1] == 0xFFFF918912340000
    assert (problem or "").startswith("_DEVICE_OBJECT at 0xffff918912340000: ")
    notes = {int(row[2]): row[-1] for row in rows_of(drivers_grid(target, ["ACPI"], True)) if row[0] == "device"}
    assert notes[0xFFFF918912340000] == problem
    assert any("0xffff918912340000" in line for line in drivers_grid(target, ["ACPI"], True).kd_lines())


def test_cyclic_object_directory(damaged, sample) -> None:
    target = volatility3_kdump.open(sample())
    assert target.nt is not None
    directory = next(item.address for item in read_directory(target, "\\").objects if item.name == "Driver")
    bucket = next(at for at in range(directory, directory + 37 * 8, 8) if target.memory.pointer(at))
    entry = target.memory.pointer(bucket)
    assert entry is not None
    torn = damaged((entry, struct.pack("<Q", entry)))
    (problem,) = read_directory(torn, "\\Driver").problems
    assert "is cyclic" in problem


def test_names_with_control_characters(damaged, sample) -> None:
    target = volatility3_kdump.open(sample())
    assert target.nt is not None
    field = MYFAULT_DRIVER + target.nt.offset("_DRIVER_OBJECT", "DriverName")
    buffer = target.memory.pointer(field + 8)
    assert buffer is not None
    changed = damaged((buffer, "\\Driver\\\x1b]0;x\x07".encode("utf-16-le")))
    shown = "\n".join(views.driver_grid(changed, f"{MYFAULT_DRIVER:x}").kd_lines())
    assert "\x1b" not in shown and "\x07" not in shown
    assert "\\Driver\\\\x1b]0;x\\x07" in shown
    cells = [cell for row in rows_of(views.driver_grid(changed, f"{MYFAULT_DRIVER:x}")) for cell in row]
    assert not any(isinstance(cell, str) and ("\x1b" in cell or "\x07" in cell) for cell in cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "choose one of --address"),
        (("--pending", "--driver", "x"), "choose one of --address"),
        (("--address", "ffff91894ed31e00"), "no IRP at 0xffff91894ed31e00: its type is 3"),
        (("--device", "ffff91894ed94d70"), "no device object at 0xffff91894ed94d70: its type is 6"),
        (("--driver", "nosuch"), "no driver object is named nosuch"),
        (("--driver", "1234"), "_DRIVER_OBJECT at 0x1234: not mapped"),
        (("--address", "nonsense!"), "is not an address"),
    ],
)
def test_bad_arguments(sample, run_plugin, arguments: tuple[str, ...], message: str) -> None:
    finished = run_plugin("-q", "-f", sample(), "kdump.irp", *arguments)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


# small memory dumps -------------------------------------------------------------------------------------------------


def test_what_a_small_memory_dump_cannot_have_is_said(shared_data: Path, irp, run_plugin) -> None:
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    assert "a small memory dump holds few threads" in irp("--pending", dump=dump)
    assert "No pending IRP was found, which does not say that there was none" in irp("--pending", dump=dump)
    finished = run_plugin("-q", "-f", dump, "kdump.irp", "--driver", "disk")
    assert finished.returncode == 1
    known = "of the driver objects that could be found none is named disk"
    assert f"{known} (\\Driver: the object directory is not reachable" in finished.stderr
    finished = run_plugin("-q", "-f", dump, "kdump.irp", "--address", f"{NOTIFY:x}")
    assert "not captured in this small memory dump" in finished.stderr


def test_without_symbols(sample, tmp_path: Path) -> None:
    """Types come from the shipped layouts; only what symbols locate is out of reach."""
    target = volatility3_kdump.open(sample(), isf_file=tmp_path / "absent.json")
    assert not target.has_names
    view = view_irp(target, read_irp(target, CONTROL))
    assert view.holder == "\\Driver\\MYFAULT (myfault.sys), device 0xffff91894ed31e00"
    with pytest.raises(KdumpError, match="not reachable without the kernel's symbols"):
        views.driver_grid(target, "nosuch")
    assert [int(row[0]) for row in rows_of(views.pending_grid(target))] == [NOTIFY, CONTROL]


def test_threads_whose_requests_are_not_in_the_dump(shared_data: Path) -> None:
    """A small memory dump names threads whose ETHREAD it holds in part."""
    name = "5278AFF86C341677D7D7835C85B7B844-1.json.xz"
    table = shared_data / "isf" / "windows" / "ntkrnlmp.pdb" / name
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp", isf_file=table)
    assert target.nt is not None
    said = list(views.pending_grid(target).kd_lines())
    assert said[0].startswith("No pending IRP was found")
    unread = [line for line in said if "its IRPs are not known: IrpList at" in line]
    assert unread and len(unread) == len(set(unread))
    for line in unread:
        thread = int(line.split()[2].rstrip(":"), 16)
        assert target.memory.pointer(thread + target.nt.offset("_ETHREAD", "IrpList")) is None
