"""Tagged secondary data."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.archives import packing
from volatility3_kdump.dump import BytesSource, open_dump
from volatility3_kdump.dump.tagged import own_name, tag_names, tagged_blobs

SMBIOS = uuid.UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758")
NULL = uuid.UUID(int=0)


@pytest.mark.parametrize(
    "name, count, tags",
    [
        (
            "triage_x64_19041",
            20,
            {"d03dc06f-d88e-44c5-ba2a-fae035172d19", "b0692a5e-6b7b-4073-8a7c-604e35032970"},
        ),
        (
            "triage_arm64_22000",
            42,
            {"bc5c008f-1e3a-44d7-988d-86f6884c6758", "f57308df-cc45-4e01-ad76-29a4ebb010ec"},
        ),
    ],
)
def test_real_dumps(shared_data: Path, name: str, count: int, tags: set[str]) -> None:
    dump = open_dump(shared_data / "dumps" / f"{name}.dmp")
    blobs = dump.tagged
    assert len(blobs) == count and dump.warnings == []
    assert [blob.index for blob in blobs] == list(range(count))
    # The walk ends where the file does; padding of the last blob included.
    assert 0 <= dump.source.size - (blobs[-1].offset + blobs[-1].size) < 8
    found = {str(blob.tag) for blob in blobs}
    assert tags | {"2b4ae195-a64d-4f04-8ede-7e4f981bd42a", "2b88b710-1c93-4f7c-b06c-655ecc50decc"} <= found
    assert "ETW buffers" in {blob.name for blob in blobs}
    for tag, content in (
        ("da82441d-7142-4bc1-b844-0807c5a4b67f", b"DSTP"),
        ("9276c055-eb87-425c-b8b5-04e4d247f6cd", b"PCfg"),
        ("bf2297dc-34ba-11dc-868a-e19155d89593", b"NVCD"),
    ):
        for blob in blobs:
            if str(blob.tag) == tag:
                assert content in dump.source.read(blob.offset, min(blob.size, 64)) or name == "triage_arm64_22000"


def test_a_repeated_and_a_null_tag_of_a_real_dump(shared_data: Path) -> None:
    blobs = open_dump(shared_data / "dumps" / "triage_arm64_22000.dmp").tagged
    assert len({blob.tag for blob in blobs}) < len(blobs)
    null = [blob.index for blob in blobs if blob.tag == NULL]
    assert null and null[0] < len(blobs) - 1


contents = st.lists(
    st.tuples(
        st.one_of(st.uuids(), st.sampled_from([SMBIOS, NULL])),
        st.binary(max_size=40),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=8,
)


@settings(max_examples=part(100), deadline=None)
@given(contents, st.integers(0, 50), st.sampled_from([0x20, 0x28]))
def test_any_blobs_anywhere(blobs: list[tuple[uuid.UUID, bytes, int, int]], start: int, header_size: int) -> None:
    data = bytes(start) + packing.tagged(blobs, header_size)
    source = BytesSource(data)
    found, complaints = tagged_blobs(source, start)
    assert complaints == []
    assert [(blob.tag, source.read(blob.offset, blob.size)) for blob in found] == [
        (tag, content) for tag, content, _, _ in blobs
    ]
    assert [blob.index for blob in found] == list(range(len(blobs)))
    for blob, (_, content, _, _) in zip(found, blobs, strict=True):
        expected = tag_names().get(str(blob.tag)) or own_name(content)
        assert blob.name == (expected if content or blob.tag != NULL else "nothing: neither tag nor data")


@settings(max_examples=part(100), deadline=None)
@given(contents, st.integers(0, 400))
def test_a_truncated_walk_keeps_the_blobs_before_the_cut(
    blobs: list[tuple[uuid.UUID, bytes, int, int]], size: int
) -> None:
    data = packing.tagged(blobs)[:size]
    found, _ = tagged_blobs(BytesSource(data), 0)
    assert [(blob.tag, data[blob.offset : blob.offset + blob.size]) for blob in found] == [
        (tag, content) for tag, content, _, _ in blobs[: len(found)]
    ]


@pytest.mark.parametrize(
    "offset, value, words",
    [
        (0x30 + 4, 0x1F, "says it is 0x1f bytes"),
        (0x30 + 4, 0, "says it is 0x0 bytes"),
        (0x30 + 4, 0xFFFFFFFF, "behind the end of the file"),
        (0x30 + 4 + 0x14, 0xFFFFFFFF, "behind the end of the file"),
        (0x30 + 4 + 0x18, 0xFFFFFFFF, "behind the end of the file"),
        (0x30 + 4 + 0x18, 0x45474150, "behind the end of the file"),
    ],
)
def test_a_damaged_blob_ends_the_walk_and_keeps_the_rest(offset: int, value: int, words: str) -> None:
    data = bytearray(packing.tagged([(SMBIOS, b"four", 0, 0), (NULL, b"more data", 0, 0)]))
    struct.pack_into("<I", data, offset, value)
    found, complaints = tagged_blobs(BytesSource(bytes(data)), 0)
    assert [blob.tag for blob in found] == [SMBIOS]
    assert len(complaints) == 1 and words in complaints[0] and "0x34" in complaints[0]


def test_padding_that_passes_the_end_of_the_file() -> None:
    data = bytearray(packing.tagged([(SMBIOS, b"four", 0, 0), (NULL, b"more data", 0, 0)]))
    struct.pack_into("<I", data, 0x10 + 0x1C, 0xFFFFFFFF)
    found, complaints = tagged_blobs(BytesSource(bytes(data)), 0)
    assert len(found) == 1 and len(complaints) == 1 and "behind the end of the file" in complaints[0]


def test_zeros_behind_the_last_blob_are_no_blob(shared_data: Path) -> None:
    dump = open_dump(shared_data / "dumps" / "triage_x64_17763.dmp")
    assert (len(dump.tagged), dump.warnings) == (11, [])
    # Its blobs are not aligned: the last header lies at an odd offset.
    assert dump.tagged[-1].offset == 0x241CF + 0x20
    data = packing.tagged([(SMBIOS, b"four", 0, 0)]) + bytes(300) + b"leftovers"
    found, complaints = tagged_blobs(BytesSource(data), 0)
    assert (len(found), complaints) == (1, [])


def test_endless_empty_blobs_are_bounded() -> None:
    data = packing.tagged([(NULL, b"", 0, 0)] * 5000)
    found, complaints = tagged_blobs(BytesSource(data), 0)
    assert len(found) == 4096 and "more than 4096 blobs" in complaints[0]


def test_data_behind_the_pages_of_every_type() -> None:
    blobs = [(SMBIOS, b"tables", 2, 3)]
    made = {
        "runs": packing.full([(1, 2)]),
        "bitmap": packing.bitmap([1, 5], 64),
        "unaligned": packing.bitmap([1, 5], 64, first=0x2345),
        "summary": packing.summary([1, 5], 64),
        "ranges": packing.ranges([(1, 2)]),
        "triage": packing.triage(),
    }
    for kind, data in made.items():
        dump = open_dump(BytesSource(bytes(data) + packing.tagged(blobs)))
        assert [(blob.tag, dump.source.read(blob.offset, blob.size)) for blob in dump.tagged] == [
            (SMBIOS, b"tables")
        ], kind
        assert dump.warnings == []
    # No blobs where pages are missing: what lies there is something else.
    assert open_dump(BytesSource(bytes(made["runs"][:-0x1000]))).tagged == []


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"win32kfull".ljust(0x1C, b"\0") + b"WPLg" + bytes(16), "WPP recorder log of win32kfull"),
        (bytes(0x1C) + b"WPLg" + bytes(16), "WPP recorder log"),
        (b"AmdPPM".ljust(0x44, b"\0"), "WPP recorder of AmdPPM"),
        (bytes(8) + "\\Device\\x.exe".encode("utf-16-le"), "image path \\Device\\x.exe"),
        ("win32kfull.sys".encode("utf-16-le"), "image win32kfull.sys"),
        ("\\Device\\\x1b[2J.sys".encode("utf-16-le"), None),
        ("\\Device\\\u202eexe.sys".encode("utf-16-le"), None),
        (b"NVCD" + bytes(range(60)), "data with the signature NVCD"),
        (struct.pack("<IIII", 1, 0x60, 1, 0) + b"POWD" + bytes(range(60)), "data with the signature POWD"),
        (struct.pack("<IIII", 1, 0, 1, 0) + b"POWD" + bytes(range(60)), None),
        (b"\x18\0\0\0" + bytes(0x24) + b"IoTriageDumpData\0", "I/O triage data (IoTriageDumpData)"),
        (bytes(40), None),
        (b"", None),
        (b"\x01\x02\x03\x04" + bytes(60), None),
    ],
)
def test_blobs_that_name_themselves(data: bytes, name: str | None) -> None:
    assert own_name(data) == name


def test_a_name_that_is_cut_off_says_so() -> None:
    data = bytes(8) + ("\\Device\\" + "x" * 600).encode("utf-16-le")
    assert (own_name(data[:0x420]) or "").startswith("image path that begins with \\Device\\xxx")


#: Tags of real dumps whose data says nothing of itself.
NAMELESS = {
    "10ec8168-313c-488c-afea-272cd2094616",
    "6752c89d-f789-48b8-a354-b868a3e6f989",
    "d00ce1f5-d60c-41c2-af75-a4370c9976a3",
}


def test_every_blob_of_the_real_dumps(shared_data: Path) -> None:
    """What is named as an image is named in the data, to its end; what has no name is known to have none."""
    for path in sorted((shared_data / "dumps").glob("triage_*.dmp")):
        dump = open_dump(path)
        for blob in dump.tagged:
            assert (blob.name is None) == (str(blob.tag) in NAMELESS), (path.name, blob)
            if blob.name is not None and blob.name.startswith("image "):
                data = dump.source.read(blob.offset, blob.size)
                image = blob.name.split(" ", 2)[-1] if "path" in blob.name else blob.name.removeprefix("image ")
                start = data.find(image.encode("utf-16-le"))
                assert start in (0, 8), (path.name, blob)
                assert data[start + 2 * len(image) :][:2] in (b"", b"\0\0"), (path.name, blob)


def test_real_blobs_name_themselves(shared_data: Path) -> None:
    dump = open_dump(shared_data / "dumps" / "triage_x64_26100_0xbe.dmp")
    names = {blob.name for blob in dump.tagged}
    assert {"WPP recorder of wdiwifi", "I/O triage data (IoTriageDumpData)"} <= names
