"""The process of a dump as the server has it: started ahead, asked under a limit of time, ended when it is silent."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.serving import frames

if TYPE_CHECKING:
    from anyio.abc import Process

_BOOT = """
import sys
configuration, *sys.path = sys.argv[1:]
from volatility3_kdump.serving import worker
worker.main(configuration)
"""
#: Seconds that a request which was told to stop has before its process is killed.
GRACE = 3.0
#: What is raised when the process has ended, or sends what is no answer.
_GONE = (OSError, EOFError, frames.BadFrame, anyio.BrokenResourceError, anyio.ClosedResourceError)


class WorkerDied(KdumpError):
    """The process of a dump is gone."""


class Worker:
    """One process. It answers one request at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._lock = anyio.Lock()
        self._number = 0
        self._buffer = bytearray()
        self.dead = False

    @classmethod
    async def start(cls, settings: dict[str, Any]) -> Worker:
        """Start a process; it imports what it needs while nobody waits for it."""
        places = [place for place in sys.path if place]
        command = [sys.executable, "-I", "-c", _BOOT, json.dumps(settings), *places]
        # In a session of its own: Ctrl-C is for the server, which ends its processes.
        process = await anyio.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, start_new_session=True
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone, as far as that is known."""
        return self.dead or self._process.returncode is not None

    async def ask(self, method: str, parameters: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request. Raises :class:`KdumpError` for what it says, or :class:`WorkerDied`."""
        async with self._lock:
            if self.dead:
                raise WorkerDied("the process of the dump has ended")
            self._number += 1
            number = self._number
            try:
                await self._send({"id": number, "method": method, "parameters": parameters})
                reply = None
                with anyio.move_on_after(seconds):
                    reply = await self._reply(number)
                if reply is None:
                    reply = await self._stop(number)
            except anyio.get_cancelled_exc_class():
                # The client has gone, or does not want it any more: the next request must find a process that listens.
                with anyio.CancelScope(shield=True):
                    if not self.dead and await self._stop(number) is None:
                        self.kill()
                raise
            except _GONE:
                self.kill()
                raise WorkerDied("the process of the dump has ended: it crashed, or memory ran out") from None
            if reply is None:
                self.kill()
                raise WorkerDied(f"no answer within the limit of {seconds:g} s: the process of the dump was ended")
            if reply.get("broken"):
                self.kill()
            if "error" in reply:
                raise KdumpError(reply["error"])
            answer: dict[str, Any] = reply["answer"]
            return answer

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send(frames.packed(message))

    async def _reply(self, number: int) -> dict[str, Any]:
        """The answer to a request; those to earlier ones, that were given up, are passed over."""
        while True:
            while (whole := self._whole()) is None:
                assert self._process.stdout is not None
                try:
                    self._buffer += await self._process.stdout.receive()
                except anyio.EndOfStream:
                    raise EOFError from None
            if whole.get("id") == number:
                return whole

    def _whole(self) -> dict[str, Any] | None:
        """The first whole frame of what has come."""
        head = frames.LENGTH.size
        if len(self._buffer) < head:
            return None
        end = head + frames.length_of(bytes(self._buffer[:head]))
        if len(self._buffer) < end:
            return None
        message = frames.unpacked(bytes(self._buffer[head:end]))
        del self._buffer[:end]
        return message

    async def _stop(self, number: int) -> dict[str, Any] | None:
        """Tell the process to stop, and wait a little for what it has got; ``None`` where it does not listen."""
        with contextlib.suppress(*_GONE):
            with anyio.move_on_after(GRACE):
                await self._send({"id": number, "method": "stop", "parameters": {}})
                return await self._reply(number)
        return None

    def kill(self) -> None:
        """End the process now."""
        self.dead = True
        with contextlib.suppress(ProcessLookupError, OSError):
            self._process.kill()

    async def close(self) -> None:
        """End the process, and wait until it is gone."""
        self.kill()
        with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE):
            await self._process.aclose()
