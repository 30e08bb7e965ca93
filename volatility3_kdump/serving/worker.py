"""The process of one dump: reads requests from its input, answers on its output, ends when either is closed.

A thread reads, so that a request to stop reaches a command that is running, and the end of the input ends everything.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

from volatility3_kdump.errors import KdumpError, ReadLimit
from volatility3_kdump.escape import printable
from volatility3_kdump.serving import confinement, frames

_LONGEST_ERROR = 2000


class Stopped(KeyboardInterrupt):
    """The request that is answered now is to stop."""


class Requests:
    """The requests, as they come; one that is to stop gets a :class:`Stopped` in the main thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        self._current: int | None = None
        self._stopped: int | None = None
        signal.signal(signal.SIGINT, self._interrupted)
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                head = self._stream.read(frames.LENGTH.size)
                if len(head) < frames.LENGTH.size:
                    break
                message = frames.unpacked(self._stream.read(frames.length_of(head)))
                if message.get("method") == "stop":
                    self._stopped = message["id"]
                    signal.raise_signal(signal.SIGINT)
                else:
                    self._waiting.put(message)
        finally:
            # Nobody listens any more, whatever is being computed.
            os._exit(0)

    def _interrupted(self, number: int, frame: object) -> None:
        # A stop that comes when its request is answered is late.
        if self._stopped is not None and self._stopped == self._current:
            self._stopped = None
            raise Stopped

    def next(self) -> dict[str, Any]:
        """The next request."""
        return self._waiting.get()

    def begin(self, message: dict[str, Any]) -> None:
        """A request is being answered from now on."""
        self._current = message["id"]

    def end(self) -> None:
        """It is answered."""
        self._current = None


def main(configuration: str) -> None:
    """Serve one dump. ``configuration`` is JSON: ``roots``, ``memory``, ``triage_ini``, ``options``."""
    settings = json.loads(configuration)
    requests = Requests(os.fdopen(os.dup(0), "rb"))
    answers_to = os.fdopen(os.dup(1), "wb", buffering=0)
    # What anybody prints here must not be taken for an answer.
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # Imported while nobody waits: the process is started before a dump is named.
    from volatility3_kdump.console.commands import registry
    from volatility3_kdump.serving import answers
    from volatility3_kdump.serving.reach import options_of, reach_of

    registry()
    _warm()
    options, reach = options_of(settings), reach_of(settings)
    confinement.limit_memory(settings["memory"])
    confinement.confine(reach.readable, reach.writable, sys.executable, reach.offline)
    dump: answers.Answers | None = None
    while True:
        message = requests.next()
        reply: dict[str, Any] = {"id": message["id"]}
        try:
            requests.begin(message)
            parameters = message["parameters"]
            if message["method"] == "open":
                opened = dataclasses.replace(options, member=parameters["member"], offline=reach.offline or None)
                dump = answers.Answers(parameters["path"], opened, settings["triage_ini"], reach.nameable)
                reply["answer"] = dump.facts({})
            elif dump is None:
                raise KdumpError("no dump is open")
            else:
                reply["answer"] = dump.ask(message["method"], parameters)
        except (KdumpError, ReadLimit) as error:
            reply["error"] = printable(str(error))[:_LONGEST_ERROR]
        except Stopped:
            reply["error"] = "stopped: the limit of time was reached, or the call was cancelled"
        except MemoryError:
            reply["error"] = (
                "this needs more memory than the limit (--memory-limit); the dump is opened anew when it is asked again"
            )
            reply["broken"] = True
        except Exception as error:
            reply["error"] = printable(f"a mistake of kdump: {type(error).__name__}: {error}")[:_LONGEST_ERROR]
            traceback.print_exc(limit=5, file=sys.stderr)
        finally:
            requests.end()
        answers_to.write(frames.packed(reply))


def _warm() -> None:
    """What the first answer would wait for, and no dump is needed for."""
    import capstone  # noqa: F401
    import volatility3.framework.contexts  # noqa: F401

    from volatility3_kdump import tables
    from volatility3_kdump.analysis.owners import OwnerRules
    from volatility3_kdump.layers import opening  # noqa: F401

    OwnerRules.load()
    tables.structures()
    tables.bug_check_record(0)
