"""One transfer from a symbol server: a request for a URL over HTTP or HTTPS, its answer written to a file.

The standard library does the talking: it knows proxies and certificates, and nothing has to be installed. What it
leaves open is closed here: redirections are followed one by one without reading their bodies, and a transfer runs in a
thread of its own, because neither the look-up of a host's name nor a server that sends a byte now and then ever runs
into a time-out of a socket.
"""

from __future__ import annotations

import functools
import re
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, unquote, urljoin, urlunsplit

from volatility3_kdump.archives.cabinet import MAGIC as CABINET_MAGIC
from volatility3_kdump.files import parse_url
from volatility3_kdump.stores import stores
from volatility3_kdump.version import __version__

if TYPE_CHECKING:
    import http.client
    import urllib.request

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


@dataclass(frozen=True)
class Limits:
    """What a server may cost. Times in seconds, sizes in bytes.

    ``connect`` is how long a host may keep a run waiting that has given no answer yet, for all files together: look-up
    of the name, connection and answer; ``stall`` the longest time without a byte of one that has answered; ``total``
    the longest transfer of one file; ``rate`` the bytes that earn a host another second; ``attempts`` how often a file
    is asked for when an answer breaks off, with ``backoff`` seconds between the first two and twice as much each time.
    """

    connect: float = 3.0
    stall: float = 10.0
    total: float = 1800.0
    rate: int = 1024
    attempts: int = 3
    backoff: float = 0.5
    redirections: int = 5
    size: int = stores.LARGEST


def shown_url(url: str) -> str:
    """A URL without the user name and password that it may hold."""
    parts = parse_url(url)
    if parts is None:
        return re.sub(r"//[^/]*@", "//", url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Failure(Exception):
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


class Transfer(threading.Thread):
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
        #: How many redirections were followed.
        self.redirected = 0
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
        except (Failure, OSError) as error:
            self.failure = error
            if isinstance(error, urllib.error.URLError):
                self.failure = self._unreachable(error.reason)
            elif isinstance(error, ssl.SSLError):
                self.failure = Failure(Failure.BROKEN, f"breaks off: {error.reason or error}", True)
            elif isinstance(error, TimeoutError):
                self.failure = Failure(Failure.STALLED, f"does not answer within {self._limits.stall:g} s")
            elif isinstance(error, ConnectionError):
                self.failure = Failure(Failure.BROKEN, f"breaks off: {error.strerror or error}", True)
        except http.client.IncompleteRead:
            self.failure = self._cut_short()
        except (http.client.HTTPException, ValueError, zlib.error) as error:
            told = str(error)[:100] or type(error).__name__
            self.failure = Failure(Failure.REFUSED, f"does not speak HTTP as it should: {told!a}", True)
        except Exception as error:  # whatever it is, the thread that waits has to know
            self.failure = error
        finally:
            self.finished.set()

    def _unreachable(self, reason: object) -> Failure:
        if isinstance(reason, TimeoutError):
            return Failure(Failure.UNREACHABLE, f"cannot be connected to within {self._limits.stall:g} s")
        explanation = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        return Failure(Failure.UNREACHABLE, f"cannot be connected to: {explanation}")

    def _cut_short(self) -> Failure:
        expected = "" if self._expected is None else f" of {self._expected:,}"
        return Failure(
            Failure.BROKEN,
            f"{shown_url(self._url)}: ends after {self.received:,}{expected} bytes: truncated; refused",
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
                raise Failure(Failure.REFUSED, "answers with a web page, not with a file", True)
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity", "gzip", "x-gzip"):
                raise Failure(Failure.REFUSED, f"answers in the encoding {encoding[:40]!a}", True)
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
                raise Failure(Failure.REFUSED, f"{shown_url(self._url)}: is empty; refused")

    def _too_large(self, what: str) -> Failure:
        limit = _LONGEST_TEXT if self._text else self._limits.size
        return Failure(
            Failure.REFUSED, f"{shown_url(self._url)}: {what}; cut off at the limit of {limit:,} bytes; refused"
        )

    def _look_at(self, head: bytes) -> None:
        """Raise :class:`Failure` for the start of what can be none of the files that are asked for."""
        if self._text:
            return
        for magic in (_PDB_MAGIC, b"MZ", CABINET_MAGIC):
            length = min(len(magic), len(head))
            if head[:length] == magic[:length]:
                return
        if head.lstrip()[:1] == b"<":
            raise Failure(Failure.REFUSED, "answers with a web page, not with a file", True)
        raise Failure(Failure.REFUSED, f"{shown_url(self._url)}: neither a PDB nor an image; refused")

    def _answer(self) -> http.client.HTTPResponse:
        """The answer with status 200 at the end of the redirections. Raises :class:`Failure`."""
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
                        self.redirected += 1
                        continue
                    raise self._status(error.code) from error
            if response.status != 200:
                with response:
                    raise self._status(response.status)
            return response
        raise Failure(
            Failure.REFUSED,
            f"redirects more than {self._limits.redirections} times; not followed any further",
            True,
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
            raise Failure(Failure.REFUSED, f"redirects to {location[:100]!a}; not followed", True) from error
        scheme = scheme_of(target)
        if scheme not in ("http", "https") or (scheme == "http" and url.startswith("https:")):
            told = shown_url(target)[:100]
            raise Failure(Failure.REFUSED, f"redirects to {told!a}; not followed", True)
        return quote(target, safe=":/?#[]@!$&'()*+,;=%~")

    def _status(self, code: int) -> Failure:
        if code in _ABSENT:
            return Failure(Failure.ABSENT, "forbidden" if code == _FORBIDDEN else "")
        kind = Failure.BROKEN if code in _PASSING else Failure.REFUSED
        return Failure(kind, f"answers with status {code}", True)


def plain_opener() -> urllib.request.OpenerDirector:
    """An opener that knows proxies, HTTP and HTTPS, and follows no redirection.

    Making it may take a tenth of a second: it reads the certificates of the system. No class is derived from one of
    the library's handlers: the host gives every such class to its own opener, and its layers hold them.
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

    plain, encrypted = urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()
    plain.http_open = functools.partial(plain.do_open, Plain)  # type: ignore[method-assign]
    encrypted.https_open = functools.partial(encrypted.do_open, Encrypted)  # type: ignore[method-assign]
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        plain,
        encrypted,
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _note_connection() -> None:
    """Note in the transfer of this thread that there is a connection."""
    transfer = threading.current_thread()
    if isinstance(transfer, Transfer):
        transfer.connected = True


def host_of(url: str) -> str:
    return _netloc(url).rpartition("@")[2].lower()


def _netloc(url: str) -> str:
    parts = parse_url(url)
    return "" if parts is None else parts.netloc


def scheme_of(url: str) -> str:
    """The scheme; empty for what is no URL."""
    parts = parse_url(url)
    return "" if parts is None else parts.scheme
