"""MEX's commands in the columns of published sessions, and ``!uniqstack``, ``!findstack``, ``.tlist``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target
from volatility3_kdump.text.mex import duration


@pytest.fixture(scope="module")
def opened_waits(sample: Callable[..., Path]) -> Target:
    return Target.open(sample(scene="waits"))


@pytest.fixture
def waits(opened_waits: Target) -> Session:
    """A session over threads in every state."""
    return session_on(opened_waits)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0.046, "46ms"), (3.218, "3s.218"), (85.171, "1m:25.171"), (827.64, "13m:47.640"), (None, "?")],
)
def test_durations_of_published_sessions(seconds: float | None, text: str) -> None:
    assert duration(None if seconds is None else round(seconds * 10_000_000)) == text


def test_threads_by_reason(waits: Session) -> None:
    """The columns of a published ``!mex.lt PROCESS -wr WrResource``."""
    expected = [
        "Process PID Thread           Id State   Time   Reason",
        "======= === ================ == ======= ====== ==========",
        "System    4 ffff9189610e4080 60 Waiting 7s.875 WrResource",
        "System    4 ffff9189610e5080 64 Waiting 7s.718 WrResource",
        "",
        "Thread Count: 2",
    ]
    assert answer(waits, "!mex.lt ffff91894c27a040 -wr WrResource") == expected
    assert answer(waits, "!lt -a -wr wrresource") == expected
    assert answer(waits, "!lt -a -wr wrresource -state ready")[-1] == "Thread Count: 0"


def test_what_the_threads_of_each_process_do(waits: Session) -> None:
    lines = answer(waits, "!mex.tl -t")
    assert lines[0] == lines[-1]
    assert lines[0].split() == ["PID", "Address", "Name", "Rn", "Ry", "Bk", "Lc", "IO", "Er"]
    rows = {line.split()[3]: line.split()[4:] for line in lines if line.startswith("0x")}
    assert rows["System"] == [".", ".", ".", ".", ".", "2"]
    assert rows["deadlock.exe"] == [".", "3", ".", ".", "1", "."]
    assert rows["notmyfault64.exe"] == ["1", ".", ".", ".", "1", "."]
    assert answer(waits, "!tl NOTE")[2] == "0x1e90 0n7824 ffff9189527e9080 notepad.exe"


def test_names_do_not_shift_columns(waits: Session) -> None:
    """A name with a control character is as wide as it is shown."""
    lines = answer(waits, "!tl -t")
    assert len({len(line) for line in lines}) == 1


def test_a_thread_with_its_stack(waits: Session) -> None:
    lines = answer(waits, "!mex.t ffff91895309d080")
    assert lines[0].split() == "Process Thread CID UserTime KernelTime ContextSwitches Wait Reason Time State".split()
    assert lines[1].split() == [
        *("notepad.exe", "(ffff9189527e9080)", "ffff91895309d080", "1e90.1e94", "140ms", "328ms", "10798"),
        *("UserRequest", "187ms", "Waiting"),
    ]
    assert lines[3:7] == [
        "WaitBlockList:",
        "    Object           Type",
        "    ffff918953118260 EventSynchronizationObject",
        "    ffff918952d83d80 QueueObject",
    ]
    assert lines[8:11] == [
        "Priority:",
        "    Current Base Decrement ForegroundBoost IO Page",
        "    10      8    0         0               2  5",
    ]
    assert lines[12:14] == [
        "# Child-SP         Return           Call Site",
        "0 ffffd48f777beb10 fffff8006280c970 nt!KiSwapContext+0x76",
    ]
    assert answer(waits, "!t -t 1e94") == lines


def test_running_and_ready_threads(waits: Session) -> None:
    lines = answer(waits, "!mex.running")
    assert lines[0].split() == (
        "Process PID Thread Id Pri Base Pri Next CPU CSwitches User Kernel State Time Reason".split()
    )
    assert lines[2].split()[:9] == "notmyfault64.exe 1c58 ffff918952f55080 1c5c 12 8 2 842 46ms".split()
    assert lines[-1] == "Count: 1"
    assert answer(waits, "!mex.ready")[-1] == "Count: 3"
    # KD's own command is another.
    assert answer(waits, "!running")[0].startswith("System Processors")


def test_stacks_once(waits: Session) -> None:
    lines = answer(waits, "!mex.us -cpu")
    assert lines[:2] == ["1 thread [stats]: ffff918952f55080", "    fffff800629f71c0 nt!KeBugCheckEx"]
    assert lines[-1] == "Threads matching filter: 1 out of 23"
    everything = answer(waits, "!us -a")
    heads = [int(line.split()[0]) for line in everything if "[stats]:" in line]
    assert heads == sorted(heads)
    assert sum(heads) == 23
    assert everything[-1] == f"{len(heads)} stack(s) with 23 threads displayed (23 Total threads)"
    assert answer(waits, "!us -a ExAcquireResource")[-1] == "Threads matching filter: 2 out of 23"
    assert answer(waits, "!uniqstack")[-1] == "1 stack(s) with 1 threads displayed (1 Total threads)"


def test_threads_with_a_frame(waits: Session) -> None:
    lines = answer(waits, "!findstack -a ExAcquireResource")
    assert lines[:2] == [
        "Thread ffff9189610e4080, 1 frame(s) match",
        "        * 05 ffffd48f7937fdd0 fffff800628b8515 nt!ExAcquireResourceExclusiveLite+0xa8",
    ]
    assert len(answer(waits, "!findstack -p ffff91894c27a040 ExAcquireResource 0")) == 2
    whole = answer(waits, "!findstack -a ExAcquireResource 2")
    assert whole[1] == "          00 ffffd48f7937f910 fffff8006280c970 nt!KiSwapContext+0x76"
    assert answer(waits, "!findstack zzz") == ["No thread has a frame with zzz in its name"]


def test_processes(waits: Session) -> None:
    assert answer(waits, ".tlist note") == [" 0n7824 notepad.exe"]
    assert answer(waits, "!mex.p ffff9189527e9080")[2].split()[:6] == [
        *("notepad.exe", "ffff9189527e9080", "2", "1e90", "(0n7824)", "15e8"),
    ]
    assert answer(waits, "!di")[-1] == "Bugcheck: D1 (FFFFD8024AAA8010, 2, 0, FFFFF80060DA1981)"


def test_the_same_as_the_commands_behind_them(waits: Session) -> None:
    assert answer(waits, "!ddt nt!_KTHREAD @$thread Priority") == answer(waits, "dt nt!_KTHREAD @$thread Priority")
    lines = answer(waits, "!mex.eresource ffff918961801000")
    assert lines[0] == "Resource @ 0xffff918961801000    Exclusively owned"


def test_small_dumps_say_what_they_lack(sample: Callable[..., Path]) -> None:
    path = sample(4)
    session = session_on(Target.open(path))
    assert answer(session, "!mex.t")[1].startswith("notmyfault64.e (")
    assert "the list of processes is not in the dump" in answer(session, "!tl")[0]


@pytest.mark.parametrize(
    "line",
    [
        *("!us -q", "!tl -q", "!t -q", "!lt -q", "!mex.running -q", "!mex.ready -q", "!di -q", "!mex.p -q"),
        *("!eresource -q", "!findstack x -q", "!uniqstack -q", ".tlist -q"),
    ],
)
def test_what_is_refused(session: Session, line: str) -> None:
    (shown,) = answer(session, line)
    assert "knows no option -q" in shown


def test_a_process_by_its_address(session: Session) -> None:
    """``!tl fffffa800b1bab50`` of a published session."""
    address = session.evaluate("@$proc")
    named = answer(session, "!tl notmyfault")
    assert answer(session, f"!tl {address:x}") == answer(session, f"!mex.tl 0x{address:x}") == named
    assert answer(session, "!tl fffffa800b1bab50")[0].endswith("none has fffffa800b1bab50 in its name")
