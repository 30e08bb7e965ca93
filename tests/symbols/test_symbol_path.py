"""One symbol path gets it all: image by time stamp and size, PDB by its RSDS record, types and names; and what lies."""

from __future__ import annotations

import json
import lzma
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.server import Handler, SymbolServer, redirect, running
from tests.symbols.pdb.made_pdb import kernel_pdb
from volatility3_kdump.options import Options
from volatility3_kdump.stores import servers as servers_module
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.stores.servers import Hosts, Servers
from volatility3_kdump.stores.transfers import Limits
from volatility3_kdump.symbols import kernel, places
from volatility3_kdump.target import Target
from volatility3_kdump.views.info import info_grid
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.walker import walker

IDENTITY = "5278AFF86C341677D7D7835C85B7B844"
IMAGE = "/ntoskrnl.exe/0D8333E61046000/ntoskrnl.exe"
PDB = f"/ntkrnlmp.pdb/{IDENTITY}1/ntkrnlmp.pdb"
BUG_CHECK = 0xFFFFF8047BDF5A80


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_ask: None) -> None:
    """A cache of its own, no environment, and no host that an earlier test could not reach."""
    hosts = Hosts(lambda: tmp_path / "hosts.json")
    monkeypatch.setattr(places, "KNOWN_HOSTS", hosts)
    # As if the kernel were none of those that the package knows.
    monkeypatch.setattr(kernel, "_index", lambda: {})


@pytest.fixture
def server() -> Iterator[SymbolServer]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def kernel_file(shared_data: Path) -> bytes:
    """The PDB of the kernel of a real small dump, made from its symbol table."""
    path = shared_data / "isf" / "windows" / "ntkrnlmp.pdb" / f"{IDENTITY}-1.json.xz"
    return kernel_pdb(json.loads(lzma.decompress(path.read_bytes())))


#: Where the debug directories of the kernels of two real dumps lie, whose headers are in the dumps.
DIRECTORIES = {0x0D8333E6: 0x107A0, 0xA03D2496: 0x10B60}


def image(timestamp: int, size: int, guid: str = IDENTITY, pdb: str = "ntkrnlmp.pdb") -> bytes:
    """A PE file of x64 that holds nothing but an RSDS record."""
    at = DIRECTORIES.get(timestamp, 0x1000)
    end = (at & ~0xFFF) + 0x2000
    binary = bytes.fromhex(guid)
    mixed = binary[3::-1] + binary[5:3:-1] + binary[7:5:-1] + binary[8:]
    record = b"RSDS" + mixed + struct.pack("<I", 1) + pdb.encode() + b"\0"
    debug = struct.pack("<IIHHIIII", 0, timestamp, 0, 0, 2, len(record), at + 0x20, at + 0x20)
    directories = [(0, 0)] * 16
    directories[6] = (at, len(debug))
    optional = struct.pack("<HBBIIIII", 0x20B, 14, 0, 0, 0x1000, 0, 0, 0x1000)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH", 0x140000000, 0x1000, 0x200, 10, 0, 10, 0, 10, 0, 0, size, 0x400, 0, 1, 0
    )
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + b"".join(struct.pack("<II", *pair) for pair in directories)
    header = struct.pack("<HHIIIHH", 0x8664, 1, timestamp, 0, 0, len(optional), 0x22)
    section = struct.pack("<8sIIIIIIHHI", b".rdata", end - 0x1000, 0x1000, end - 0x1000, 0x1000, 0, 0, 0, 0, 0x40000040)
    start = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    data = (start + b"PE\0\0" + header + optional + section).ljust(at, b"\0")
    return (data + debug.ljust(0x20, b"\0") + record).ljust(end, b"\0")


def small_dump(shared_data: Path, path: str | None, name: str = "triage_x64_19041") -> Target:
    """A real small dump, which holds neither the RSDS record nor any code of its kernel."""
    return Target.open(shared_data / "dumps" / f"{name}.dmp", Options(symbol_path=path, image_path=""))


