"""Processor state: contexts, trap frames, exception records and single instructions.

Everything here is a pure function over values and a reader ``read(address, size) -> bytes | None`` of the target's
virtual memory, where ``None`` means that the dump does not hold all of those bytes.
"""

from __future__ import annotations

from collections.abc import Callable

#: Reads target virtual memory: exactly ``size`` bytes, or ``None`` when any of them is not in the dump.
Read = Callable[[int, int], bytes | None]

#: Names an address as ``module!symbol+0x10``; ``None`` when no module holds it.
NameOf = Callable[[int], str | None]
