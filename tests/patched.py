"""An opened dump whose memory is other than the file's, without writing another file."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

from volatility3_kdump.memory import PAGE_SIZE, Memory
from volatility3_kdump.target import Target


def patched(target: Target, changes: Mapping[int, bytes] | None = None, absent: Iterable[int] = ()) -> Target:
    """The target with the bytes at some virtual addresses changed, and the pages of others not in the dump.

    What was read of Windows' structures is forgotten; symbols and modules are shared.
    """
    parts = sorted((changes or {}).items())
    missing = {address // PAGE_SIZE for address in absent}
    whole = target.memory

    def read(address: int, size: int) -> bytes | None:
        if any(page in missing for page in range(address // PAGE_SIZE, (address + max(size, 1) - 1) // PAGE_SIZE + 1)):
            return None
        data = whole.read(address, size)
        if data is None:
            return None
        found = bytearray(data)
        for start, content in parts:
            low, high = max(start, address), min(start + len(content), address + size)
            if low < high:
                found[low - address : high - address] = content[low - start : high - start]
        return bytes(found)

    clone = copy.copy(target)
    clone.__dict__["memory"] = Memory(read, whole.pointer_size, lambda address: "taken away by the test")
    clone.__dict__["_made"] = {}
    return clone
