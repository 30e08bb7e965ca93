"""The access token of a thread that impersonates, else that of its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.processes.tokens import Token, read_token

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class ChosenToken:
    """A token, the EPROCESS, whether it is the one that the thread impersonates with, and why it is this one.

    ``origin`` is ``None`` where no thread was asked about.
    """

    token: Token
    process: int
    impersonation: bool
    origin: str | None


def token_of(target: Target, process: int, thread: int | None = None) -> ChosenToken:
    """The token of a process, or of one of its threads. Raises :class:`KdumpError` where it is not in the dump."""
    origin = None
    read = read_thread(target, thread) if thread is not None else None
    if read is not None and process in (read.owner, read.process):
        if read.impersonating and read.impersonation_token:
            origin = f"Thread {read.address:x} is impersonating: its token"
            return ChosenToken(read_token(target, read.impersonation_token), process, True, origin)
        origin = "Thread is not impersonating. Using process token..."
        if read.impersonating is not False:
            origin = "Whether the thread impersonates, and by which token, is not in the dump. Using process token..."
    token = read_process(target, process).token
    if not token:
        why = f"not in the dump: {target.memory.why_unreadable(process)}" if token is None else "0"
        raise KdumpError(f"{target.name}: the token of process {process:x} is {why}")
    return ChosenToken(read_token(target, token), process, False, origin)
