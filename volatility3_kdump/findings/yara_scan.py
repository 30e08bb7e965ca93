"""Matching YARA rules against the memory that a dump holds.

A run is a stretch of addresses of which the dump holds every byte. Rules are matched against runs, in chunks of 4 MB:
two stretches with a gap between them never come together, and absent pages are nothing, not zeros. Chunks overlap by 64
KB, so that whatever is no longer than that is found wherever it lies, once. What a condition says of several strings,
of positions or of sizes, it says of one chunk.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.findings.yara_rules import Rule, Rules
from volatility3_kdump.parallel import usable_processors
from volatility3_kdump.progress import Progress

if TYPE_CHECKING:
    from volatility3_kdump.layers.present import PresentMemory

#: Small enough to be scanned while it is still in the processor's cache, and for its memory to be used again.
CHUNK = 4 << 20
OVERLAP = 64 << 10
#: Bytes before a chunk that are matched with it: whether a word begins there depends on them.
_LEAD = 16
#: Bytes of a match that are kept.
MOST_BYTES = 256
_WRAP = 1 << 64
#: Bytes that are scanned by one thread before it takes new ones.
_BATCH = 4 << 20
_MOST_THREADS = 8


class Hit(NamedTuple):
    """A string of a rule that was found at a virtual address. ``data`` is its first bytes, of ``length``."""

    address: int
    length: int
    data: bytes
    rule: Rule
    string: str


class _Chunk(NamedTuple):
    """A part of a run, ``[position, boundary)``, and the bytes that are scanned for it, ``[first, stop)``.

    ``last`` says that the run ends with it. Addresses are signed.
    """

    position: int
    boundary: int
    first: int
    stop: int
    last: bool


def scan(
    memory: PresentMemory, areas: Iterable[tuple[int, int]], rules: Rules, progress: Progress | None = None
) -> Iterator[Hit]:
    """The hits of some rules in areas of memory, area by area by rising address.

    ``areas`` are ranges ``[low, high)`` of signed addresses, as :mod:`volatility3_kdump.layers.present` has them; what
    lies across the bounds of an area is not found. ``progress`` is told the percentage and what is done. Raises
    :class:`~volatility3_kdump.errors.KdumpError`.
    """
    areas = list(areas)
    total = max(1, sum(memory.size_between(low, high) for low, high in areas)) if progress is not None else 1
    done = 0
    # What the overlap behind a chunk holds waits for the next one, which sees more of what follows it.
    pending: dict[tuple[int, str, str, str], Hit] = {}
    for batch, matches in _scanned(memory, _batches(_chunks(memory, areas)), rules):
        if progress is not None:
            progress(100 * done / total, f"Scanning with {rules.library}")
            done += sum(chunk.boundary - chunk.position for chunk in batch)
        for chunk, hits in zip(batch, matches, strict=True):
            for address, hit in hits:
                if address >= chunk.position:
                    pending[address, hit.rule.namespace, hit.rule.name, hit.string] = hit
            if not pending:
                continue
            for key in sorted(key for key in pending if chunk.last or key[0] < chunk.boundary):
                yield pending.pop(key)


def _chunks(memory: PresentMemory, areas: Iterable[tuple[int, int]]) -> Iterator[_Chunk]:
    for low, high in areas:
        for start, size in memory.runs(low, high):
            end = start + size
            for position in range(start, end, CHUNK):
                stop = min(end, position + CHUNK + OVERLAP)
                first = max(start, position - _LEAD)
                yield _Chunk(position, end if stop == end else position + CHUNK, first, stop, stop == end)
                if stop == end:
                    break


def _batches(chunks: Iterable[_Chunk]) -> Iterator[list[_Chunk]]:
    batch: list[_Chunk] = []
    size = 0
    for chunk in chunks:
        batch.append(chunk)
        size += chunk.stop - chunk.first
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_Found = list[list[tuple[int, Hit]]]


def _scanned(
    memory: PresentMemory, batches: Iterable[list[_Chunk]], rules: Rules
) -> Iterator[tuple[list[_Chunk], _Found]]:
    """What is found in each batch, in order; with several threads where the library lets them run."""
    threads = min(usable_processors(), _MOST_THREADS) if rules.threads else 1
    if threads == 1:
        for batch in batches:
            yield batch, _find(memory, batch, rules)
        return
    executor = ThreadPoolExecutor(threads)
    ahead: collections.deque[tuple[list[_Chunk], Future[_Found]]] = collections.deque()
    try:
        for batch in batches:
            ahead.append((batch, executor.submit(_find, memory, batch, rules)))
            if len(ahead) > threads:
                batch, future = ahead.popleft()
                yield batch, future.result()
        while ahead:
            batch, future = ahead.popleft()
            yield batch, future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _find(memory: PresentMemory, batch: list[_Chunk], rules: Rules) -> _Found:
    """For each chunk, what was found in the bytes that are scanned for it, with its signed address."""
    matches = []
    parts = [(chunk.first, chunk.stop - chunk.first) for chunk in batch]
    for chunk, data in zip(batch, memory.read_each(parts), strict=True):
        matches.append(
            [
                (
                    chunk.first + offset,
                    Hit(
                        (chunk.first + offset) % _WRAP,
                        length,
                        data[offset : offset + min(length, MOST_BYTES)],
                        rule,
                        string,
                    ),
                )
                for offset, length, rule, string in rules.matches(data)
            ]
        )
    return matches
