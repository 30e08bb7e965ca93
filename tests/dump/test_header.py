"""The dump header: values, absent values, what is not a header at all."""

from __future__ import annotations

import datetime
import struct
from pathlib import Path

import pytest

from tests.archives import packing
from volatility3_kdump.dump import BytesSource, DumpHeader, open_dump, parse_header
from volatility3_kdump.dump.header import is_fill
from volatility3_kdump.errors import CorruptDump, KdumpError, NotACrashDump, UnsupportedDump

#: Header field of the format -> attribute of DumpHeader.
ATTRIBUTES = {
    "MajorVersion": "major_version",
    "MinorVersion": "build_number",
    "DirectoryTableBase": "directory_table_base",
    "PfnDataBase": "pfn_database",
    "PsLoadedModuleList": "ps_loaded_module_list",
    "PsActiveProcessHead": "ps_active_process_head",
    "MachineImageType": "machine_type",
    "NumberProcessors": "number_processors",
    "BugCheckCode": "bug_check_code",
    "KdDebuggerDataBlock": "kd_debugger_data_block",
    "DumpType": "dump_type",
    "RequiredDumpSpace": "required_dump_space",
    "SystemTime": "system_time",
    "SystemUpTime": "system_up_time",
    "MiniDumpFields": "mini_dump_fields",
    "SecondaryDataState": "secondary_data_state",
    "ProductType": "product_type",
    "SuiteMask": "suite_mask",
    "WriterStatus": "writer_status",
    "KdSecondaryVersion": "kd_secondary_version",
    "Attributes": "attributes",
    "BootId": "boot_id",
}
ADDRESSES = {"PfnDataBase", "PsLoadedModuleList", "PsActiveProcessHead", "KdDebuggerDataBlock"}


def parsed(data: bytes) -> DumpHeader:
    return parse_header(BytesSource(bytes(data)))


