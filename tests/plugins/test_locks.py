"""``kdump.locks``: KD's text, rows, wait chains, and what cannot be shown."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import locks as scene
from kdump_sample.scenes import waits
from tests.edited import edited
from tests.output import parsed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import locks as text
from volatility3_kdump.views import locks
from volatility3_kdump.windows.processes.resources import Owner, Resource, Waiter

Sample = Callable[..., Path]
RunVol = Callable[..., "subprocess.CompletedProcess[str]"]


KD = """\
**** DUMP OF ALL RESOURCE OBJECTS ****
KD: Scanning for held locks....

Resource @ nt!PiEngineLock (0xfffff80063244a60)    Exclusively owned
    Contention Count = 23
    NumberOfSharedWaiters = 1
    NumberOfExclusiveWaiters = 1
     Threads: ffff918961200080-01<*>~

     Threads Waiting On Shared Access:
              ffff918961201080~~~~~~~

     Threads Waiting On Exclusive Access:
              ffff918961202080~~~~~~~
KD: Scanning for held locks....

Resource @ 0xffff918961a00000    Exclusively owned
    Contention Count = 437
    NumberOfExclusiveWaiters = 2
     Threads: ffff91895309d080-02<*>~

     Threads Waiting On Exclusive Access:
              ffff918961203080~~~~~~~ffff918961200080~~~~~~~
KD: Scanning for held locks....

Resource @ 0xffff918961a00100    Shared 6 owning threads
     Threads: ffff91894f203080-01<*>~ffff91894f244080-02<*>~ffff91894f285080-03<*>~ffff91894f2c6080-04<*>~
              ffff91895309d083-01<*>~*** Actual Thread ffff91895309d080~ffff918961a00803-11<*>~\
(owner pointer, no thread)
KD: Scanning for held locks....

Resource @ 0xffff918961a00300    Owners not known
    Contention Count = 2
    NOTE: a fast resource (FAST_ERESOURCE): who owns it is not shown
5 total locks, 4 locks currently held

