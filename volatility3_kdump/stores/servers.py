"""Symbol servers: stores that are asked over HTTP and HTTPS.

``URL/NAME/KEY/NAME`` is asked for, then the CAB archive ``NAME`` with an underscore at its end, then ``file.ptr``. What
comes is written beside the cache and becomes part of it only after it was verified to be the file asked for. Every wait
is bounded, and a host that does not answer is not asked again.

How one URL is fetched is in :mod:`volatility3_kdump.stores.transfers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.patience import Patience
from volatility3_kdump.stores.transfers import (
    Failure,
    Limits,
    Transfer,
    host_of,
    plain_opener,
    scheme_of,
    shown_url,
)

if TYPE_CHECKING:
    import urllib.request

#: Microsoft's public symbol server: what ``srv*`` alone means in a symbol path ("Symbol path for Windows debuggers").
MICROSOFT = "https://msdl.microsoft.com/download/symbols"
OFFLINE_VARIABLE = "KDUMP_OFFLINE"


_POLL = 0.1
_MOST_FAILURES = 3
#: Seconds for which a host that could not be reached is not tried again by later runs.
REMEMBERED = 300.0
_MOST_REMEMBERED = 64
_LONGEST_RECORD = 1 << 16
_KEY = re.compile(r"[0-9A-Za-z]{1,64}")

Check = Callable[[Path], None]
Say = Callable[[str], None]


def offline_by_default() -> bool:
    """Whether the environment variable ``KDUMP_OFFLINE`` or the host's ``--offline`` forbids the network."""
    if os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "no", "false"):
        return True
    constants = sys.modules.get("volatility3.framework.constants")
    return bool(getattr(constants, "OFFLINE", False))


