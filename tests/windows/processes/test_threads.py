"""Threads against the published session, the host's plugins on every kernel layout, and damaged dumps."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import waits as scene
from tests.edited import edited
from tests.host import ADDRESS, host_kernel, plain, whole_seconds
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.target import Target
from volatility3_kdump.text.times import filetime
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.threads import Thread, read_thread

Sample = Callable[..., Path]

NOTEPAD, CRASHED = 0xFFFF91895309D080, 0xFFFF918952F55080
TICK = 156_250

#: What the published session says of Notepad's thread.
SESSION = {
    "pid": 0x1E90,
    "tid": 0x1E94,
    "owner": 0xFFFF9189527E9080,
    "attached": 0,
    "teb": 0xBB6F2AD000,
    "win32_thread": 0xFFFF9189523D0FC0,
    "state_name": "Waiting",
    "wait_reason_name": "UserRequest",
    "wait_mode": 1,
    "alertable": False,
    "wait_start": 3492,
    "wait_ticks": 12,
    "wait_time": 12 * TICK,
    "context_switches": 10798,
    "ideal_processor": 2,
    "user_time": 9 * TICK,
    "kernel_time": 21 * TICK,
    "win32_start_address": 0x7FF7E2E85A30,
    "initial_stack": 0xFFFFD48F777BFFD0,
    "stack_base": 0xFFFFD48F777C0000,
    "stack_limit": 0xFFFFD48F777BA000,
    "callback_stack": 0,
    "priority": 10,
    "base_priority": 8,
    "priority_decrement": 0,
    "io_priority": 2,
    "page_priority": 5,
    "stack_swap": True,
    "impersonating": False,
    "irps": (),
    "notes": (),
}


def test_notepad_on_every_kernel(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path)
    thread = read_thread(target, NOTEPAD)
    assert {name: getattr(thread, name) for name in SESSION} == SESSION
    waits = [(found.address, found.kind, found.kind_name) for found in thread.waits]
    assert waits == [
        (0xFFFF918953118260, 1, "EventSynchronizationObject"),
        (0xFFFF918952D83D80, 4, "QueueObject"),
    ]
    running = read_thread(target, CRASHED)
    assert (running.state_name, running.processor, running.waits) == ("Running", 2, ())
    assert [(irp.address, irp.type, irp.flags, irp.mdl) for irp in running.irps] == [
        (0xFFFF91894ED94D70, 6, 0x60000, 0)
    ]


def test_the_session_stack_pointer(sample: Sample) -> None:
    assert read_thread(volatility3_kdump.open(sample()), NOTEPAD).kernel_stack == 0xFFFFD48F777BEAD0


@pytest.mark.newest_host
def test_the_host_lists_the_same_threads(isf_path: Path, sample: Sample) -> None:
    from volatility3.plugins.windows import pslist, thrdscan, threads

    path = sample(1, isf_path, "waits")
    kernel = host_kernel(path, isf_path)
    target = volatility3_kdump.open(path, isf_file=isf_path)
    found = 0
    for process in pslist.PsList.list_processes(kernel.context, kernel.name):
        theirs = list(threads.Threads.list_threads(kernel.context, kernel.name, process))
        own = next(address for address in process_addresses(target) if address & ADDRESS == process.vol.offset)
        ours = [read_thread(target, address) for address in thread_addresses(target, own)]
        assert [thread.address & ADDRESS for thread in ours] == [int(thread.vol.offset) for thread in theirs]
        for thread, other in zip(ours, theirs, strict=True):
            found += 1
            info = thrdscan.ThrdScan.gather_thread_info(other)
            assert info is not None
            assert (thread.pid, thread.tid) == (int(info[1]), int(info[2]))
            assert [(thread.start_address or 0) & ADDRESS, (thread.win32_start_address or 0) & ADDRESS] == [
                int(other.StartAddress) & ADDRESS,
                int(other.Win32StartAddress) & ADDRESS,
            ]
            assert whole_seconds(filetime(thread.create_time)) == plain(other.get_create_time())
            assert thread.state == int(other.Tcb.State)
            assert thread.wait_reason == int(other.Tcb.WaitReason)
            assert thread.priority == int(other.Tcb.Priority.cast("unsigned char"))
            assert (thread.owner or 0) & ADDRESS == int(other.owning_process().vol.offset)
            assert thread.context_switches == int(other.Tcb.ContextSwitches)
    assert found == 23


# what they wait for -------------------------------------------------------------------------------------------------


def thread_of(target: Target, index: int) -> Thread:
    return read_thread(target, scene.thread_address(0, index))


@pytest.fixture
def busy(isf_path: Path, sample: Sample) -> Target:
    return volatility3_kdump.open(sample(6, isf_path, "waits"), isf_file=isf_path)


def test_objects_are_named(busy: Target) -> None:
    first, second = scene.thread_address(0, 0), scene.thread_address(0, 1)
    assert [(found.kind, found.owner, found.name) for found in thread_of(busy, 0).waits] == [
        (2, second, "deadlock.exe 2040.2048")
    ]
    awaited = thread_of(busy, 2).waits[0]
    assert (awaited.address, awaited.kind, awaited.tid, awaited.name) == (first, 6, 0x2044, "deadlock.exe 2040.2044")
    process, semaphore = thread_of(busy, 3).waits
    assert (process.kind, process.pid, process.name) == (3, scene.HIDDEN, "hidden.exe")
    assert (semaphore.kind, semaphore.limit) == (5, 0x10)
    assert thread_of(busy, 8).waits[0].owner == 0


def test_requests_suspension_impersonation_attachment(busy: Target) -> None:
    first = thread_of(busy, 0)
    assert [irp.flags for irp in first.irps] == [0x60070, 0x60000]
    assert first.suspend_count == 1
    impersonating = thread_of(busy, 1)
    assert (impersonating.impersonating, impersonating.impersonation_token, impersonating.impersonation_level) == (
        True,
        0xFFFFD802491AA060,
        2,
    )
    attached = thread_of(busy, 8)
    assert attached.owner == scene.process_address(0)
    assert attached.attached == attached.process == scene.process_address(3)
    assert read_thread(busy, scene.thread_address(3, 0)).stack_resident is False


def test_names_and_states(busy: Target) -> None:
    nt = busy.nt
    assert nt is not None
    assert thread_of(busy, 0).name == ("Watch\x07dog" if nt.has("_ETHREAD", "ThreadName") else None)
    states = [thread_of(busy, index).state_name for index in (4, 6, 7)]
    assert states == ["Ready", "Standby", "Terminated"]


def test_wait_reasons_are_those_of_the_kernel(isf_path: Path, sample: Sample) -> None:
    """The value of a reason differs between kernels: a later name moves up when one is added before it."""
    target = volatility3_kdump.open(sample(6, isf_path, "waits"), isf_file=isf_path)
    table = load_table_file(isf_path).enum("_KWAIT_REASON")
    thread = read_thread(target, scene.thread_address(7, 0))
    assert thread.wait_reason_name == table[27] == "WrResource"


# small memory dumps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, address, ids, stack",
    [
        ("triage_x64_19041", 0xFFFFC08BDE9E1640, (4, 264), (0xFFFF85042988D000, 0xFFFF850429893000)),
        ("triage_arm64_22000", 0xFFFFBB8EB1719180, (4, 0x20), (0xFFFFE00E0E4B5000, 0xFFFFE00E0E4BD000)),
    ],
)
def test_thread_of_real_small_memory_dumps(
    shared_data: Path, name: str, address: int, ids: tuple[int, int], stack: tuple[int, int]
) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp", [shared_data / "isf"])
    thread = crash_thread(target)
    assert thread is not None
    assert (thread.address, (thread.pid, thread.tid)) == (address, ids)
    assert (thread.stack_limit, thread.stack_base) == stack
    assert thread.state_name == "Running"
    # Few small memory dumps hold the length of a tick, none the present one.
    assert (thread.user_time, thread.wait_time) == (0, None)
    assert (thread.kernel_time is None) == ("arm64" not in name)


# damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(sample: Sample, tmp_path: Path) -> Callable[..., Thread]:
    path = sample()
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    nt = target.nt

    def change(field: str, content: bytes, thread: int = NOTEPAD) -> Thread:
        changes = {thread + nt.offset("_ETHREAD", field): content}
        return read_thread(edited(target, path, tmp_path / "damaged.dmp", changes), thread)

    return change


@pytest.mark.parametrize(
    "field, content, words",
    [
        ("Tcb.WaitBlockList", struct.pack("<Q", 0x7FF712345678), "is no kernel address"),
        ("Tcb.WaitBlockList", struct.pack("<Q", 0xFFFFBEEF00000000), "are not in the dump"),
        ("Tcb.WaitBlockCount", b"\xff", "255 wait blocks: impossible"),
        ("Tcb.WaitTime", struct.pack("<I", 0x80000000), "but the crash was at tick 3504"),
        ("IrpList", struct.pack("<Q", 0x1000), "is 0x1000, which is no kernel structure"),
        ("IrpList", struct.pack("<Q", 0xFFFFBEEF00000000), "the entry at 0xffffbeef00000000 is not in the dump"),
    ],
)
def test_damage_is_said_and_costs_no_more(
    changed: Callable[..., Thread], field: str, content: bytes, words: str
) -> None:
    thread = changed(field, content)
    assert any(words in note for note in thread.notes)
    assert (thread.tid, thread.state_name) == (0x1E94, "Waiting")


def test_a_wait_for_what_is_no_address(changed: Callable[..., Thread]) -> None:
    thread = changed("Tcb.WaitBlock", bytes(0x20) + struct.pack("<Q", 0x1234))
    assert thread.waits[0].kind is None
    assert any("it waits for 0x1234" in note for note in thread.notes)
    assert thread.waits[1].kind == 4


def test_states_that_nobody_knows(changed: Callable[..., Thread]) -> None:
    assert changed("Tcb.State", b"\x63").state_name == "state 99"
    assert changed("Tcb.WaitReason", b"\x63").wait_reason_name == "reason 99"


def test_nothing_of_a_thread(sample: Sample) -> None:
    thread = read_thread(volatility3_kdump.open(sample()), 0xFFFFBEEF00000000)
    assert (thread.tid, thread.state, thread.present) == (None, None, False)
    assert len(thread.notes) == 1
    assert thread.notes[0].startswith("ETHREAD is not in the dump: ")


def test_a_thread_whose_page_is_missing(sample: Sample, tmp_path: Path) -> None:
    """Its process still names it."""
    path = sample()
    target = volatility3_kdump.open(path)
    damaged = edited(target, path, tmp_path / "part.dmp", absent=(NOTEPAD,))
    assert thread_addresses(damaged, 0xFFFF9189527E9080) == [NOTEPAD]
    assert not read_thread(damaged, NOTEPAD).present
