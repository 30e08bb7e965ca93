"""Hardware error records: hand-made ones, and status values with the words that WinDbg's !errrec prints for them."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.errors import CorruptDump, KdumpError, Unreadable
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.machine import machine_check, whea

BASE = 0x1000
MEMORY_SECTION = UUID("a5bc1114-6f64-4ede-b863-3e83ed7c83b1")


def memory_of(data: bytes) -> Memory:
    def read(address: int, size: int) -> bytes | None:
        offset = address - BASE
        return data[offset : offset + size] if offset >= 0 and offset + size <= len(data) else None

    return Memory(read, 8, lambda address: "gone")


def record(kind: UUID, body: bytes, *, offset: int = 200, length: int | None = None, count: int = 1) -> bytes:
    length = len(body) if length is None else length
    header = struct.pack("<4sHIHIII", b"CPER", 0x210, 0xFFFFFFFF, count, 0, 0, 200 + len(body)).ljust(128, b"\0")
    descriptor = struct.pack("<IIHBBI", offset, length, 0x300, 2, 0, 1) + kind.bytes_le + bytes(16)
    return header + descriptor + struct.pack("<I20s", 2, b"DIMM_A1") + body


def test_a_memory_error() -> None:
    valid = 1 | 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 14
    body = struct.pack("<4Q", valid, 0x400, 0x123456000, 0) + struct.pack("<8H", 1, 9, 2, 9, 9, 77, 9, 9)
    body += bytes(24) + b"\x03"
    found = whea.read_error_record(memory_of(record(MEMORY_SECTION, body)), BASE)
    assert (found.severity, found.revision, found.length) == ("recoverable", 0x210, 200 + 73)
    section = found.sections[0]
    assert (section.name, section.severity, section.primary) == ("Platform Memory", "corrected", True)
    assert section.fru_text == "DIMM_A1"
    assert section.facts == (
        ("error status", "0x400"),
        ("physical address", "0x123456000"),
        ("node", "1"),
        ("module", "2"),
        ("row", "77"),
        ("error type", "multi-bit ECC"),
    )


def test_a_type_that_nobody_knows() -> None:
    kind = UUID("01234567-89ab-cdef-0123-456789abcdef")
    section = whea.read_error_record(memory_of(record(kind, bytes(16))), BASE).sections[0]
    assert (section.name, section.type_id, section.facts) == (None, str(kind), ())
    assert section.absent == "this type of section is not decoded"


@pytest.mark.parametrize(("offset", "length"), [(0, 16), (200, 17), (200, 0xFFFFFFFF), (0xFFFFFFF0, 0x20)])
def test_a_section_outside_its_record(offset: int, length: int) -> None:
    found = whea.read_error_record(memory_of(record(MEMORY_SECTION, bytes(16), offset=offset, length=length)), BASE)
    assert found.sections[0].absent == "outside the record"
    assert len(found.notes) == 1


def test_a_section_that_is_too_short() -> None:
    section = whea.read_error_record(memory_of(record(MEMORY_SECTION, bytes(8))), BASE).sections[0]
    assert (section.facts, section.absent) == ((), "only 0x8 bytes long")


def test_sections_that_the_dump_lacks() -> None:
    data = record(MEMORY_SECTION, bytes(80))
    found = whea.read_error_record(memory_of(data[:-1]), BASE)
    assert found.sections[0].absent == "gone"
    found = whea.read_error_record(memory_of(data[:150]), BASE)
    assert found.sections == () and found.notes == ("the descriptor of section 1 of 1 is not in the dump",)


def test_no_record() -> None:
    with pytest.raises(CorruptDump, match="starts with 50414745"):
        whea.read_error_record(memory_of(b"PAGE" * 64), BASE)
    with pytest.raises(Unreadable, match="gone"):
        whea.read_error_record(memory_of(b"CPER"), BASE)


def test_a_count_of_sections_that_is_a_lie() -> None:
    found = whea.read_error_record(memory_of(record(MEMORY_SECTION, bytes(80), count=0xFFFF)), BASE)
    assert len(found.sections) <= 64
    assert "claims 65535 sections" in found.notes[0]


@pytest.mark.parametrize(
    ("status", "error", "word"),
    [
        # in the form in which WinDbg's !errrec prints them
        (0xFA000010000B0C0F, "BUSLG_OBS_ERR_*_NOTIMEOUT_ERR", "BUS"),
        (0xBE00000000800400, "internal timer error", "MAE"),
        # the examples of the Intel SDM, volume 3, "Compound Error Codes", and one for each form
        (0x8000000000000136, "DCACHEL2_DRD_ERR", "CACHE"),
        (0x8000000000000150, "ICACHEL0_IRD_ERR", "CACHE"),
        (0x8000000000001179, "GCACHEL1_EVICT_ERR", "CACHE"),
        (0x800000000000000E, "GCACHEL2_ERR", "CACHE"),
        (0x8000000000000015, "DTLBL1_ERR", "TLB"),
        (0x8000000000000092, "MEMORY_RD_CHANNEL2_ERR", None),
        (0x80000000000000CF, "MEMORY_MS_CHANNEL?_ERR", None),
        (0x8000000000000F0F, "BUSLG_*_ERR_*_TIMEOUT_ERR", "BUS"),
        (0x8000000000000811, "BUSL1_SRC_RD_M_NOTIMEOUT_ERR", "BUS"),
        (0x8000000000000405, "internal unclassified error 0x5", None),
        (0x8000000000000005, "internal parity error", None),
        (0x8000000000000E0B, "I/O error", None),
        (0x8000000000002000, "unknown error code 0x2000", None),
    ],
)
def test_machine_check_codes(status: int, error: str, word: str | None) -> None:
    found = machine_check.MachineCheckStatus(status)
    assert (found.error, found.bucket_word) == (error, word)


def test_machine_check_flags() -> None:
    found = machine_check.MachineCheckStatus(0xBE00000000800400)
    assert (found.valid, found.uncorrected, found.misc_valid, found.address_valid) == (True, True, True, True)
    assert (found.context_corrupt, found.code, found.model_code) == (True, 0x400, 0x80)
    assert found.state == "uncorrected, reporting enabled, MISC valid, ADDR valid, processor context corrupt"
    assert machine_check.MachineCheckStatus(0x400).state == "not valid"
    assert machine_check.MachineCheckStatus(0xC000000000000000).state == "overflow"


@settings(max_examples=part(100), deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_any_status_has_words(status: int) -> None:
    found = machine_check.MachineCheckStatus(status)
    assert found.error and found.state


KINDS = [whea.PROCESSOR_GENERIC, whea.PROCESSOR_X64, whea.MACHINE_CHECK, whea.PCI_EXPRESS, whea.PLATFORM_MEMORY]


@settings(max_examples=part(100), deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=300), st.integers(0, 500))
def test_any_bytes_in_a_section(kind: str, body: bytes, kept: int) -> None:
    try:
        found = whea.read_error_record(memory_of(record(UUID(kind), body)[: 128 + kept]), BASE)
    except KdumpError:
        return
    for section in found.sections:
        assert len(section.facts) < 400
        assert not (section.facts and section.absent)
