"""The entry of an x64 image's function table for an address, with its unwind information and those it is chained to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import amd64_unwind
from volatility3_kdump.cpu.amd64_unwind import UnwindInfo, decode_unwind_info
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.stacks.walker import function_table

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_LINKS = 32


@dataclass(frozen=True)
class FunctionEntry:
    """A RUNTIME_FUNCTION of the image at ``base``: its three RVAs, and what the last leads to.

    ``info`` is ``None`` where it cannot be read, and ``reason`` says why; ``slots`` counts its codes as they are
    stored; ``handler_name`` is the handler's symbol and ``data`` the word behind it, ``None`` without a handler.
    """

    base: int
    begin: int
    end: int
    info_rva: int
    info: UnwindInfo | None
    slots: int = 0
    data: int | None = None
    handler_name: str | None = None
    reason: str = ""


def function_entries(target: Target, address: int) -> list[FunctionEntry]:
    """The entry that an address lies in, and those that it is chained to. Raises :class:`KdumpError` for none."""
    module, table = function_table(target, address) or (None, None)
    if module is None or not isinstance(table, amd64_unwind.FunctionTable):
        raise KdumpError(f"No function entry for {address:x}: there is no x64 image with a function table")
    try:
        fields = table.entry(address - module.base)
    except amd64_unwind.TableAbsent as error:
        raise KdumpError(f"No function entry for {address:x}: {error}") from None
    entries: list[FunctionEntry] = []
    while fields is not None and len(entries) < _MOST_LINKS:
        begin, end, info_rva = fields
        fields = None
        try:
            info = decode_unwind_info(table.read_rva, info_rva, table.size_of_image)
        except ValueError as error:
            entries.append(FunctionEntry(module.base, begin, end, info_rva, None, reason=str(error)))
            break
        head = table.read_rva(info_rva, 3)
        slots = head[2] if head else 0
        behind = None if info.handler is None else table.read_rva(info_rva + 8 + 2 * (slots + slots % 2), 4)
        data = None if behind is None else int.from_bytes(behind, "little")
        handler_name = None if info.handler is None else target.name_of(module.base + info.handler)
        entries.append(FunctionEntry(module.base, begin, end, info_rva, info, slots, data, handler_name))
        fields = info.chained
    if not entries:
        raise KdumpError(f"No function entry for {address:x}")
    return entries
