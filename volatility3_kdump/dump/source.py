"""Random access to the bytes of a dump file, with no assumption about where they come from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from volatility3_kdump.errors import KdumpError


class Source(Protocol):
    """Bytes addressed by file offset. ``name`` is for messages, ``size`` is in bytes."""

    name: str
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes at ``offset``; fewer only where the file ends."""
        ...


class FileSource:
    """A plain file, read with positioned reads so that threads can share it and no page stays mapped.

    A copy (``copy.deepcopy``, ``pickle``) opens the file anew: the host clones its layers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file. Raises ``OSError``."""
        self.name = str(path)
        self._file = Path(path).open("rb", buffering=0)
        self._number = self._file.fileno()
        #: Windows has no positioned reads.
        self._pread: Callable[[int, int, int], bytes] | None = getattr(os, "pread", None)
        self.size = os.fstat(self._number).st_size
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[FileSource], tuple[str]]:
        return type(self), (self.name,)

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`. Raises :class:`~volatility3_kdump.errors.KdumpError` where the disk does not read."""
        if length > self.size - offset:
            length = self.size - offset
        if offset < 0 or length <= 0:
            return b""
        try:
            data = self._read(offset, length)
            if len(data) == length:
                return data
            # One call gives less than 2 GiB.
            while 0 < len(data) < length:
                more = self._read(offset + len(data), length - len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise KdumpError(
                f"reading {length:#x} bytes at offset {offset:#x} failed: {error.strerror or error}"
            ) from error
        return data

    def _read(self, offset: int, length: int) -> bytes:
        if self._pread is not None:
            return self._pread(self._number, length, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(length) or b""

    def close(self) -> None:
        self._file.close()


class BytesSource:
    """Bytes in memory, for tests and for members of archives."""

    def __init__(self, data: bytes, name: str = "<memory>") -> None:
        self.name = name
        self.size = len(data)
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length <= 0:
            return b""
        return self._data[offset : offset + length]