NOTE: who waits for whom:
NOTE:   System 4.74 (ffff918961201080) waits for the resource nt!PiEngineLock (fffff80063244a60) of System 4.70 \
(ffff918961200080)
NOTE:   System 4.78 (ffff918961202080) waits for the resource nt!PiEngineLock (fffff80063244a60) of System 4.70 \
(ffff918961200080)
NOTE:       System 4.70 (ffff918961200080) waits for the resource ffff918961a00000 of notepad.exe 1e90.1e94 \
(ffff91895309d080)
NOTE:   System 4.7c (ffff918961203080) waits for the resource ffff918961a00000 of notepad.exe 1e90.1e94 \
(ffff91895309d080)
NOTE:   System 4.70 (ffff918961200080) waits for the resource ffff918961a00000 of notepad.exe 1e90.1e94 \
(ffff91895309d080)
""".replace("~", " ").splitlines()


def test_the_text(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(6, None, "locks"), "-r", "windbg", "kdump.locks")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == KD


def test_the_transcript() -> None:
    """The published lines, but for the shared waiter, which KD counts there and does not find."""
    shown = Resource(
        0xFFFFF8019CD8A380,
        1,
        1,
        0x80,
        23,
        1,
        1,
        (Owner(0xFFFF8B0351756040, 1, 0xFFFF8B0351756040),),
        (),
        (Waiter(0xFFFF8B03515D5040, 0),),
    )
    assert list(text.resource_lines(shown, "nt!PiEngineLock")) == [
        "Resource @ nt!PiEngineLock (0xfffff8019cd8a380)    Exclusively owned",
        "    Contention Count = 23",
        "    NumberOfSharedWaiters = 1",
        "    NumberOfExclusiveWaiters = 1",
        "     Threads: ffff8b0351756040-01<*> ",
        "",
        "     Threads Waiting On Exclusive Access:",
        "              ffff8b03515d5040       ",
    ]
    assert text.totals(27708, 3) == "27708 total locks, 3 locks currently held"
    assert text.totals(27708, 0) == "27708 total locks"


def test_four_threads_a_row() -> None:
    threads = [0x87654320 + 0x100 * index for index in range(9)]
    shown = Resource(
        0x87000100,
        1,
        9,
        0,
        0,
        5,
        0,
        tuple(Owner(thread, 0x123, thread) for thread in threads),
        tuple(Waiter(thread, 0) for thread in (None, *threads[:4])),
    )
    lines = list(text.resource_lines(shown, None, 4))
    assert lines == [
        "Resource @ 0x87000100    Shared 9 owning threads",
        "    NumberOfSharedWaiters = 5",
        "     Threads: 87654320-123<*> 87654420-123<*> 87654520-123<*> 87654620-123<*> ",
        "              87654720-123<*> 87654820-123<*> 87654920-123<*> 87654a20-123<*> ",
        "              87654b20-123<*> ",
        "",
        "     Threads Waiting On Shared Access:",
        "              ????????       87654320       87654420       87654520       ",
        "              87654620       ",
    ]


def test_every_resource(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, None, "locks"))
    lines = list(locks.locks_grid(target, everything=True).kd_lines())
    assert text.SCANNING not in lines
    start = lines.index("Resource @ 0xffff918961a00200    Available")
    assert lines[start - 1 : start + 3] == ["", lines[start], "    Contention Count = 4", ""]


def test_one_resource(sample: Sample, run_plugin: RunVol) -> None:
    path = sample(6, None, "locks")
    finished = run_plugin("-q", "-f", path, "-r", "windbg", "kdump.locks", "--address", "nt!PiEngineLock")
    shown = finished.stdout.splitlines()
    assert shown[0] == "Resource @ nt!PiEngineLock (0xfffff80063244a60)    Exclusively owned"
    assert shown[11] == "1 total locks, 1 locks currently held"
    # the chain goes on through a resource that is not shown
    assert shown[-1].startswith("NOTE:       System 4.70 ")
    assert shown[-1].endswith("waits for the resource ffff918961a00000 of notepad.exe 1e90.1e94 (ffff91895309d080)")
    target = volatility3_kdump.open(path)
    assert list(locks.locks_grid(target, one=scene.FREE).kd_lines()) == [
        "Resource @ 0xffff918961a00200    Available",
        "    Contention Count = 4",
        "1 total locks",
    ]


@pytest.mark.parametrize(
    "place, message",
    [
        (0x1000, r"the resource at 0x1000: not mapped"),
        (scene.FREE + 4, r"there is no ERESOURCE at 0xffff918961a00204: it would be in a list between 0x"),
    ],
)
def test_no_resource(sample: Sample, place: int, message: str) -> None:
    path = sample(6, None, "locks")
    with pytest.raises(KdumpError, match=f"^{re.escape(path.name)}: {message}"):
        locks.locks_grid(volatility3_kdump.open(path), one=place)


def test_an_unlinked_resource(sample: Sample, tmp_path: Path) -> None:
    path = sample(6, None, "locks")
    target = volatility3_kdump.open(path)
    found = edited(target, path, tmp_path / "unlinked.dmp", {scene.FAST + 8: struct.pack("<Q", scene.SHARED)})
    lines = list(locks.locks_grid(found, one=scene.FREE).kd_lines())
    assert lines[-1] == (
        "NOTE: 0xffff918961a00200 is in no list of resources: it may be no resource, or one that was deleted"
    )


def test_threads_and_their_stacks(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, None, "locks"))
    grid = locks.locks_grid(target, verbose=True)
    lines = list(grid.kd_lines())
    start = next(index for index, line in enumerate(lines) if line.startswith("     THREAD ffff918961201080"))
    assert lines[start].endswith("WAIT: (WrResource) KernelMode Non-Alertable")
    stack = [line.rsplit(" ", 1)[1] for line in lines[start : start + 40] if "     nt!" in line][:6]
    assert stack[-3:] == [
        "nt!KeWaitForSingleObject+0x233",
        "nt!ExpWaitForResource+0x90",
        "nt!ExAcquireResourceSharedLite+0xb4",
    ]
    rows = list(grid._generator)
    assert {len(values) for _, values in rows} == {len(grid.columns)}
    names = [column.name for column in grid.columns]
    frames = [values[names.index("CallSite")] for level, values in rows if level == 2]
    assert "nt!ExpWaitForResource+0x90" in frames


def test_deadlocks(sample: Sample, run_plugin: RunVol) -> None:
    """Each of two threads waits for the resource of the other; a deadlock of mutants is not about resources."""
    path = sample(6, None, "waits")
    lines = run_plugin("-q", "-f", path, "-r", "windbg", "kdump.locks").stdout.splitlines()
    start = lines.index("NOTE: DEADLOCK 1:")
    assert len(lines[start:]) == 3
    assert [line.split(" waits ")[0] for line in lines[start + 1 :]] == [
        "NOTE:   System 4.64 (ffff9189610e5080)",
        "NOTE:   System 4.60 (ffff9189610e4080)",
    ]
    table = parsed(run_plugin("-q", "-f", path, "-r", "json", "kdump.locks").stdout)
    waiters = [row for item in table for row in item["__children"] if row["Role"] == "exclusive waiter"]
    assert [(row["Thread"], row["Deadlock"]) for row in waiters] == [
        (waits.thread_address(7, 1), 1),
        (waits.thread_address(7, 0), 1),
    ]
    assert waiters[0]["WaitChain"] == (
        "resource 0xffff918961801000 of System 4.60 -> resource 0xffff918961801100 of System 4.64"
    )


def test_rows(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(6, None, "locks"), "-r", "json", "kdump.locks")
    assert finished.returncode == 0, finished.stderr
    *resources, last = parsed(finished.stdout)
    assert last["Notes"] == "5 resources, 4 of them held"
    assert [(row["Symbol"], row["State"], row["OwningThreads"], row["ContentionCount"]) for row in resources] == [
        ("nt!PiEngineLock", "exclusive", 1, 23),
        (None, "exclusive", 1, 437),
        (None, "shared", 6, 0),
        (None, "fast resource", None, 2),
    ]
    assert [(row["Role"], row["Image"], row["Tid"], row["OwnerCount"]) for row in resources[0]["__children"]] == [
        ("owner", "System", 0x70, 1),
        ("shared waiter", "System", 0x74, None),
        ("exclusive waiter", "System", 0x78, None),
    ]
    *_, flagged, pointer = resources[2]["__children"]
    assert (flagged["OwnerThread"], flagged["Thread"], flagged["Tid"]) == (
        0xFFFF91895309D083,
        0xFFFF91895309D080,
        0x1E94,
    )
    assert (pointer["Thread"], pointer["Notes"]) == (None, "set by ExSetResourceOwnerPointer: no thread")


def test_a_note_is_said_once(sample: Sample, tmp_path: Path) -> None:
    path = sample(scene="locks")
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    count = (target.symbol("PiEngineLock") or 0) + target.nt.offset("_ERESOURCE", "NumberOfSharedWaiters")
    damaged = edited(target, path, tmp_path / "x.dmp", {count: struct.pack("<I", 9)})
    said = [line for line in locks.locks_grid(damaged).kd_lines() if "9 shared waiters are counted" in line]
    assert said == ["    NOTE: 9 shared waiters are counted, and 1 were found"]


def test_nothing_is_held(sample: Sample) -> None:
    lines = list(locks.locks_grid(volatility3_kdump.open(sample())).kd_lines())
    assert lines == [text.HEADING, text.SCANNING, "0 total locks"]


def test_small_memory_dumps(sample: Sample, run_plugin: RunVol) -> None:
    finished = run_plugin("-q", "-f", sample(4), "-r", "windbg", "kdump.locks")
    assert (finished.returncode, finished.stdout.strip()) == (1, "")
    assert "a small memory dump does not hold the pool that resources (ERESOURCE) lie in" in finished.stderr


def test_one_resource_of_a_small_memory_dump(shared_data: Path, run_plugin: RunVol) -> None:
    """The dump of a real machine holds the PnP lock, its owner, which crashed, and who waits for it."""
    path = shared_data / "dumps" / "triage_x64_19041.dmp"
    options = ("--isf-dir", shared_data / "isf", "--address", "nt!PiEngineLock")
    finished = run_plugin("-q", "-f", path, "-r", "windbg", "kdump.locks", *options)
    assert finished.returncode == 0, finished.stderr
    *lines, chain = finished.stdout.splitlines()
    assert lines == [
        "Resource @ nt!PiEngineLock (0xfffff8047c644bc0)    Exclusively owned",
        "    Contention Count = 1",
        "    NumberOfExclusiveWaiters = 1",
        "     Threads: ffffc08bde9e1640-01<*> ",
        "",
        "     Threads Waiting On Exclusive Access:",
        "              ffffc08bde0c7040       ",
        "1 total locks, 1 locks currently held",
        "",
        "NOTE: who waits for whom:",
    ]
    assert re.fullmatch(
        r"NOTE:   \S+ (\S+ )?\(ffffc08bde0c7040\) waits for the resource nt!PiEngineLock \(fffff8047c644bc0\) of "
        r".* \(ffffc08bde9e1640\)",
        chain,
    )


def test_progress(sample: Sample) -> None:
    said: list[tuple[float, str]] = []
    target = volatility3_kdump.open(sample(6, None, "locks"))
    locks.locks_grid(target, progress=lambda percent, what: said.append((percent, what)))
    assert {what for _, what in said} == {"Reading owners and waiters", "Reading threads"}
    assert all(0 <= percent <= 100 for percent, _ in said)
