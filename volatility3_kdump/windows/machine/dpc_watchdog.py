"""The samples of the DPC watchdog: where each processor was while it spent too long in DPCs.

Argument 3 or 4 of bug check 0x133 points at a DPC_WATCHDOG_GLOBAL_TRIAGE_BLOCK (``wdm.h``): signature, revision, size,
where in a KPRCB the pointer to the processor's buffer lies, and the length of that buffer. The buffer holds code
addresses that were sampled from stacks, with zeros between them. Neither needs symbols.
"""

from __future__ import annotations

import collections
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.machine.processors import processors

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_SIGNATURE, _REVISION, _SIZE = 0xAEBECEDE, 1, 0x10
#: A KPRCB has no more bytes than this, and a buffer 260 KB by default.
_LARGEST_OFFSET, _LARGEST_BUFFER = 0x10000, 16 << 20
_PIECE = 0x1000


@dataclass(frozen=True)
class TriageBlock:
    """DPC_WATCHDOG_GLOBAL_TRIAGE_BLOCK: where a KPRCB has the pointer to its buffer, and that buffer's bytes."""

    address: int
    profile_offset: int
    profile_length: int


@dataclass(frozen=True)
class Profile:
    """The samples of a processor.

    ``buffer`` is its address; ``counts`` how often each code address was sampled. ``present`` is how many bytes of the
    buffer the dump holds, of ``length``.
    """

    processor: int
    buffer: int
    length: int
    present: int
    counts: Mapping[int, int]

    @property
    def total(self) -> int:
        """How many addresses were sampled."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Share:
    """Where samples lie: the module's name, the function or place in it, how many of the processor's samples."""

    processor: int
    module: str | None
    place: str
    address: int
    count: int
    total: int

    @property
    def percent(self) -> int:
        """Of all samples of the processor, rounded."""
        return round(100 * self.count / self.total) if self.total else 0


def triage_block(target: Target, address: int) -> TriageBlock:
    """The block at an address. Raises :class:`KdumpError` when it is not in the dump or is none."""
    data = target.memory.read(address, _SIZE)
    if data is None:
        raise KdumpError(
            f"{target.name}: the watchdog's block at {address:#x}: {target.memory.why_unreadable(address)}"
        )
    signature, revision, size = (int.from_bytes(data[low:high], "little") for low, high in ((0, 4), (4, 6), (6, 8)))
    if signature != _SIGNATURE or revision != _REVISION or size < _SIZE:
        raise KdumpError(
            f"{target.name}: at {address:#x} is no DPC_WATCHDOG_GLOBAL_TRIAGE_BLOCK of revision 1: signature "
            f"{signature:#x}, revision {revision}, size {size:#x}"
        )
    offset, length = int.from_bytes(data[8:10], "little"), int.from_bytes(data[12:16], "little")
    if not 0 < offset < _LARGEST_OFFSET or not 0 < length <= _LARGEST_BUFFER:
        raise KdumpError(
            f"{target.name}: the watchdog's block at {address:#x} names a buffer at KPRCB+{offset:#x} of {length:#x} "
            "bytes, which cannot be"
        )
    return TriageBlock(address, offset, length)


def profiles(target: Target, block: TriageBlock, number: int | None = None) -> Iterator[Profile]:
    """The samples of each processor, or of one, whose control block and buffer the dump holds."""
    for processor in processors(target):
        if number is not None and processor.number != number:
            continue
        pointer = processor.prcb + block.profile_offset if processor.prcb is not None else None
        buffer = target.memory.pointer(pointer) if pointer is not None else None
        if not buffer or not target.is_kernel_address(buffer):
            continue
        counts: collections.Counter[int] = collections.Counter()
        present = 0
        for data in _pieces(target, buffer, block.profile_length):
            present += len(data)
            values = array("Q")
            values.frombytes(data[: len(data) & ~7])
            if sys.byteorder == "big":
                values.byteswap()
            counts.update(values)
        if present:
            sampled = {address: count for address, count in counts.items() if target.is_kernel_address(address)}
            yield Profile(processor.number, buffer, block.profile_length, present, sampled)


def _pieces(target: Target, buffer: int, length: int) -> Iterator[bytes]:
    whole = target.memory.read(buffer, length)
    if whole is not None:
        yield whole
        return
    for start in range(0, length, _PIECE):
        data = target.memory.read(buffer + start, min(_PIECE, length - start))
        if data is not None:
            yield data


def by_module(target: Target, profile: Profile) -> list[Share]:
    """The samples of a processor by module, the most first. ``address`` is the module's base."""
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    for address, count in profile.counts.items():
        module = target.names.module_of(address)
        if module is not None:
            counts[(module.name, module.base)] += count
    total = sum(counts.values())
    return [Share(profile.processor, name, name, base, count, total) for (name, base), count in counts.most_common()]


def by_function(target: Target, profile: Profile) -> list[Share]:
    """The samples of a processor by function, where there are symbols, else by address; the most first."""
    counts: collections.Counter[tuple[str | None, str, int]] = collections.Counter()
    for address, count in profile.counts.items():
        name = target.names.lookup_return(address)
        if name is not None:
            start = address - name.offset if name.symbol is not None else address
            place = f"{name.module}!{name.symbol}" if name.symbol is not None else f"{name.module}+{name.offset:#x}"
            counts[(name.module, place, start)] += count
    total = sum(counts.values())
    return [Share(profile.processor, *key, count, total) for key, count in counts.most_common()]
