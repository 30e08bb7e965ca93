"""Symbol servers, against one on loopback that does everything wrong that a server can do."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import volatility3_kdump
from tests.stores.server import Handler, Route, SymbolServer, answer, redirect, running, silent, slowly
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.stores import servers as subject
from volatility3_kdump.stores import transfers
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.stores.servers import Servers
from volatility3_kdump.stores.transfers import Limits
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.msf import MAGIC
from volatility3_kdump.symbols.pdb.names import find_pdb, store_key

CONTENT = MAGIC + bytes(range(256)) * 300
QUICK = Limits(stall=0.3, total=1.0, attempts=2, backoff=0.01, size=1 << 20)
PLACE = "/x.pdb/AB1/x.pdb"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("volatility3.framework.constants.OFFLINE", False)
    monkeypatch.delenv("KDUMP_OFFLINE", raising=False)


@pytest.fixture
def server() -> Iterator[SymbolServer]:
    with running() as started:
        yield started


class Asked:
    """Asks a server for ``x.pdb`` through a symbol path with a cache of its own."""

    def __init__(self, cache: Path, limits: Limits = QUICK) -> None:
        self.cache = cache
        self.servers = Servers(limits)
        self.problems: list[str] = []

    def __call__(self, url: str, name: str = "x.pdb", key: str = "AB1", content: bytes = CONTENT) -> bytes | None:
        path = SearchPath.parse(f"srv*{self.cache}*{url}", "symbol path", self.servers)

        def check(found: Path) -> None:
            if found.read_bytes() != content:
                raise KdumpError(f"{found}: another file; refused")

        found = next(path.matching(name, key, check, self.problems), None)
        if found is not None:
            assert found == self.cache / name / key / name
        assert not [*self.cache.rglob("incoming-*")] or not found
        return None if found is None else found.read_bytes()


@pytest.fixture
def ask(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "cache")


def test_a_file_is_downloaded_once_into_the_cache(server: SymbolServer, ask: Asked) -> None:
    server.routes[PLACE] = CONTENT
    assert ask(server.url) == CONTENT
    assert server.asked == [PLACE]
    assert server.headers[0]["User-Agent"].startswith("volatility3-kdump/")
    assert Asked(ask.cache)(server.url) == CONTENT
    assert server.asked == [PLACE]
    assert ask.problems == []
    assert [path.name for path in ask.cache.iterdir()] == ["x.pdb"]


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_what_others_may_read_is_for_the_umask_to_say(server: SymbolServer, ask: Asked) -> None:
    server.routes[PLACE] = CONTENT
    old = os.umask(0o027)
    try:
        assert ask(server.url) == CONTENT
    finally:
        os.umask(old)
    assert stat.S_IMODE((ask.cache / "x.pdb/AB1/x.pdb").stat().st_mode) == 0o640


def test_every_store_on_the_left_gets_a_copy(server: SymbolServer, tmp_path: Path) -> None:
    server.routes[PLACE] = CONTENT
    stores = [tmp_path / name for name in ("c0", "c1", "c2")]
    text = f"cache*{stores[0]};srv*{stores[1]}*{stores[2]}*{server.url}"
    problems: list[str] = []
    found = [*SearchPath.parse(text, "s", Servers(QUICK)).matching("x.pdb", "AB1", lambda path: None, problems)]
    assert [path.read_bytes() for path in found] == [CONTENT] and problems == []
    assert found == [stores[0] / PLACE[1:]]
    assert all((store / PLACE[1:]).read_bytes() == CONTENT for store in stores)
    (stores[0] / PLACE[1:]).unlink()
    (stores[1] / PLACE[1:]).unlink()
    again = SearchPath.parse(text, "s", Servers(QUICK)).matching("x.pdb", "AB1", lambda path: None, problems)
    assert next(again) == stores[1] / PLACE[1:]
    assert server.asked == [PLACE]


def test_without_a_cache_the_default_store_is_filled(
    server: SymbolServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server.routes[PLACE] = CONTENT
    path = SearchPath.parse(f"srv*{server.url}", "s", Servers(QUICK))
    default = tmp_path / "volatility3-kdump" / "symbols"
    assert next(path.matching("x.pdb", "AB1", lambda path: None, [])) == default / PLACE[1:]
    if os.name != "nt":
        assert stat.S_IMODE(default.stat().st_mode) == 0o700


def test_what_is_not_there_is_asked_for_once_in_every_form(server: SymbolServer, ask: Asked) -> None:
    assert ask(server.url) is None and ask(server.url) is None
    assert server.asked == [PLACE, "/x.pdb/AB1/x.pd_", "/x.pdb/AB1/file.ptr", "/index2.txt"]
    assert ask(server.url, key="AB2") is None
    assert len(server.asked) == 7
    assert ask.problems == [] and [*ask.cache.iterdir()] == []


def test_object_storage_says_forbidden_for_what_it_does_not_have(server: SymbolServer, ask: Asked) -> None:
    server.routes[PLACE] = lambda request: answer(request, b"<Error/>", 403)
    assert ask(server.url) is None and ask(server.url, key="AB2") is None
    host = server.url[7:]
    assert ask.problems == [
        f"symbol server {host}: answers with status 403: it does not have some files, or forbids them"
    ]
    assert not ask.servers.troubled
    server.routes["/x.pdb/AB3/x.pdb"] = CONTENT
    assert ask(server.url, key="AB3") == CONTENT


def test_a_server_of_two_tiers(server: SymbolServer, ask: Asked) -> None:
    server.routes["/s/index2.txt"] = b"."
    server.routes["/s/x./x.pdb/AB1/x.pdb"] = CONTENT
    server.routes["/s/x./x.pdb/AB2/x.pdb"] = CONTENT
    assert ask(server.url + "/s/") == CONTENT
    before = len(server.asked)
    assert ask(server.url + "/s/", key="AB2") == CONTENT
    assert server.asked[before:] == ["/s/x./x.pdb/AB2/x.pdb"]


@pytest.fixture
def cab(tmp_path: Path) -> Callable[[str, bytes], bytes]:
    """``cab(name, data)``: a CAB archive of one file, by gcab."""

    def make(name: str, data: bytes) -> bytes:
        (tmp_path / name).write_bytes(data)
        try:
            command = ["gcab", "-c", "-z", "-n", "made.cab", name]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("gcab is not installed")
        return (tmp_path / "made.cab").read_bytes()

    return make


def test_a_compressed_file_is_unpacked(server: SymbolServer, ask: Asked, cab: Callable[[str, bytes], bytes]) -> None:
    server.routes["/x.pdb/AB1/x.pd_"] = cab("x.pdb", CONTENT)
    assert ask(server.url) == CONTENT
    # Damaged, and with another file inside.
    server.routes["/x.pdb/AB2/x.pd_"] = server.routes["/x.pdb/AB1/x.pd_"][:-40]  # type: ignore[index]
    server.routes["/x.pdb/AB3/x.pd_"] = cab("x.pdb", CONTENT + b"!")
    assert ask(server.url, key="AB2") is None and ask(server.url, key="AB3") is None
    assert len(ask.problems) == 2
    assert ask.problems[0].startswith(f"{server.url}/x.pdb/AB2/x.pd_: ") and ask.problems[0].endswith("refused")
    assert ask.problems[1] == f"{server.url}/x.pdb/AB3/x.pd_: another file; refused"


def test_a_bomb_is_not_unpacked(server: SymbolServer, tmp_path: Path, cab: Callable[[str, bytes], bytes]) -> None:
    ask = Asked(tmp_path / "cache", Limits(size=50_000, stall=1))
    server.routes["/x.pdb/AB1/x.pd_"] = packed = cab("x.pdb", MAGIC + bytes(1 << 20))
    assert len(packed) < 50_000
    assert ask(server.url) is None
    assert ask.problems == [
        f"{server.url}/x.pdb/AB1/x.pd_: unpacks to {(1 << 20) + len(MAGIC):,} bytes, more than the 50,000 that are "
        "allowed; refused"
    ]
    server.routes["/x.pdb/AB2/x.pdb"] = lambda request: answer(
        request, gzip.compress(MAGIC + bytes(1 << 20)), Content_Encoding="gzip"
    )
    assert ask(server.url, key="AB2") is None
    assert "cut off at the limit of 50,000 bytes" in ask.problems[1]
    assert [*ask.cache.iterdir()] == []


def test_gzip_on_the_way(server: SymbolServer, ask: Asked) -> None:
    data = MAGIC + bytes(200_000)  # many output blocks of one input block
    server.routes[PLACE] = lambda request: answer(request, gzip.compress(data), Content_Encoding="gzip")
    assert ask(server.url, content=data) == data
    server.routes["/x.pdb/AB2/x.pdb"] = lambda request: answer(
        request, gzip.compress(CONTENT)[:-9], Content_Encoding="gzip"
    )
    assert ask(server.url, key="AB2") is None
    assert ask.problems and "truncated; refused" in ask.problems[0]


def test_pointers_of_a_server(server: SymbolServer, ask: Asked, tmp_path: Path) -> None:
    secret = tmp_path / "secret.pdb"
    secret.write_bytes(CONTENT)
    server.routes["/real"] = CONTENT
    for number, text in enumerate(
        [
            f"PATH:{server.url}/real",
            f"PATH:{secret}",
            f"PATH:{secret.as_uri()}",
            "MSG: not \x1b[31mhere",
            "",
            "x" * 5000,
            "PATH:http://[",
            "PATH:http://h:port/x",
            "PATH:http:///x",
            "PATH:http:\\\\h\\x",
        ]
    ):
        server.routes[f"/x.pdb/AB{number}/file.ptr"] = text.encode()
    assert ask(server.url, key="AB0") == CONTENT
    for number in range(1, 10):
        assert ask(server.url, key=f"AB{number}") is None
    base = f"{server.url}/x.pdb"
    assert ask.problems == [
        f"{base}/AB1: the server refers to {secret}; refused",
        f"{base}/AB2: the server refers to {secret.as_uri()}; refused",
        f"{base}/AB3: the server has no such file: 'not \\x1b[31mhere'",
        f"{base}/AB4/file.ptr: is empty; refused",
        f"{base}/AB5/file.ptr: announces 5,000 bytes; cut off at the limit of 4,096 bytes; refused",
        f"{base}/AB6: the server refers to http://[; refused",
        f"{base}/AB7: the server refers to http://h:port/x; refused",
        f"{base}/AB8: the server refers to http:///x; refused",
        f"{base}/AB9: the server refers to http:\\\\h\\x; refused",
    ]


def test_pointers_to_hosts_that_cannot_be_reached(server: SymbolServer, ask: Asked) -> None:
    """The host is named that failed; the one that refers to such hosts is given up after the third."""
    closed = []
    for number in range(5):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            closed.append(f"127.0.0.1:{unused.getsockname()[1]}")
        server.routes[f"/x.pdb/AB{number}/file.ptr"] = f"PATH:http://{closed[-1]}/x".encode()
    own = server.url.removeprefix("http://")
    server.routes["/x.pdb/AB8/x.pdb"] = CONTENT
    assert ask(server.url, key="AB0") is None
    assert ask(server.url, key="AB8") == CONTENT
    for number in range(1, 5):
        assert ask(server.url, key=f"AB{number}") is None
    assert [problem.partition(": cannot be connected to")[0] for problem in dict.fromkeys(ask.problems)] == [
        f"symbol server {own}: refers to 'http://{host}/x': symbol server {host}" for host in closed[:3]
    ]
    assert not any(path.startswith(("/x.pdb/AB3/", "/x.pdb/AB4/")) for path in server.asked)


def test_redirections(server: SymbolServer, ask: Asked) -> None:
    server.routes[PLACE] = redirect("/one", 301)
    server.routes["/one"] = redirect(f"{server.url}/two?a=b%20c", 307)
    server.routes["/two?a=b%20c"] = CONTENT
    assert ask(server.url) == CONTENT
    assert server.asked == [PLACE, "/one", "/two?a=b%20c"]


REFUSED: list[tuple[str, Route | bytes, str]] = [
    ("redirect-loop", redirect(PLACE), "symbol server HOST: redirects more than 5 times; not followed any further"),
    (
        "redirect-file",
        redirect("file:///etc/passwd"),
        "symbol server HOST: redirects to 'file:///etc/passwd'; not followed",
    ),
    ("redirect-ftp", redirect("ftp://u:p@h/x"), "symbol server HOST: redirects to 'ftp://h/x'; not followed"),
    (
        "html",
        lambda request: answer(request, b"<html>", Content_Type="text/html; charset=utf-8"),
        "symbol server HOST: answers with a web page, not with a file",
    ),
    ("html-unsaid", b" \n<!DOCTYPE html>", "symbol server HOST: answers with a web page, not with a file"),
    ("text", b"no symbols for you", "URL: neither a PDB nor an image; refused"),
    ("empty", b"", "URL: is empty; refused"),
    ("another", MAGIC + b"another", "URL: another file; refused"),
    ("status", lambda request: answer(request, b"", 401), "symbol server HOST: answers with status 401"),
    ("error", lambda request: answer(request, b"", 503), "symbol server HOST: answers with status 503"),
    ("partial", lambda request: answer(request, CONTENT, 206), "symbol server HOST: answers with status 206"),
    (
        "announced",
        lambda request: answer(request, b"", length=10 << 30),
        "URL: announces 10,737,418,240 bytes; cut off at the limit of 1,048,576 bytes; refused",
    ),
    (
        "endless",
        slowly(b"HTTP/1.0 200 OK\r\n\r\n" + MAGIC, bytes(1 << 16), 0),
        "URL: does not end; cut off at the limit of 1,048,576 bytes; refused",
    ),
    (
        "longer",
        lambda request: answer(request, CONTENT, length=len(CONTENT) + 1),
        "URL: ends after 76,832 of 76,833 bytes: truncated; refused",
    ),
    ("shorter", lambda request: answer(request, CONTENT, length=len(CONTENT) - 1), "URL: another file; refused"),
    (
        "chunk",
        lambda request: request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + MAGIC),
        "URL: ends after ",
    ),
    (
        "encoding",
        lambda request: answer(request, CONTENT, Content_Encoding="br"),
        "symbol server HOST: answers in the encoding 'br'",
    ),
    (
        "no-gzip",
        lambda request: answer(request, CONTENT, Content_Encoding="gzip"),
        "symbol server HOST: does not speak HTTP as it should",
    ),
    ("no-http", lambda request: request.wfile.write(b"SSH-2.0-x\r\n"), "symbol server HOST: does not speak HTTP"),
    (
        "headers",
        slowly(b"HTTP/1.0 200 OK\r\n", b"A: " + b"b" * 9000 + b"\r\n", 0),
        "symbol server HOST: does not speak",
    ),
    ("hangs-up", lambda request: request.connection.shutdown(socket.SHUT_RDWR), "symbol server HOST: "),
    ("silent", silent, "symbol server HOST: does not answer within 0.3 s; not asked again"),
    (
        "stops",
        slowly(b"HTTP/1.0 200 OK\r\nContent-Length: 5000\r\n\r\n" + MAGIC, b"", 0.05),
        "symbol server HOST: does not answer within 0.3 s; not asked again",
    ),
    # Every byte comes in time, and the whole never does.
    ("slow-head", slowly(b"HTTP/1.0 200 OK\r\nA: ", b"a", 0.05), "symbol server HOST: does not answer within 0.3 s"),
    (
        "slow-body",
        slowly(b"HTTP/1.0 200 OK\r\nContent-Length: 5000\r\n\r\n" + MAGIC, b"a", 0.05),
        "symbol server HOST: sends less than 1024 bytes a second; not asked again",
    ),
    (
        "no-end",
        slowly(b"HTTP/1.0 200 OK\r\nContent-Length: 500000\r\n\r\n" + MAGIC, b"a" * 300, 0.05),
        "symbol server HOST: takes more than 1 s for x.pdb; not asked again",
    ),
]


@pytest.mark.parametrize(("route", "line"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_no_good_is_refused_and_said_in_one_line(
    route: Route | bytes, line: str, server: SymbolServer, ask: Asked
) -> None:
    server.routes[PLACE] = route
    assert ask(server.url) is None
    host = server.url.removeprefix("http://")
    assert len(ask.problems) == 1
    assert ask.problems[0].startswith(line.replace("HOST", host).replace("URL", server.url + PLACE))
    # Nothing of it stays.
    assert [path for path in ask.cache.rglob("*") if path.is_file()] == []
    assert ask(server.url) is None
    assert len(ask.problems) == 1


def test_a_passing_fault_is_tried_again(server: SymbolServer, ask: Asked) -> None:
    faults = [
        lambda request: answer(request, b"", 503),
        lambda request: answer(request, CONTENT[:100], length=len(CONTENT)),
    ]

    def route(request: object) -> None:
        (faults.pop() if faults else (lambda request: answer(request, CONTENT)))(request)  # type: ignore[arg-type]

    server.routes[PLACE] = route
    ask.servers = Servers(Limits(stall=1, attempts=3, backoff=0.01))
    assert ask(server.url) == CONTENT
    assert server.asked == [PLACE] * 3 and ask.problems == []


def test_a_host_of_no_use_is_not_asked_again(server: SymbolServer, ask: Asked) -> None:
    for number in range(9):
        server.routes[f"/x.pdb/AB{number}/x.pdb"] = lambda request: answer(request, b"", 500)
    for number in range(9):
        assert ask(server.url, key=f"AB{number}") is None
    assert len(server.asked) == 3 * QUICK.attempts
    assert len(ask.problems) == 1


def test_dead_hosts_cost_one_line_and_little_time_each(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def known(host: str, *arguments: object, **keywords: object) -> object:
        if host == "name.invalid":  # no test asks a name server
            raise socket.gaierror(-2, "Name or service not known")
        return look_up(host, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    with socket.socket() as closed, socket.socket() as deaf:
        closed.bind(("127.0.0.1", 0))  # never listens
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        ports = [closed.getsockname()[1], deaf.getsockname()[1]]
        for _ in range(20):
            for port in ports:
                assert ask(f"http://127.0.0.1:{port}") is None
            assert ask("http://name.invalid/symbols") is None
    assert len(ask.problems) == 3
    assert ask.problems[0] == (
        f"symbol server 127.0.0.1:{ports[0]}: cannot be connected to: Connection refused; not asked again"
    )
    assert ask.problems[1] == f"symbol server 127.0.0.1:{ports[1]}: does not answer within 0.3 s; not asked again"
    assert ask.problems[2] == (
        "symbol server name.invalid: cannot be connected to: Name or service not known; not asked again"
    )


def test_several_dumps_of_a_run_wait_once_for_a_dead_host(tmp_path: Path) -> None:
    hosts = subject.Hosts()
    lines: list[str] = []
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for number in range(20):
            servers = Servers(QUICK, hosts=hosts)
            assert servers.get(url, "x.pdb", f"{number}", lambda path: None, tmp_path, lines.append) is None
            assert servers.troubled
    assert len(lines) == 20 and len(set(lines)) == 1
    hosts.forget()
    assert not Servers(QUICK, hosts=hosts).troubled


def test_a_look_up_that_hangs_does_not_hang_us(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(*arguments: object, **keywords: object) -> None:
        ended.wait(20)
        raise OSError("never")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert ask("https://name.invalid/symbols") is None
    assert ask.problems == ["symbol server name.invalid: cannot be connected to within 0.3 s; not asked again"]
    ended.set()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a port that no connection is made to: the queue of its listener is full."""
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


