"""Looking for symbol tables on this machine."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import volatility3.symbols

from volatility3_kdump import isf_document
from volatility3_kdump.layout import LayoutError
from volatility3_kdump.symbols.isf import how_to_get, load_kernel_table, load_table_file, relative_names
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.tables import kernel_table_path

GUID = "0123456789ABCDEF0123456789ABCDEF"
KERNEL = PdbIdentity("ntkrnlmp.pdb", GUID, 1, "test")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".json": bytes,
    ".json.xz": lzma.compress,
    ".json.gz": gzip.compress,
    ".json.bz2": bz2.compress,
}


def document(guid: str | None = GUID, age: Any = 1) -> bytes:
    metadata = {} if guid is None else {"windows": {"pdb": {"GUID": guid, "age": age, "database": "ntkrnlmp.pdb"}}}
    return json.dumps(
        {"metadata": metadata, "base_types": {}, "user_types": {}, "symbols": {"Here": {"address": 0x1234}}}
    ).encode()


@pytest.fixture(autouse=True)
def host_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's only symbol directory."""
    directory = tmp_path / "host"
    directory.mkdir()
    monkeypatch.setattr(volatility3.symbols, "__path__", [str(directory), str(tmp_path / "gone")])
    return directory


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("place", ["windows/ntkrnlmp.pdb/{}", "ntkrnlmp.pdb/{}", "{}"])
@pytest.mark.parametrize("whose", ["user", "host"])
def test_a_table_is_found_in_every_place_and_packing(
    suffix: str, place: str, whose: str, tmp_path: Path, host_directory: Path
) -> None:
    directory = tmp_path / "user" if whose == "user" else host_directory
    path = write(directory / (place.format(f"{GUID}-1") + suffix), PACKERS[suffix](document()))
    table = load_kernel_table(KERNEL, [tmp_path / "user"])
    assert table is not None and table.symbol("Here") == 0x1234
    assert table.origin == str(path)


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("place", ["windows/ntkrnlmp.pdb/{}", "ntkrnlmp.pdb/{}"])
def test_a_table_is_found_in_a_symbol_pack(suffix: str, place: str, tmp_path: Path) -> None:
    for name, content in (("a.zip", b"other"), ("windows.zip", document())):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(
                "ntkrnlmp.pdb/FFFF-1.json" if name == "a.zip" else place.format(f"{GUID}-1") + suffix,
                content if name == "a.zip" else PACKERS[suffix](content),
            )
    table = load_kernel_table(KERNEL, [tmp_path])
    assert table is not None and table.symbol("Here") == 0x1234 and "windows.zip!" in table.origin


def test_the_users_directory_comes_before_the_hosts(tmp_path: Path, host_directory: Path) -> None:
    write(host_directory / "ntkrnlmp.pdb" / f"{GUID}-1.json", document())
    mine = write(tmp_path / "mine" / f"{GUID}-1.json", document())
    table = load_kernel_table(KERNEL, [tmp_path / "absent", tmp_path / "mine"])
    assert table is not None and table.origin == str(mine)


def test_no_table_is_none_and_the_message_names_what_to_get(tmp_path: Path) -> None:
    write(tmp_path / "ntkrnlmp.pdb" / f"{GUID}-2.json", document(age=2))
    assert load_kernel_table(KERNEL, [tmp_path]) is None
    message = how_to_get(KERNEL)
    assert f"ntkrnlmp.pdb/{GUID}-1.json.xz" in message and f"ntkrnlmp.pdb {GUID}1 on the symbol path" in message
    assert "\n" not in message


def test_the_shipped_table_serves_its_kernel_when_no_directory_has_it() -> None:
    shipped = PdbIdentity("ntkrnlmp.pdb", "1B4A6F5E0766C552C90710C8ACC0295C", 1, "test")
    table = load_kernel_table(shipped)
    assert table is not None and Path(table.origin) == kernel_table_path()


