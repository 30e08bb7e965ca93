"""What a dump needs, listed and fetched: from the dump on one machine to names on it through another."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pefile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.stores.server import SymbolServer, answer, running
from volatility3_kdump import cli
from volatility3_kdump.cli import symbols
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.stores.servers import Servers
from volatility3_kdump.stores.transfers import Limits
from volatility3_kdump.symbols.kernel_table import KernelTable
from volatility3_kdump.symbols.manifest import ManifestError, entries_of, fetch, into_store, lines_of, read

HEAD = json.dumps({"manifest": "volatility3-kdump symbols", "version": 1})
#: A busy machine may keep an answer waiting; nothing here is silent on purpose.
QUICK = Limits(stall=10.0, attempts=2, backoff=0.01)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("_NT_", "KDUMP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setattr("volatility3.framework.constants.OFFLINE", False)
    monkeypatch.setattr(symbols, "_LIMITS", QUICK)


@pytest.fixture
def server() -> Iterator[SymbolServer]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def triage(shared_data: Path) -> Path:
    path = shared_data / "dumps" / "triage_x64_19041.dmp"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def manifest_of(target: Any) -> list[str]:
    entries = list(entries_of(target.modules, target.images, target.symbol_sources.identity_of))
    return list(lines_of(target.name, target.header.architecture, entries))


def documents(target: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest_of(target)]


def test_a_dump_with_pages_names_every_pdb_it_holds(sample: Callable[..., Path]) -> None:
    """With and without the kernel's symbols the list is the same."""
    target = volatility3_kdump.open(sample(6), symbol_path="", image_path="")
    head, *lines = documents(target)
    assert head == {
        "manifest": "volatility3-kdump symbols",
        "version": 1,
        "dump": sample(6).name,
        "machine": "x64",
        "modules": len(target.modules),
    }
    assert [line["module"] for line in lines] == [module.name for module in target.modules]
    kernel = lines[0]
    assert kernel["pdb"] == {
        "name": "ntkrnlmp.pdb",
        "guid": "1B4A6F5E0766C552C90710C8ACC0295C",
        "age": 1,
        "path": "ntkrnlmp.pdb/1B4A6F5E0766C552C90710C8ACC0295C1/ntkrnlmp.pdb",
        "known_by": "RSDS record of the image",
    }
    for line, module in zip(lines, target.modules, strict=True):
        image = line["image"]
        assert image["name"].lower() == module.image_name.lower() and line["base"] == f"{module.base:#x}"
        assert int(image["timestamp"], 16) == module.timestamp and int(image["size"], 16) == module.size
        assert image["path"] == f"{image['name']}/{image['timestamp']}{image['size']}/{image['name']}"
        assert (line["pdb"] is None) == bool(line["missing"])

    without = volatility3_kdump.open(sample(6), symbol_path="", image_path="")
    without.__dict__["kernel_table"] = KernelTable(None, "none", named=False)
    assert without.nt is None
    assert documents(without)[1:] == lines


def test_a_real_small_dump(triage: Path) -> None:
    target = volatility3_kdump.open(triage, symbol_path="", image_path="")
    _, *lines = documents(target)
    assert len(lines) == 151
    by_name = {line["module"]: line for line in lines}
    assert by_name["nt"]["pdb"]["guid"] == "5278AFF86C341677D7D7835C85B7B844"
    assert by_name["nt"]["pdb"]["known_by"].startswith("distances of ")
    assert by_name["nt"]["image"]["path"] == "ntoskrnl.exe/0D8333E61046000/ntoskrnl.exe"
    amdppm = by_name["amdppm"]
    assert amdppm["pdb"] is None and "--fetch takes it from the image" in amdppm["missing"][0]
    # A copy of a disk driver under another name is the driver's own file.
    copies = [line["image"] for line in lines if line["module"].startswith("dump_")]
    assert copies and all(not image["name"].startswith("dump_") for image in copies)
    assert all(any(name.startswith("dump_") for name in image["other_names"]) for image in copies)


