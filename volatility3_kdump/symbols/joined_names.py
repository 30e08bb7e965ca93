"""Names over modules that are looked up in several places: the kernel's, and those of a process beside them."""

from __future__ import annotations

from collections.abc import Sequence

from volatility3_kdump.images.modules import Module
from volatility3_kdump.symbols.lines import SourceLine
from volatility3_kdump.symbols.names import AddressNames, Prepared


class JoinedNames(AddressNames):
    """The names of all ``parts``; symbols that one of them has looked for are not looked for again."""

    def __init__(self, parts: Sequence[AddressNames], pointer_size: int = 8) -> None:
        self._parts = {module.base: part for part in parts for module in part.modules}
        modules = [module for part in parts for module in part.modules]
        super().__init__(modules, {}, None, None, None, pointer_size)

    def may_be_code(self, module: Module, address: int) -> bool:
        return self._parts[module.base].may_be_code(module, address)

    def status_of(self, module: Module) -> str:
        return self._parts[module.base].status_of(module)

    def file_of(self, module: Module) -> str:
        return self._parts[module.base].file_of(module)

    def reason_of(self, module: Module) -> str | None:
        return self._parts[module.base].reason_of(module)

    def address_of(self, module: Module, symbol: str) -> int | None:
        return self._parts[module.base].address_of(module, symbol)

    def line_of(self, address: int, call_site: bool = False) -> SourceLine | None:
        module = self.module_of(address - 1 if call_site else address)
        return None if module is None else self._parts[module.base].line_of(address, call_site)

    def _prepare(self, index: int) -> Prepared:
        module = self._modules[index]
        prepared = self._prepared[index] = self._parts[module.base].prepared(module)
        return prepared