def test_the_symbol_path_alone_names_everything(
    server: SymbolServer, shared_data: Path, tmp_path: Path, kernel_file: bytes
) -> None:
    server.routes["/there"] = image(0x0D8333E6, 0x1046000)
    server.routes[IMAGE] = redirect("/there")
    server.routes[PDB] = kernel_file
    path = f"srv*{tmp_path / 'store'}*{server.url}"
    target = small_dump(shared_data, path)
    assert target.has_names
    assert target.kernel is not None and target.kernel.identity is not None
    assert target.kernel.identity.identifier == f"{IDENTITY}-1"
    assert target.name_of(BUG_CHECK) == "nt!KeBugCheckEx"
    assert server.asked[:3] == [IMAGE, "/there", PDB]
    assert (tmp_path / "store" / IMAGE[1:]).is_file() and (tmp_path / "store" / PDB[1:]).is_file()
    # The next run finds all of it in the store, or converted in the cache.
    before = len(server.asked)
    again = small_dump(shared_data, path)
    assert again.has_names and len(server.asked) == before
    # And what was asked is told, place by place.
    said = [(attempt.place, attempt.name, attempt.outcome) for attempt in target.places.attempts]
    assert (str(tmp_path / "store"), "ntoskrnl.exe", "not found") in said
    assert (server.url, "ntoskrnl.exe", "found") in said and (server.url, "ntkrnlmp.pdb", "found") in said


def test_an_image_of_another_build_is_refused(server: SymbolServer, shared_data: Path, tmp_path: Path) -> None:
    server.routes[IMAGE] = image(0x0D8333E7, 0x1046000)
    target = small_dump(shared_data, f"srv*{tmp_path}*{server.url}")
    assert not target.has_names
    refused = [line for line in target.warnings if "TimeDateStamp 0D8333E7" in line]
    assert len(refused) == 1 and refused[0].endswith("refused")


def test_a_pdb_of_the_right_name_and_wrong_guid_is_refused(
    server: SymbolServer, shared_data: Path, tmp_path: Path, kernel_file: bytes
) -> None:
    other = "0" * 31 + "1"
    server.routes[IMAGE] = image(0x0D8333E6, 0x1046000, other)
    server.routes[f"/ntkrnlmp.pdb/{other}1/ntkrnlmp.pdb"] = kernel_file
    target = small_dump(shared_data, f"srv*{tmp_path}*{server.url}")
    assert not target.has_names
    assert len([line for line in target.warnings if "ntkrnlmp.pdb" in line and "refused" in line]) == 1


def test_an_image_whose_rsds_record_lies_names_nothing(
    server: SymbolServer, shared_data: Path, tmp_path: Path, kernel_file: bytes
) -> None:
    """19041.4522 with the record of .804: the PDB is sound, its variables lie elsewhere."""
    server.routes["/ntoskrnl.exe/A03D24961046000/ntoskrnl.exe"] = image(0xA03D2496, 0x1046000)
    server.routes[PDB] = kernel_file
    target = small_dump(shared_data, f"srv*{tmp_path}*{server.url}", "triage_x64_19041_0x7e")
    assert not target.has_names and target.nt is not None
    assert "refused for names: nt!PsLoadedModuleList is at nt+" in target.symbol_status
    assert ", off by " in target.symbol_status
    assert "KeBugCheckEx" not in (target.name_of(target.modules[0].base + 0x1000) or "")


def test_a_table_named_by_the_user_is_tested_as_well(shared_data: Path) -> None:
    wrong = shared_data / "isf" / "windows" / "ntkrnlmp.pdb" / f"{IDENTITY}-1.json.xz"
    options = Options(isf_file=wrong, symbol_path="", image_path="")
    target = Target.open(shared_data / "dumps" / "triage_x64_19041_0x7e.dmp", options)
    assert not target.has_names and target.symbol("KeBugCheckEx") is None
    assert "refused for names" in target.symbol_status and "its types fit and are used" in target.symbol_status
    # Types of another generation are not used either.
    other = shared_data / "layouts" / "ntkrnlmp-26100-x64.json.xz"
    target = Target.open(
        shared_data / "dumps" / "triage_x64_26100_0x3b.dmp", Options(isf_file=other, symbol_path="", image_path="")
    )
    assert "layouts of 26100.2314" in target.symbol_status
    assert "the size of _ETHREAD is 788h in the dump (SizeEThread) and 798h in the table" in target.symbol_status


