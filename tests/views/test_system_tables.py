"""Rows of the plugins over objects, memory and processors, against the published session and the host's own views."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import interfaces

import volatility3_kdump
from tests.output import number
from tests.windows.machine.test_whea import MEMORY_SECTION, memory_of, record
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.hardware import error_record_grid
from volatility3_kdump.views.objects import handles_grid, object_grid
from volatility3_kdump.views.processors import dpcs_grid, processors_grid
from volatility3_kdump.views.regions import region_grid
from volatility3_kdump.views.symbols import matching_grid, nearest_grid
from volatility3_kdump.views.tagged import tagged_grid
from volatility3_kdump.views.tokens import token_grid
from volatility3_kdump.views.translation import pte_grid
from volatility3_kdump.views.vads import vad_grid
from volatility3_kdump.windows.listing.handles import HandleChoice
from volatility3_kdump.windows.listing.tokens import token_of
from volatility3_kdump.windows.memory.translation import directory_of
from volatility3_kdump.windows.memory.vads import process_vads

NT, KE_BUG_CHECK_EX, MYFAULT = 0xFFFFF80062600000, 0xFFFFF800629F71C0, 0xFFFFF80060DA1981
NOTEPAD, NOTMYFAULT = 0xFFFF9189527E9080, 0xFFFF91895301A080


@pytest.fixture(scope="module")
def target(sample: Callable[..., Path]) -> Target:
    return volatility3_kdump.open(sample())


@pytest.fixture(scope="module")
def user_mode(sample: Callable[..., Path]) -> Target:
    return volatility3_kdump.open(sample(1, None, "user-mode"))


def table(grid: KdumpGrid) -> list[dict[str, Any]]:
    """The rows by column, with what is absent as ``None`` and hexadecimal cells as numbers."""
    rows: list[dict[str, Any]] = []

    def visit(node: Any, _: None) -> None:
        absent = interfaces.renderers.BaseAbsentValue
        cells = (None if isinstance(cell, absent) else number(cell) for cell in node.values)
        rows.append(dict(zip((column.name for column in grid.columns), cells, strict=True)))

    grid.populate(visit)
    return rows


def test_objects_of_a_directory(target: Target) -> None:
    directory, *entries = table(object_grid(target, "\\Driver"))
    assert (directory["ObjectType"], directory["Name"]) == ("Directory", "\\Driver")
    assert ("MYFAULT", "Driver") in [(entry["Name"], entry["ObjectType"]) for entry in entries]
    address = next(entry["Object"] for entry in entries if entry["Name"] == "MYFAULT")
    (driver,) = table(object_grid(target, address))
    assert (driver["Object"], driver["Name"]) == (address, "\\Driver\\MYFAULT")
    with pytest.raises(KdumpError, match=r"Object .*Nothing not found"):
        object_grid(target, "\\Nothing")


def test_a_handle_table_that_cannot_be_read(target: Target) -> None:
    for wanted in (0, 4):
        (row,) = table(handles_grid(target, NOTMYFAULT, HandleChoice(wanted)))
        assert (row["Process"], row["Image"], row["Handle"]) == (NOTMYFAULT, "notmyfault64.exe", None)
        assert row["Notes"] == "handle table ffffd8024a7c5200: TableCode 0x0 is no table"


def test_regions_of_a_process(user_mode: Target) -> None:
    tree = process_vads(user_mode, NOTEPAD)
    rows = table(vad_grid(user_mode, tree))
    assert [(row["Vad"], row["Start"], row["Last"]) for row in rows] == [
        (vad.address, vad.start, vad.end) for vad in tree.vads
    ]
    assert {"EXECUTE_WRITECOPY"} <= {row["PageProtection"] for row in rows if row["VadKind"] == "Exe"}


def test_a_token_with_groups_and_privileges(user_mode: Target) -> None:
    chosen = token_of(user_mode, NOTEPAD)
    token, user, *rest = table(token_grid(user_mode, chosen.token))
    assert (token["Kind"], token["TokenType"], user["Kind"]) == ("token", "Primary", "user")
    assert user["Name"].startswith("S-1-5-")
    assert "SeChangeNotifyPrivilege" in [row["Name"] for row in rest if row["Kind"] == "privilege"]


def test_symbols_by_name_and_by_address(target: Target) -> None:
    (symbol,) = table(matching_grid(target, "nt!KeBugCheckEx"))
    assert (symbol["Address"], symbol["Symbol"]) == (KE_BUG_CHECK_EX, "nt!KeBugCheckEx")
    below, above = table(nearest_grid(target, KE_BUG_CHECK_EX + 4))
    assert (below["Kind"], below["Symbol"], below["Distance"]) == ("below", "nt!KeBugCheckEx", 4)
    assert above["Address"] > KE_BUG_CHECK_EX + 4
    (module,) = table(matching_grid(target, "nt!"))
    assert (module["Kind"], module["Address"]) == ("module", NT)


def test_a_translation_ends_where_the_host_finds_the_page(target: Target) -> None:
    *entries, result = table(pte_grid(target, NT, directory_of(target)))
    assert [entry["TableLevel"] for entry in entries] == ["PXE", "PPE", "PDE", "PTE"]
    assert target.layer_name is not None
    layer = target.context.layers[target.layer_name]
    assert (result["TableLevel"], result["PhysicalAddress"]) == ("result", layer.translate(NT)[0])
    assert entries[-1]["PageFrame"] << 12 == result["PhysicalAddress"]


def test_what_an_address_belongs_to(target: Target) -> None:
    (row,) = table(region_grid(target, MYFAULT))
    assert (row["Region"], row["Image"], row["Symbol"], row["InDump"]) == (
        *("driver", "myfault.sys", "myfault+0x1981", "yes"),
    )
    (row,) = table(region_grid(target, 0xFFFFF90000000000))
    assert row["Image"] is None
    assert row["InDump"] not in (None, "yes")


def test_processors_and_their_calls(target: Target) -> None:
    rows = table(processors_grid(target))
    assert [(row["Processor"], row["Prcb"] - row["Pcr"], row["ProcessorVendor"]) for row in rows] == [
        (0, 0x180, "GenuineIntel"),
        (1, 0x180, "GenuineIntel"),
        (2, 0x180, "GenuineIntel"),
    ]
    assert table(processors_grid(target, [2])) == rows[2:]
    with pytest.raises(KdumpError, match="processor 9 has no control block in the dump"):
        processors_grid(target, [2, 9])
    assert table(dpcs_grid(target)) == []


def test_tagged_data(target: Target) -> None:
    rows = table(tagged_grid(target))
    assert [(row["Guid"], row["Size"], row["FileOffset"]) for row in rows] == [
        (str(blob.tag), blob.size, blob.offset) for blob in target.dump.tagged
    ]
    assert rows[0]["Bytes"].startswith("07 00 00 00 d1 00 00 00")


def test_a_hardware_error() -> None:
    body = struct.pack("<4Q", 1 | 2, 0x400, 0x123456000, 0).ljust(80, b"\0")
    head, section, *facts = table(error_record_grid(memory_of(record(MEMORY_SECTION, body)), 0x1000))
    assert (head["Kind"], head["Address"], head["ErrorSeverity"]) == ("record", 0x1000, "recoverable")
    assert (section["Name"], section["Offset"], section["Address"]) == ("Platform Memory", 200, 0x10C8)
    assert [(fact["Name"], fact["Text"]) for fact in facts] == [
        ("error status", "0x400"),
        ("physical address", "0x123456000"),
    ]