def test_header_of_a_real_x64_dump(shared_data: Path) -> None:
    header = open_dump(shared_data / "dumps" / "triage_x64_19041.dmp").header
    assert (header.bits, header.header_size, header.pointer_size, header.architecture) == (64, 0x2000, 8, "x64")
    assert (header.major_version, header.build_number, header.number_processors) == (15, 19041, 16)
    assert header.bug_check_code == 0x1000007E
    assert header.bug_check_parameters == (
        0xFFFFFFFFC0000005,
        0xFFFFF8048B58334C,
        0xFFFF850429891EE8,
        0xFFFF850429891720,
    )
    assert header.dump_type == 4
    assert header.pfn_database == 0xFFFFF8047C6FC500
    assert header.directory_table_base == 0x1AD000
    assert header.system_time is not None
    moment = datetime.datetime(1601, 1, 1) + datetime.timedelta(microseconds=header.system_time // 10)
    assert str(moment).startswith("2021-02-21 01:38:22.987")
    assert header.system_up_time is not None and header.system_up_time // 10_000 == 3747
    assert header.mini_dump_fields == 0xCFF
    assert (header.product_type, header.suite_mask, header.writer_status, header.kd_secondary_version) == (
        1,
        0x110,
        0,
        0,
    )
    assert header.required_dump_space == 0x197915
    # The writer never set these: the fill is no value.
    assert (header.attributes, header.boot_id, header.secondary_data_state, header.comment) == (None, None, None, None)
    assert (header.number_of_runs, header.number_of_pages, header.version_user) == (None, None, None)
    assert header.attribute_names is None and not header.encrypted and header.runs() == []
    rsp, rip = (
        struct.unpack_from("<Q", header.context_record, 0x98)[0],
        struct.unpack_from("<Q", header.context_record, 0xF8)[0],
    )
    assert (rsp, rip) == (0xFFFF850429892120, 0xFFFFF8048B58334C)
    assert struct.unpack_from("<I", header.exception_record)[0] == 0x80000003


def test_header_of_a_real_arm64_dump(shared_data: Path) -> None:
    header = open_dump(shared_data / "dumps" / "triage_arm64_22000.dmp").header
    assert (header.bits, header.architecture, header.machine_type) == (64, "arm64", 0xAA64)
    assert (header.build_number, header.number_processors, header.bug_check_code) == (22000, 8, 0x1C8)
    assert header.bug_check_parameters == (0x1B58, 0xFFFFF803F3A20860, 0, 0)
    assert header.system_up_time is not None and header.system_up_time // 10_000 == 796705
    assert header.boot_id == 0xD
    assert header.attributes is None


@pytest.mark.parametrize("bits", [64, 32])
def test_every_field_lies_where_the_format_says(bits: int) -> None:
    values: dict[str, int] = {}
    for number, name in enumerate(ATTRIBUTES, 1):
        if name in packing.FIELDS[bits]:
            _, code = packing.FIELDS[bits][name]
            values[name] = {"B": 2, "I": 0x01000000 + number, "Q": 0x0102030405060000 + number}[code]
    header = parsed(packing.header(bits, None, **values))
    assert {name: getattr(header, ATTRIBUTES[name]) for name in values} == values


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_field_that_reads_as_the_fill_was_never_set(bits: int, name: str) -> None:
    if name not in packing.FIELDS[bits]:
        pytest.skip("not a field of this header")
    offset, code = packing.FIELDS[bits][name]
    data = packing.header(bits, 1)
    size = struct.calcsize(code)
    data[offset : offset + size] = packing.fill(packing.HEADER_SIZE[bits])[offset : offset + size]
    assert getattr(parsed(data), ATTRIBUTES[name]) is None


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_unset_argument_is_absent_and_the_others_are_not(bits: int, number: int) -> None:
    data = packing.header(
        bits, 1, BugCheckParameter1=1, BugCheckParameter2=2, BugCheckParameter3=3, BugCheckParameter4=4
    )
    offset, code = packing.FIELDS[bits][f"BugCheckParameter{number}"]
    data[offset : offset + struct.calcsize(code)] = packing.fill(struct.calcsize(code))
    expected = tuple(None if position == number else position for position in (1, 2, 3, 4))
    assert parsed(data).bug_check_parameters == expected


def test_zero_is_a_value() -> None:
    header = parsed(packing.header(64, 1, BootId=0, Attributes=0, SuiteMask=0, BugCheckCode=0))
    assert (header.boot_id, header.attributes, header.suite_mask, header.bug_check_code) == (0, 0, 0, 0)
    assert header.attribute_names == ()


def test_addresses_of_a_32_bit_header_are_sign_extended() -> None:
    header = parsed(
        packing.header(
            32,
            1,
            PsLoadedModuleList=0x8055D720,
            PsActiveProcessHead=0x80563958,
            KdDebuggerDataBlock=0x7FFFFFF0,
            PfnDataBase=0x81000000,
            DirectoryTableBase=0x80039000,
            BugCheckParameter1=0xC0000005,
            BugCheckParameter2=0x1000,
        )
    )
    assert header.ps_loaded_module_list == 0xFFFFFFFF8055D720
    assert header.ps_active_process_head == 0xFFFFFFFF80563958
    assert header.kd_debugger_data_block == 0x7FFFFFF0
    assert header.pfn_database == 0xFFFFFFFF81000000
    # A physical address is not.
    assert header.directory_table_base == 0x80039000
    assert header.bug_check_parameters[:2] == (0xFFFFFFFFC0000005, 0x1000)
    assert (header.architecture, header.pointer_size, header.header_size) == ("x86", 4, 0x1000)


@pytest.mark.parametrize("stored, expected", [(0, False), (1, True), (ord("P"), None)])
def test_pae_flag(stored: int, expected: bool | None) -> None:
    assert parsed(packing.header(32, 1, PaeEnabled=stored)).pae_enabled is expected


def test_a_64_bit_header_has_no_pae_flag() -> None:
    assert parsed(packing.header(64, 1)).pae_enabled is None


def test_attribute_names() -> None:
    header = parsed(packing.header(64, 1, Attributes=1 << 2 | 1 << 6 | 1 << 11 | 1 << 17))
    assert header.attribute_names == ("InsufficientDumpfileSize", "FilterDumpFile", "0x20800")


@pytest.mark.parametrize(
    ("attributes", "written"), [(0x8, False), (0x800, False), (0x1808, True), (0x21800, True), (0x21808, True)]
)
def test_the_last_line_of_the_writer(attributes: int, written: bool) -> None:
    data = bytearray(packing.header(64, 1, Attributes=attributes))
    data[0x11F0:0x1210] = b"Dump completed successfully.\0\0\0\0"
    assert parsed(bytes(data)).last_line == ("Dump completed successfully." if written else None)


@pytest.mark.parametrize("content", [b"", b"\0", b"\x1b[31m\0", b"\xe4\0", 256 * b"A"])
def test_a_last_line_that_is_none(content: bytes) -> None:
    data = bytearray(packing.header(64, 1, Attributes=1 << 12))
    data[0x11F0 : 0x11F0 + len(content)] = content
    assert parsed(bytes(data)).last_line is None


@pytest.mark.parametrize("name", ["0x13a", "0x3b", "0xbe"])
def test_the_last_line_of_real_dumps(shared_data: Path, name: str) -> None:
    header = open_dump(shared_data / "dumps" / f"triage_x64_26100_{name}.dmp").header
    assert (header.attributes, header.last_line) == (0x21008, "Dump completed successfully.")


@pytest.mark.parametrize(
    ("attributes", "written"), [(0x8, False), (0x800, False), (0x1808, True), (0x21800, True), (0x21808, True)]
)
def test_diagnostic_data_in_published_analyses(attributes: int, written: bool) -> None:
    """Attributes, and whether the debugger printed Dump.Attributes.DiagDataWrittenToHeader for them."""
    names = parsed(packing.header(64, 1, Attributes=attributes)).attribute_names
    assert names is not None and ("DiagDataWrittenToHeader" in names) == written


@pytest.mark.parametrize(
    "stored, expected",
    [
        (b"made by hand\0" + b"PAGE" * 10, "made by hand"),
        (b"\0" * 128, None),
        (b"x" * 128, "x" * 128),
        (bytes(packing.fill(128)), None),
        # Without a terminator, the fill that follows is no part of the text.
        (b"short " + bytes(packing.fill(128))[6:], "short "),
    ],
)
def test_comment(stored: bytes, expected: str | None) -> None:
    assert parsed(packing.header(64, 1, Comment=stored)).comment == expected


@pytest.mark.parametrize("bits, most", [(64, 42), (32, 86)])
def test_runs_are_bounded_by_their_buffer(bits: int, most: int) -> None:
    runs = [(0x100 * index, index + 1) for index in range(most)]
    header = parsed(packing.full(runs, bits))
    assert [(run.base_page, run.page_count) for run in header.runs()] == runs
    data = packing.full(runs, bits)
    packing.put(data, bits, "NumberOfRuns", most + 1)
    with pytest.raises(CorruptDump, match=rf"NumberOfRuns at offset {'0x88' if bits == 64 else '0x64'} is {most + 1}"):
        parsed(data).runs()


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["NumberOfRuns", "NumberOfPages"])
def test_a_descriptor_with_fill_in_it_was_never_set(bits: int, name: str) -> None:
    data = packing.full([(1, 1)], bits)
    offset, code = packing.FIELDS[bits][name]
    data[offset : offset + struct.calcsize(code)] = packing.fill(struct.calcsize(code))
    assert parsed(data).runs() == []
    with pytest.raises(CorruptDump, match="physical memory descriptor"):
        open_dump(BytesSource(bytes(data)))


