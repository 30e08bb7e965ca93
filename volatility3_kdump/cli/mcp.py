"""``kdump mcp``: dumps for programs that speak the Model Context Protocol."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import socket
import sys
from typing import TYPE_CHECKING, Any

from volatility3_kdump.cli.command import Command
from volatility3_kdump.cli.dumps import add_dump_options, opening_options
from volatility3_kdump.cli.numbers import seconds, whole_number
from volatility3_kdump.collecting import no_collection
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.options import parse_size

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from volatility3_kdump.serving.dumps import Dumps

_LOOPBACK = "127.0.0.1"
#: Dumps that may be open at a time, each in a process of its own.
_MOST_DUMPS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump mcp``."""
    parser.description = (
        "Serve crash dumps over the Model Context Protocol, on standard input and output or over HTTP on loopback. "
        "Clients can open dumps in the named folders and look at them; they can change nothing."
    )
    parser.add_argument(
        "--root", metavar="DIR", action="append", required=True, help="a folder whose dumps may be opened; repeat it"
    )
    parser.add_argument(
        "--open", metavar="DUMP", action="append", default=[], help="open and analyse it while the client connects"
    )
    parser.add_argument(
        "--http",
        metavar="PORT",
        type=whole_number(0, 0xFFFF),
        help=f"serve http://{_LOOPBACK}:PORT/mcp instead (0: any free port)",
    )
    parser.add_argument("--time-limit", metavar="S", type=seconds, default=60.0, help="seconds of a call (default 60)")
    parser.add_argument(
        "--memory-limit", metavar="SIZE", type=_size, default=4 << 30, help="memory of a dump's process (default 4G)"
    )
    parser.add_argument(
        "--dumps", metavar="N", type=whole_number(1, _MOST_DUMPS), default=8, help="dumps open at a time (default 8)"
    )
    add_dump_options(parser, member=False)


def _size(text: str) -> int:
    value = parse_size(text)
    if value is None or value < 256 << 20:
        raise argparse.ArgumentTypeError("is no size of at least 256M, such as 4G")
    return value


def run(arguments: argparse.Namespace) -> int:
    """``kdump mcp``: 0 when the client has left. Raises :class:`KdumpError`."""
    # Asked for, not imported: that takes longer than an analysis, and the process of the first dump starts before.
    if any(importlib.util.find_spec(name) is None for name in ("anyio", "mcp", "mcp_types", "pydantic")):
        raise KdumpError("kdump mcp needs the package mcp: pip install 'volatility3-kdump[mcp]' into this environment")
    import anyio

    from volatility3_kdump.serving.dumps import Dumps, Limits

    if arguments.triage_ini is not None:
        from volatility3_kdump.analysis.owners import OwnerRules

        OwnerRules.load(arguments.triage_ini)  # raises now what would be wrong with every analysis
    limits = Limits(arguments.time_limit, arguments.memory_limit, arguments.dumps)
    dumps = Dumps(arguments.root, opening_options(arguments), limits, arguments.triage_ini, arguments.open)
    listening = _listen(arguments.http) if arguments.http is not None else None
    with contextlib.suppress(KeyboardInterrupt):
        anyio.run(_serve, dumps, listening)
    return 0


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_LOOPBACK, port))
        # Clients that read the address may connect at once; they wait until the server is there.
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise KdumpError(f"--http {port}: the port cannot be used: {error.strerror or error}") from error
    return listening


async def _serve(dumps: Dumps, listening: socket.socket | None) -> None:
    # The first process imports what it needs while this one imports the protocol.
    async with dumps.running():
        server = _built(dumps)
        if listening is None:
            await server.run_stdio_async()
        else:
            await _serve_http(server, listening)


def _built(dumps: Dumps) -> MCPServer[Any]:
    """The server. Its protocol is hundreds of models, of which a client uses a few."""
    from pydantic import BaseModel

    models = BaseModel.model_config
    deferred = models.get("defer_build")
    models["defer_build"] = True
    try:
        with no_collection():
            from volatility3_kdump.serving.server import build

            return build(dumps)
    finally:
        if deferred is None:
            del models["defer_build"]
        else:
            models["defer_build"] = deferred


async def _serve_http(server: Any, listening: socket.socket) -> None:
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    port = listening.getsockname()[1]
    names = [f"{host}:{port}" for host in (_LOOPBACK, "localhost")]
    # A page of any web site can send requests to loopback, under a name of its own: such names are refused.
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=names,
        allowed_origins=[f"http://{name}" for name in names],
    )
    application = server.streamable_http_app(transport_security=security, host=_LOOPBACK)
    config = uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    print(f"kdump mcp: http://{_LOOPBACK}:{port}/mcp", file=sys.stderr, flush=True)
    await uvicorn.Server(config).serve(sockets=[listening])


COMMAND = Command("mcp", "serve dumps to programs over the Model Context Protocol", run, add_arguments)
