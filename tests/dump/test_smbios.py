"""SMBIOS tables of real small memory dumps, and damaged ones."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.dump import BytesSource, TaggedBlob, open_dump
from volatility3_kdump.dump.smbios import TAG, MachineInformation, machine_information


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


@given(st.binary(max_size=300))
def test_any_bytes(data):
    blob = TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)
    machine_information(BytesSource(data), [blob])
