"""SMBIOS tables of real small memory dumps, and damaged ones."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.dump import BytesSource, TaggedBlob, open_dump
from volatility3_kdump.dump.smbios import TAG, MachineInformation, MemoryModule, filled_in, machine_information
from volatility3_kdump.dump.smbios_details import smbios_details
from volatility3_kdump.text.machine_facts import machine_facts
from volatility3_kdump.text.smbios import field_text


@pytest.mark.parametrize(
    ("name", "manufacturer", "product", "firmware"),
    [
        ("triage_arm64_22000", "SAMSUNG ELECTRONICS CO., LTD.", "Galaxy Book Go (Wi-Fi)", "P00AJW.028.210506.WY.1858"),
        ("triage_x64_19041_0x1a", "ASUS", "System Product Name", "2801"),
        ("triage_x64_9600", "SAMSUNG ELECTRONICS CO., LTD.", "670Z5E", "P05ADG.010.140421.SH"),
    ],
)
def test_real_machines(shared_data: Path, name, manufacturer, product, firmware):
    """Each string stands in the file as plain text."""
    path = shared_data / "dumps" / f"{name}.dmp"
    dump = open_dump(path)
    machine = machine_information(dump.source, dump.tagged)
    assert (machine.manufacturer, machine.product, machine.bios_version) == (manufacturer, product, firmware)
    assert machine.virtual_machine is None
    [blob] = [blob for blob in dump.tagged if blob.tag == TAG]
    assert machine.smbios_version in ((2, 7), (3, 1), (3, 4))
    assert machine.tables_size == blob.size - 8
    assert all(text.encode() in path.read_bytes() for text in (manufacturer, product, firmware))


def test_no_tables(shared_data: Path):
    dump = open_dump(shared_data / "dumps" / "triage_x64_19041.dmp")
    assert machine_information(dump.source, dump.tagged) is None


@pytest.mark.parametrize(
    ("manufacturer", "product", "name"),
    [
        ("Microsoft Corporation", "Virtual Machine", "HyperV"),
        ("VMware, Inc.", "VMware20,1", "VMware"),
        ("innotek GmbH", "VirtualBox", "VirtualBox"),
        ("QEMU", "Standard PC (Q35 + ICH9, 2009)", "QEMU"),
        ("Microsoft Corporation", "Surface Pro", None),
    ],
)
def test_virtual_machines(manufacturer, product, name):
    machine = MachineInformation(None, None, None, manufacturer, product, None, None, None)
    assert machine.virtual_machine == name


def structure(kind: int, area: bytes, *strings: str, length: int | None = None) -> bytes:
    """DSP0134, 6.1: type, length, handle, fields, then strings with an empty one at their end."""
    head = struct.pack("<BBH", kind, 4 + len(area) if length is None else length, kind)
    return head + area + b"".join(text.encode() + b"\0" for text in strings or ("",)) + b"\0"


SYSTEM = structure(1, bytes((1, 2, 0, 0)) + bytes(19), "ACME", "Box 9")
BOARD = structure(2, bytes((1, 2)) + bytes(9), "Board Inc.", "B-1")


@pytest.mark.parametrize(
    ("tables", "claimed", "board"),
    [
        (SYSTEM + BOARD, None, "Board Inc."),
        # The header says more than there is, or less.
        (SYSTEM + BOARD, 0xFFFFFFFF, "Board Inc."),
        (SYSTEM + BOARD, len(SYSTEM), None),
        # A structure that ends behind the tables, one without room for its own header, one whose strings do not end.
        (SYSTEM + structure(4, bytes(0x2C), "CPU", length=0xFF) + BOARD, None, None),
        (SYSTEM + structure(4, bytes(0x2C), "CPU", length=3) + BOARD, None, None),
        (SYSTEM + BOARD[:-2], None, None),
        # A string that is not there.
        (SYSTEM + structure(2, bytes((9, 9)) + bytes(9), "x"), None, None),
    ],
)
def test_lengths_that_lie_end_the_tables(tables: bytes, claimed: int | None, board: str | None) -> None:
    """What stands before is told, nothing behind is, and no text of another structure."""
    data = struct.pack("<BBBBI", 0, 3, 1, 0, len(tables) if claimed is None else claimed) + tables
    machine = machine_information(BytesSource(data), [TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)])
    assert machine is not None
    assert (machine.manufacturer, machine.product, machine.baseboard_manufacturer) == ("ACME", "Box 9", board)
    assert machine.processor is None and machine.tables_size == min(len(tables), claimed or len(tables))


@given(st.binary(max_size=300))
def test_any_bytes(data):
    blob = TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)
    machine_information(BytesSource(data), [blob])


def test_real_memory_modules(shared_data: Path):
    dump = open_dump(shared_data / "dumps" / "triage_x64_26100_0xbe.dmp")
    machine = machine_information(dump.source, dump.tagged)
    assert machine.processor == "AMD Ryzen 5 5600X 6-Core Processor"
    assert [module.text for module in machine.memory] == 2 * ["DIMM 1, 8192 MB, 3200 MT/s, Unknown, TEAMGROUP-UD4-3200"]
    assert machine.installed_memory == 16 << 30


def device(size: int, extended: int = 0, speed: int = 0, configured: int = 0, length: int = 0x22) -> bytes:
    """A memory device as DSP0134, section 7.18, lays it out."""
    body = struct.pack(
        "<BBHHHHHHBBBBBHHBBBBBIH",
        17,
        length,
        1,
        0,
        0,
        64,
        64,
        size,
        9,
        0,
        1,
        0,
        26,
        0,
        speed,
        2,
        0,
        0,
        3,
        0,
        extended,
        configured,
    )
    return body[:length] + b"Slot A\0Maker\0Part 1\0\0"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (device(8192, speed=3200, configured=2400), MemoryModule("Slot A", 8 << 30, 3200, 2400, "Maker", "Part 1")),
        (device(0x7FFF, extended=32768), MemoryModule("Slot A", 32 << 30, None, None, "Maker", "Part 1")),
        (device(0x8400), MemoryModule("Slot A", 1 << 20, None, None, "Maker", "Part 1")),
        (device(0xFFFF), MemoryModule("Slot A", None, None, None, "Maker", "Part 1")),
        (device(0), None),
        (device(8192, length=0x15), MemoryModule("Slot A", 8 << 30, None, None, None, None)),
    ],
)
def test_memory_devices(table: bytes, expected: MemoryModule | None):
    tables = table + struct.pack("<BBH", 127, 4, 2) + b"\0\0"
    data = struct.pack("<BBBBI", 0, 3, 1, 0, len(tables)) + tables
    machine = machine_information(BytesSource(data), [TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)])
    assert machine.memory == ((expected,) if expected else ())


def test_fields_of_a_real_machine(shared_data: Path):
    """A machine with two modules in four slots; every string of the tables stands in some field."""
    dump = open_dump(shared_data / "dumps" / "triage_x64_26100_0x3b.dmp")
    structures = list(smbios_details(dump.source, dump.tagged))
    devices = [{field.name: field for field in found.fields} for found in structures if found.kind == 17]
    assert [field_text(device["Size"]) for device in devices] == ["[Not Populated]", "8192MB"] * 2
    assert field_text(devices[1]["Memory Type"]) == "1ah - DDR4"
    assert field_text(devices[1]["Part Number"]) == "TEAMGROUP-UD4-3200"
    assert field_text(devices[1]["Configured Speed"]) == "3200MHz"
    machine = machine_information(dump.source, dump.tagged)
    installed = [device for device in devices if device["Size"].value]
    assert [module.part for module in machine.memory] == [device["Part Number"].value for device in installed]
    for found in structures:
        strings = [field.value for field in found.fields if field.kind == "string" and field.value]
        assert set(strings) <= {text.strip() for text in found.strings}
        if found.title is not None and found.kind != 11:
            assert len(found.fields) > 0


@given(st.binary(max_size=300))
def test_fields_of_any_bytes(data):
    blob = TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)
    for structure in smbios_details(BytesSource(data), [blob]):
        assert all(isinstance(field_text(field), str) for field in structure.fields)


def test_boards_that_name_their_slots_alike(shared_data: Path) -> None:
    """The bank tells two modules apart, and what nobody has filled in is not said."""
    dump = open_dump(shared_data / "dumps" / "triage_x64_26100_0x3b.dmp")
    machine = machine_information(dump.source, dump.tagged)
    facts = list(machine_facts(machine, None))
    assert ("System", "B550M-C") in facts
    modules = [text for name, text in facts if name == "Memory module"]
    assert len(modules) == 2 and len(set(modules)) == 2


@pytest.mark.parametrize("text", ["To Be Filled By O.E.M.", "Default string", "System Product Name", " ", "", None])
def test_what_nobody_filled_in(text: str | None) -> None:
    assert not filled_in(text) and filled_in("B550M-C")
