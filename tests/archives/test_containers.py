"""Dumps inside archives: against the tools that are made for them, and against archives that mean harm."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.amounts import only
from tests.archives import cabinets, packing
from volatility3_kdump.archives import cabinet, containers
from volatility3_kdump.archives.cabinet import Cabinet
from volatility3_kdump.archives.cache import MemberCache
from volatility3_kdump.archives.containers import extract_member, list_members, open_container
from volatility3_kdump.errors import (
    CorruptContainer,
    KdumpError,
    MemberNotChosen,
    NotACrashDump,
    UnsupportedContainer,
)

CHECKOUT = Path(__file__).resolve().parents[2]
NOISE = random.Random(7).randbytes(70_001)
DUMP = bytes(packing.bitmap([1, 2, 3, 9], 0x8000)) + NOISE * 4
OTHER = bytes(packing.bitmap([4, 5], 0x8000)) + NOISE
USER = b"MDMP\x93\xa7" + bytes(9000)


def need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.fixture
def cache(tmp_path: Path) -> MemberCache:
    return MemberCache(tmp_path / "cache")


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes, str], Path]:
    def write(data: bytes, name: str = "crash.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def seven(*members: tuple[str, bytes]) -> bytes:
    import py7zr

    stream = io.BytesIO()
    with py7zr.SevenZipFile(stream, "w") as archive:
        for name, data in members:
            archive.writestr(data, name)
    return stream.getvalue()


def cab(*members: tuple[str | bytes, bytes], pack: Callable[[bytes], cabinets.Data] = cabinets.mszip) -> bytes:
    return cabinets.cabinet(members, pack).pack()


# every kind -----------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Callable[[], bytes]] = {
    "cab stored": lambda: cab(("a.txt", b"hello"), ("MEMORY.DMP", DUMP), ("z.bin", NOISE), pack=cabinets.stored),
    "cab MSZIP": lambda: cab(("a.txt", b"hello"), ("MEMORY.DMP", DUMP), ("z.bin", NOISE)),
    "cab LZX": lambda: cab(("a.txt", b"hello"), ("MEMORY.DMP", DUMP), ("z.bin", NOISE), pack=cabinets.lzx),
    "zip stored": lambda: zipped(("a.txt", b"hello"), ("x/MEMORY.DMP", DUMP), method=zipfile.ZIP_STORED),
    "zip deflate": lambda: zipped(("x/", b""), ("x/MEMORY.DMP", DUMP)),
    "zip bzip2": lambda: zipped(("MEMORY.DMP", DUMP), method=zipfile.ZIP_BZIP2),
    "zip LZMA": lambda: zipped(("MEMORY.DMP", DUMP), method=zipfile.ZIP_LZMA),
    "gz": lambda: gzip.compress(DUMP),
    "gz, two streams": lambda: gzip.compress(DUMP[:5000]) + gzip.compress(DUMP[5000:]),
    "xz": lambda: lzma.compress(DUMP),
    "xz, two streams, padded": lambda: lzma.compress(DUMP[:5000]) + bytes(8) + lzma.compress(DUMP[5000:]) + bytes(4),
    "bz2": lambda: bz2.compress(DUMP),
    "bz2, two streams": lambda: bz2.compress(DUMP[:5000]) + bz2.compress(DUMP[5000:]),
    "7z": lambda: seven(("a.txt", b"hello"), ("empty", b""), ("MEMORY.DMP", DUMP), ("z.bin", NOISE)),
}
NEEDED = {"cab LZX": "pylibmspack", "7z": "py7zr"}
#: A process is started for each: what goes through many archives of them takes long.
OWN_PROCESS = [pytest.param(kind, marks=pytest.mark.thorough) for kind in NEEDED]


@pytest.mark.parametrize("kind", WHOLE)
def test_the_dump_comes_out_as_it_went_in(kind: str, put: Callable[..., Path], cache: MemberCache) -> None:
    if kind in NEEDED:
        module(NEEDED[kind])
    path = put(WHOLE[kind](), "MEMORY.DMP.bin")
    found = open_container(path, cache=cache)
    assert found is not None and found.path.read_bytes() == DUMP
    assert found.member.name.endswith("MEMORY.DMP") and found.member in found.members
    assert re.fullmatch("[0-9a-f]{40}", found.path.name)
    assert open_container(path, cache=cache) == found


def test_other_files_are_no_containers(put: Callable[..., Path], cache: MemberCache) -> None:
    for data in (DUMP, b"", b"M", b"BZh", b"text", b"\x1f\x8b", b"7z\xbc\xaf"):
        assert open_container(put(data), cache=cache) is None
        assert list_members(put(data), cache=cache) is None


# the tools that are made for it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["-c"], ["-c", "-z"]], ids=["stored", "MSZIP"])
def test_cabinets_of_gcab_against_cabextract(options: list[str], tmp_path: Path, cache: MemberCache) -> None:
    gcab, cabextract = need("gcab"), need("cabextract")
    contents = {"one.txt": b"x", "odd.bin": NOISE, "MEMORY.DMP": DUMP, "last": NOISE[:32768], "none": b""}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "made.cab"
    subprocess.run([gcab, *options, "-n", path, *contents], cwd=tmp_path, check=True, capture_output=True)
    members = list_members(path, cache)
    assert members is not None and [(member.name, member.size) for member in members] == [
        (name, len(data)) for name, data in contents.items()
    ]
    for member in members:
        peer = subprocess.run([cabextract, "-q", "-p", "-F", member.name, path], check=True, capture_output=True)
        assert extract_member(path, member.number, cache=cache).read_bytes() == peer.stdout == contents[member.name]


@pytest.mark.parametrize("pack", [cabinets.stored, cabinets.mszip, cabinets.lzx])
def test_our_cabinets_are_what_cabextract_takes_for_cabinets(
    pack: Callable[[bytes], cabinets.Data], put: Callable[..., Path]
) -> None:
    path = put(cab(("a.txt", b"hello"), ("MEMORY.DMP", DUMP), pack=pack), "made.cab")
    assert subprocess.run([need("cabextract"), "-t", path], capture_output=True, check=False).returncode == 0


def test_the_cabinets_of_libmspack(tmp_path: Path) -> None:
    """Its own test files, which pylibmspack ships: each member as cabextract has it, or one line of refusal."""
    module("pylibmspack")
    cabextract = need("cabextract")
    vendor = Path(importlib.util.find_spec("pylibmspack").origin).parent / "vendor"  # type: ignore[union-attr,arg-type]
    sources = sorted(vendor.glob("libmspack_*.tar.gz"))
    if not sources:
        pytest.skip("pylibmspack does not bring the files")
    same = set()
    with tarfile.open(sources[0]) as tar:
        for entry in tar:
            stream = tar.extractfile(entry) if entry.name.endswith(".cab") else None
            if stream is None:
                continue
            path = tmp_path / Path(entry.name).name
            path.write_bytes(stream.read())
            try:
                with path.open("rb") as file:
                    archive = Cabinet(file, tmp_path)
                    for member in archive.members:
                        data = b"".join(archive.stream(member))
                        command = [cabextract, "-q", "-p", "-F", member.name, path]
                        peer = subprocess.run(command, capture_output=True, check=False)
                        if member.name.isprintable() and member.name:
                            assert data == peer.stdout, (path.name, member.name)
                            same.add(path.name)
            except (CorruptContainer, UnsupportedContainer) as error:
                assert str(error).isprintable()
                assert not path.name.startswith(("normal_", "reserve_", "mszip_lzx_qtm")), str(error)
    assert {"mszip_lzx_qtm.cab", "normal_2files_2folders.cab", "reserve_HFD.cab"} <= same


@pytest.mark.parametrize(
    "options, name",
    [
        (["-tzip", "-mm=Deflate64"], "a.zip"),
        (["-tzip", "-mm=Deflate"], "a.zip"),
        (["-t7z", "-m0=LZMA"], "a.7z"),
        *(
            pytest.param(options, "a.7z", marks=pytest.mark.thorough)
            for options in (
                ["-t7z", "-m0=LZMA2", "-ms=off"],
                ["-t7z", "-m0=PPMd"],
                ["-t7z", "-m0=BZip2"],
                ["-t7z", "-m0=Copy"],
            )
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_archives_of_7z(options: list[str], name: str, tmp_path: Path, cache: MemberCache) -> None:
    tool = need("7z")
    module("py7zr")
    for number, (member, data) in enumerate({"a.txt": b"hello", "MEMORY.DMP": DUMP, "z.bin": NOISE}.items()):
        (tmp_path / member).write_bytes(data)
        assert number < 3
    command = [tool, "a", *options, name, "a.txt", "MEMORY.DMP", "z.bin"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = open_container(tmp_path / name, cache=cache)
    assert found is not None and found.path.read_bytes() == DUMP
    for member in found.members:
        data = extract_member(tmp_path / name, member.number, cache=cache).read_bytes()
        assert data == (tmp_path / member.name).read_bytes()


# choosing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [zipped, cab])
def test_the_only_kernel_dump_is_taken(
    make: Callable[..., bytes], put: Callable[..., Path], cache: MemberCache
) -> None:
    found = open_container(put(make(("app.mdmp", USER), ("b.dmp", NOISE), ("c.DMP", DUMP))), cache=cache)
    assert found is not None and found.member.name == "c.DMP"
    # Without the name of a dump, what it holds decides.
    found = open_container(put(make(("readme", b"hello" * 999), ("kernel.bin", OTHER))), cache=cache)
    assert found is not None and found.path.read_bytes() == OTHER


@pytest.mark.parametrize("make", [zipped, cab])
def test_several_dumps_are_listed_and_one_is_named(
    make: Callable[..., bytes], put: Callable[..., Path], cache: MemberCache
) -> None:
    path = put(make(("x/a.dmp", DUMP), ("y\\b.dmp", OTHER), ("3", b"z")))
    with pytest.raises(MemberNotChosen) as failure:
        open_container(path, cache=cache)
    assert re.search(r"2 crash dumps.*--member: 1: x/a.dmp \([\d,]+ bytes\), 2: y.+b.dmp", str(failure.value))
    for name, data in (("x/a.dmp", DUMP), ("A.DMP", DUMP), ("b.dmp", OTHER), ("2", OTHER), ("#1", DUMP)):
        found = open_container(path, name, cache=cache)
        assert found is not None and found.path.read_bytes() == data, name
    with pytest.raises(MemberNotChosen, match=r"no member is named c.dmp; .* with 1: x/a.dmp"):
        open_container(path, "c.dmp", cache=cache)
    with pytest.raises(NotACrashDump, match="3 inside"):
        open_container(path, "3", cache=cache)


def test_equal_names_are_told_apart_by_number(put: Callable[..., Path], cache: MemberCache) -> None:
    path = put(cab(("a.dmp", DUMP), ("a.dmp", OTHER)))
    with pytest.raises(MemberNotChosen, match=r"several members are named a.dmp.*1: a.dmp .*2: a.dmp"):
        open_container(path, "a.dmp", cache=cache)
    found = open_container(path, "2", cache=cache)
    assert found is not None and found.path.read_bytes() == OTHER


def test_a_member_of_a_plain_file(put: Callable[..., Path], cache: MemberCache) -> None:
    with pytest.raises(MemberNotChosen, match="no archive"):
        open_container(put(DUMP), "a.dmp", cache=cache)


def test_a_manifest_names_paging_files(put: Callable[..., Path], cache: MemberCache) -> None:
    manifest = (
        '<?xml version="1.0" encoding="utf-16"?><WatsonPageFileManifest xmlns="urn:x"><Pagefiles>'
        '<Pagefile Name="C:\\PageFile.sys"/><Pagefile Name="gone.sys"/><Pagefile Name="swap.sys"/>'
        "</Pagefiles></WatsonPageFileManifest>"
    ).encode("utf-16")
    members = (("m.dmp", DUMP), ("pagefile.sys", NOISE), ("swap.sys", OTHER), ("CabManifest.xml", manifest))
    path = put(cab(*members))
    found = open_container(path, cache=cache)
    assert found is not None
    assert [member and member.name for member in found.paging_files] == ["pagefile.sys", None, "swap.sys"]
    assert found.paging_files[0] is not None
    assert extract_member(path, found.paging_files[0].number, cache=cache).read_bytes() == NOISE
    # Entities could multiply, and anything else is not for us.
    for document in (
        b'<!DOCTYPE a [<!ENTITY b "c">]><Pagefiles/>',
        b"\xff\xfe<",
        b"",
        b"<a",
        b"<Pagefiles><Pagefile/>",
    ):
        found = open_container(put(cab(*members[:3], ("CabManifest.xml", document))), cache=cache)
        assert found is not None and found.paging_files == ()


# archives that mean harm ----------------------------------------------------------------------------------------------

NAMES: list[str] = [
    "../../x.dmp",
    "..\\..\\x.dmp",
    "/etc/x.dmp",
    "C:\\Windows\\x.dmp",
    "\\\\.\\PhysicalDrive0.dmp",
    "CON.dmp",
    "x\n\x1b[31m.dmp",
    "%2e%2e/x.dmp",
    "a" * 240 + ".dmp",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", ["zip", "cab", *OWN_PROCESS])
def test_names_never_become_paths(
    make: str, name: str, put: Callable[..., Path], cache: MemberCache, tmp_path: Path
) -> None:
    if make in ("7z", "cab LZX"):
        module("py7zr" if make == "7z" else "pylibmspack")
    made: dict[str, Callable[[], bytes]] = {
        "zip": lambda: zipped((name, DUMP)),
        "cab": lambda: cab((name, DUMP)),
        "cab LZX": lambda: cab((name, DUMP), pack=cabinets.lzx),
        "7z": lambda: seven(("x.dmp", DUMP)),
    }
    path = put(made[make]())
    if make == "7z":
        # The writer does not take such names: have it written with another one.
        import py7zr

        with py7zr.SevenZipFile(path, "w") as archive:
            archive.writestr(DUMP, "x.dmp")
            archive.files[0]._file_info["filename"] = name
            archive.header.files_info.files[0]["filename"] = name
    before = set(tmp_path.parent.rglob("*"))
    found = open_container(path, cache=cache)
    assert found is not None and found.path.read_bytes() == DUMP and found.path.parent.parent == cache.directory
    new = set(tmp_path.parent.rglob("*")) - before
    assert all(re.fullmatch(r"[0-9a-f]{40}(\.json)?", entry.name) for entry in new), new
    with pytest.raises(MemberNotChosen) as failure:
        open_container(path, "other", cache=cache)
    assert str(failure.value).isprintable() and len(str(failure.value)) < 300


def good() -> cabinets.Cabinet:
    return cabinets.cabinet([("a.txt", b"hello"), ("m.dmp", DUMP)])


def changed(data: bytes, at: int, value: int = 0x55) -> bytes:
    return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]


def looping() -> bytes:
    """Two folders whose data is the same, the second with the file."""
    made = good()
    made.folders.append(cabinets.Folder([], cabinets.MSZIP, blocks=len(made.folders[0].data), start=0))
    made.folders[1].start = struct.unpack_from("<I", made.pack(), 36)[0]
    made.files[1].folder = 1
    return made.pack()


def overlapping() -> bytes:
    """A second folder that starts at the second block of the first."""
    made = good()
    made.folders.append(cabinets.Folder([], cabinets.MSZIP, blocks=2, start=0))
    first = struct.unpack_from("<I", made.pack(), 36)[0]
    made.folders[1].start = first + 8 + len(made.folders[0].data[0][0])
    return made.pack()


def in_header() -> bytes:
    made = good()
    made.folders[0].start = 4
    return made.pack()


def with_files(**changes: int) -> bytes:
    made = good()
    for name, value in changes.items():
        setattr(made.files[1], name, value)
    return made.pack()


def with_header(**changes: int) -> bytes:
    made = good()
    made.header = changes
    return made.pack()


def with_folder(**changes: int) -> bytes:
    made = good()
    for name, value in changes.items():
        setattr(made.folders[0], name, value)
    return made.pack()


def with_block(number: int, packed: bytes, size: int, checksums: bool = True) -> bytes:
    made = good()
    made.folders[0].data[number] = (packed, size)
    made.checksums = checksums
    return made.pack()


def declared(size: int) -> bytes:
    """A zip archive that says it holds more than it does."""
    data = bytearray(zipped(("m.dmp", DUMP)))
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, 22, size)
    struct.pack_into("<I", data, entry + 24, size)
    return bytes(data)


HARMFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "cab, a bit flipped": (lambda: changed(cab(("m.dmp", DUMP)), 9000), r"block \d+ of folder 0 at offset .* checksum"),
    "cab, wrong checksum": (
        lambda: changed(cab(("m.dmp", DUMP), pack=cabinets.stored), 9000),
        r"block 0 of folder 0 .* has the checksum 0x[0-9a-f]{8}, not 0x[0-9a-f]{8}: it is damaged",
    ),
    "cab, folders with the same data": (looping, "two folders of the CAB archive have the same data"),
    "cab, folders that overlap": (overlapping, r"block 1 of folder 0 .* which do not fit"),
    "cab, data in the header": (in_header, "data inside the cabinet header"),
    "cab, data behind the end": (lambda: with_folder(start=0x7FFFFFFF), r"ends inside block 0 of folder 0"),
    "cab, unknown method": (lambda: with_folder(compression=9), "compressed by an unknown method"),
    "cab, file behind the folder": (lambda: with_files(start=0x7FFFFFFF), r"m.dmp ends at offset .* at most"),
    "cab, size 2^32-1": (lambda: with_files(size=0xFFFFFFFF), r"m.dmp ends at offset .* at most"),
    "cab, no such folder": (lambda: with_files(folder=7), "is in folder 7, but the archive has 1"),
    "cab, file of a set": (lambda: with_files(folder=0xFFFF), "goes on in another CAB archive"),
    "cab, set, previous": (lambda: with_header(flags=1, index=2), "part 3 of a set of CAB archives"),
    "cab, set, next": (lambda: with_header(flags=2), "part 1 of a set of CAB archives"),
    "cab, version": (lambda: with_header(major=9), "version of the CAB archive is 9.3"),
    "cab, length": (lambda: with_header(length=0x7FFFFFFF), "its header says 0x7fffffff: it is truncated"),
    "cab, files that are not there": (lambda: with_header(files=0xFFFF), r"entry \d+ of 65535 .* has no end|in folder"),
    "cab, list of files behind the end": (lambda: with_header(first_file=0x7FFFFFFF), "entry 1 of 2"),
    "cab, no files": (lambda: cabinets.Cabinet([], []).pack(), "a CAB archive without a crash dump: it holds no files"),
    "cab, not deflate": (lambda: with_block(0, b"CK" + b"\xff" * 99, 0x8000), "does not decompress"),
    "cab, no CK": (lambda: with_block(0, b"KC" + b"\0" * 99, 0x8000), "no 'CK' in front"),
    "cab, block bomb": (
        lambda: with_block(0, cabinets.mszip(bytes(0x8000))[0][0], 0x100),
        r"does not decompress: not the 0x100 bytes",
    ),
    "cab, block too large": (lambda: with_block(0, b"CK", 0xFFFF), r"claims 0x2 bytes for 0xffff, which do not fit"),
    "cab, no checksums, no data": (lambda: with_block(1, b"", 0x8000, False), "block 1 of folder 0"),
    "cab, no dump": (lambda: cab(("a.dmp", NOISE)), r"a.dmp inside: no crash dump header"),
    "cab, zeros": (lambda: cab(("a.dmp", bytes(9999))), r"a.dmp inside begins with 8,192 zeros"),
    "zip, empty": (zipped, "a zip archive without a crash dump: it holds no files"),
    "zip, no dump": (
        lambda: zipped(("a.txt", NOISE), ("b.xml", NOISE)),
        r"without a crash dump: it holds 1: a.txt \(70,001 bytes\), 2: b.xml",
    ),
    "zip, user-mode dumps": (lambda: zipped(("a.mdmp", USER)), "user-mode minidumps .*1: a.mdmp"),
    "zip, two dumps": (lambda: zipped(("a.dmp", DUMP), ("b.dmp", OTHER)), "2 crash dumps: choose one with --member"),
    "zip, wrong checksum": (lambda: changed(zipped(("m.dmp", DUMP)), 60_000), "m.dmp in the zip archive is damaged"),
    "zip, cut": (lambda: zipped(("m.dmp", DUMP))[:-30], "list of files of the zip archive is damaged"),
    "zip, larger than it says": (lambda: declared(0x3000), "m.dmp in the zip archive is damaged|m.dmp is larger"),
    "zip, smaller than it says": (lambda: declared(len(DUMP) + 99), "m.dmp ends after 312,772 of the 312,871 bytes"),
    "zip, bomb": (lambda: declared(0xFFFFFFF0), "decompression bomb"),
    "zip in a zip": (lambda: zipped(("m.dmp", zipped(("m.dmp", DUMP)))), "m.dmp inside: this is a zip archive"),
    "gz, cut": (lambda: gzip.compress(DUMP)[:-40000], "gzip file is cut short: the file is truncated"),
    "gz, wrong checksum": (lambda: changed(gzip.compress(DUMP), -6), "gzip file is damaged: CRC check failed"),
    "gz, garbage": (lambda: b"\x1f\x8b\x08" + NOISE, "gzip file"),
    "gz, nothing": (lambda: gzip.compress(b""), "inside: .*empty"),
    "gz, text": (lambda: gzip.compress(b"hello" * 5000), "inside: no crash dump header"),
    "xz, cut": (lambda: lzma.compress(DUMP)[:-40000], "xz file is cut short: the file is truncated"),
    "xz, damaged": (lambda: changed(lzma.compress(DUMP), 70_000), "xz file does not decompress"),
    "bz2, cut": (lambda: bz2.compress(DUMP)[:-40000], "bzip2 file is cut short: the file is truncated"),
    "bz2, damaged": (lambda: changed(bz2.compress(DUMP), 70_000), "bzip2 file is damaged"),
    "7z, cut": (lambda: seven(("m.dmp", DUMP))[:-1000], "list of files of the 7-Zip archive is damaged"),
    "7z, damaged": (lambda: changed(seven(("m.dmp", DUMP)), 50_000), "m.dmp in the 7-Zip archive"),
    "7z, empty": (seven, "a 7-Zip archive without a crash dump|list of files of the 7-Zip archive"),
    "7z, long list": (
        lambda: b"7z\xbc\xaf\x27\x1c\0\4" + bytes(12) + struct.pack("<Q", 1 << 40) + bytes(99),
        "too long for one of dumps",
    ),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_what_is_wrong_is_said_in_one_line(case: str, put: Callable[..., Path], cache: MemberCache) -> None:
    if case.startswith("7z"):
        module("py7zr")
    make, words = HARMFUL[case]
    path = put(make())
    with pytest.raises(KdumpError) as failure:
        open_container(path, cache=cache)
    assert re.search(words, str(failure.value)), str(failure.value)
    assert str(failure.value).isprintable()
    assert not list((cache.directory / "members").glob("*.json"))
    # It is so again, whatever the first attempt has left.
    with pytest.raises(type(failure.value), match=re.escape(str(failure.value))):
        open_container(path, cache=cache)


@pytest.mark.parametrize("kind", [*(kind for kind in WHOLE if kind not in NEEDED), *OWN_PROCESS])
def test_cut_and_changed_archives_give_the_dump_or_one_line(
    kind: str, put: Callable[..., Path], cache: MemberCache
) -> None:
    if kind in NEEDED:
        module(NEEDED[kind])
    whole = WHOLE[kind]()
    choose = random.Random(kind)
    damaged = [whole[: choose.randrange(8, len(whole))] for _ in range(6)]
    for _ in range(12):
        # Half of them near the start or the end, where the structures are.
        edge = choose.choice([range(8, 200), range(len(whole) - 200, len(whole)), range(8, len(whole))])
        damaged.append(changed(whole, choose.choice(edge), 1 << choose.randrange(8)))
    for number, data in enumerate(damaged):
        path = put(data, f"{number}.bin")
        try:
            found = open_container(path, cache=cache)
        except KdumpError as error:
            assert str(error).isprintable()
        else:
            # What no checksum of the format covers (names, dates, padding) may change.
            assert found is not None and found.path.read_bytes() == DUMP


def test_a_bomb_that_says_nothing_is_stopped_on_the_way(
    put: Callable[..., Path], cache: MemberCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "RATIO_FREE", 1 << 20)
    sizes = []
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "members" and path.exists():
            sizes.append(path.stat().st_size)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    bomb = DUMP[:0x4000] + bytes(24 << 20)
    for pack in (bz2.compress, lzma.compress):
        with pytest.raises(UnsupportedContainer, match=r"beyond 1,000 to 1: it looks like a decompression bomb"):
            open_container(put(pack(bomb)), cache=cache)
        # What was written by then is taken away.
        assert 0 < max(sizes) < len(bomb) // 2
        assert list((cache.directory / "members").iterdir()) == []
        sizes.clear()


def test_a_dictionary_beyond_reason_is_refused(put: Callable[..., Path], cache: MemberCache) -> None:
    filters = [
        {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "nice_len": 8}
    ]
    packed = bytearray(lzma.compress(DUMP, filters=[{**filters[0], "dict_size": 1 << 20}]))
    # The block header: its size, flags, the filter's id, the size of its properties, the dictionary, then a checksum.
    assert packed[12:17] == bytes([2, 0, 0x21, 1, 16])
    packed[16] = 34
    struct.pack_into("<I", packed, 20, zlib.crc32(packed[12:20]))
    with pytest.raises(UnsupportedContainer, match="needs more than 268,435,456 bytes of memory"):
        open_container(put(bytes(packed)), cache=cache)


def test_a_list_of_files_beyond_reason_is_refused(put: Callable[..., Path], cache: MemberCache) -> None:
    data = zipped(("m.dmp", DUMP))
    at = data.index(b"PK\x05\x06")
    path = put(data[: at + 12] + struct.pack("<I", 1 << 30) + data[at + 16 :])
    with pytest.raises(UnsupportedContainer, match="list of files of the zip archive is too long"):
        open_container(path, cache=cache)


@pytest.mark.parametrize(
    "missing, make, words",
    [
        ("py7zr", lambda: b"7z\xbc\xaf\x27\x1c" + bytes(99), r"needs py7zr: pip install 'volatility3-kdump\[7z\]'"),
        ("pylibmspack", WHOLE["cab LZX"], r"with LZX, which needs pylibmspack: pip install 'volatility3-kdump\[lzx\]'"),
    ],
)
def test_a_missing_extra_is_named(
    missing: str,
    make: Callable[[], bytes],
    words: str,
    put: Callable[..., Path],
    cache: MemberCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnsupportedContainer, match=words):
        open_container(put(make()), cache=cache)


_MEASURE = """
import sys
from pathlib import Path
from volatility3_kdump.archives.cache import MemberCache
from volatility3_kdump.archives.containers import open_container

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) << 10

