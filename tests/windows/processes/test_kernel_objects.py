"""Jobs and ALPC ports, in the layout of the documentation's page of ``!job`` and of published ``!alpc`` output."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes.kernel_objects import APC, CLIENT, CONNECTION, JOB, LOOKASIDE, MESSAGE, SERVER
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target
from volatility3_kdump.text.kernel_state import lookaside_lines
from volatility3_kdump.windows.machine.bug_check_callbacks import bug_check_callbacks
from volatility3_kdump.windows.machine.processor_state import task_state
from volatility3_kdump.windows.memory.lookaside import Lookaside
from volatility3_kdump.windows.processes.alpc import all_ports, read_port
from volatility3_kdump.windows.processes.jobs import all_jobs, read_job

Sample = Callable[..., Path]


@pytest.fixture
def target(sample: Sample, isf_path: Path) -> Target:
    return volatility3_kdump.open(sample(1, isf_path, "kernel-objects"), isf_file=str(isf_path))


@pytest.fixture
def session(target: Target) -> Session:
    return session_on(target)


def test_a_job(target: Target, session: Session) -> None:
    assert all_jobs(target) == ([JOB], ())
    job = read_job(target, JOB)
    assert job.processes[0].name == "notmyfault64.exe"
    assert job.problems == ()
    lines = answer(session, "!job")
    assert lines[:11] == [
        f"Job at {JOB:x}",
        "  TotalPageFaultCount      1234",
        "  TotalProcesses           3",
        "  ActiveProcesses          2",
        "  TotalTerminatedProcesses 1",
        "  LimitFlags               2000",
        "  MinimumWorkingSetSize    0",
        "  MaximumWorkingSetSize    0",
        "  ActiveProcessLimit       8",
        "  PriorityClass            0",
        "  UIRestrictionsClass      0",
    ]
    assert answer(session, f"!job {JOB:x}") == lines
    assert answer(session, "!job $thread 2")[3].startswith("    PROCESS ffff91895301a080")
    assert "is in no job" in answer(session, "!job 4")[0]
    link = target.nt.offset("_EJOB", "ProcessListHead")
    torn = read_job(patched(target, {JOB + link: bytes(8)}), JOB)
    assert torn.problems and torn.processes


def test_ports_and_messages(target: Target, session: Session) -> None:
    ports, problems = all_ports(target)
    assert [(port.address, port.kind) for port in ports] == [
        (CONNECTION, "ALPC_CONNECTION_PORT"),
        (CLIENT, "ALPC_CLIENT_COMMUNICATION_PORT"),
        (SERVER, "ALPC_SERVER_COMMUNICATION_PORT"),
    ]
    assert problems == ()
    lines = answer(session, f"!alpc /p {CONNECTION:x}")
    assert lines[:2] == [f"Port @ {CONNECTION:x}", "  Type                      : ALPC_CONNECTION_PORT"]
    assert "  SequenceNo                : 0x000003C9 (969)" in lines
    assert "  Waitable                  : Yes" in lines
    assert lines[-5:] == [
        "  Main queue is empty.",
        "  Large message queue is empty.",
        "  Pending queue has 1 message(s)",
        f"    {MESSAGE:x}",
        "  Canceled queue is empty.",
    ]
    lines = answer(session, f"!alpc /m {MESSAGE:x}")
    owner = read_port(target, CONNECTION).owner
    assert owner is not None
    assert lines[:7] == [
        f"Message @ {MESSAGE:x}",
        "  MessageID             : 0x0BFC (3068)",
        "  CallbackID            : 0x0000 (0)",
        "  SequenceNumber        : 0x0004D4D4 (316628)",
        "  Type                  : LPC_REQUEST",
        "  DataLength            : 0x0068 (104)",
        "  TotalLength           : 0x0090 (144)",
    ]
    assert "  QueueType             : ALPC_MSGQUEUE_PENDING" in lines
    assert f"  QueuePortOwnerProcess : {owner.address:x} ({owner.name})" in lines
    lines = answer(session, f"!alpc /lpp {owner.address:x}")
    assert lines[2:4] == [
        f"\t{CONNECTION:x}(''), 1 connections",
        f"\t\t{SERVER:x} -> {CLIENT:x} ffff91895301a080 (notmyfault64.exe)",
    ]
    assert answer(session, "!alpc /lpp ffff91895301a080")[-1].startswith(f"\t{CLIENT:x} -> {CONNECTION:x}('') ")
    assert answer(session, "!alpc") == ["!alpc takes /lpp PROCESS, /p PORT or /m MESSAGE (.help !alpc)"]
    assert (
        answer(session, "!alpc /p 0")[0].startswith("an ALPC port at 0x0: ")
        or "0x0" in answer(session, "!alpc /p 0")[0]
    )


def test_states_of_the_kernel(target: Target, session: Session) -> None:
    """APCs, lookaside lists, interprocessor interrupts, callbacks; names that are no text are not shown as such."""
    lines = answer(session, "!apc thre @$thread")
    assert lines[1] == f"    KAPC @ {APC:x} KernelMode"
    assert lines[3].endswith(" nt!IopCompleteRequest")
    assert answer(session, f"!apc {APC:x}") == lines[1:7]
    assert answer(session, "!apc proc ffff91895301a080")[1:] == lines[1:]
    assert answer(session, "!apc")[:2] == [
        "*** Enumerating APCs in all processes",
        f"Process {target.memory.pointer(target.symbol('PsInitialSystemProcess')):x} System",
    ]
    assert answer(session, "!apc proc") == ["!apc proc needs an address"]
    lists = answer(session, "!lookaside -all")
    # No line breaks off, and no byte of a tag reaches the terminal that is no character.
    assert [line for line in lists if "Tag(hex)" in line] == [
        f'Lookaside "" @ 0x{LOOKASIDE:x}  Tag(hex): 0x6e657645 "Even"',
        f'Lookaside "" @ 0x{LOOKASIDE + 0x80:x}  Tag(hex): 0x5b1b4d43 "?"',
    ]
    assert answer(session, f"!lookaside {LOOKASIDE:x} 1") == ["!lookaside: a dump cannot be changed: the option is 0"]
    assert answer(session, "!ipi 1")[:2] == ["IPI State for Processor 1", "  IPI Frozen:      2 [Frozen]"]
    assert "no control block of such a processor" in answer(session, "!ipi 9")[0]
    assert "0 callbacks are registered" in answer(session, "!bugdump")


def test_the_documented_lookaside_list() -> None:
    """The values and lines of the page of ``!lookaside``."""
    found = Lookaside(0xFFFFF88001294F80, 0, 4, 272492, 8, 272488, 0, 0x11, 0x7366744E, 496)
    assert list(lookaside_lines(found)) == [
        'Lookaside "" @ 0xfffff88001294f80  Tag(hex): 0x7366744e "Ntfs"',
        "    Type           =       0011  PagedPool RaiseIfAllocationFailure",
        "    Current Depth  =          0  Max Depth  =          4",
        "    Size           =        496  Max Alloc  =       1984",
        "    AllocateMisses =          8  FreeMisses =          0",
        "    TotalAllocates =     272492  TotalFrees =     272488",
        "    Hit Rate       =         99%  Hit Rate   =        100%",
    ]


def test_callbacks_and_task_states(target: Target) -> None:
    """Records as ``wdm.h`` lays them out; a task state segment as the processor does (AMD64, volume 2, 12.2.5)."""
    at, head = LOOKASIDE + 0x400, target.symbol("KeBugCheckCallbackListHead")
    assert head is not None
    component = at + 0x80
    record = struct.pack("<5QQ", head, head, target.symbol("KeBugCheckEx") or 0, 0x1000, 0x40, component)
    changed = patched(target, {head: struct.pack("<2Q", at, at), at: record, component: b"disk\0"})
    callback = next(bug_check_callbacks(changed, []))
    assert (callback.component, callback.symbol, callback.length) == ("disk", "nt!KeBugCheckEx", 0x40)
    stacks = [0xFFFFF80000001000 + 0x1000 * number for number in range(10)]
    segment = struct.pack("<I3QQ7QQHH", 0, *stacks[:3], 0, *stacks[3:], 0, 0, 0x68)
    task = task_state(patched(target, {at: segment}), at)
    assert (task.rings, task.interrupt_stacks, task.io_map) == (tuple(stacks[:3]), tuple(stacks[3:]), 0x68)
