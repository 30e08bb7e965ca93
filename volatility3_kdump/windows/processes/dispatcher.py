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


def require_dispatcher(target: Target, address: int, what: str) -> None:
    """Raise :class:`KdumpError` unless a ``thread`` or a ``process`` lies at an address.

    Both begin with a DISPATCHER_HEADER, whose first byte is their type (``wdm.h``).
    """
    if not target.is_kernel_address(address):
        reason = "it is no address of the kernel"
    else:
        kind = target.memory.unsigned(address, 1)
        if kind is not None and kind & _KIND == _KINDS[what]:
            return
        missing = target.memory.why_unreadable(address)
        reason = missing if kind is None else "its dispatcher header is not that of one"
    raise KdumpError(f"{target.name}: no {what} at {address:#x}: {reason}", name=what, address=address, reason=reason)
