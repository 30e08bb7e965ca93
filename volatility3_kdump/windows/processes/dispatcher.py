"""Dispatcher headers: what kind of object an address is that of, before it is read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.threads import PROCESS, THREAD

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_KINDS = {"process": PROCESS, "thread": THREAD}
#: DISPATCHER_HEADER.Type without the bit that says that the object is locked.
_KIND = 0x7F


def why_no_dispatcher(target: Target, address: int, what: str) -> str | None:
    """Why no ``thread`` or ``process`` can lie at an address; ``None`` where one can, or the dump does not tell.

    Both begin with a DISPATCHER_HEADER, whose first byte is their type (``wdm.h``), and which holds pointers.
    """
    if not target.is_kernel_address(address):
        return "it is no address of the kernel"
    if address % target.memory.pointer_size:
        return "it is not aligned as one"
    kind = target.memory.unsigned(address, 1)
    return None if kind is None or kind & _KIND == _KINDS[what] else "its dispatcher header is not that of one"


def require_dispatcher(target: Target, address: int, what: str) -> None:
    """Raise :class:`KdumpError` unless a ``thread`` or a ``process`` lies at an address."""
    reason = why_no_dispatcher(target, address, what)
    if reason is None:
        if target.memory.unsigned(address, 1) is not None:
            return
        reason = target.memory.why_unreadable(address)
    raise KdumpError(f"{target.name}: no {what} at {address:#x}: {reason}", name=what, address=address, reason=reason)
