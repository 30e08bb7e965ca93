"""``kdump.stack`` against the session, on every dump type, and on real small memory dumps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import transcript
from tests.output import lines, rows


def test_stack_text_equals_the_session(sample, run_plugin):
    assert transcript.STACK_TEXT in run_plugin("-f", sample(), "-r", "windbg", "kdump.analyze").stdout


def test_kv_after_trap_equals_the_session(sample, run_plugin):
    finished = run_plugin("-f", sample(), "-r", "windbg", "kdump.stack", "--trap", "ffffd48f`77af97e0")
    assert finished.stdout == transcript.KV_AFTER_TRAP


def test_kv_notes_the_trap_frame_of_the_fault(sample, run_plugin):
    shown = lines(run_plugin("-f", sample(), "-r", "windbg", "kdump.stack"))
    assert shown[3].endswith(": nt!KiPageFault+0x469 (TrapFrame @ ffffd48f`77af97e0)")
    # Without its notes and numbers, kv is STACK_TEXT.
    bare = [line[3:].split(" (TrapFrame")[0] for line in shown[1:]]
    assert bare == transcript.STACK_TEXT.splitlines()[1:]


def test_waiting_thread_equals_the_session(sample, run_plugin):
    """The embedded layout is that of !process; here k shows the same columns."""
    shown = lines(
        run_plugin("-f", sample(), "-r", "windbg", "kdump.stack", "--thread", "ffff91895309d080", "--layout", "k")
    )
    expected = [line.strip() for line in transcript.NOTEPAD_STACK.splitlines()[1:]]
    got = [line[3:] for line in shown[2:]]
    assert len(got) == len(expected)
    for ours, published in zip(got, expected, strict=True):
        assert ours.endswith(published.split(" (TrapFrame")[0])
    # The row whose Child-SP the published text lost still has one here.
    assert got[7].startswith("ffffd48f`777bfd90 fffff800`62a08bb5")


@pytest.mark.parametrize("dump_type", (1, 2, 4, 5, 8, 9, 10))
def test_every_type_gives_the_same_crash_stack(sample, run_plugin, dump_type):
    table = rows(run_plugin("-f", sample(dump_type), "-r", "json", "kdump.stack"))
    expected = rows(run_plugin("-f", sample(6), "-r", "json", "kdump.stack"))
    wanted = [(row["ChildSp"], row["RetAddr"], row["CallSite"]) for row in expected]
    got = [(row["ChildSp"], row["RetAddr"], row["CallSite"]) for row in table]
    if dump_type == 4:
        # No images in a small memory dump: the fixed frames of the fault are exact, what is above is a scan.
        assert got[:4] == wanted[:4]
        assert [row["Trust"] for row in table[:4]] == ["context", "unwind", "trap frame", "trap frame"]
        assert all(row["Trust"] in ("scan", "end") for row in table[4:-1])
        # The trap frame of the system call is on the stack.
        assert (got[-1], table[-1]["Trust"]) == (wanted[-1], "trap frame")
        assert "myfault+0x1d3d" in [row["CallSite"] for row in table]
    else:
        assert got == wanted
        assert {row["Trust"] for row in table} == {"context", "unwind", "trap frame"}


def test_arm64_waiting_thread_of_a_real_dump(shared_data: Path, run_plugin):
    """21 frames behind the switch frame, as an independent walk of the frame records gives them."""
    dump = shared_data / "dumps" / "triage_arm64_22000.dmp"
    table = rows(run_plugin("-f", dump, "-r", "json", "kdump.stack", "--thread", "ffffbb8ebafe2280"))
    assert len(table) == 22
    assert [row["Trust"] for row in table[1:]] == ["frame pointer"] * 21
    modules = [row["CallSite"].split("+")[0] for row in table]
    assert modules == ["nt"] * 7 + ["win32kbase"] * 2 + ["win32k"] + ["nt"] * 12


def test_processors_and_threads(sample, run_plugin):
    table = rows(run_plugin("-f", sample(), "-r", "json", "kdump.stack", "--all-cpus"))
    tops = {row["Thread"]: row["CallSite"] for row in table if row["Frame"] == 0}
    assert sorted(tops.values()) == ["nt!HalProcessorIdle+0xf", "nt!HalProcessorIdle+0xf", "nt!KeBugCheckEx"]
    notepad = rows(run_plugin("-f", sample(), "-r", "json", "kdump.stack", "--pid", "0x1e90"))
    assert {row["Tid"] for row in notepad} == {0x1E94}
    named = {(row["Image"], row["Pid"], row["Process"]) for row in notepad}
    assert named == {("notepad.exe", 0x1E90, 0xFFFF9189527E9080)}


def test_unique_counts_threads(sample, run_plugin):
    every = rows(run_plugin("-f", sample(), "-r", "json", "kdump.stack", "--all"))
    unique = rows(run_plugin("-f", sample(), "-r", "json", "kdump.stack", "--all", "--unique"))
    threads = {row["Thread"] for row in every}
    assert sum({row["Thread"]: row["Threads"] for row in unique}.values()) == len(threads)
    assert len({row["Thread"] for row in unique}) <= len(threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trap", "ffffd48f77af9970"), "no trap frame at 0xffffd48f77af9970"),
        (("--context", "fffff80062600000"), "no context record at 0xfffff80062600000"),
        (("--trap", "nonsense!"), "is not an address"),
        (("--trap", "nosuch!symbol"), "no loaded module is named nosuch"),
        (("--frames", "0"), "--frames is 0: use a number from 1 to 1024"),
    ],
)
def test_bad_start(sample, run_plugin, arguments, message):
    finished = run_plugin("-f", sample(), "kdump.stack", *arguments)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_frames_option(sample, run_plugin):
    table = rows(run_plugin("-f", sample(), "-r", "json", "kdump.stack", "--frames", "3"))
    assert [row["Frame"] for row in table if row["Frame"] is not None] == [0, 1, 2]
    assert table[-1]["Trust"] == "end"