@pytest.mark.parametrize(
    "flags_offset, flags, expected", [(0x30, 0x10001F, "x64"), (0, 0x400007, "arm64"), (None, 0, "x64")]
)
def test_without_a_machine_type_the_context_tells_the_architecture(
    flags_offset: int | None, flags: int, expected: str
) -> None:
    context = bytearray(3000)
    if flags_offset is not None:
        struct.pack_into("<I", context, flags_offset, flags)
    data = packing.header(64, 1, ContextRecord=bytes(context))
    data[0x30:0x34] = b"PAGE"
    assert parsed(data).architecture == expected


def test_an_unknown_machine_is_named_by_its_number() -> None:
    assert parsed(packing.header(64, 1, MachineImageType=0x1234)).architecture == "0x1234"


@pytest.mark.parametrize("size, offset, expected", [(1, 0, ord("P")), (1, 1, ord("A")), (1, 2, ord("G"))])
def test_fill_of_a_byte_depends_on_its_offset(size: int, offset: int, expected: int) -> None:
    assert is_fill(expected, size, offset)
    assert not is_fill(expected, size, offset + 1)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (bytes(0x3000), "only zeros"),
        (b"MDMP" + bytes(100), "user-mode minidump"),
        (b"Raw_Dmp!" + bytes(100), "raw offline dump"),
        (b"PAGE\0\0\0\0" + bytes(0x2000), "ValidDump at offset 0x4 is 0x00000000"),
        (b"PAGEPAGE" * 0x400, "ValidDump at offset 0x4 is 0x45474150"),
        (b"MSCF" + bytes(100), "CAB archive"),
        (b"\x7fELF" + bytes(100), "ELF"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7-Zip"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"Rar!\x1a\x07\x01\0" + bytes(100), "RAR archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "Zstandard file"),
        (b"PAG", "no crash dump header at offset 0x0"),
        (bytes(range(1, 200)), "no crash dump header at offset 0x0"),
        (b"\0" * 8 + b"data" * 0x1000, "no crash dump header at offset 0x0"),
    ],
)
def test_what_is_no_crash_dump(data: bytes, message: str) -> None:
    with pytest.raises(NotACrashDump, match=message):
        parsed(data)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("size", [8, 0x10, 0xF00, 0xFFF])
