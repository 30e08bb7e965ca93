"""Objects that processes share: a job with two processes, an ALPC connection with a message, APCs, lookaside lists."""

from __future__ import annotations

import dataclasses

from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Record, Scene, Variable
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add
from volatility3_kdump.layout import Layouts

JOB = 0xFFFF91894F610010
CONNECTION, CLIENT, SERVER = 0xFFFF91894F620100, 0xFFFF91894F620500, 0xFFFF91894F620900
_INFORMATION, MESSAGE = 0xFFFFD80261000010, 0xFFFFD80261001010
APC, LOOKASIDE = 0xFFFF91894F630010, 0xFFFF91894F640000


def _ring(*places: int) -> list[Record]:
    """A list of these LIST_ENTRYs."""
    count = len(places)
    return [
        Record(place, places[(at + 1) % count].to_bytes(8, "little") + places[at - 1].to_bytes(8, "little"))
        for at, place in enumerate(places)
    ]


@scene("kernel-objects")
def kernel_objects(layouts: Layouts) -> Scene:
    """A job with notmyfault64 and its parent; an ALPC port with a client whose message waits; a queued kernel APC."""
    made = high_irql_fault()
    if not layouts.has_type("_EJOB") or not layouts.has_type("_ALPC_PORT"):
        return made

    def symbol(name: str) -> int:
        return made.kernel_base + (layouts.symbol(name) or 0)

    members = [made.processes[-1].address, made.processes[-2].address]
    thread = made.processes[-1].threads[0].address
    owner, client = made.processes[1].address, members[0]
    records = [
        *_ring(symbol("PspJobList"), JOB + layouts.offset("_EJOB", "JobLinks")),
        *_ring(
            JOB + layouts.offset("_EJOB", "ProcessListHead"),
            *(process + layouts.offset("_EPROCESS", "JobLinks") for process in members),
        ),
        *_ring(symbol("AlpcpPortList"), *(port for port in (CONNECTION, CLIENT, SERVER))),
    ]
    ports = {CONNECTION: owner, CLIENT: client, SERVER: owner}
    for port in ports:
        for queue in ("MainQueue", "LargeMessageQueue", "PendingQueue", "CanceledQueue"):
            entries = [MESSAGE] if (port, queue) == (CONNECTION, "PendingQueue") else []
            records += _ring(port + layouts.offset("_ALPC_PORT", queue), *entries)
    apcs = thread + layouts.offset("_KTHREAD", "ApcState.ApcListHead")
    records += _ring(apcs, APC + layouts.offset("_KAPC", "ApcListEntry"))
    records += _ring(apcs + 16)
    heads = [symbol(f"Ex{kind}LookasideListHead") for kind in ("NPaged", "Paged")]
    entry = layouts.offset("_GENERAL_LOOKASIDE", "ListEntry")
    records += [*_ring(heads[0], LOOKASIDE + entry), *_ring(heads[1], LOOKASIDE + 0x80 + entry)]
    structures = [
        KernelStructure(
            "_EJOB",
            JOB,
            {
                "TotalPageFaultCount": 0x1234,
                "TotalProcesses": 3,
                "ActiveProcesses": 2,
                "TotalTerminatedProcesses": 1,
                "LimitFlags": 0x2000,
                "ActiveProcessLimit": 8,
                "JobId": 5,
            },
        ),
        *(KernelStructure("_EPROCESS", process, {"Job": JOB}) for process in members),
        *(
            KernelStructure(
                "_ALPC_PORT",
                port,
                {
                    "CommunicationInfo": _INFORMATION,
                    "OwnerProcess": process,
                    "SequenceNo": 0x3C9,
                    "u1.s1.Initialized": 1,
                    "u1.s1.Waitable": port == CONNECTION,
                },
            )
            for port, process in ports.items()
        ),
        KernelStructure(
            "_ALPC_COMMUNICATION_INFO",
            _INFORMATION,
            {"ConnectionPort": CONNECTION, "ServerCommunicationPort": SERVER, "ClientCommunicationPort": CLIENT},
        ),
        KernelStructure(
            "_KALPC_MESSAGE",
            MESSAGE,
            {
                "SequenceNo": 0x4D4D4,
                "OwnerPort": CLIENT,
                "WaitingThread": thread,
                "PortQueue": CONNECTION,
                "PortMessage.MessageId": 0xBFC,
                "PortMessage.u1.s1.DataLength": 0x68,
                "PortMessage.u1.s1.TotalLength": 0x90,
                "PortMessage.u2.s2.Type": 0x2001,
                "u1.s1.Ready": 1,
            },
        ),
        KernelStructure(
            "_KAPC",
            APC,
            {
                "KernelRoutine": symbol("IopCompleteRequest"),
                "Thread": thread,
                "ApcMode": 0,
                "Inserted": 1,
                "NormalRoutine": 0,
            },
        ),
        *(
            KernelStructure(
                "_GENERAL_LOOKASIDE",
                LOOKASIDE + 0x80 * number,
                {
                    "Depth": 4,
                    "MaximumDepth": 256,
                    "TotalAllocates": 100,
                    "AllocateMisses": 20,
                    "TotalFrees": 90,
                    "FreeMisses": 9,
                    "Type": number,
                    "Tag": int.from_bytes(tag, "little"),
                    "Size": 0x70,
                },
            )
            for number, tag in enumerate((b"Even", b"CM\x1b["))
        ),
    ]
    made = add(made, structures=structures, records=records)
    return dataclasses.replace(made, variables=(*made.variables, Variable("KeNumberNodes", 1, 2)))
