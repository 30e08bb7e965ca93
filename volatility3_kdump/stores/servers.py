"""Symbol servers: stores that are asked over HTTP and HTTPS.

``URL/NAME/KEY/NAME`` is asked for, then the CAB archive ``NAME`` with an underscore at its end, then ``file.ptr``. What
comes is written beside the cache and becomes part of it only after it was verified to be the file asked for. Every wait
is bounded, and a host that does not answer is not asked again.

The standard library does the talking: it knows proxies and certificates, and nothing has to be installed. What it
leaves open is closed here: redirections are followed one by one without reading their bodies, and a transfer runs in a
thread of its own, because neither the look-up of a host's name nor a server that sends a byte now and then ever runs
into a time-out of a socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, unquote, urljoin, urlunsplit

from volatility3_kdump.archives.cabinet import MAGIC as CABINET_MAGIC
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import parse_url
from volatility3_kdump.progress import Progress
from volatility3_kdump.stores import stores
from volatility3_kdump.version import __version__

if TYPE_CHECKING:
    import http.client
    import urllib.request

#: Microsoft's public symbol server: what ``srv*`` alone means in a symbol path ("Symbol path for Windows debuggers").
MICROSOFT = "https://msdl.microsoft.com/download/symbols"
OFFLINE_VARIABLE = "KDUMP_OFFLINE"

#: How the PDBs begin that a server has; their reader is not needed to tell one from a page of words.
_PDB_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"

_CHUNK = 1 << 16
_LONGEST_TEXT = 4096
_REDIRECTIONS = (301, 302, 303, 307, 308)
#: Answers that say that the file is not there; stores in object storage answer 403 for what they do not have.
_FORBIDDEN = 403
_ABSENT = (_FORBIDDEN, 404, 410)
#: Answers that another attempt may change.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_POLL = 0.1
#: Seconds after which the rate of a transfer is judged.
_SLOW_AFTER = 30.0
_MOST_FAILURES = 3
#: Seconds for which a host that could not be reached is not tried again by later runs.
REMEMBERED = 300.0
_MOST_REMEMBERED = 64
_LONGEST_RECORD = 1 << 16
_KEY = re.compile(r"[0-9A-Za-z]{1,64}")

Check = Callable[[Path], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """What a server may cost. Times in seconds, sizes in bytes.

    ``connect`` is the longest time until there is a connection, look-up of the name included; ``stall`` the longest
    time without a byte; ``total`` the longest transfer of one file;
    ``rate`` the fewest bytes a second that a transfer may have after half a minute; ``attempts`` how often a file is
    asked for when an answer breaks off, with ``backoff`` seconds between the first two and twice as much each time.
    """

    connect: float = 3.0
    stall: float = 10.0
    total: float = 1800.0
    rate: int = 1024
    attempts: int = 3
    backoff: float = 0.5
    redirections: int = 5
    size: int = stores.LARGEST


def offline_by_default() -> bool:
    """Whether the environment variable ``KDUMP_OFFLINE`` or the host's ``--offline`` forbids the network."""
    if os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "no", "false"):
        return True
    constants = sys.modules.get("volatility3.framework.constants")
    return bool(getattr(constants, "OFFLINE", False))