def test_what_is_written_is_what_is_read(triage: Path) -> None:
    target = volatility3_kdump.open(triage, symbol_path="", image_path="")
    made = list(entries_of(target.modules, target.images, target.symbol_sources.identity_of))
    again = list(read(manifest_of(target)))
    assert [(entry.module, entry.image) for entry in again] == [(entry.module, entry.image) for entry in made]
    for one, other in zip(made, again, strict=True):
        assert (one.pdb is None) == (other.pdb is None)
        if one.pdb is not None and other.pdb is not None:
            assert (one.pdb.pdb_name, one.pdb.identifier) == (other.pdb.pdb_name, other.pdb.identifier)


def driver_image(xcpt4: Path, timestamp: int, size: int) -> bytes:
    """A real program with the identity of a driver."""
    data = bytearray(xcpt4.read_bytes())
    start = struct.unpack_from("<I", data, 0x3C)[0]
    struct.pack_into("<I", data, start + 8, timestamp)
    struct.pack_into("<I", data, start + 0x18 + 0x38, size)
    return bytes(data)


def test_from_a_small_dump_to_names(
    triage: Path, xcpt4: Path, server: SymbolServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dump holds no record of the driver's PDB: the image that is fetched names it."""
    listing, store = tmp_path / "manifest.jsonl", tmp_path / "store"
    assert cli.main(["symbols", "--manifest", str(triage), "-o", str(listing)]) == 0
    lines = listing.read_text("utf-8").splitlines()
    disk = next(json.loads(line) for line in lines if '"module": "disk"' in line)
    image = driver_image(xcpt4, int(disk["image"]["timestamp"], 16), int(disk["image"]["size"], 16))
    server.routes[f"/s/{disk['image']['path']}"] = image
    pdb_path = "xcpt4.pdb/C8C2329E0E9949E68B6F132BECA69E7E1/xcpt4.pdb"
    server.routes[f"/s/{pdb_path}"] = xcpt4.with_suffix(".pdb").read_bytes()

    capsys.readouterr()
    assert cli.main(["symbols", "--fetch", str(listing), str(store), "-y", f"srv*{server.url}/s"]) == 0
    shown = capsys.readouterr()
    printed = shown.out.splitlines()
    assert f"fetched    {disk['image']['path']}  {len(image):,} bytes" in printed
    assert any(line.startswith(f"fetched    {pdb_path}  ") for line in printed)
    missing = [line for line in printed if line.startswith("not found  ")]
    assert printed[-1] == f"2 files in {store}, 2 of them new; {len(missing)} not found"
    assert shown.err == ""
    assert not (tmp_path / "cache-home" / "volatility3-kdump" / "symbols").exists()

    # The machine without a network.
    target = volatility3_kdump.open(triage, symbol_path=store, image_path=store, offline=True)
    driver = next(module for module in target.modules if module.name == "disk")
    entry = pefile.PE(str(xcpt4)).OPTIONAL_HEADER.AddressOfEntryPoint
    assert target.name_of(driver.base + entry) == "disk!mainCRTStartup"

    # Once more: nothing that is there is asked for.
    before = len(server.asked)
    assert cli.main(["symbols", "--fetch", str(listing), str(store), "-y", f"srv*{server.url}/s"]) == 0
    assert "present    " + pdb_path in capsys.readouterr().out
    again = server.asked[before:]
    assert not any(path.startswith(("/s/disk.sys/", "/s/xcpt4.pdb/")) for path in again)


def entry(**changes: Any) -> str:
    image = {"name": "x.sys", "timestamp": "5F3A0C12", "size": "e000", "path": "ignored", "other_names": []}
    pdb = {"name": "x.pdb", "guid": "0" * 32, "age": 1, "path": "ignored"}
    raw: dict[str, Any] = {"module": "x", "base": "0x1000", "image": image, "pdb": pdb, "missing": []}
    for key, value in changes.items():
        table, _, field = key.rpartition("_of_")
        (raw if not table else raw[field])[table or key] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: not JSON"),
        (["{}"], "line 1: not a manifest"),
        (["[]"], "line 1: not a JSON object"),
        ([HEAD.replace('"version": 1', '"version": 2')], "line 1: this is version 2"),
        ([HEAD, "nonsense"], "line 2: not JSON"),
        ([HEAD, entry(), "5"], "line 3: not a JSON object"),
        ([HEAD, "[" * 60_000], "line 2: not JSON"),
        ([HEAD, entry(image=5)], "line 2: the entry.image is not an object"),
        ([HEAD, entry(pdb=[])], "line 2: the entry.pdb is not an object"),
        ([HEAD, entry(name_of_image="../../x.sys")], "line 2: '../../x.sys' cannot be the name"),
        ([HEAD, entry(name_of_image="C:\\x.sys")], "cannot be the name"),
        ([HEAD, entry(name_of_pdb="..")], "line 2: '..' cannot be the name"),
        ([HEAD, entry(name_of_pdb="nul")], "cannot be the name"),
        ([HEAD, entry(name_of_pdb="a\x1bb")], r"line 2: 'a\\x1bb' cannot be the name"),
        ([HEAD, entry(name_of_pdb=None)], "the entry.pdb.name is not a text"),
        ([HEAD, entry(other_names_of_image=["/etc/passwd"])], "cannot be the name"),
        ([HEAD, entry(other_names_of_image="x")], "other_names is not an array"),
        ([HEAD, entry(other_names_of_image=["x.sys"] * 17)], "more than 16 names"),
        ([HEAD, entry(timestamp_of_image="../..")], "line 2: the entry.image.timestamp is '../..'"),
        ([HEAD, entry(timestamp_of_image=5)], "timestamp is not a text"),
        ([HEAD, entry(size_of_image="123456789")], "image.size is"),
        ([HEAD, entry(guid_of_pdb="0" * 31 + "/")], "pdb.guid is"),
        ([HEAD, entry(guid_of_pdb="0" * 33)], "pdb.guid is"),
        ([HEAD, entry(age_of_pdb=-1)], "pdb.age is -1, not from 0"),
        ([HEAD, entry(age_of_pdb=True)], "pdb.age is not an integer"),
        ([HEAD, entry(age_of_pdb="1")], "pdb.age is not an integer"),
        ([HEAD] + [""] * 20_001, "more than 20000 lines"),
    ],
)
def test_a_damaged_manifest_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        list(read(lines))


