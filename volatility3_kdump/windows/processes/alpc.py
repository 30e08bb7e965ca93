"""ALPC ports and messages: ``_ALPC_PORT``, ``_ALPC_COMMUNICATION_INFO``, ``_KALPC_MESSAGE``, ``nt!AlpcpPortList``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.processes.namespace import object_name
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

CONNECTION, SERVER, CLIENT = "ALPC_CONNECTION_PORT", "ALPC_SERVER_COMMUNICATION_PORT", "ALPC_CLIENT_COMMUNICATION_PORT"
_MOST_PORTS, _MOST_MESSAGES = 1 << 16, 1 << 14
_FLAGS = ("ConnectionPending", "ConnectionRefused", "Disconnected", "Closed", "ReturnExtendedInfo", "Waitable", "Lpc")
_MESSAGE_FLAGS = ("Canceled", "Ready", "ReleaseMessage", "ReplyWaitReply", "SharedQuota")
#: Queues of a port, by the debugger's names.
QUEUES = {
    "Main": "MainQueue",
    "Large message": "LargeMessageQueue",
    "Pending": "PendingQueue",
    "Canceled": "CanceledQueue",
}
#: LPC_* message types of the public ``ntlpcapi.h`` of the phnt headers.
_TYPES = (
    *("LPC_NEW_MESSAGE", "LPC_REQUEST", "LPC_REPLY", "LPC_DATAGRAM", "LPC_LOST_REPLY", "LPC_PORT_CLOSED"),
    *("LPC_CLIENT_DIED", "LPC_EXCEPTION", "LPC_DEBUG_EVENT", "LPC_ERROR_EVENT", "LPC_CONNECTION_REQUEST"),
    *("LPC_CONNECTION_REPLY", "LPC_CANCELED", "LPC_UNREGISTER_PROCESS"),
)


@dataclass(frozen=True)
class Owner:
    """A process that a port belongs to."""

    address: int
    name: str | None


@dataclass(frozen=True)
class AlpcPort:
    """A port; ``None`` is not in the dump. ``queues`` are the messages in each queue by :data:`QUEUES`, ``flags`` the
    names of those that are set."""

    address: int
    name: str | None
    information: int | None
    connection: int | None
    client: int | None
    server: int | None
    owner: Owner | None
    sequence: int | None
    completion: int | None
    flags: dict[str, bool]
    queues: dict[str, tuple[int, ...]]
    problems: tuple[str, ...]

    @property
    def kind(self) -> str | None:
        """Which of the three ends of a connection it is."""
        return {self.server: SERVER, self.client: CLIENT, self.connection: CONNECTION}.get(self.address)


@dataclass(frozen=True)
class AlpcMessage:
    """A message; ``queue`` is the one of its port that holds it, by :data:`QUEUES`."""

    address: int
    identifier: int | None
    callback: int | None
    sequence: int | None
    kind: str | None
    data_length: int | None
    total_length: int | None
    flags: dict[str, bool]
    owner_port: int | None
    waiting: int | None
    queue: str | None
    port: AlpcPort | None
    server_thread: int | None
    connection: int | None


def read_port(target: Target, address: int, queues: bool = True) -> AlpcPort:
    """The port at an address. Raises :class:`KdumpError` where it is not in the dump."""
    nt = require_symbols(target, "ALPC ports", "_ALPC_PORT", "_ALPC_COMMUNICATION_INFO", "_KALPC_MESSAGE")
    paths = {
        "information": "CommunicationInfo",
        "owner": "OwnerProcess",
        "sequence": "SequenceNo",
        "completion": "CompletionPort",
        **{name: f"u1.s1.{name}" for name in _FLAGS},
    }
    row: Any = read_row(target.memory, nt.reader("_ALPC_PORT", **paths), address)
    if row is None:
        raise Unreadable.at(address, "an ALPC port", target.memory.why_unreadable(address))
    ends: Any = None
    if row.information:
        ends = read_row(
            target.memory,
            nt.reader(
                "_ALPC_COMMUNICATION_INFO",
                connection="ConnectionPort",
                server="ServerCommunicationPort",
                client="ClientCommunicationPort",
            ),
            row.information,
        )
    problems: list[str] = []
    held: dict[str, tuple[int, ...]] = {}
    entry = nt.offset("_KALPC_MESSAGE", "Entry")
    for name, field in QUEUES.items() if queues else ():
        head = address + nt.offset("_ALPC_PORT", field)
        if target.memory.pointer(head) == 0:
            # A kernel list is never 0: the port was not initialised.
            held[name] = ()
            continue
        walk = walk_list(target.memory, head, _MOST_MESSAGES, f"{field} of the port {address:x}")
        held[name] = tuple(link - entry for link in walk.entries)
        problems += walk.problems
    return AlpcPort(
        address,
        object_name(target, address),
        row.information,
        ends.connection if ends is not None else None,
        ends.client if ends is not None else None,
        ends.server if ends is not None else None,
        # The low bit of an owner marks that it has closed the port.
        _owner(target, row.owner),
        row.sequence,
        row.completion,
        {name: bool(getattr(row, name)) for name in _FLAGS if getattr(row, name) is not None},
        held,
        tuple(problems),
    )


def _owner(target: Target, value: int | None) -> Owner | None:
    if not value:
        return None
    process = value & ~1
    return Owner(process, read_process(target, process).name)


def read_message(target: Target, address: int) -> AlpcMessage:
    """The message at an address. Raises :class:`KdumpError` where it is not in the dump."""
    nt = require_symbols(target, "ALPC messages", "_ALPC_PORT", "_KALPC_MESSAGE", "_PORT_MESSAGE")
    paths = {
        "sequence": "SequenceNo",
        "owner": "OwnerPort",
        "waiting": "WaitingThread",
        "queue": "PortQueue",
        "server": "ServerThread",
        "connection": "ConnectionPort",
        "identifier": "PortMessage.MessageId",
        "callback": "PortMessage.CallbackId",
        "data": "PortMessage.u1.s1.DataLength",
        "total": "PortMessage.u1.s1.TotalLength",
        "kind": "PortMessage.u2.s2.Type",
        **{name: f"u1.s1.{name}" for name in _MESSAGE_FLAGS},
    }
    row: Any = read_row(target.memory, nt.reader("_KALPC_MESSAGE", **paths), address)
    if row is None:
        raise Unreadable.at(address, "an ALPC message", target.memory.why_unreadable(address))
    port = None
    if row.queue:
        try:
            port = read_port(target, row.queue)
        except KdumpError:
            port = None
    queue = next((name for name, held in port.queues.items() if address in held), None) if port is not None else None
    number = None if row.kind is None else row.kind & 0xFF
    return AlpcMessage(
        address,
        row.identifier,
        row.callback,
        row.sequence,
        _TYPES[number] if number is not None and number < len(_TYPES) else None,
        row.data,
        row.total,
        {name: bool(getattr(row, name)) for name in _MESSAGE_FLAGS if getattr(row, name) is not None},
        row.owner,
        row.waiting,
        queue,
        port,
        row.server,
        row.connection,
    )


def all_ports(target: Target) -> tuple[list[AlpcPort], tuple[str, ...]]:
    """Every port of the system, without its queues. Raises :class:`KdumpError` where they cannot be listed."""
    nt = require_symbols(target, "ALPC ports", "_ALPC_PORT", names=True)
    head = target.symbol("AlpcpPortList")
    if head is None:
        raise KdumpError(f"{target.name}: the symbols do not have AlpcpPortList")
    walk = walk_list(target.memory, head, _MOST_PORTS, "AlpcpPortList")
    link = nt.offset("_ALPC_PORT", "PortListEntry")
    problems = list(walk.problems)
    ports = []
    for entry in walk.entries:
        try:
            ports.append(read_port(target, entry - link, queues=False))
        except KdumpError as error:
            problems.append(str(error))
    return ports, tuple(problems)