#: Hosts that give nothing, by what they do with a request.
USELESS: dict[str, Route] = {
    "silent": silent,
    "trickling head": slowly(b"HTTP/1.0 200 OK\r\nA: ", b"a", 0.05),
    "trickling body": slowly(b"HTTP/1.0 200 OK\r\nContent-Length: 500000\r\n\r\n" + MAGIC, b"a", 0.05),
}


@pytest.mark.parametrize("kind", [*USELESS, "black hole", "look-up that hangs"])
def test_a_host_that_gives_nothing_costs_its_time_once_however_much_is_wanted(
    kind: str, server: SymbolServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, at_a_time, record = [f"AB{number}" for number in range(40)], 6, tmp_path / "hosts.json"
    limits = Limits(connect=0.3, stall=30.0, attempts=3, backoff=5.0)
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        url = server.url
        if kind == "black hole":
            url = stack.enter_context(black_hole())
        elif kind == "look-up that hangs":
            url = "http://name.invalid"
            stack.callback(ended.set)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **keywords: ended.wait(30) and [])
        for key in keys:
            server.routes[f"/x.pdb/{key}/x.pdb"] = USELESS.get(kind, silent)
        servers = Servers(limits, hosts=subject.Hosts(lambda: record))
        lines: list[str] = []

        def get(key: str) -> Path | None:
            return servers.get(url, "x.pdb", key, lambda path: None, tmp_path / "store", lines.append)

        started = time.monotonic()
        with ThreadPoolExecutor(at_a_time) as pool:
            assert set(pool.map(get, keys)) == {None}
        # One after the other they take 12 s, and at the limit of a silence 30 s each.
        assert time.monotonic() - started < 6
        assert len(server.asked) <= at_a_time
        assert len(lines) == len(keys) and len(set(lines)) == 1
        assert lines[0].endswith("; not asked again for 5 minutes")
        later = Servers(limits, hosts=subject.Hosts(lambda: record))
        asked = len(server.asked)
        assert later.get(url, "y.pdb", "AB1", lambda path: None, tmp_path / "store", lines.append) is None
        assert lines[-1] == lines[0] and len(server.asked) == asked