@pytest.mark.parametrize("guid, age", [("F" * 32, 1), (GUID, 2), (GUID[:-1] + "E", 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_another_pdb_is_refused(guid: str, age: int, packed: bool, tmp_path: Path) -> None:
    name = f"ntkrnlmp.pdb/{GUID}-1.json"
    if packed:
        with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
            archive.writestr(name, document(guid, age))
    else:
        write(tmp_path / name, document(guid, age))
    with pytest.raises(LayoutError, match=f"holds the symbols of {guid}-{age}, not of {GUID}-1; refused"):
        load_kernel_table(KERNEL, [tmp_path])


@pytest.mark.parametrize("content", [document(None), document(GUID.lower())])
def test_a_table_that_does_not_say_what_it_is_of_is_believed_by_its_name(content: bytes, tmp_path: Path) -> None:
    write(tmp_path / f"{GUID}-1.json", content)
    assert load_kernel_table(KERNEL, [tmp_path]) is not None


@pytest.mark.parametrize(
    "pdb_name",
    [
        "../../etc/passwd",
        "..\\..\\secret",
        "/etc/passwd",
        "C:\\windows\\x",
        "nt\0.pdb",
        "nt\n.pdb",
        "",
        "n" * 65,
        "nt krnl.pdb",
        "~/x.pdb",
        "..",
        ".",
        "*",
    ],
)
@pytest.mark.parametrize("guid", [GUID, "../" * 8 + "AAAAAAAA", "*" * 32, GUID.lower(), GUID + "\n"])
def test_names_from_a_dump_never_become_paths(pdb_name: str, guid: str, tmp_path: Path) -> None:
    identity = PdbIdentity(pdb_name, guid, 1, "test")
    for name in relative_names(identity):
        # Either nothing is looked for, or something below the directory.
        assert (tmp_path / "user" / name).resolve().is_relative_to((tmp_path / "user").resolve())
        assert name.endswith(f"{GUID}-1")
    write(tmp_path / "etc" / "passwd" / f"{GUID}-1.json", document())
    assert load_kernel_table(identity, [tmp_path / "user"]) is None


@pytest.mark.parametrize("age", [-1, 10**9, 1 << 40])
def test_ages_that_no_pdb_has(age: int) -> None:
    assert relative_names(PdbIdentity("ntkrnlmp.pdb", GUID, age, "test")) == []


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b'{"a": 1}', b"[" * 50_000, b"\xff\xfe"])
def test_damaged_tables_are_one_line(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / f"{GUID}-1{suffix}", PACKERS[suffix](content))
    for load in (lambda: load_kernel_table(KERNEL, [tmp_path]), lambda: load_table_file(path)):
        with pytest.raises(LayoutError) as failure:
            load()
        assert str(path) in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize("suffix", [suffix for suffix in PACKERS if suffix != ".json"])
def test_damaged_compression_is_one_line(suffix: str, tmp_path: Path) -> None:
    whole = PACKERS[suffix](document() * 50)
    middle = len(whole) // 2
    for content in (whole[:-3], whole[:middle] + b"\xff\x00\xff\x00" + whole[middle + 4 :], b"not compressed", b""):
        path = write(tmp_path / f"{GUID}-1{suffix}", content)
        with pytest.raises(LayoutError) as failure:
            load_table_file(path)
        assert str(path) in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_that_grows_without_end_is_refused(
    suffix: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isf_document, "MOST_BYTES", 1 << 20)
    content = PACKERS[suffix](b" " * (3 << 20))
    if packed:
        with zipfile.ZipFile(tmp_path / "pack.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{KERNEL.isf_name}{suffix}", content)
    else:
        write(tmp_path / f"{GUID}-1{suffix}", content)
    with pytest.raises(LayoutError, match="more than 1 MiB"):
        load_kernel_table(KERNEL, [tmp_path])


def test_damaged_packs_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip file")
    (tmp_path / "directory.zip").mkdir()
    with zipfile.ZipFile(tmp_path / "cut.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{KERNEL.isf_name}.json", document())
    whole = (tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:60] + bytes(20) + whole[80:])
    assert load_kernel_table(KERNEL, [tmp_path]) is None


def test_a_real_table_by_every_way(isf_paths: list[Path], tmp_path: Path) -> None:
    source = next(path for path in isf_paths if path.name.startswith("5278AFF8"))
    identity = PdbIdentity("ntkrnlmp.pdb", "5278AFF86C341677D7D7835C85B7B844", 1, "test")
    table = load_kernel_table(identity, [source.parents[2]])
    assert table is not None and table.size_of("_EPROCESS") == 0xA40
    assert load_table_file(source).symbol("PsLoadedModuleList") == 0xC2A390