def test_a_file_that_ends_in_the_header(bits: int, size: int) -> None:
    with pytest.raises(CorruptDump, match=rf"ends at offset {size:#x}, inside the {packing.HEADER_SIZE[bits]:#x}-byte"):
        parsed(packing.header(bits, 1)[:size])


@pytest.mark.parametrize("bits, where", [(64, "0xf98"), (32, "0xf88")])
@pytest.mark.parametrize(
    "dump_type, words", [(0x77, "0x77"), (7, "0x7"), (0, "0x0"), (None, "never set"), (3, "header")]
)
def test_a_type_that_holds_no_memory(bits: int, where: str, dump_type: int | None, words: str) -> None:
    with pytest.raises(UnsupportedDump, match=words) as failure:
        open_dump(BytesSource(bytes(packing.header(bits, dump_type) + bytes(0x4000))))
    assert where in str(failure.value)


@pytest.mark.parametrize("dump_type", [1, 2, 4, 5, 6, 8, 9, 0xA])
def test_an_encrypted_dump_is_refused_whatever_its_type(dump_type: int) -> None:
    data = packing.header(64, dump_type, Attributes=1 << 8) + bytes(0x4000)
    with pytest.raises(UnsupportedDump, match=r"encrypted .Attributes at offset 0x1050 is 0x100"):
        open_dump(BytesSource(bytes(data)))


def test_the_fill_in_attributes_is_not_a_sign_of_encryption() -> None:
    # Bit 8 is set in 'PAGE' read as a number.
    assert 0x45474150 & 1 << 8
    assert not open_dump(BytesSource(bytes(packing.full([(1, 1)])))).header.encrypted


def test_errors_of_opening_a_path_are_ours(tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="cannot be opened: No such file"):
        open_dump(tmp_path / "absent.dmp")
    with pytest.raises(KdumpError, match="cannot be opened: Is a directory"):
        open_dump(tmp_path)


@pytest.mark.parametrize("name, message", [("corrupt_zero_filled.dmp", "only zeros"), ("corrupt_empty.dmp", "empty")])
def test_what_a_failing_disk_left_behind(shared_data: Path, name: str, message: str) -> None:
    with pytest.raises(NotACrashDump, match=message):
        open_dump(shared_data / "dumps" / name)