def test_the_default_asks_microsoft_and_says_so_once(
    server: SymbolServer,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kernel_file: bytes,
) -> None:
    monkeypatch.setattr(places, "DEFAULT_PATH", f"srv*{tmp_path / 'default'}*{server.url}")
    server.routes[IMAGE] = image(0x0D8333E6, 0x1046000)
    server.routes[PDB] = kernel_file
    assert small_dump(shared_data, None).has_names
    small_dump(shared_data, None)
    told = capsys.readouterr().err
    host = server.url.removeprefix("http://")
    assert told.count("asking") == 1 and f"asking {host} for ntoskrnl.exe" in told
    before = len(server.asked)
    for forbidden in ("option", "environment", "host", "empty path"):
        with monkeypatch.context() as patch:
            if forbidden == "environment":
                patch.setenv("KDUMP_OFFLINE", "1")
            if forbidden == "host":
                patch.setattr("volatility3.framework.constants.OFFLINE", True)
            options = Options(symbol_path="" if forbidden == "empty path" else None, offline=forbidden == "option")
            patch.setenv("XDG_CACHE_HOME", str(tmp_path / forbidden))
            patch.setattr(places, "DEFAULT_PATH", f"srv*{tmp_path / forbidden / 'store'}*{server.url}")
            assert not Target.open(shared_data / "dumps" / "triage_x64_19041.dmp", options).has_names
    assert len(server.asked) == before
    assert capsys.readouterr().err == ""


def test_the_default_path_is_the_debuggers() -> None:
    path = SearchPath.parse(places.DEFAULT_PATH, "symbol path")
    assert [place for element in path.elements for place in element.places if isinstance(place, str)] == [
        "https://msdl.microsoft.com/download/symbols"
    ]


def test_an_unreachable_host_is_remembered_for_the_next_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = tmp_path / "record" / "hosts.json"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        told: list[str] = []
        for _ in range(2):
            servers = Servers(Limits(), offline=False, hosts=Hosts(lambda: record))
            assert servers.get(url, "x.pdb", "AB1", lambda path: None, tmp_path / "store", told.append) is None
    assert told[0] == told[1] and told[0].endswith("Connection refused; not asked again for 5 minutes")
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
    monkeypatch.setattr(time, "time", lambda: record.stat().st_mtime + servers_module.REMEMBERED + 1)
    assert Hosts(lambda: record).why_dead(url.removeprefix("http://")) is None
    for broken in ("", "[]", '[["a"]]', "{" * 100_000, '[[1, "x", 2]]'):
        record.write_text(broken)
        assert Hosts(lambda: record).why_dead("a") is None


@pytest.mark.usefixtures("may_ask")
def test_a_host_that_says_nothing_is_remembered_and_one_that_stops_is_not(server: SymbolServer, tmp_path: Path) -> None:
    record = tmp_path / "hosts.json"
    limits, told = Limits(stall=0.3), list[str]()

    def get(url: str, key: str) -> Path | None:
        servers = Servers(limits, offline=False, hosts=hosts)
        return servers.get(url, "x.pdb", key, lambda path: None, tmp_path / "store", told.append)

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for _ in range(2):
            hosts = Hosts(lambda: record)
            assert get(url, "AB1") is None
    assert told == 2 * [f"symbol server {url[7:]}: does not answer within 0.3 s; not asked again for 5 minutes"]
    hosts = Hosts(lambda: record)
    assert get(server.url, "AB2") is None and len(told) == 2
    server.routes["/x.pdb/AB3/x.pdb"] = lambda request: time.sleep(1)
    assert get(server.url, "AB3") is None
    assert told[2].endswith("does not answer within 0.3 s; not asked again")
    assert Hosts(lambda: record).why_dead(server.url[7:]) is None