@given(st.text(max_size=40), st.sampled_from(["name_of_image", "name_of_pdb", "guid_of_pdb", "timestamp_of_image"]))
@settings(max_examples=part(100), deadline=None)
def test_whatever_it_says_no_path_leaves_the_store(text: str, key: str) -> None:
    try:
        (found,) = read([HEAD, entry(**{key: text})])
    except ManifestError:
        return
    assert found.image is not None and found.pdb is not None
    for name in (found.image.names[0], found.image.key, found.pdb.pdb_name, found.pdb.guid):
        assert name and "/" not in name and "\\" not in name and name not in (".", "..")


def test_a_store_is_filled_from_directories_stores_and_servers(
    xcpt4: Path, server: SymbolServer, tmp_path: Path
) -> None:
    identity = {"name": "xcpt4.pdb", "guid": "C8C2329E0E9949E68B6F132BECA69E7E", "age": 1}
    (entries,) = [list(read([HEAD, entry(pdb=identity, image=None)]))]
    place = "xcpt4.pdb/C8C2329E0E9949E68B6F132BECA69E7E1/xcpt4.pdb"
    data = xcpt4.with_suffix(".pdb").read_bytes()
    server.routes[f"/{place}"] = data
    for number, text in enumerate(
        [
            str(xcpt4.parent),
            f"srv*{server.url}",
            f"srv*{tmp_path / 'own cache'}*{server.url}",
            f"cache*{tmp_path / 'other cache'};{server.url}",
        ]
    ):
        store = tmp_path / f"a;b*{number}"  # no path in KD's grammar could say this
        lines: list[str] = []
        problems: list[str] = []
        path = SearchPath.parse(text, "symbol path", Servers(QUICK))
        result = fetch(entries, store, path, lines.append, problems)
        assert (result.present, result.new, result.absent) == (1, 1, 0) and problems == []
        assert lines == [f"fetched    {place}  {len(data):,} bytes"]
        assert (store / place).read_bytes() == data
    # A cache that the path names is filled and used as well.
    assert (tmp_path / "own cache" / place).is_file() and (tmp_path / "other cache" / place).is_file()


