"""Types as users name them, ``module!type``: which there are, and one of them with what stands at an address."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError, SymbolsNotFound
from volatility3_kdump.expressions.cpp_names import KERNEL_NAMES, header_base
from volatility3_kdump.images.modules import Module
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.listing import modules_like
from volatility3_kdump.symbols.types import TypeDescription, TypeReference, TypeTable
from volatility3_kdump.target import Target
from volatility3_kdump.wildcards import Wildcard
from volatility3_kdump.windows.typed_values import FieldValue, Gap, Options, TypedReader


def split_name(target: Target, name: str) -> tuple[Module, str]:
    """The module and the type that ``module!type`` names; a type without a module, or behind ``!``, is the kernel's.

    Raises :class:`KdumpError`.
    """
    module_name, _, type_name = name.rpartition("!")
    if not module_name or module_name.lower() in KERNEL_NAMES:
        module_name = "nt"
    modules = modules_like(target.names, module_name)
    if not modules:
        raise KdumpError(f"no loaded module is named {module_name}")
    return modules[0], type_name


def types_of(target: Target, module: Module) -> TypeTable:
    """A module's types. Raises :class:`SymbolsNotFound` with what is missing."""
    table = target.types_of(module)
    if table is None:
        kernel = target.kernel is not None and target.kernel.base == module.base
        why = (
            target.symbol_status if kernel else target.names.reason_of(module) or "no symbol table with types was found"
        )
        raise SymbolsNotFound(f"no types of {module.name}: {why}")
    return table


def sized_names(target: Target, pattern: str, size: int | None) -> Iterator[tuple[str, int]]:
    """The types that fit a pattern, with their sizes; those of one ``size`` alone where it is given."""
    module, _ = split_name(target, pattern)
    table = types_of(target, module)
    for name in type_names(target, pattern):
        description = table.describe(name.rpartition("!")[2])
        if description is not None and size in (None, description.size):
            yield name, description.size


def type_names(target: Target, pattern: str) -> Iterator[str]:
    """The types whose names fit ``module!pattern``, as ``module!type`` in alphabetical order."""
    module, wanted = split_name(target, pattern)
    table = types_of(target, module)
    wildcard = Wildcard(wanted or "*")
    return (f"{module.name}!{name}" for name in table.names() if wildcard.matches(name))


class NamedType:
    """A type of a module and what an address space holds of it.

    ``name`` is ``module!type``, ``size`` the width of a pointer.
    """

    def __init__(self, target: Target, name: str, options: Options, memory: Memory | None = None) -> None:
        """Raises :class:`KdumpError` for an unknown module, type or field."""
        module, wanted = split_name(target, name)
        table = types_of(target, module)
        type_name = table.find(wanted) or table.find(header_base(wanted, target.memory.pointer_size) or "")
        self._reader = TypedReader(target, table, memory)
        self._options = options
        description = self._reader.describe(type_name) if type_name is not None else None
        if description is None:
            raise KdumpError(f"Symbol {module.name}!{wanted} not found: the module's symbols have no such type")
        self.description: TypeDescription = description
        self.name = f"{module.name}!{description.name}"
        self.size = self._reader.memory.pointer_size
        if description.kind != "enum" and options.fields:
            # Says now what is wrong with the fields that were named.
            next(iter(self.members(None)), None)

    @property
    def reference(self) -> TypeReference:
        return TypeReference(self.description.kind, self.description.name, self.description.size)

    def at(self, address: int) -> FieldValue:
        """The structure, enumeration or number itself."""
        return self._reader.value("", 0, self.reference, address)

    def members(self, address: int | None) -> Iterator[tuple[int, FieldValue]]:
        """The members that are asked for, each with its level; without an address their types alone."""
        return self._reader.walk(self.description.name, address, self._options)

    def entries(self, address: int, link: str) -> Iterator[int]:
        """The structures of a list from one on; ``link`` names the field that leads to the next."""
        return self._reader.entries(self.description.name, address, link)

    def gap(self, address: int) -> Gap | None:
        """What the dump lacks of the one at an address."""
        return self._reader.gap(address, self.description.size)