def test_attempts_are_paid_from_the_time_that_a_host_has(server: SymbolServer, tmp_path: Path) -> None:
    def busy(request: Handler) -> None:
        answer(request, b"", 503)

    for number in range(9):
        server.routes[f"/x.pdb/AB{number}/x.pdb"] = busy
    servers, lines = Servers(Limits(connect=0.4, attempts=9, backoff=0.25)), list[str]()
    for number in range(9):
        assert servers.get(server.url, "x.pdb", f"AB{number}", lambda path: None, tmp_path, lines.append) is None
    # A pause of a quarter of a second is taken once; the next one of half a second is more than is left.
    assert server.asked.count("/x.pdb/AB0/x.pdb") == 2
    assert len(server.asked) <= 5 and set(lines) == {f"symbol server {server.url[7:]}: answers with status 503"}


def test_one_that_answers_is_waited_for_longer(server: SymbolServer, tmp_path: Path) -> None:
    def late(request: Handler) -> None:
        time.sleep(0.8)
        answer(request, CONTENT)

    server.routes[PLACE] = late
    servers, lines = Servers(Limits(connect=0.4, stall=20.0)), list[str]()
    assert servers.get(server.url, "y.pdb", "AB1", lambda path: None, tmp_path, lines.append) is None  # 404
    assert servers.get(server.url, "x.pdb", "AB1", lambda path: None, tmp_path, lines.append) is not None
    assert lines == []


