"""The same scene stands on every kernel layout at hand: the host's own layers and plugins read it.

The layers are the host's crash dump layer and its Intel layer, put together without any part of the package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from tests.amounts import only
from tests.host import ADDRESS, BASE, SYSTEM_DIRECTORY, host_kernel
from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.isf import load_table_file

PROCESSES = {
    4: "System",
    0x1C4: "smss.exe",
    0x244: "csrss.exe",
    0x28C: "wininit.exe",
    0x2D8: "services.exe",
    0x2FC: "lsass.exe",
    0x10E4: "winlogon.exe",
    0x15E8: "explorer.exe",
    0x1E90: "notepad.exe",
    0x1C58: "notmyfault64.e",
}

#: Fields that a kernel generation does not have, by the size of its EPROCESS.
ABSENT = {
    0x4F8: {
        ("_ETHREAD", "Tcb.WaitBlockCount"),
        ("_KPRCB", "ContextFlagsInit"),
        ("_KPRCB", "ProcessorState.SpecialRegisters.Xcr0"),
        ("_KUSER_SHARED_DATA", "BootId"),
        ("_KUSER_SHARED_DATA", "NativeProcessorArchitecture"),
        ("_KUSER_SHARED_DATA", "NtBuildNumber"),
        ("_KUSER_SHARED_DATA", "QpcFrequency"),
    },
    0x700: {("_KUSER_SHARED_DATA", "BootId"), ("_KUSER_SHARED_DATA", "NtBuildNumber")},
    0x708: {("_KUSER_SHARED_DATA", "BootId"), ("_KUSER_SHARED_DATA", "NtBuildNumber")},
}

BUILDS = {0x4F8: 7601, 0x700: 10240, 0x708: 10586, 0x7C8: 14393, 0x7D0: 14393, 0x850: 17134, 0x858: 17763, 0x880: 18362}
BUILDS.update({0xA40: 19041, 0xB80: 22000, 0xBC0: 22621})


def text(module: Any, name: str) -> bytes:
    address = module.offset + module.get_symbol(name).address
    data: bytes = module.context.layers["virtual"].read(address, 64)
    return data.split(b"\0")[0]


def pointer(module: Any, name: str) -> int:
    address = module.offset + module.get_symbol(name).address
    value: int = struct.unpack("<Q", module.context.layers["virtual"].read(address, 8))[0]
    return value


def test_host_reads_the_scene(isf_path: Path, sample: Callable[..., Path]) -> None:
    """On a full dump, which the host opens at once: its bitmap reader takes seconds."""
    path, layouts = sample(1, isf_path), load_table_file(isf_path)
    module = host_kernel(path, isf_path)
    check_processes(module)
    check_modules(module)
    check_versions(module, layouts, path.read_bytes())
    check_processors(module)


def check_processes(module: Any) -> None:
    head = module.object("_LIST_ENTRY", offset=module.get_symbol("PsActiveProcessHead").address)
    processes = list(head.to_list("nt!_EPROCESS", "ActiveProcessLinks"))
    names = {
        int(process.UniqueProcessId): process.ImageFileName.cast("string", max_length=15, errors="replace")
        for process in processes
    }
    assert names == PROCESSES
    notepad = next(process for process in processes if process.UniqueProcessId == 0x1E90)
    assert notepad.Pcb.DirectoryTableBase == 0x1D822D000
    threads = list(notepad.ThreadListHead.to_list("nt!_ETHREAD", "ThreadListEntry"))
    assert [int(thread.Cid.UniqueThread) for thread in threads] == [0x1E94]
    assert notepad.get_session_id() == 2
    assert notepad.get_create_time().strftime("%H:%M:%S") == "11:32:25"


def check_modules(module: Any) -> None:
    kernel_entry = "_KLDR_DATA_TABLE_ENTRY" if module.has_type("_KLDR_DATA_TABLE_ENTRY") else "_LDR_DATA_TABLE_ENTRY"
    head = module.object("_LIST_ENTRY", offset=module.get_symbol("PsLoadedModuleList").address)
    entries = list(head.to_list(f"nt!{kernel_entry}", "InLoadOrderLinks"))
    loaded = {entry.BaseDllName.get_string(): int(entry.DllBase) for entry in entries}
    assert list(loaded)[:2] == ["ntoskrnl.exe", "hal.dll"]
    assert loaded["ntoskrnl.exe"] & ADDRESS == BASE
    assert loaded["myfault.sys"] & ADDRESS == 0xF80060DA0000
    assert len(loaded) == 18


def check_versions(module: Any, layouts: Layouts, dump: bytes) -> None:
    build = BUILDS[layouts.size_of("_EPROCESS")]
    assert text(module, "NtBuildLabEx").startswith(f"{build}.".encode())
    version = module.object("_DBGKD_GET_VERSION64", offset=module.get_symbol("KdVersionBlock").address)
    assert (version.MajorVersion, version.MinorVersion, version.MachineType) == (0xF, build, 0x8664)
    assert struct.unpack_from("<I", dump, 0xC)[0] == build
    data = module.context.layers["virtual"].read(module.offset + module.get_symbol("KdDebuggerDataBlock").address, 0x20)
    assert data[0x10:0x14] == b"KDBG"
    # the block ends where the next symbol begins, or before
    following = layouts.symbol("KdDebuggerDataBlock")
    assert following is not None
    size = struct.unpack_from("<I", data, 0x14)[0]
    nearest = layouts.nearest(following + size - 1)
    assert nearest is not None
    assert nearest[1] == size - 1


def check_processors(module: Any) -> None:
    layer = module.context.layers["virtual"]
    table = module.offset + module.get_symbol("KiProcessorBlock").address
    blocks = struct.unpack("<3Q", layer.read(table, 24))
    prcbs = [module.object("_KPRCB", offset=block & ADDRESS, absolute=True) for block in blocks]
    assert [int(prcb.Number) for prcb in prcbs] == [0, 1, 2]
    threads = [prcb.CurrentThread.dereference() for prcb in prcbs]
    assert [int(prcb.CurrentThread) == int(prcb.IdleThread) for prcb in prcbs] == [True, True, False]
    crashed = threads[2].ApcState.Process.dereference().cast("_EPROCESS")
    assert int(crashed.UniqueProcessId) == 0x1C58
    assert [int(prcb.ProcessorState.SpecialRegisters.Cr3) for prcb in prcbs] == [SYSTEM_DIRECTORY] * 2 + [0x1F3A2A000]
    for prcb, thread in zip(prcbs[:2], threads[:2], strict=True):
        sp, ip = int(prcb.Context.Rsp) & ADDRESS, int(prcb.Context.Rip) & ADDRESS
        assert int(thread.StackLimit) < sp < int(thread.StackBase)
        assert 0 < ip - BASE < 0x1046000


@pytest.mark.parametrize("dump_type", [1, pytest.param(5, marks=pytest.mark.thorough)])
def test_host_crash_layer_opens(dump_type: int, session_kernel: Path, sample: Callable[..., Path]) -> None:
    module = host_kernel(sample(dump_type), session_kernel)
    assert module.context.layers["virtual"].read(BASE, 2) == b"MZ"
    assert pointer(module, "PsNtosImageBase") & ADDRESS == BASE


def test_every_field_exists(isf_path: Path) -> None:
    """A misspelt field name would be passed over like one that an old kernel lacks: the lacking ones are all known."""
    layouts = load_table_file(isf_path)
    machine = Machine(high_irql_fault(), layouts)
    assert machine.work.structures.missing == ABSENT.get(layouts.size_of("_EPROCESS"), set())


@pytest.mark.parametrize("dump_type", only([5], [1, 5]))
def test_host_plugins(
    dump_type: int, session_kernel: Path, sample: Callable[..., Path], run_vol: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "windows" / "ntkrnlmp.pdb").mkdir(parents=True)
    (tmp_path / "windows" / "ntkrnlmp.pdb" / session_kernel.name).symlink_to(session_kernel)

    def rows(plugin: str) -> Any:
        done = run_vol("-q", "-r", "json", "-s", tmp_path, "-f", sample(dump_type), plugin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    processes = {row["PID"]: row["ImageFileName"] for row in rows("windows.pslist")}
    assert processes == PROCESSES
    names = [row["Name"] for row in rows("windows.modules")]
    assert "myfault.sys" in names
    facts = {row["Variable"]: row["Value"] for row in rows("windows.info")}
    assert facts["NTBuildLab"].startswith("19041.1.amd64fre.vb_release")
    assert facts["KeNumberProcessors"] == "3"
    assert facts["SystemTime"].startswith("2021-10-07 11:33:12")
