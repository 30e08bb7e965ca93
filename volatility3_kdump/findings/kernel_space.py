"""The kernel's half of the address space as a list: images, stacks of threads, and the memory manager's regions."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from volatility3_kdump.layers.present import SIGN, present_memory, signed
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import every_thread
from volatility3_kdump.windows.memory.kernel_regions import STACK, kernel_ranges

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

IMAGE = "image"
_WRAP = 1 << 64


@dataclass(frozen=True)
class Stretch:
    """``[low, high)``, sign-extended, and what it is: ``kind`` is :data:`IMAGE` or one of the kinds of regions.

    ``name`` is the file of an image; ``thread``, ``pid`` and ``tid`` are those of a thread whose stack it is.
    """

    low: int
    high: int
    kind: str
    name: str | None = None
    thread: int | None = None
    pid: int | None = None
    tid: int | None = None

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.high - self.low


@dataclass(frozen=True)
class Usage:
    """A kind, the number of its stretches, their bytes, and how many of these the dump holds; ``None`` is not known."""

    kind: str
    count: int
    size: int
    present: int | None


def kernel_space(target: Target, progress: Progress | None = None) -> list[Stretch]:
    """What is known of the kernel's half, ascending and without overlaps; images hide stacks, these regions."""
    claims = [claim for claim in _claims(target, progress) if claim.low < claim.high <= _WRAP]
    claims = [claim for claim in claims if claim.low >= target.kernel_start]
    by_start = sorted(range(len(claims)), key=lambda number: claims[number].low)
    edges = sorted({edge for claim in claims for edge in (claim.low, claim.high)})
    stretches: list[Stretch] = []
    open_claims: list[int] = []
    following = 0
    for low, high in itertools.pairwise(edges):
        while following < len(by_start) and claims[by_start[following]].low <= low:
            heapq.heappush(open_claims, by_start[following])
            following += 1
        while open_claims and claims[open_claims[0]].high <= low:
            heapq.heappop(open_claims)
        if not open_claims:
            continue
        made = replace(claims[open_claims[0]], low=low, high=high)
        if stretches and stretches[-1].high == low and replace(stretches[-1], low=low, high=high) == made:
            stretches[-1] = replace(stretches[-1], high=high)
        else:
            stretches.append(made)
    return stretches


def _claims(target: Target, progress: Progress | None) -> Iterator[Stretch]:
    """What says of a range what it is, the more exact first."""
    for module in target.modules:
        yield Stretch(module.base, module.end, IMAGE, module.image_name)
    for thread in every_thread(target, progress=progress):
        if thread.stack_limit and thread.stack_base:
            yield Stretch(thread.stack_limit, thread.stack_base, STACK, None, thread.address, thread.pid, thread.tid)
    for low, high, region in kernel_ranges(target):
        yield Stretch(low, high, region.kind)


def usage(target: Target, stretches: list[Stretch]) -> list[Usage]:
    """The stretches by kind, the largest first."""
    memory = None
    if target.layer_name is not None:
        memory = present_memory(target.context.layers[target.layer_name], -SIGN, 0)
    kinds: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        kinds.setdefault(stretch.kind, []).append(stretch)
    usages = []
    for kind, of_kind in kinds.items():
        present = None
        if memory is not None:
            present = sum(memory.size_between(signed(part.low), signed(part.high - 1) + 1) for part in of_kind)
        usages.append(Usage(kind, len(of_kind), sum(part.size for part in of_kind), present))
    return sorted(usages, key=lambda entry: (-entry.size, entry.kind))
