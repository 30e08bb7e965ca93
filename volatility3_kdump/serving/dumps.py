"""The folders that may be read, the opened dumps, and a process for each."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import is_directory, is_file
from volatility3_kdump.options import Options
from volatility3_kdump.serving.folders import is_within
from volatility3_kdump.serving.processes import Worker, WorkerDied

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

#: Endings of files that are listed; any file in the folders may be opened.
_ENDINGS = (".dmp", ".mdmp", ".hdmp", ".kdmp", ".cab", ".zip", ".7z", ".gz", ".xz", ".bz2")
_MOST_LISTED = 500
_MOST_LOOKED_AT = 20_000


@dataclass(frozen=True)
class Limits:
    """Of a call: seconds, and bytes of memory of the process; and how many dumps may be open."""

    seconds: float = 60.0
    memory: int = 4 << 30
    dumps: int = 8


@dataclass
class Dump:
    """An opened dump: its name for the client, where it is, and its process."""

    name: str
    path: str
    member: str | None
    facts: dict[str, Any]
    worker: Worker
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Dumps:
    """The dumps of a server."""

    def __init__(
        self,
        roots: Sequence[str],
        options: Options,
        limits: Limits,
        triage_ini: str | None = None,
        ahead: Sequence[str] = (),
    ) -> None:
        """``roots`` are the folders whose dumps may be opened; those in ``ahead`` are, before a client asks for them.

        Raises :class:`KdumpError` for a root that is no folder, and for a dump outside of all.
        """
        for root in roots:
            if not is_directory(root):
                raise KdumpError(f"--root {root}: is no folder")
        self.roots = [os.path.realpath(root) for root in roots]
        self.limits = limits
        self._options = options
        self._triage_ini = os.path.realpath(triage_ini) if triage_ini else None
        self._dumps: dict[str, Dump] = {}
        self._opening = 0
        self._numbers = itertools.count(1)
        self._spare: Worker | None = None
        self._settings = self._worker_settings()
        self._tasks: TaskGroup | None = None
        #: Dumps that are opened ahead, by their paths: done when they are open, or cannot be opened.
        self._ahead = {self.resolve(path): anyio.Event() for path in ahead}

    def _worker_settings(self) -> dict[str, Any]:
        """What a process is told when it starts: from where it may read, and what dumps are opened with."""
        options = self._options
        return {
            "roots": self.roots,
            "memory": self.limits.memory,
            "triage_ini": self._triage_ini,
            "options": {
                "isf_directories": [os.fspath(place) for place in options.isf_directories],
                "symbol_path": options.symbol_path,
                "image_path": options.image_path,
                "offline": options.offline,
            },
        }

    # processes --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Dumps]:
        """While it is entered dumps can be opened; their processes end with it."""
        workers: list[Worker] = []
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._spare = await Worker.start(self._settings)
                for path in self._ahead:
                    tasks.start_soon(self._open_ahead, path)
                try:
                    yield self
                finally:
                    # Before tasks that wait for them are cancelled: none of them is asked to stop by itself.
                    workers += [dump.worker for dump in self._dumps.values()]
                    workers += [self._spare] if self._spare is not None else []
                    for worker in workers:
                        worker.kill()
                    tasks.cancel_scope.cancel()
        finally:
            for worker in workers:
                await worker.close()

    async def _opened(self, path: str, member: str | None) -> tuple[Worker, dict[str, Any]]:
        """A process with a dump open in it: the one that waits for a dump, or a new one. Raises :class:`KdumpError`."""
        spare, self._spare = self._spare, None
        if spare is not None and not spare.ended:
            try:
                return spare, await self._open_in(spare, path, member)
            except WorkerDied:
                pass  # it may have been dead before: a new one tells
            except BaseException:
                spare.kill()
                raise
        worker = await Worker.start(self._settings)
        try:
            return worker, await self._open_in(worker, path, member)
        except BaseException:
            worker.kill()
            raise

    async def _start_spare(self) -> None:
        """Have a process for the next dump: once the last one has answered, which it would slow down."""
        if self._spare is None and len(self._dumps) < self.limits.dumps:
            with contextlib.suppress(OSError):
                self._spare = await Worker.start(self._settings)

    async def _open_ahead(self, path: str) -> None:
        # What goes wrong is told to the client that opens it.
        with contextlib.suppress(KdumpError):
            dump = await self._open(path, None)
            self._ahead[path].set()
            await dump.worker.ask("analyze", {}, self.limits.seconds)
        self._ahead[path].set()

    # dumps ------------------------------------------------------------------------------------------------------

    def resolve(self, path: str) -> str:
        """The real path of a dump that a client names. Raises :class:`KdumpError` for what lies outside of the folders.

        What is there and what is not is told for these folders only.
        """
        shown = printable(path)
        if not path or "\0" in path:
            raise KdumpError(f"{shown!r} is not the name of a file")
        candidates = [path] if os.path.isabs(path) else [os.path.join(root, path) for root in self.roots]
        inside = [os.path.realpath(candidate) for candidate in candidates if is_within(candidate, self.roots)]
        if not inside:
            raise KdumpError(f"{shown}: is outside of the folders that this server may read (--root)")
        file = next((candidate for candidate in inside if is_file(candidate)), None)
        if file is None:
            raise KdumpError(f"{shown}: no such file in the folders of this server")
        return file

    async def open(self, path: str, member: str | None) -> Dump:
        """Open a dump, or give the one that was opened ahead. Raises :class:`KdumpError`."""
        file = self.resolve(path)
        if member is None and file in self._ahead:
            await self._ahead[file].wait()
            opened = next((dump for dump in self._dumps.values() if dump.path == file and dump.member is None), None)
            if opened is not None:
                return opened
        return await self._open(file, member)

    async def _open(self, file: str, member: str | None) -> Dump:
        if len(self._dumps) + self._opening >= self.limits.dumps:
            raise KdumpError(f"{self.limits.dumps} dumps are open already: close one with close_dump")
        self._opening += 1
        try:
            worker, facts = await self._opened(file, member)
        finally:
            self._opening -= 1
        dump = Dump(f"d{next(self._numbers)}", file, member, facts, worker)
        self._dumps[dump.name] = dump
        return dump

    async def _open_in(self, worker: Worker, path: str, member: str | None) -> dict[str, Any]:
        return await worker.ask("open", {"path": path, "member": member}, self.limits.seconds)

    def get(self, name: str) -> Dump:
        """An opened dump by its name. Raises :class:`KdumpError`."""
        dump = self._dumps.get(name)
        if dump is None:
            open_names = ", ".join(self._dumps) or "none"
            raise KdumpError(
                f"{printable(name)}: no dump of this name is open (open are: {open_names}); open_dump opens one"
            )
        return dump

    async def ask(self, name: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The answer of a dump's process. Raises :class:`KdumpError`.

        A process that had to be ended is started anew; what commands had left behind in it is gone, and said.
        """
        dump = self.get(name)
        note = None
        async with dump.lock:
            if dump.worker.ended:
                await dump.worker.close()
                dump.worker, dump.facts = await self._opened(dump.path, dump.member)
                note = "the dump was opened anew: its process had been ended, and what earlier commands had set is gone"
        try:
            answer = await dump.worker.ask(method, parameters, self.limits.seconds)
        except WorkerDied as error:
            raise KdumpError(f"{dump.name}: {error}; the dump is opened anew when it is asked again") from error
        if self._tasks is not None:
            self._tasks.start_soon(self._start_spare)
        if note is not None:
            answer["note"] = "; ".join(filter(None, (note, answer.get("note"))))
        return answer

    async def close(self, name: str) -> None:
        """Close a dump. Raises :class:`KdumpError`."""
        self.get(name)
        await self._dumps.pop(name).worker.close()

    @property
    def opened(self) -> list[Dump]:
        return list(self._dumps.values())

    def available(self) -> tuple[list[dict[str, Any]], bool]:
        """Files in the folders that may be dumps, by their names, and whether there are more than are listed."""
        listed: list[dict[str, Any]] = []
        for path in itertools.islice(self._files(), _MOST_LISTED + 1):
            with contextlib.suppress(OSError):
                listed.append({"path": printable(path), "size": os.stat(path).st_size})
        return listed[:_MOST_LISTED], len(listed) > _MOST_LISTED

    def _files(self) -> Iterator[str]:
        looked_at = 0
        for root in self.roots:
            for folder, folders, names in os.walk(root):
                folders.sort()
                for name in sorted(names):
                    looked_at += 1
                    if looked_at > _MOST_LOOKED_AT:
                        return
                    path = os.path.join(folder, name)
                    if name.lower().endswith(_ENDINGS) and is_within(path, self.roots):
                        yield path
