"""Hives, keys and open keys of a made registry; against the host's plugins over the same bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes.registry import BLOB, HOSTILE, MACHINE, SYSTEM
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.windows.registry.control_blocks import open_keys
from volatility3_kdump.windows.registry.hives import Cells, hive_list, read_hive
from volatility3_kdump.windows.registry.keys import HiveKeys, find_key

Sample = Callable[..., Path]


@pytest.fixture
def target(sample: Sample, isf_path: Path) -> Target:
    return volatility3_kdump.open(sample(1, isf_path, "registry"), isf_file=str(isf_path))


@pytest.fixture
def session(target: Target) -> Session:
    return session_on(target)


def test_hives_keys_and_values(target: Target, session: Session) -> None:
    listed = hive_list(target)
    assert [(hive.address, hive.path) for hive in listed.hives] == [
        (MACHINE, "\\REGISTRY\\MACHINE\\HARDWARE"),
        (SYSTEM, "\\REGISTRY\\MACHINE\\SYSTEM"),
    ]
    assert listed.problems == ()
    hive = listed.hives[1]
    assert (hive.stable[0], hive.volatile[0]) == (0x2000, 0x1000)
    # A link in volatile storage leads to a key in stable storage.
    found = find_key(target, "HKLM\\System\\CurrentControlSet\\Control\\ComputerName\\ActiveComputerName")
    [value] = found.keys.values(found.key, [])
    assert (value.name, value.kind_name, value.texts) == ("ComputerName", "REG_SZ", ["WORKSTATION5"])
    assert found.path == "\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001\\Control\\ComputerName\\ActiveComputerName"
    setup = find_key(target, "\\REGISTRY\\MACHINE\\SYSTEM\\Setup")
    values = {value.name: value for value in setup.keys.values(setup.key, [])}
    assert values["Blob"].data == BLOB
    assert values["List"].texts == ["one", "two"]
    assert values[""].texts == ["default"]
    assert values[HOSTILE].texts == [HOSTILE]
    select = find_key(target, "HKLM\\SYSTEM\\Select")
    assert [value.number for value in select.keys.values(select.key, [])] == [1, 1]

    lines = answer(session, "!reg hivelist")
    assert lines[4].startswith(
        "| ffffd80260110000 |       2000  | ffffd80260121000 |       1000    |  ffffd8026012b000  |"
    )
    assert lines[4].endswith(" \\Device\\HarddiskVolume3\\Windows\\System32\\config\\SYSTEM")
    lines = answer(session, "!reg q \\REGISTRY\\MACHINE\\SYSTEM")
    assert lines[0] == "Found Key :: \\REGISTRY\\MACHINE\\SYSTEM"
    assert [line.split()[-1] for line in lines[6:9]] == ["Select", "ControlSet001", "Setup"]
    assert lines[10:12] == ["[SubKeyAddr]         [VolatileSubKeyName]", lines[11]]
    node = lines[8].split()[0]
    assert answer(session, f"!reg keyinfo {SYSTEM:x} {node}")[:2] == [
        f"Hive         {SYSTEM:x}",
        f"KeyNode      {node}",
    ]
    assert "REG_SZ              (Default)                     default" in answer(
        session, f"!reg valuelist {SYSTEM:x} {node}"
    )
    assert answer(session, f"!reg knode {node}")[1] == "Name                 : Setup"
    assert not any("\x1b" in line for line in session_lines(session))


def session_lines(session: Session) -> list[str]:
    """What a terminal is shown of names that would change it."""
    from volatility3_kdump.views.registry import key_grid

    return list(key_grid(session.target, "HKLM\\SYSTEM\\Setup").kd_lines())


def test_open_keys(target: Target, session: Session) -> None:
    problems: list[str] = []
    blocks = list(open_keys(target, read_hive(target, SYSTEM), problems))
    assert problems == []
    assert [(block.slot, block.path) for block in blocks] == [
        (1, "\\REGISTRY"),
        (5, "\\REGISTRY\\MACHINE"),
        (5, "\\REGISTRY\\MACHINE\\SYSTEM"),
    ]
    lines = answer(session, f"!reg openkeys {SYSTEM:x}")
    assert lines[0] == "Hive: \\REGISTRY\\MACHINE\\SYSTEM"
    assert lines[2].startswith("Index 1: ")
    assert lines[2].endswith("kcb=ffffd80260200010 cell=00000020 f=00000000 \\REGISTRY")
    assert lines[-2] == "0x3 keys found"
    assert answer(session, "!reg findkcb \\registry\\machine\\system") == [
        "Found KCB = ffffd80260200410 :: \\REGISTRY\\MACHINE\\SYSTEM"
    ]
    assert answer(session, "!reg kcb ffffd80260200410")[0].endswith(": \\REGISTRY\\MACHINE\\SYSTEM")


def test_what_it_says_of_what_is_not_there(session: Session, target: Target) -> None:
    assert answer(session, "!reg q HKLM\\SYSTEM\\nosuch")[0].endswith("\\REGISTRY\\MACHINE\\SYSTEM has no key nosuch")
    assert "no hive holds \\x: there are" in answer(session, "!reg q \\x")[0]
    assert answer(session, "!reg viewlist 0")[0].startswith("!reg viewlist: kernels since Windows 8 map no views")
    assert answer(session, "!reg hives")[0].startswith("!reg takes hivelist, querykey, ")
    assert answer(session, "!reg keyinfo 1") == ["!reg keyinfo needs a hive and a key node or cell"]
    assert "no hive at 0x" in answer(session, "!reg openkeys @rsp")[0]
    cells = Cells(target, read_hive(target, SYSTEM))
    assert cells.address(0x2000) is None and cells.address(0xFFFFFFFF) is None


def test_a_damaged_hive(target: Target) -> None:
    """Lists that lead to themselves, counts without end, cells beyond the hive: said, and no more."""
    keys = HiveKeys(target, read_hive(target, SYSTEM))
    root = keys.root()
    assert root is not None
    listed = keys.cells.address(root.lists[0])
    assert listed is not None
    for data in (
        struct.pack("<2sHI", b"ri", 1, root.lists[0]),
        struct.pack("<2sHI", b"lh", 0xFFFF, 0x20),
        struct.pack("<2sHI", b"li", 1, 0x7FFFFFF0),
        b"??",
    ):
        damaged = HiveKeys(patched(target, {listed: data}), read_hive(target, SYSTEM))
        problems: list[str] = []
        assert list(damaged.subkeys(root, False, problems)) == []
        assert problems
    gone = patched(target, absent=[listed])
    with pytest.raises(KdumpError, match="has no key Select"):
        find_key(gone, "HKLM\\SYSTEM\\Select")


@pytest.mark.thorough
def test_the_host_reads_the_same(sample: Sample, run_vol: Callable[..., object], shared_data: Path) -> None:
    path = sample(1, shared_data / "isf/windows/ntkrnlmp.pdb/06564D3477822C7D97F04852CBD5AFD6-1.json.xz", "registry")
    shown = run_vol("-q", "-s", str(shared_data / "isf"), "-r", "json", "-f", path, "windows.registry.hivelist")
    hives = json.loads(shown.stdout)  # type: ignore[attr-defined]
    assert [int(hive["Offset"]) | 0xFFFF << 48 for hive in hives] == [MACHINE, SYSTEM]
    key = run_vol(
        *("-q", "-s", str(shared_data / "isf"), "-r", "json", "-f", path),
        *("windows.registry.printkey", "--offset", str(SYSTEM & 0xFFFFFFFFFFFF), "--key", "Setup"),
    )
    values = {row["Name"]: row["Data"] for row in json.loads(key.stdout) if row["Type"] != "Key"}  # type: ignore[attr-defined]
    assert values["(Default)"].strip('"') == "default"
    assert HOSTILE in values or len(values) == 4