def test_a_damaged_file_in_the_store_is_fetched_again(xcpt4: Path, server: SymbolServer, tmp_path: Path) -> None:
    identity = {"name": "xcpt4.pdb", "guid": "C8C2329E0E9949E68B6F132BECA69E7E", "age": 1}
    place = "xcpt4.pdb/C8C2329E0E9949E68B6F132BECA69E7E1/xcpt4.pdb"
    data = xcpt4.with_suffix(".pdb").read_bytes()
    server.routes[f"/{place}"] = data
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(data[:5000])
    lines: list[str] = []
    problems: list[str] = []
    path = SearchPath.parse(f"srv*{server.url}", "symbol path", Servers(QUICK))
    fetch(read([HEAD, entry(pdb=identity, image=None)]), tmp_path, path, lines.append, problems)
    assert lines == [f"fetched    {place}  {len(data):,} bytes"] and (tmp_path / place).read_bytes() == data
    assert len(problems) == 1 and "truncated" in problems[0]


def test_the_exit_status_tells_whether_the_servers_answered(
    server: SymbolServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "manifest"
    listing.write_text(f"{HEAD}\n{entry()}\n")
    command = ["symbols", "--fetch", str(listing), str(tmp_path / "store"), "-y"]
    assert cli.main([*command, f"srv*{server.url}"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "not found  x.sys/5F3A0C12e000/x.sys",
        f"not found  x.pdb/{'0' * 32}1/x.pdb",
        f"0 files in {tmp_path / 'store'}, 0 of them new; 2 not found",
    ]
    server.routes["/x.sys/5F3A0C12e000/x.sys"] = lambda request: answer(request, b"<html>", Content_Type="text/html")
    assert cli.main([*command, f"srv*{server.url}"]) == 1
    host = server.url[7:]
    assert capsys.readouterr().err == f"kdump: symbol server {host}: answers with a web page, not with a file\n"
    assert cli.main([*command, "srv*http://127.0.0.1:9/"]) == 1
    assert capsys.readouterr().err.count("cannot be connected to") == 1
    before = len(server.asked)
    monkeypatch.setenv("KDUMP_OFFLINE", "1")
    assert cli.main([*command, f"srv*{server.url}"]) == 0
    assert capsys.readouterr().err == "kdump: offline (KDUMP_OFFLINE): no server is asked\n"
    assert len(server.asked) == before


def test_no_server_is_asked_that_nobody_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = tmp_path / "manifest"
    listing.write_text(f"{HEAD}\n{entry()}\n")
    assert cli.main(["symbols", "--fetch", str(listing), str(tmp_path / "store")]) == 1
    assert "nothing says where to fetch from: -y 'srv*'" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("manifest_text", "message"),
    [(None, "No such file"), ("{}\n", "line 1: not a manifest"), (f"{HEAD}\n{{\n", "line 2: not JSON")],
)
def test_manifests_that_cannot_be_used(
    manifest_text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "manifest"
    if manifest_text is not None:
        listing.write_text(manifest_text)
    assert cli.main(["symbols", "--fetch", str(listing), str(tmp_path / "store"), "-y", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"kdump: {listing}: ") and message in error and error.count("\n") == 1


def test_a_manifest_through_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{HEAD}\n{entry()}\n".encode())))
    assert cli.main(["symbols", "--fetch", "-", str(tmp_path / "store"), "-y", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("not found") == 3


def test_a_dump_without_modules_is_said(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["symbols", "--manifest", str(shared_data / "dumps" / "corrupt_empty.dmp")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_what_fills_a_store_searches_it_first(tmp_path: Path) -> None:
    path = SearchPath.parse(f"srv*http://s.invalid;{tmp_path}", "s")
    filling = into_store(path, tmp_path / "store")
    assert filling.elements[0].places == (tmp_path / "store",)
    assert filling.elements[1].caches == (tmp_path / "store",)
    assert filling.servers is path.servers


def test_many_files_at_a_time_are_told_in_the_order_of_the_manifest(server: SymbolServer, tmp_path: Path) -> None:
    names = [f"d{number}.pdb" for number in range(30)]
    lines = [HEAD, *(entry(image=None, pdb={"name": name, "guid": "0" * 32, "age": 1}) for name in names)]
    told: list[str] = []
    problems: list[str] = []
    path = SearchPath.parse(f"srv*{server.url};srv*http://127.0.0.1:9", "symbol path", Servers(QUICK))
    result = fetch(read([*lines, *lines[1:]]), tmp_path, path, told.append, problems)
    assert result.absent == 30
    assert told == [f"not found  {name}/{'0' * 32}1/{name}" for name in names]
    assert problems == ["symbol server 127.0.0.1:9: cannot be connected to: Connection refused; not asked again"]
    assert sum(path.endswith(".pdb") for path in server.asked) == 30


def test_a_file_that_several_modules_share_is_fetched_once(xcpt4: Path, server: SymbolServer, tmp_path: Path) -> None:
    identity = {"name": "xcpt4.pdb", "guid": "C8C2329E0E9949E68B6F132BECA69E7E", "age": 1}
    place = "xcpt4.pdb/C8C2329E0E9949E68B6F132BECA69E7E1/xcpt4.pdb"
    server.routes[f"/{place}"] = data = xcpt4.with_suffix(".pdb").read_bytes()
    told: list[str] = []
    path = SearchPath.parse(f"srv*{server.url}", "symbol path", Servers(QUICK))
    entries = read([HEAD, *[entry(image=None, pdb=identity)] * 20])
    result = fetch(entries, tmp_path, path, told.append, [])
    assert (result.present, result.new, result.absent) == (1, 1, 0)
    assert told == [f"fetched    {place}  {len(data):,} bytes"]
    assert server.asked == [f"/{place}"]


def test_only_what_the_crash_needs(triage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["symbols", "--manifest", str(triage), "--for", "crash"]) == 0
    head, *lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [line["module"] for line in lines]
    assert names[0] == "nt" and "amdppm" in names and head["modules"] == len(names) < 20
    assert lines[0]["image"]["path"] == "ntoskrnl.exe/0D8333E61046000/ntoskrnl.exe"
    # Few of the 151 modules, and each as in the whole list.
    assert cli.main(["symbols", "--manifest", str(triage)]) == 0
    whole = capsys.readouterr().out.splitlines()
    assert all(json.dumps(line) in whole for line in lines)


def test_a_line_without_end_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_bytes(HEAD.encode() + b"\n" + b" " * 70_000 + b"{}\n")
    assert cli.main(["symbols", "--fetch", str(manifest), str(tmp_path / "store"), "-y", str(tmp_path)]) == 1
    assert "line 2 is longer than 65,536 bytes" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of Unix")
def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert cli.main(["symbols", "--fetch", str(pipe), str(tmp_path / "store"), "-y", str(tmp_path)]) == 1
    assert "is a pipe, not a file" in capsys.readouterr().err


def test_a_store_that_cannot_be_made_fails_before_anything_is_asked(
    server: SymbolServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{HEAD}\n{entry()}\n")
    (tmp_path / "file").write_bytes(b"")
    status = cli.main(
        ["symbols", "--fetch", str(manifest), str(tmp_path / "file" / "store"), "-y", f"srv*{server.url}"]
    )
    assert status == 1
    assert "cannot be written" in capsys.readouterr().err
    assert not server.asked


@pytest.mark.parametrize("from_server", [False, True])
def test_a_store_that_fills_up_is_no_success(
    from_server: bool,
    xcpt4: Path,
    server: SymbolServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    identity = {"name": "xcpt4.pdb", "guid": "C8C2329E0E9949E68B6F132BECA69E7E", "age": 1}
    place = "xcpt4.pdb/C8C2329E0E9949E68B6F132BECA69E7E1/xcpt4.pdb"
    server.routes[f"/{place}"] = xcpt4.with_suffix(".pdb").read_bytes()
    listing = tmp_path / "manifest"
    listing.write_text(f"{HEAD}\n{entry(pdb=identity, image=None)}\n")
    monkeypatch.setattr(stores.os, "replace", full)
    source = f"srv*{server.url}" if from_server else str(xcpt4.parent)
    assert cli.main(["symbols", "--fetch", str(listing), str(tmp_path / "store"), "-y", source]) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
