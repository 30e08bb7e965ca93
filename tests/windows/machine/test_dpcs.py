"""Queues of deferred procedure calls, of kernels with both kinds of lists, with DPCs put into them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.edited import edited
from volatility3_kdump.target import Target
from volatility3_kdump.text.processors import dpc_lines
from volatility3_kdump.views.processors import dpcs_grid
from volatility3_kdump.windows.machine.dpcs import read_dpc_queues
from volatility3_kdump.windows.machine.processors import processors

ROUTINE = 0xFFFFF80060DA1A40
#: From the end of a processor's control block, where the made machine keeps nothing.
_FIRST, _SECOND = 0x200, 0x100


def _table(isf_paths: list[Path], doubly: bool) -> Path:
    """The first kernel with doubly linked queues (Windows 7), or with singly linked ones."""
    windows_7 = "339E74"
    return next(path for path in isf_paths if path.name.startswith(windows_7) == doubly)


def _queued(
    sample: Callable[..., Path], table: Path, path: Path, doubly: bool, last: int | None
) -> tuple[Target, int, int]:
    """Processor 1 with two threaded DPCs, the second leading to ``last`` (``None``: the end of the list)."""
    source = sample(1, table)
    original = volatility3_kdump.open(source, isf_file=table)
    nt, prcb = original.nt, processors(original)[1].prcb
    assert nt is not None and prcb is not None
    assert nt.has("_KDPC_DATA", "DpcListHead") == doubly
    data = prcb + nt.offset("_KPRCB", "DpcData") + nt.size_of("_KDPC_DATA")
    first, second = (prcb + nt.size_of("_KPRCB") - back & ~15 for back in (_FIRST, _SECOND))
    link, routine = nt.offset("_KDPC", "DpcListEntry"), nt.offset("_KDPC", "DeferredRoutine")
    chain = [data, first + link, second + link]
    end = (data if doubly else 0) if last is None else last
    changes = {at: struct.pack("<Q", to) for at, to in zip(chain, [*chain[1:], end], strict=True)}
    if doubly:
        changes |= {at + 8: struct.pack("<Q", to) for at, to in zip(chain, [chain[-1], *chain[:-1]], strict=True)}
    for dpc in (first, second):
        changes[dpc + routine] = struct.pack("<Q", ROUTINE)
    return edited(original, source, path, changes, isf_file=table), first, second


@pytest.mark.parametrize("doubly", (False, True))
def test_queued_in_order(isf_paths: list[Path], sample: Callable[..., Path], tmp_path: Path, doubly: bool) -> None:
    target, first, second = _queued(sample, _table(isf_paths, doubly), tmp_path / "dpcs.dmp", doubly, None)
    queues = read_dpc_queues(target)
    assert [(queue.processor, queue.kind) for queue in queues] == [
        (number, kind) for number in range(3) for kind in ("Normal", "Threaded")
    ]
    assert all(queue.problem is None and not queue.queued for queue in queues[:3] + queues[4:])
    queue = queues[3]
    assert queue.problem is None
    assert [dpc.address for dpc in queue.queued] == [first, second]
    assert list(dpc_lines([queue])) == [
        "CPU Type      KDPC       Function",
        f" 1: Threaded: 0x{first:016x} 0x{ROUTINE:016x} myfault+0x1a40",
        f" 1: Threaded: 0x{second:016x} 0x{ROUTINE:016x} myfault+0x1a40",
    ]


@pytest.mark.parametrize("last", (0x1234, 0xFFFF800012345678))
def test_a_torn_queue_is_said_to_be(
    isf_paths: list[Path], sample: Callable[..., Path], tmp_path: Path, last: int
) -> None:
    target, first, second = _queued(sample, _table(isf_paths, False), tmp_path / "torn.dmp", False, last)
    queue = read_dpc_queues(target)[3]
    assert [dpc.address for dpc in queue.queued][:2] == [first, second]
    assert queue.problem is not None and queue.problem.startswith("threaded DPCs of processor 1: the entry at 0x")
    assert "no DPC is queued" not in list(dpc_lines([queue]))


def test_the_dpc_that_runs(sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample(6, None, "dpc-timeout"))
    shown = list(dpcs_grid(target).kd_lines())
    assert shown[1] == "no DPC is queued"
    assert shown[2].startswith("NOTE: processor 2 runs the normal DPC 0x") and shown[2].endswith(" myfault+0x1a40")