def is_url(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


class Hosts:
    """Hosts that are of no use, and the line that says why; and how often others failed.

    With a ``record`` the hosts that could not be reached, or said nothing at all, are remembered there for
    :data:`REMEMBERED` seconds, so that the next run does not wait for them again.
    """

    def __init__(self, record: Callable[[], Path] | None = None) -> None:
        self.dead: dict[str, str] = {}
        self.failures: dict[str, int] = {}
        self.told: set[str] = set()
        #: Hosts that have given a whole answer, if only that they have no such file, or enough of one.
        self.answered: set[str] = set()
        self._patience: dict[str, Patience] = {}
        self._record = record
        self._read = record is None

    def forget(self) -> None:
        """Let every host be asked again."""
        self.dead.clear()
        self.failures.clear()
        self._patience.clear()
        if self._record is not None:
            self._read = True
            with contextlib.suppress(OSError):
                self._record().unlink(missing_ok=True)

    @property
    def lasting(self) -> bool:
        """Whether later runs know of the hosts that could not be reached."""
        return self._record is not None

    def patience(self, host: str, limits: Limits) -> Patience:
        """How long a host may still keep this run waiting, by the limits of who asks it first."""
        first = min(limits.connect, limits.stall)
        return self._patience.setdefault(host, Patience(first, limits.stall))

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
        self._unwritten = False
        self._opener: urllib.request.OpenerDirector | None = None

    @property
    def offline(self) -> bool:
        return offline_by_default() if self._offline is None else self._offline

    @property
    def troubled(self) -> bool:
        """Whether any server did not answer, or not as a symbol server should, or what came could not be stored."""
        return bool(self._hosts.dead or self._hosts.failures or self._unwritten)

    def get(self, url: str, name: str, key: str, check: Check, store: Path, say: Say) -> Path | None:
        """Download a file into a store and give its path there; ``None`` when the server does not give it.

        ``name`` must come from :func:`~volatility3_kdump.stores.paths.safe_file_name`. ``check`` raises a
        :class:`KdumpError` for a file that is not the one. ``say`` takes one line about what went wrong; about a host
        that does not answer always the same.
        """
        if self.offline or not _KEY.fullmatch(key):
            return None
        host = host_of(url)
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
            self._unwritten = True
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
        except Failure as failure:
            say(self._judge(host, failure))
            return None
        except (stores.StoreError, OSError) as error:
            self._unwritten = True
            say(f"{shown_url(url)}: {name} could not be stored: {error}")
            return None
        if temporary is None:
            if host in self._forbidding:
                say(f"symbol server {host}: answers with status 403: it does not have some files, or forbids them")
            return None
        try:
            return stores.add(store, name, key, temporary, move=True)
        except stores.StoreError as error:
            self._unwritten = True
            temporary.unlink(missing_ok=True)
            say(str(error))
            return None

    def _judge(self, host: str, failure: Failure) -> str:
        """The line about a failure; the host is given up where it is of no use."""
        if host in self._hosts.dead:
            return self._hosts.dead[host]  # others that waited for it said so already
        if failure.kind in (Failure.UNREACHABLE, Failure.STALLED):
            line = f"symbol server {host}: {failure}; not asked again"
            # One that takes connections and has not said a word is as good as out of reach.
            silent = failure.kind == Failure.UNREACHABLE or host not in self._hosts.answered
            if silent and self._hosts.lasting:
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
            raise Failure(Failure.REFUSED, f"{shown_url(base)}/{stores.POINTER}: {error}") from error
        finally:
            pointer.unlink(missing_ok=True)
        told = stores.shown_reference(rest)
        if kind == "MSG":
            raise Failure(Failure.REFUSED, f"{shown_url(base)}: the server has no such file: {told}")
        # A server has no say about files of this machine.
        nowhere = scheme_of(rest) not in ("http", "https") or not host_of(rest)
        if nowhere or (base.startswith("https:") and rest.startswith("http:")):
            raise Failure(Failure.REFUSED, f"{shown_url(base)}: the server refers to {told}; refused")
        fetched = self._referred(rest, host_of(base), store, name)
        return None if fetched is None else self._verified(fetched, rest, name, check, store)

    def _referred(self, url: str, by: str, store: Path, name: str) -> Path | None:
        """What the URL of a ``file.ptr`` gives. That its host cannot be reached is not said of the host that named it.

        It counts for that one nevertheless: each of its files may name another host that has to be waited for.
        """
        host = host_of(url)
        if host == by:
            return self._transfer(url, store, name)
        line = self._hosts.why_dead(host)
        if line is None:
            try:
                return self._transfer(url, store, name)
            except Failure as failure:
                if not failure.of_host and failure.kind not in (Failure.UNREACHABLE, Failure.STALLED):
                    raise
                line = self._judge(host, failure)
        raise Failure(Failure.REFUSED, f"refers to {shown_url(url)[:200]!a}: {line}", True)

    def _has(self, url: str, name: str, store: Path) -> bool:
        try:
            fetched = self._transfer(f"{url.rstrip('/')}/{name}", store, name, text=True)
        except Failure as failure:
            if failure.kind in (Failure.UNREACHABLE, Failure.STALLED):
                raise
            return False
        if fetched is not None:
            fetched.unlink(missing_ok=True)
        return fetched is not None

    def _verified(self, fetched: Path, url: str, name: str, check: Check, store: Path) -> Path:
        """The file in what came, unpacked where need be, after ``check``. Raises :class:`Failure`."""
        place = fetched
        try:
            if stores.is_compressed(fetched):
                place = stores.expand(fetched, name, store, self.limits.size)
                fetched.unlink(missing_ok=True)
            check(place)
        except BaseException as error:
            fetched.unlink(missing_ok=True)
            place.unlink(missing_ok=True)
            if isinstance(error, KdumpError):
                complaint = str(error).replace(str(place), shown_url(url)).replace(str(fetched), shown_url(url))
                raise Failure(Failure.REFUSED, complaint) from error
            raise
        return place

    def _transfer(self, url: str, store: Path, name: str, text: bool = False) -> Path | None:
        """What a URL gives, as an incoming file of the store; ``None`` where the server has nothing there."""
        limits = self.limits
        host = host_of(url)
        with self._hosts.patience(host, limits) as patience:
            for attempt in range(max(limits.attempts, 1)):
                if attempt:
                    time.sleep(limits.backoff * 2 ** (attempt - 1))
                path = stores.incoming(store)
                try:
                    self._once(url, path, name, text, patience)
                    return path
                except BaseException as error:
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
                    if not isinstance(error, Failure):
                        raise
                    if error.kind == Failure.ABSENT:
                        if str(error):
                            self._forbidding.add(host)
                        return None
                    pause = limits.backoff * 2**attempt
                    if error.kind != Failure.BROKEN or attempt + 1 >= limits.attempts or pause >= patience.left:
                        raise
        return None

    def _once(self, url: str, path: Path, name: str, text: bool, patience: Patience) -> None:
        if self._opener is None:
            self._opener = plain_opener()
        host = host_of(url)
        transfer = Transfer(url, path, self.limits, text, self._opener)
        transfer.start()
        paid = redirected = 0
        try:
            started = time.monotonic()
            while not transfer.finished.wait(_POLL):
                now = time.monotonic()
                if self._progress is not None and not text:
                    self._progress(transfer.percent, f"Downloading {name}")
                received = transfer.received
                if received - paid >= self.limits.rate:
                    patience.pay((received - paid) / self.limits.rate)
                    paid = received
                    self._hosts.answered.add(host)
                if transfer.redirected > redirected:
                    redirected = transfer.redirected
                    patience.fill()
                    self._hosts.answered.add(host)
                late = now - transfer.moved
                # A socket's own time-out comes first where there is one; this bounds everything else.
                if patience.left <= 0 or late > self.limits.stall + 4 * _POLL:
                    raise self._out_of_patience(host, transfer, late)
                if now - started > self.limits.total:
                    raise Failure(Failure.STALLED, f"takes more than {self.limits.total:g} s for {name}")
        finally:
            transfer.abandoned = True
        failure = transfer.failure
        if failure is None or (isinstance(failure, Failure) and failure.kind == Failure.ABSENT):
            patience.fill()
            self._hosts.answered.add(host)
        if failure is not None:
            raise failure

    def _out_of_patience(self, host: str, transfer: Transfer, late: float) -> Failure:
        limits = self.limits
        given = limits.stall if host in self._hosts.answered else min(limits.connect, limits.stall)
        if not transfer.connected:
            return Failure(Failure.UNREACHABLE, f"cannot be connected to within {given:g} s")
        if transfer.received and late < given / 2:
            return Failure(Failure.STALLED, f"sends less than {limits.rate} bytes a second")
        return Failure(Failure.STALLED, f"does not answer within {given:g} s")