open_container(Path(sys.argv[2]), cache=MemberCache(Path(sys.argv[1])))  # what it imports does not count
before = peak()
found = open_container(Path(sys.argv[3]), cache=MemberCache(Path(sys.argv[1])))
print(found.path.stat().st_size, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize(
    "kind",
    only(("cab",), ("cab", "zip", "gz", "xz", "bz2", *NEEDED)),
)
def test_memory_stays_below_64_mb(kind: str, tmp_path: Path) -> None:
    if kind in NEEDED:
        module(NEEDED[kind])
    large = DUMP[:0x4000] + NOISE * 5 + bytes(70 << 20)
    packers: dict[str, Callable[[bytes], bytes]] = {
        "cab": lambda data: cab(("m.dmp", data)),
        "cab LZX": lambda data: cab(("m.dmp", data), pack=cabinets.lzx),
        "zip": lambda data: zipped(("m.dmp", data)),
        "gz": lambda data: gzip.compress(data, 1),
        "xz": lambda data: lzma.compress(data, preset=0),
        "bz2": lambda data: bz2.compress(data, 1),
        "7z": seven_fast,
    }
    for name, data in (("small", DUMP), ("large", large)):
        (tmp_path / name).write_bytes(packers[kind](data))
    finished = subprocess.run(
        [sys.executable, "-c", _MEASURE, tmp_path / "cache", tmp_path / "small", tmp_path / "large"],
        env={"PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    size, used = map(int, finished.stdout.split())
    assert size == len(large)
    assert used < 64 << 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_lzx_is_unpacked_piece_by_piece(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libmspack gives a whole file only; through a pipe it can be counted, stopped, and lost."""
    module("pylibmspack")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    content = DUMP + bytes(9 << 20)
    with put(cab(("a", b"hello"), ("m.dmp", content), pack=cabinets.lzx)).open("rb") as file:
        archive = Cabinet(file, scratch)
        pieces = archive.stream(archive.members[1])
        first = next(pieces)
        assert 0 < len(first) < len(content) // 4
        assert not [entry for entry in scratch.rglob("*") if entry.is_file() and entry.name != "single.cab"]
        assert first + b"".join(pieces) == content
        # Stopped, it leaves nothing; neither does a decoder that is killed, nor one that does not start.
        pieces = archive.stream(archive.members[1])
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        assert not list(scratch.iterdir())
        for code in (cabinet._UNPACK.replace("import pylibmspack", "os.write(pipe, b'x'); os.abort()"), "what"):
            monkeypatch.setattr(cabinet, "_UNPACK", code)
            with pytest.raises(CorruptContainer, match=r"decoder crashed|cannot be started"):
                list(archive.stream(archive.members[1]))
            assert not list(scratch.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_the_process_that_unpacks_imports_nothing_from_the_working_directory(
    put: Callable[..., Path], tmp_path: Path, cache: MemberCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence lies there."""
    module("pylibmspack")
    for name in ("pylibmspack", "struct", "encodings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    found = open_container(put(WHOLE["cab LZX"]()), cache=cache)
    assert found is not None and found.path.read_bytes() == DUMP


def test_lzx_without_named_pipes(put: Callable[..., Path], cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> None:
    module("pylibmspack")
    monkeypatch.delattr(os, "mkfifo", raising=False)
    found = open_container(put(WHOLE["cab LZX"]()), cache=cache)
    assert found is not None and found.path.read_bytes() == DUMP


def seven_fast(data: bytes) -> bytes:
    import py7zr

    stream = io.BytesIO()
    with py7zr.SevenZipFile(stream, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 0}]) as archive:
        archive.writestr(data, "m.dmp")
    return stream.getvalue()


def test_progress_is_reported(put: Callable[..., Path], cache: MemberCache) -> None:
    said: list[tuple[float, str]] = []
    open_container(
        put(WHOLE["cab MSZIP"](), "crash.cab"), progress=lambda share, text: said.append((share, text)), cache=cache
    )
    assert said[-1] == (100.0, "Extracting MEMORY.DMP from crash.cab")
    assert all(0 <= share <= 100 and text.isprintable() for share, text in said)


HOSTILE = {
    "ppmd-segv.7z": r"MEMORY\.DMP in the 7-Zip archive is damaged: its decoder crashed on it",
    "hdr255.7z": "list of files of the 7-Zip archive needs more memory",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_archives_that_were_made_to_kill_their_decoder(name: str, shared_data: Path, cache: MemberCache) -> None:
    module("py7zr")
    path = shared_data / "hostile" / name
    if not path.exists():
        pytest.skip(f"no {path}")
    with pytest.raises((CorruptContainer, UnsupportedContainer), match=HOSTILE[name]):
        open_container(path, cache=cache)


def test_a_zip_entry_without_a_name_is_a_member_like_others(put: Callable[..., Path], cache: MemberCache) -> None:
    data = zipped(("x", b"hello"), ("MEMORY.DMP", DUMP)).replace(b"x", b"\0", 1)
    nameless = bytearray(data)
    # The local header and the directory entry of the first member: a name of no bytes, and one byte of extra field.
    for at, names in ((data.index(b"PK\x03\x04"), 26), (data.index(b"PK\x01\x02"), 28)):
        struct.pack_into("<HH", nameless, at + names, 0, 1)
    extracted = open_container(put(bytes(nameless)), cache=cache)
    assert extracted is not None
    assert extracted.path.read_bytes() == DUMP
    assert [member.name for member in extracted.members] == ["", "MEMORY.DMP"]