def test_a_certificate_that_does_not_fit(ask: Asked, server: SymbolServer) -> None:
    assert ask(server.url.replace("http:", "https:")) is None
    assert len(ask.problems) == 1 and "cannot be connected to: " in ask.problems[0]


def test_from_https_nothing_leads_to_http() -> None:
    transfer = transfers.Transfer.__new__(transfers.Transfer)
    with pytest.raises(transfers.Failure, match="redirects to 'http://h/x'; not followed"):
        transfer._redirected("https://h/y", "http://h/x")
    assert transfer._redirected("https://h/y/z", "../x y") == "https://h/x%20y"


def test_user_and_password_are_sent_and_never_shown(server: SymbolServer, ask: Asked) -> None:
    server.routes[PLACE] = lambda request: answer(request, b"", 401)
    assert ask(server.url.replace("//", "//me:pa%40ss@")) is None
    assert server.headers[0]["Authorization"] == "Basic bWU6cGFAc3M="
    assert ask.problems == [f"symbol server {server.url[7:]}: answers with status 401"]
    server.routes["/x.pdb/AB2/x.pdb"] = redirect(f"{server.url}/other")
    server.routes["/other"] = CONTENT
    assert ask(server.url.replace("//", "//me:pa%40ss@"), key="AB2") == CONTENT
    assert "Authorization" not in server.headers[-1]


