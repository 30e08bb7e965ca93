"""Which pages of physical memory are the kernel's: those that its half of the address space maps, in any process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import read_process

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from volatility3_kdump.progress import Progress
    from volatility3_kdump.target import Target

_PAGE_SHIFT = 12
#: Bytes of an entry without PAE.
_NARROW = 4
_PHYSICAL = -1


def kernel_pages(target: Target, frames: int, progress: Progress | None = None) -> NDArray[np.bool_]:
    """For each of so many page frames whether the kernel's half of any address space maps it.

    The half is the same in all processes but for the page tables and what belongs to a session, so that an entry of a
    top table is followed once. Raises :class:`KdumpError` where there are no page tables to walk.
    """
    import numpy as np

    if target.layer_name is None:
        raise KdumpError(f"{target.name}: no address translation, so that the kernel's pages are not known: --type 5")
    layer = target.context.layers[target.layer_name]
    chosen = np.zeros(frames, np.bool_)
    followed: set[tuple[int, int]] = set()
    roots = [layer.address_space.root]
    for address in process_addresses(target):
        directory = read_process(target, address).directory_table_base
        if directory:
            roots.append(directory & layer.mode.root)
    done = dict.fromkeys(roots)
    for number, root in enumerate(done):
        if progress is not None:
            progress(100.0 * number / len(done), "looking for the kernel's pages")
        space = layer.space_of(root)
        top, width = space.mode.levels[0], space.mode.width
        count = 1 << top.bits
        table = space.tables.read(root, width * count)
        if table is None:
            continue
        if root >> _PAGE_SHIFT < frames:
            chosen[root >> _PAGE_SHIFT] = True
        step = 1 << top.shift
        entries = np.frombuffer(table, np.uint32 if width == _NARROW else np.uint64).tolist()
        # Of 32-bit machines too the upper half is the kernel's, but for those that give 3 GB to user mode.
        for index in range(count // 2, count):
            entry = entries[index]
            if not entry or (index, entry) in followed:
                continue
            followed.add((index, entry))
            for batch in space.batches(index * step, (index + 1) * step):
                held = batch.which == _PHYSICAL
                _mark(chosen, batch.places[held] >> _PAGE_SHIFT, batch.sizes[held] >> _PAGE_SHIFT)
    return chosen


def _mark(chosen: NDArray[np.bool_], first: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    single = counts == 1
    inside = first[single]
    chosen[inside[inside < len(chosen)]] = True
    for start, count in zip(first[~single].tolist(), counts[~single].tolist(), strict=True):
        chosen[start : start + count] = True