def is_url(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def shown_url(url: str) -> str:
    """A URL without the user name and password that it may hold."""
    parts = parse_url(url)
    if parts is None:
        return re.sub(r"//[^/]*@", "//", url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class _Failure(Exception):
    """Why a transfer gave no file. ``kind`` is one of the following."""

    ABSENT = "absent"  # the server does not have it
    UNREACHABLE = "unreachable"  # no connection at all
    STALLED = "stalled"  # the server does not go on
    BROKEN = "broken"  # another attempt may help
    REFUSED = "refused"  # no attempt will help

    def __init__(self, kind: str, text: str, of_host: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        #: Whether the text is about the server, not about the one file.
        self.of_host = of_host


class Hosts:
    """Hosts that are of no use, and the line that says why; and how often others failed.

    With a ``record`` the hosts that could not be reached are remembered there for :data:`REMEMBERED` seconds, so that
    the next run does not wait for them again.
    """

    def __init__(self, record: Callable[[], Path] | None = None) -> None:
        self.dead: dict[str, str] = {}
        self.failures: dict[str, int] = {}
        self.told: set[str] = set()
        self._record = record
        self._read = record is None

    def forget(self) -> None:
        """Let every host be asked again."""
        self.dead.clear()
        self.failures.clear()
        if self._record is not None:
            self._read = True
            with contextlib.suppress(OSError):
                self._record().unlink(missing_ok=True)

    @property
    def lasting(self) -> bool:
        """Whether later runs know of the hosts that could not be reached."""
        return self._record is not None

    def why_dead(self, host: str) -> str | None:
        """Why a host is not asked; ``None`` where it is."""
        if not self._read:
            self._read = True
            now = time.time()
            for name, since, line in self._remembered():
                if 0 <= now - since < REMEMBERED:
                    self.dead.setdefault(name, line)
        return self.dead.get(host)

    def remember(self, host: str, line: str) -> None:
        """Take a host for unreachable, in the next runs as well."""
        self.dead[host] = line
        if self._record is None:
            return
        now = time.time()
        kept = [entry for entry in self._remembered() if entry[0] != host and 0 <= now - entry[1] < REMEMBERED]
        kept.append((host, now, line))
        path = self._record()
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}-{os.getpid()}")
            temporary.write_text(json.dumps(kept[-_MOST_REMEMBERED:]), "utf-8")
            os.replace(temporary, path)

    def _remembered(self) -> list[tuple[str, float, str]]:
        if self._record is None:
            return []
        try:
            with self._record().open(encoding="utf-8") as file:
                entries = json.loads(file.read(_LONGEST_RECORD))
            return [(str(host), float(since), str(line)) for host, since, line in entries]
        except (OSError, ValueError, TypeError, RecursionError):
            return []


def _record_of_user() -> Path:
    return stores.default_store().parent / "unreachable-hosts.json"


#: What this process knows, and the runs before it: dumps that are opened one after the other do not each wait for the
#: same dead host.
KNOWN_HOSTS = Hosts(_record_of_user)


class Servers:
    """Downloads files from symbol servers, and remembers what they do not have and which of them do not answer."""

    def __init__(
        self,
        limits: Limits | None = None,
        offline: bool | None = None,
        progress: Progress | None = None,
        hosts: Hosts | None = None,
        announce: Say | None = None,
    ) -> None:
        """``offline`` forbids every request; ``None`` leaves that to :func:`offline_by_default`.

        ``progress`` is told the percentage of a transfer and what is done. ``hosts`` is shared with others that are to
        know of a dead host. ``announce`` takes a line before a host is asked for the first time.
        """
        self._announce = announce
        self.limits = limits or Limits()
        self._offline = offline
        self._progress = progress
        self._hosts = hosts or Hosts()
        self._missing: set[tuple[str, str, str]] = set()
        self._tiers: dict[str, bool] = {}
        self._forbidding: set[str] = set()
        self._stores: set[Path] = set()
        self._opener: urllib.request.OpenerDirector | None = None

    @property
    def offline(self) -> bool:
        return offline_by_default() if self._offline is None else self._offline

    @property
    def troubled(self) -> bool:
        """Whether any server did not answer, or not as a symbol server should."""
        return bool(self._hosts.dead or self._hosts.failures)

    def get(self, url: str, name: str, key: str, check: Check, store: Path, say: Say) -> Path | None:
        """Download a file into a store and give its path there; ``None`` when the server does not give it.

        ``name`` must come from :func:`~volatility3_kdump.stores.paths.safe_file_name`. ``check`` raises a
        :class:`KdumpError` for a file that is not the one. ``say`` takes one line about what went wrong; about a host
        that does not answer always the same.
        """
        if self.offline or not _KEY.fullmatch(key):
            return None
        host = _host(url)
        why_dead = self._hosts.why_dead(host)
        if why_dead is not None:
            say(why_dead)
            return None
        if (url, name, key) in self._missing:
            return None
        self._missing.add((url, name, key))
        try:
            stores.prepare(store)
            if store not in self._stores:
                self._stores.add(store)
                stores.clean(store)
        except OSError as error:
            say(f"the symbol store {store} cannot be written: {error.strerror or error}; nothing is downloaded into it")
            return None
        if self._announce is not None and host not in self._hosts.told:
            self._hosts.told.add(host)
            self._announce(
                f"asking {host} for {name} and what else the dump needs, by names and identities of files only "
                "(--offline or KDUMP_OFFLINE=1 asks nobody)"
            )
        try:
            temporary = self._first(url, name, key, check, store)
        except _Failure as failure:
            say(self._judge(host, failure))
            return None
        except (stores.StoreError, OSError) as error:
            say(f"{shown_url(url)}: {name} could not be stored: {error}")
            return None
        if temporary is None:
            if host in self._forbidding:
                say(f"symbol server {host}: answers with status 403: it does not have some files, or forbids them")
            return None
        try:
            return stores.add(store, name, key, temporary, move=True)
        except stores.StoreError as error:
            temporary.unlink(missing_ok=True)
            say(str(error))
            return None

    def _judge(self, host: str, failure: _Failure) -> str:
        """The line about a failure; the host is given up where it is of no use."""
        if failure.kind in (_Failure.UNREACHABLE, _Failure.STALLED):
            line = f"symbol server {host}: {failure}; not asked again"
            if failure.kind == _Failure.UNREACHABLE and self._hosts.lasting:
                line += f" for {REMEMBERED / 60:g} minutes"
                self._hosts.remember(host, line)
            self._hosts.dead[host] = line
            return line
        if not failure.of_host:
            return str(failure)
        self._hosts.failures[host] = self._hosts.failures.get(host, 0) + 1
        line = f"symbol server {host}: {failure}"
        if self._hosts.failures[host] >= _MOST_FAILURES:
            self._hosts.dead[host] = line
        return line

    def _first(self, url: str, name: str, key: str, check: Check, store: Path) -> Path | None:
        """The first form of a file that the server has, verified, as an incoming file of the store."""
        tiers = [self._tiers[url]] if url in self._tiers else [False, True]
        for two in tiers:
            if two and url not in self._tiers:
                self._tiers[url] = self._has(url, stores.TWO_TIER, store)
            if two and not self._tiers[url]:
                return None
            steps = [name[:2], name, key] if two else [name, key]
            base = "/".join([url.rstrip("/"), *(quote(step) for step in steps)])
            fetched = self._in_directory(base, name, check, store)
            if fetched is not None:
                self._tiers[url] = two
                return fetched
        return None

    def _in_directory(self, base: str, name: str, check: Check, store: Path) -> Path | None:
        for last in (name, stores.compressed_name(name)):
            fetched = self._transfer(f"{base}/{quote(last)}", store, name)
            if fetched is not None:
                return self._verified(fetched, f"{base}/{quote(last)}", name, check, store)
        pointer = self._transfer(f"{base}/{stores.POINTER}", store, stores.POINTER, text=True)
        if pointer is None:
            return None
        try:
            kind, rest = stores.read_pointer(pointer.read_bytes())
        except stores.StoreError as error:
            raise _Failure(_Failure.REFUSED, f"{shown_url(base)}/{stores.POINTER}: {error}") from error
        finally:
            pointer.unlink(missing_ok=True)
        told = rest[:200] if rest.isprintable() else ascii(rest[:200])
        if kind == "MSG":
            raise _Failure(_Failure.REFUSED, f"{shown_url(base)}: the server has no such file: {told}")
        # A server has no say about files of this machine.
        if _scheme(rest) not in ("http", "https") or (base.startswith("https:") and rest.startswith("http:")):
            raise _Failure(_Failure.REFUSED, f"{shown_url(base)}: the server refers to {told}; refused")
        fetched = self._transfer(rest, store, name)
        return None if fetched is None else self._verified(fetched, rest, name, check, store)

    def _has(self, url: str, name: str, store: Path) -> bool:
        try:
            fetched = self._transfer(f"{url.rstrip('/')}/{name}", store, name, text=True)
        except _Failure as failure:
            if failure.kind in (_Failure.UNREACHABLE, _Failure.STALLED):
                raise
            return False
        if fetched is not None:
            fetched.unlink(missing_ok=True)
        return fetched is not None

    def _verified(self, found: Path, url: str, name: str, check: Check, store: Path) -> Path:
        """The file in what came, unpacked where need be, after ``check``. Raises :class:`_Failure`."""
        place = found
        try:
            if stores.is_compressed(found):
                place = stores.expand(found, name, store, self.limits.size)
                found.unlink(missing_ok=True)
            check(place)
        except BaseException as error:
            found.unlink(missing_ok=True)
            place.unlink(missing_ok=True)
            if isinstance(error, KdumpError):
                complaint = str(error).replace(str(place), shown_url(url)).replace(str(found), shown_url(url))
                raise _Failure(_Failure.REFUSED, complaint) from error
            raise
        return place

    def _transfer(self, url: str, store: Path, name: str, text: bool = False) -> Path | None:
        """What a URL gives, as an incoming file of the store; ``None`` where the server has nothing there."""
        limits = self.limits
        for attempt in range(max(limits.attempts, 1)):
            if attempt:
                time.sleep(limits.backoff * 2 ** (attempt - 1))
            path = stores.incoming(store)
            try:
                self._once(url, path, name, text)
                return path
            except BaseException as error:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                if not isinstance(error, _Failure):
                    raise
                if error.kind == _Failure.ABSENT:
                    if str(error):
                        self._forbidding.add(_host(url))
                    return None
                if error.kind != _Failure.BROKEN or attempt + 1 >= limits.attempts:
                    raise
        return None

    def _once(self, url: str, path: Path, name: str, text: bool) -> None:
        if self._opener is None:
            self._opener = _opener()
        transfer = _Transfer(url, path, self.limits, text, self._opener)
        transfer.start()
        try:
            started = time.monotonic()
            while not transfer.finished.wait(_POLL):
                now = time.monotonic()
                if self._progress is not None and not text:
                    self._progress(transfer.percent, f"Downloading {name}")
                late = now - transfer.moved
                if not transfer.connected and now - started > self.limits.connect:
                    raise _Failure(_Failure.UNREACHABLE, f"cannot be connected to within {self.limits.connect:g} s")
                # A socket's own time-out comes first where there is one; this bounds everything else.
                if late > self.limits.stall + 4 * _POLL:
                    raise _Failure(_Failure.STALLED, f"does not answer within {self.limits.stall:g} s")
                took = now - started
                if took > _SLOW_AFTER and transfer.received < self.limits.rate * took:
                    raise _Failure(_Failure.STALLED, f"sends less than {self.limits.rate} bytes a second")
                if took > self.limits.total:
                    raise _Failure(_Failure.STALLED, f"takes more than {self.limits.total:g} s for {name}")
        finally:
            transfer.abandoned = True
        if transfer.failure is not None:
            raise transfer.failure


class _Transfer(threading.Thread):
    """One request for one URL, written to a file. It is a daemon: a process need not wait for one that hangs."""

    def __init__(self, url: str, path: Path, limits: Limits, text: bool, opener: urllib.request.OpenerDirector) -> None:
        super().__init__(daemon=True, name="symbol download")
        self._url = url
        self._file: BinaryIO = path.open("wb")
        self._limits = limits
        self._text = text
        self._opener = opener
        self._expected: int | None = None
        self.finished = threading.Event()
        self.abandoned = False
        self.connected = False
        self.received = 0
        self.moved = time.monotonic()
        self.failure: Exception | None = None

    @property
    def percent(self) -> float:
        return min(100.0, 100.0 * self.received / self._expected) if self._expected else 0.0

    def run(self) -> None:
        import http.client
        import ssl
        import urllib.error

        try:
            with self._file:
                self._receive()
        except (_Failure, OSError) as error:
            self.failure = error
            if isinstance(error, urllib.error.URLError):
                self.failure = self._unreachable(error.reason)
            elif isinstance(error, ssl.SSLError):
                self.failure = _Failure(_Failure.BROKEN, f"breaks off: {error.reason or error}", True)
            elif isinstance(error, TimeoutError):
                self.failure = _Failure(_Failure.STALLED, f"does not answer within {self._limits.stall:g} s")
            elif isinstance(error, ConnectionError):
                self.failure = _Failure(_Failure.BROKEN, f"breaks off: {error.strerror or error}", True)
        except http.client.IncompleteRead:
            self.failure = self._cut_short()
        except (http.client.HTTPException, ValueError, zlib.error) as error:
            told = str(error)[:100] or type(error).__name__
            self.failure = _Failure(_Failure.REFUSED, f"does not speak HTTP as it should: {told!a}", True)
        except Exception as error:  # whatever it is, the thread that waits has to know
            self.failure = error
        finally:
            self.finished.set()

    def _unreachable(self, reason: object) -> _Failure:
        if isinstance(reason, TimeoutError):
            return _Failure(_Failure.UNREACHABLE, f"cannot be connected to within {self._limits.stall:g} s")
        explanation = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        return _Failure(_Failure.UNREACHABLE, f"cannot be connected to: {explanation}")

    def _cut_short(self) -> _Failure:
        expected = "" if self._expected is None else f" of {self._expected:,}"
        return _Failure(
            _Failure.BROKEN, f"{shown_url(self._url)}: ends after {self.received:,}{expected} bytes: truncated; refused"
        )

    def _receive(self) -> None:
        response = self._answer()
        with response:
            self.moved = time.monotonic()
            length = response.headers.get("Content-Length", "")
            self._expected = int(length) if length.isascii() and length.isdigit() else None
            limit = _LONGEST_TEXT if self._text else self._limits.size
            if self._expected is not None and self._expected > limit:
                raise self._too_large(f"announces {self._expected:,} bytes")
            kind = response.headers.get_content_type()
            if kind in ("text/html", "application/xhtml+xml"):
                raise _Failure(_Failure.REFUSED, "answers with a web page, not with a file", True)
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity", "gzip", "x-gzip"):
                raise _Failure(_Failure.REFUSED, f"answers in the encoding {encoding[:40]!a}", True)
            decoder = zlib.decompressobj(31) if encoding in ("gzip", "x-gzip") else None
            written = 0
            head = b""
            while data := response.read1(_CHUNK):
                self.moved = time.monotonic()
                self.received += len(data)
                if self.abandoned:
                    return
                more = True
                while more:
                    if decoder is None:
                        plain, more = data, False
                    else:
                        plain = decoder.decompress(data, _CHUNK)
                        data = decoder.unconsumed_tail
                        more = bool(data) or len(plain) == _CHUNK
                    written += len(plain)
                    if written > limit:
                        raise self._too_large("does not end")
                    if len(head) < len(_PDB_MAGIC):
                        head += plain[: len(_PDB_MAGIC)]
                        self._look_at(head)
                    self._file.write(plain)
            if self._expected is not None and self.received != self._expected:
                raise self._cut_short()
            if decoder is not None and not decoder.eof:
                raise self._cut_short()
            if not written:
                raise _Failure(_Failure.REFUSED, f"{shown_url(self._url)}: is empty; refused")

    def _too_large(self, what: str) -> _Failure:
        limit = _LONGEST_TEXT if self._text else self._limits.size
        return _Failure(
            _Failure.REFUSED, f"{shown_url(self._url)}: {what}; cut off at the limit of {limit:,} bytes; refused"
        )

    def _look_at(self, head: bytes) -> None:
        """Raise :class:`_Failure` for the start of what can be none of the files that are asked for."""
        if self._text:
            return
        for magic in (_PDB_MAGIC, b"MZ", CABINET_MAGIC):
            length = min(len(magic), len(head))
            if head[:length] == magic[:length]:
                return
        if head.lstrip()[:1] == b"<":
            raise _Failure(_Failure.REFUSED, "answers with a web page, not with a file", True)
        raise _Failure(_Failure.REFUSED, f"{shown_url(self._url)}: neither a PDB nor an image; refused")

    def _answer(self) -> http.client.HTTPResponse:
        """The answer with status 200 at the end of the redirections. Raises :class:`_Failure`."""
        import urllib.error
        import urllib.request

        url = self._url
        for _ in range(self._limits.redirections + 1):
            request = self._request(url)
            try:
                response: http.client.HTTPResponse = self._opener.open(request, timeout=self._limits.stall)
            except urllib.error.HTTPError as error:
                with error:
                    self.moved = time.monotonic()
                    if error.code in _REDIRECTIONS and error.headers.get("Location"):
                        url = self._redirected(url, error.headers["Location"])
                        continue
                    raise self._status(error.code) from error
            if response.status != 200:
                with response:
                    raise self._status(response.status)
            return response
        raise _Failure(
            _Failure.REFUSED, f"redirects more than {self._limits.redirections} times; not followed any further", True
        )

    def _request(self, url: str) -> urllib.request.Request:
        import base64
        import urllib.request

        headers = {"User-Agent": f"volatility3-kdump/{__version__}", "Accept-Encoding": "identity"}
        place = _netloc(url)
        if "@" in place:
            user = unquote(place.rpartition("@")[0])
            headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode("ascii")
        return urllib.request.Request(shown_url(url), headers=headers)

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
        except ValueError as error:
            raise _Failure(_Failure.REFUSED, f"redirects to {location[:100]!a}; not followed", True) from error
        scheme = _scheme(target)
        if scheme not in ("http", "https") or (scheme == "http" and url.startswith("https:")):
            told = shown_url(target)[:100]
            raise _Failure(_Failure.REFUSED, f"redirects to {told!a}; not followed", True)
        return quote(target, safe=":/?#[]@!$&'()*+,;=%~")

    def _status(self, code: int) -> _Failure:
        if code in _ABSENT:
            return _Failure(_Failure.ABSENT, "forbidden" if code == _FORBIDDEN else "")
        kind = _Failure.BROKEN if code in _PASSING else _Failure.REFUSED
        return _Failure(kind, f"answers with status {code}", True)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows proxies, HTTP and HTTPS, and follows no redirection.

    Making it may take a tenth of a second: it reads the certificates of the system.
    """
    import http.client
    import urllib.request

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            _note_connection()

    class Encrypted(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            _note_connection()

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class EncryptedHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Encrypted, request)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        PlainHandler(),
        EncryptedHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _note_connection() -> None:
    """Note in the transfer of this thread that there is a connection."""
    transfer = threading.current_thread()
    if isinstance(transfer, _Transfer):
        transfer.connected = True


def _host(url: str) -> str:
    return _netloc(url).rpartition("@")[2].lower()


def _netloc(url: str) -> str:
    parts = parse_url(url)
    return "" if parts is None else parts.netloc


def _scheme(url: str) -> str:
    """The scheme; empty for what is no URL."""
    parts = parse_url(url)
    return "" if parts is None else parts.scheme
