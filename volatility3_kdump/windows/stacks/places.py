"""What walks learn of code: names of places in it, and the function tables of images; kept for all stacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from volatility3_kdump.cpu import amd64_unwind, arm64_unwind
from volatility3_kdump.cpu.calls import follows_call
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import EXCEPTION
from volatility3_kdump.symbols.names import Name

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_Value = TypeVar("_Value")
_MOST_REMEMBERED = 0x10000


def may_follow_call(target: Target, address: int) -> bool | None:
    """Whether a call instruction ends at an address; ``None`` when its code is not in the dump."""
    return follows_call(target.memory.read, address, target.header.architecture)


class CodePlaces:
    """Places in the code of one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.architecture = target.header.architecture
        self._tables: dict[int, Any] = {}
        self._places: dict[int, tuple[Module, Any] | None] = {}
        self._return_names: dict[int, Name | None] = {}
        #: Whether stacks go on in user mode.
        self.into_user_mode = True
        #: KDDEBUGGER_DATA64.PointerAuthMask, ``None`` where the kernel does not report it.
        self.authentication = target.debugger["PointerAuthMask"] if target.debugger else None

    def name_at(self, ip: int, call_site: bool) -> Name | None:
        """The name of where a frame executes; a return address is looked up as the call before it."""
        if not call_site:
            return self.target.names.lookup(ip)
        try:
            return self._return_names[ip]
        except KeyError:
            name = self.target.names.lookup_return(ip)
            return _remember(self._return_names, ip, name)

    def place_of(self, ip: int) -> tuple[Module, Any] | None:
        """The module that an address lies in and its function table (see :meth:`table_of`); ``None`` outside of all."""
        try:
            return self._places[ip]
        except KeyError:
            module = self.target.names.module_of(ip)
            return _remember(self._places, ip, None if module is None else (module, self.table_of(module)))

    def table_of(self, module: Module) -> Any:
        """The function table of a module's image, made when first asked for; ``None`` when its headers are absent."""
        table = self._tables.get(module.base)
        if table is None and module.base not in self._tables:
            image = self.target.images.image_of(module)
            headers = image.headers()
            if headers is not None and headers.directories:
                kind = arm64_unwind if self.architecture == "arm64" else amd64_unwind
                table = kind.FunctionTable(image.read, headers.directory(EXCEPTION), module.size)
            self._tables[module.base] = table
        return table


def _remember(remembered: dict[int, _Value], key: int, value: _Value) -> _Value:
    """Keep what was found for an address: the same functions are on the stacks of many threads."""
    if len(remembered) >= _MOST_REMEMBERED:
        remembered.clear()
    remembered[key] = value
    return value