@pytest.mark.parametrize("how", ["argument", "variable", "host"])
def test_offline_asks_nobody(how: str, server: SymbolServer, ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes[PLACE] = CONTENT
    if how == "argument":
        ask.servers = Servers(QUICK, offline=True)
    elif how == "variable":
        monkeypatch.setenv("KDUMP_OFFLINE", "1")
    else:
        monkeypatch.setattr("volatility3.framework.constants.OFFLINE", True)
    assert ask(server.url) is None
    assert server.asked == [] and ask.problems == []


def test_a_cache_that_cannot_be_written_is_said(server: SymbolServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    server.routes[PLACE] = CONTENT
    ask = Asked(tmp_path / "file" / "cache")
    assert ask(server.url) is None
    assert ask.problems == [
        f"the symbol store {ask.cache} cannot be written: Not a directory; nothing is downloaded into it"
    ]


def test_progress_is_told(server: SymbolServer, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    server.routes[PLACE] = slowly(b"HTTP/1.0 200 OK\r\nContent-Length: 5000\r\n\r\n" + MAGIC + bytes(1218), b"", 0.05)
    servers = Servers(QUICK, progress=lambda percent, text: told.append((percent, text)))
    path = SearchPath.parse(f"srv*{tmp_path}*{server.url}", "s", servers)
    assert [*path.matching("x.pdb", "AB1", lambda path: None, [])] == []
    assert told[-1] == (25.0, "Downloading x.pdb")


def test_names_from_the_dump_do_not_change_the_url(server: SymbolServer, ask: Asked) -> None:
    server.routes["/a%20%25%23%26%E2%82%AC.pdb/AB1/a%20%25%23%26%E2%82%AC.pdb"] = CONTENT
    assert ask(server.url, name="a %#&€.pdb") == CONTENT
    before = len(server.asked)
    for key in ("../..", "a/b", "", "a?b", "AB1\n"):
        assert Servers(QUICK).get(server.url, "x.pdb", key, lambda path: None, ask.cache, ask.problems.append) is None
    assert len(server.asked) == before


# a whole dump -----------------------------------------------------------------------------------------------------


def test_a_real_pdb_by_its_identity(server: SymbolServer, xcpt4: Path, tmp_path: Path) -> None:
    data = xcpt4.with_suffix(".pdb").read_bytes()
    identity = PdbIdentity("xcpt4.pdb", "C8C2329E0E9949E68B6F132BECA69E7E", 1, "test")
    place = f"/xcpt4.pdb/{store_key(identity)}/xcpt4.pdb"
    path = SearchPath.parse(f"srv*{tmp_path / 'cache'}*{server.url}", "s", Servers(QUICK))
    problems: list[str] = []
    # Another build under the right name, and one cut short by the server without a word.
    server.routes[place] = xcpt4.with_name("nested_collided.pdb").read_bytes()
    assert find_pdb(path, identity, problems) is None
    assert problems == [
        f"{server.url}{place}: GUID C0612E0E06364D5B956711A9C95291C8 and age 1 are not the image's "
        f"{identity.guid} and 1; refused"
    ]
    server.routes[place] = data[: len(data) // 2]
    path = SearchPath.parse(f"srv*{tmp_path / 'cache'}*{server.url}", "s", Servers(QUICK))
    assert find_pdb(path, identity, problems) is None
    assert problems[1].startswith(f"{server.url}{place}: cannot be read as a PDB: ") and "truncated" in problems[1]
    server.routes[place] = data
    path = SearchPath.parse(f"srv*{tmp_path / 'cache'}*{server.url}", "s", Servers(QUICK))
    found = find_pdb(path, identity, problems)
    assert found is not None and len(found.symbols) > 200 and found.path.is_relative_to(tmp_path / "cache")
    assert len(problems) == 2


def test_image_and_pdb_of_a_driver_in_a_dump(
    server: SymbolServer, sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both paths name one dead host and one server that has nothing: two modules, one line."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        path = f"srv*{tmp_path}*{dead};srv*{tmp_path}*{server.url}"
        target = volatility3_kdump.open(sample(4), symbol_path=path, image_path=path)
        for module in target.modules:
            target.names.load(module)
        assert [line for line in target.warnings if "symbol server" in line] == [
            f"symbol server {dead[7:]}: cannot be connected to: Connection refused; not asked again for 5 minutes"
        ]
        assert any(path.endswith("/myfault.sys") for path in server.asked)
        before = len(server.asked)
        offline = volatility3_kdump.open(sample(4), symbol_path=path, image_path=path, offline=True)
        for module in offline.modules:
            offline.names.load(module)
        assert len(server.asked) == before
        assert [line for line in offline.warnings if "symbol server" in line] == []


def test_the_opener_of_the_host_is_its_own() -> None:
    """The host gives every class of a handler that there is to its opener, which its layers hold and pickle."""
    import pickle
    import urllib.request

    from volatility3 import framework
    from volatility3.framework.layers.resources import ResourceAccessor

    from volatility3_kdump.stores.transfers import plain_opener

    plain_opener()
    handlers = framework.class_subclasses(urllib.request.BaseHandler)
    assert [handler for handler in handlers if handler.__module__.startswith("volatility3_kdump.stores")] == []
    pickle.dumps(ResourceAccessor())