def test_what_does_not_connect_costs_three_seconds_at_most() -> None:
    assert Limits().connect <= 3


def test_a_host_that_does_not_connect_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        waiting = []
        for _ in range(3):  # fills the queue: later connections are never made
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address)
            waiting.append(client)
        told: list[str] = []
        servers = Servers(Limits(connect=0.3, stall=60.0), offline=False)
        started = time.monotonic()
        url = f"http://127.0.0.1:{address[1]}"
        for name in ("x.pdb", "y.pdb"):
            assert servers.get(url, name, "AB1", lambda path: None, tmp_path / "store", told.append) is None
        assert time.monotonic() - started < 30
        assert told[0] == told[1] and "cannot be connected to within 0.3 s" in told[0]
        for client in waiting:
            client.close()


@pytest.mark.skipif(os.name == "nt", reason="modes of Unix")
def test_stores_with_links_out_of_them_or_open_to_everybody_are_refused(shared_data: Path, tmp_path: Path) -> None:
    data = image(0x0D8333E6, 0x1046000)
    store = tmp_path / "store"
    place = store / IMAGE[1:]
    place.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.exe"
    elsewhere.write_bytes(data)
    place.symlink_to(elsewhere)
    target = small_dump(shared_data, f"srv*{store}")
    assert target.kernel is not None and target.kernel.identity is None
    assert [line for line in target.warnings if "refused" in line] == [
        f"{place}: a link that leads out of the symbol store {store}; refused"
    ]
    place.unlink()
    place.write_bytes(data)
    place.parent.chmod(0o777)
    target = small_dump(shared_data, f"srv*{store}")
    assert target.kernel is not None and target.kernel.identity is None
    assert [line for line in target.warnings if "refused" in line] == [
        f"{place}: everybody may write to {place.parent}, a directory of the symbol store; refused"
    ]
    place.parent.chmod(0o755)
    target = small_dump(shared_data, f"srv*{store}")
    assert target.kernel is not None and target.kernel.identity is not None


def test_the_files_of_the_stack_are_fetched_several_at_a_time(
    server: SymbolServer, shared_data: Path, tmp_path: Path, kernel_file: bytes
) -> None:
    server.routes[IMAGE] = image(0x0D8333E6, 0x1046000)
    server.routes[PDB] = kernel_file
    together: list[int] = []
    busy = [0]
    guard = threading.Lock()

    def slow(request: Handler) -> None:
        with guard:
            busy[0] += 1
            together.append(busy[0])
        time.sleep(0.2)
        with guard:
            busy[0] -= 1
        request.send_error(404)

    target = small_dump(shared_data, f"srv*{tmp_path}*{server.url}")
    assert target.has_names
    for module in target.modules[1:]:
        key = f"{module.timestamp:08X}{module.size:x}"
        server.routes[f"/{module.image_name}/{key}/{module.image_name}"] = slow
    walker(target).walk(crash_start(target))
    images = [path for path in server.asked if path.lower().endswith(".sys")]
    assert max(together) > 1
    # Each is asked for once, and the driver of the crash is among them; most of the 151 modules are not.
    assert len(images) == len(set(images)) < 30
    assert any(path.lower().startswith("/amdppm.sys/") for path in images)


def test_info_has_a_row_for_each_place_that_was_asked(server: SymbolServer, shared_data: Path, tmp_path: Path) -> None:
    target = small_dump(shared_data, f"srv*{tmp_path}*{server.url}", "triage_x64_19041_0x7e")
    shown: list[tuple[str, ...]] = []
    info_grid(target).populate(lambda node, _: shown.append(tuple(map(str, node.values))), None)
    rows = [(row[1], row[2], row[4]) for row in shown if row[0] == "Symbols"]
    assert (server.url, "not found", "ntoskrnl.exe A03D24961046000") in rows
    assert (str(tmp_path), "not found", "ntoskrnl.exe A03D24961046000") in rows
    assert any(row[1] == "To get them" and "A03D2496" in row[2] for row in shown)
