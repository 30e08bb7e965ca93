"""Jobs and ALPC ports, in the layout of the documentation's page of ``!job`` and of published ``!alpc`` output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes.kernel_objects import CLIENT, CONNECTION, JOB, MESSAGE, SERVER
from tests.patched import patched
from tests.prompt import answer
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.alpc import all_ports, read_port
from volatility3_kdump.windows.processes.jobs import all_jobs, read_job

Sample = Callable[..., Path]


@pytest.fixture
def target(sample: Sample, isf_path: Path) -> Target:
    return volatility3_kdump.open(sample(1, isf_path, "kernel-objects"), isf_file=str(isf_path))


@pytest.fixture
def session(target: Target) -> Session:
    opened = Session(Options(offline=True))
    opened.dumps.append(OpenDump(target.name, target))
    return opened


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
