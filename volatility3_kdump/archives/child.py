"""Native decoders in a process of their own: what crashes, fills or stops them costs the archive and nothing else.

The decoders of 7-Zip archives, of Deflate64 and of LZX are written in C and read bytes that nobody vouches for: one
changed byte of a PPMd stream can end the interpreter. So a child process decodes, under limits of memory and time, and
sends what it gets through a pipe as frames: four bytes of length, little-endian, then the bytes. A frame of length 0
ends them; a JSON object follows that says how it went.

The child imports this package alone, from the module search path of the process that starts it: not from the working
directory, where evidence lies.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, BinaryIO

from volatility3_kdump.archives.archive import shown
from volatility3_kdump.archives.cache_files import identify
from volatility3_kdump.errors import CorruptContainer, KdumpError, UnsupportedContainer
from volatility3_kdump.files import open_file

#: Seconds without a byte after which a decoder is killed.
MOST_SILENCE = 60.0
#: Bytes of address space that a decoder may take beside its dictionary: the interpreter and its libraries.
OWN_MEMORY = 512 << 20
_LENGTH = struct.Struct("<I")
_MOST_FRAME = 64 << 20
_MOST_STATUS = 1 << 16
_LONGEST_MESSAGE = 400
_BOOT = """
import sys
decoder, arguments, memory, *sys.path = sys.argv[1:]
from volatility3_kdump.archives import child
child.serve(decoder, arguments, int(memory))
"""


class Watch:
    """Kills a process that gives nothing for a while, or that is left behind.

    A context manager: :meth:`alive` is to be called whenever something came. ``silent`` tells afterwards whether the
    process was killed for its silence.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.silent = False
        self._process = process
        self.seconds = seconds
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="decoder-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._process.kill()
        self._thread.join()

    def alive(self) -> None:
        """Something came from the process."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self._last > self.seconds:
                self.silent = True
                self._process.kill()
                return


def open_unchanged(path: str, identity: str) -> BinaryIO:
    """Runs in a child: the file that its parent has open under the same path. Raises :class:`KdumpError`."""
    file = open_file(path)
    if identify(file) != identity:
        raise KdumpError("the file changes while it is read: copy it first")
    return file


def limit_memory(size: int) -> None:
    """Let this process have at most so many bytes of address space, where the system can see to it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def decode(
    decoder: Callable[..., Iterator[bytes]],
    what: str,
    arguments: Mapping[str, Any],
    memory: int = 0,
    silence: float = MOST_SILENCE,
) -> Iterator[bytes]:
    """What a generator of this package yields when it runs in a process of its own.

    ``decoder`` is a function at the top of its module, ``arguments`` are values that JSON can carry, ``what`` is what
    is decoded, for messages, and ``memory`` is how many bytes it needs beyond :data:`OWN_MEMORY`. Raises what the
    generator raises of :class:`~volatility3_kdump.errors.KdumpError`, and
    :class:`~volatility3_kdump.errors.CorruptContainer` for a decoder that crashes or hangs.
    """
    name = f"{decoder.__module__}:{decoder.__qualname__}"
    places = [place for place in sys.path if place]
    command = [sys.executable, "-I", "-c", _BOOT, name, json.dumps(dict(arguments)), str(OWN_MEMORY + memory), *places]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except OSError as error:
        raise KdumpError(f"{what}: the process that decodes it cannot be started: {error.strerror or error}") from error
    with process, Watch(process, silence) as watch:
        assert process.stdout is not None
        while data := _frame(process.stdout, watch, what, process):
            yield data
        status = _read(process.stdout, watch)
    _raise_failure(status, what)


def _read(pipe: IO[bytes], watch: Watch) -> bytes:
    status = b""
    while len(status) < _MOST_STATUS and (data := pipe.read(_MOST_STATUS)):
        watch.alive()
        status += data
    return status


def _frame(pipe: IO[bytes], watch: Watch, what: str, process: subprocess.Popen[bytes]) -> bytes:
    head = _exactly(pipe, _LENGTH.size, watch)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else None
    if length is not None and length <= _MOST_FRAME:
        data = _exactly(pipe, length, watch)
        if len(data) == length:
            return data
    if watch.silent:
        raise CorruptContainer(f"{what} is damaged: its decoder gave nothing for {watch.seconds:.0f} seconds")
    process.kill()
    raise CorruptContainer(f"{what} is damaged: its decoder crashed on it{_signal(process.wait())}")


def _signal(status: int) -> str:
    if status >= 0 or sys.platform == "win32":
        return ""
    import signal

    with contextlib.suppress(ValueError):
        return f" ({signal.Signals(-status).name})"
    return f" (signal {-status})"


def _exactly(pipe: IO[bytes], size: int, watch: Watch) -> bytes:
    """So many bytes, fewer where the pipe ends."""
    pieces = []
    while size > 0:
        data = pipe.read(min(size, 1 << 20))
        if not data:
            break
        watch.alive()
        pieces.append(data)
        size -= len(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _raise_failure(status: bytes, what: str) -> None:
    try:
        outcome = json.loads(status)
        kind, message = outcome["error"], outcome["message"]
    except (ValueError, KeyError, TypeError):
        raise CorruptContainer(f"{what} is damaged: its decoder ended without a word") from None
    if kind is None:
        return
    # A damaged stream may have taken over the child: only what it may say is taken from it.
    failure = {"KdumpError": KdumpError, "UnsupportedContainer": UnsupportedContainer}.get(kind, CorruptContainer)
    raise failure(shown(str(message), _LONGEST_MESSAGE))


def serve(decoder: str, arguments: str, memory: int) -> None:
    """The child's side: run a generator and send what it yields."""
    limit_memory(memory)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever a library prints must not come between the frames.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    outcome: dict[str, str | None] = {"error": None, "message": None}
    module, _, function = decoder.partition(":")
    try:
        for data in getattr(importlib.import_module(module), function)(**json.loads(arguments)):
            if data:
                _send(out, data)
    except KdumpError as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        outcome = {"error": "UnsupportedContainer", "message": "it needs more memory to decompress than it may have"}
    _write(out, _LENGTH.pack(0))
    _write(out, json.dumps(outcome).encode("ascii"))
    out.close()
    # Nothing that a damaged stream left in a decoder gets the chance to crash at the end.
    os._exit(0)


def _send(out: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        piece, view = view[:_MOST_FRAME], view[_MOST_FRAME:]
        _write(out, _LENGTH.pack(len(piece)))
        _write(out, piece)


def _write(out: IO[bytes], data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
