"""ALPC ports and messages in the layout of KD's ``!alpc``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.text.addresses import plain
from volatility3_kdump.windows.processes.alpc import CLIENT, CONNECTION, SERVER, AlpcMessage, AlpcPort

_WIDE, _NARROW = 25, 21


def _number(value: int | None) -> str:
    return "?" if value is None else f"0x{value:08X} ({value})"


def _owner(port: AlpcPort, size: int) -> str:
    return "0" * 2 * size if port.owner is None else f"{plain(port.owner.address, size)} ({port.owner.name or '?'})"


def port_lines(port: AlpcPort, size: int = 8) -> Iterator[str]:
    """``!alpc /p``."""
    named = f" ({port.name})" if port.name and port.connection == port.address else ""
    yield f"Port @ {plain(port.address, size)}"
    for label, value in (
        ("Type", port.kind or "?"),
        ("CommunicationInfo", plain(port.information, size)),
        ("  ConnectionPort", plain(port.connection, size) + named),
        ("  ClientCommunicationPort", plain(port.client, size)),
        ("  ServerCommunicationPort", plain(port.server, size)),
        ("OwnerProcess", _owner(port, size)),
        ("SequenceNo", _number(port.sequence)),
        ("CompletionPort", plain(port.completion, size)),
        *((name, "Yes" if value else "No") for name, value in port.flags.items()),
    ):
        yield f"  {label:<{_WIDE}} : {value}"
    yield ""
    for name, messages in port.queues.items():
        if not messages:
            yield f"  {name} queue is empty."
            continue
        yield f"  {name} queue has {len(messages)} message(s)"
        yield from (f"    {plain(message, size)}" for message in messages)
    yield from (f"NOTE: {problem}" for problem in port.problems)


def message_lines(message: AlpcMessage, size: int = 8) -> Iterator[str]:
    """``!alpc /m``."""
    port = message.port
    yield f"Message @ {plain(message.address, size)}"
    rows = [
        ("MessageID", _short(message.identifier)),
        ("CallbackID", _short(message.callback)),
        ("SequenceNumber", _number(message.sequence)),
        ("Type", message.kind or "?"),
        ("DataLength", _short(message.data_length)),
        ("TotalLength", _short(message.total_length)),
        *((name, "Yes" if value else "No") for name, value in message.flags.items()),
        ("OwnerPort", plain(message.owner_port, size)),
        ("WaitingThread", plain(message.waiting, size)),
        ("QueueType", f"ALPC_MSGQUEUE_{(message.queue or '?').split()[0].upper()}"),
        ("QueuePort", "?" if port is None else f"{plain(port.address, size)} [{port.kind or '?'}]"),
        ("QueuePortOwnerProcess", "?" if port is None else _owner(port, size)),
        ("ServerThread", plain(message.server_thread, size)),
        ("ConnectionPort", plain(message.connection, size)),
    ]
    yield from (f"  {label:<{_NARROW}} : {value}" for label, value in rows)


def _short(value: int | None) -> str:
    return "?" if value is None else f"0x{value:04X} ({value})"


def process_lines(process: int, ports: Iterable[AlpcPort], problems: Iterable[str], size: int = 8) -> Iterator[str]:
    """``!alpc /lpp``: the ports that a process has created, with who is connected, and those it is connected to."""
    every = list(ports)
    by_address = {port.address: port for port in every}
    own = [port for port in every if port.owner is not None and port.owner.address == process]
    yield f"Ports created by the process {plain(process, size)}:"
    yield ""
    for port in (port for port in own if port.kind == CONNECTION):
        clients = [other for other in every if other.kind == CLIENT and other.connection == port.address]
        yield f"\t{plain(port.address, size)}('{port.name or ''}'), {len(clients)} connections"
        for client in clients:
            yield f"\t\t{plain(client.server, size)} -> {plain(client.address, size)} {_owner(client, size)}"
    yield ""
    yield f"Ports the process {plain(process, size)} is connected to:"
    yield ""
    for port in (port for port in own if port.kind == CLIENT):
        connection = by_address.get(port.connection or 0)
        shown = "" if connection is None else f"('{connection.name or ''}') {_owner(connection, size)}"
        yield f"\t{plain(port.address, size)} -> {plain(port.connection, size)}{shown}"
    strange = [port for port in own if port.kind not in (CONNECTION, CLIENT, SERVER)]
    yield from (f"NOTE: the port {port.address:x} is of no known kind" for port in strange)
    yield from (f"NOTE: {problem}" for problem in problems)
