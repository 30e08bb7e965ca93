"""What names mean in C++ expressions: types of any module, typed variables, constants of enumerations."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump import tables
from volatility3_kdump.escape import printable
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.grammar import Names, Unresolved
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.names import PDB_SYMBOLS, PRIVATE_SYMBOLS
from volatility3_kdump.symbols.types import TypeReference
from volatility3_kdump.windows.typed_values import TypedReader

if TYPE_CHECKING:
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.target import Target

#: Types of the language by their words in alphabetical order, with how PDB files call them.
_WORDS: dict[str, TypeReference] = {}
for _names, _type in (
    (("char", "char signed", "__int8", "__int8 signed"), cpp.CHAR),
    (("char unsigned", "__int8 unsigned"), cpp.UNSIGNED_CHAR),
    (("short", "int short", "short signed", "__int16", "__int16 signed"), cpp.SHORT),
    (("short unsigned", "int short unsigned", "__int16 unsigned"), cpp.UNSIGNED_SHORT),
    (("int", "signed", "int signed", "__int32", "__int32 signed"), cpp.INT),
    (("unsigned", "int unsigned", "__int32 unsigned"), cpp.UNSIGNED_INT),
    (("long", "int long", "long signed", "int long signed"), cpp.LONG),
    (("long unsigned", "int long unsigned"), cpp.UNSIGNED_LONG),
    (("long long", "int long long", "long long signed", "__int64", "__int64 signed", "int64"), cpp.LONG_LONG),
    (("long long unsigned", "int long long unsigned", "__int64 unsigned", "int64 unsigned"), cpp.UNSIGNED_LONG_LONG),
    (("wchar_t",), cpp.WCHAR),
    (("bool",), cpp.BOOL),
    (("void",), cpp.VOID),
    (("float",), cpp.FLOAT),
    (("double", "double long"), cpp.DOUBLE),
):
    _WORDS.update(dict.fromkeys(_names, _type))
#: Words that build the name of a type of the language.
TYPE_WORDS = frozenset(word for names in _WORDS for word in names.split())
#: Names that Windows's headers give to types of the language; PDB files do not keep them.
_HEADERS = {
    **dict.fromkeys(("BYTE", "UCHAR", "BOOLEAN", "UINT8"), cpp.UNSIGNED_CHAR),
    **dict.fromkeys(("CHAR", "INT8"), cpp.CHAR),
    **dict.fromkeys(("WORD", "USHORT", "UINT16"), cpp.UNSIGNED_SHORT),
    **dict.fromkeys(("SHORT", "INT16"), cpp.SHORT),
    **dict.fromkeys(("DWORD", "ULONG", "ULONG32"), cpp.UNSIGNED_LONG),
    **dict.fromkeys(("LONG", "LONG32", "NTSTATUS"), cpp.LONG),
    **dict.fromkeys(("UINT", "UINT32"), cpp.UNSIGNED_INT),
    **dict.fromkeys(("INT", "INT32", "BOOL"), cpp.INT),
    **dict.fromkeys(("DWORD64", "ULONG64", "ULONGLONG", "UINT64", "QWORD"), cpp.UNSIGNED_LONG_LONG),
    **dict.fromkeys(("LONG64", "LONGLONG", "INT64"), cpp.LONG_LONG),
    **dict.fromkeys(("WCHAR",), cpp.WCHAR),
    **dict.fromkeys(("VOID",), cpp.VOID),
}
#: What the debugger's links call the kernel: by the file that it was built as.
KERNEL_NAMES = frozenset({"nt", "ntkrnlmp", "ntoskrnl", "ntkrnlpa", "ntkrpamp"})
_OF_POINTERS = {"ULONG_PTR": True, "SIZE_T": True, "UINT_PTR": True, "LONG_PTR": False, "INT_PTR": False}
_DECLARED = re.compile(r"([\w!]+)\s*(\**)")
#: Structures that automatic pseudo-registers point to.
_POINTERS = {
    **{"proc": "_EPROCESS", "thread": "_ETHREAD", "peb": "_PEB", "teb": "_TEB"},
    **{"pcr": "_KPCR", "pcrb": "_KPRCB", "prcb": "_KPRCB"},
}


def _header_type(name: str, pointer_size: int) -> TypeReference | None:
    if name in _OF_POINTERS:
        if _OF_POINTERS[name]:
            return cpp.UNSIGNED_LONG_LONG if pointer_size == 8 else cpp.UNSIGNED_LONG
        return cpp.LONG_LONG if pointer_size == 8 else cpp.LONG
    return _HEADERS.get(name)


def header_base(name: str, pointer_size: int) -> str | None:
    """The type of the language that a name of Windows's headers stands for: ``unsigned long`` for ``ULONG``."""
    type_ = _header_type(name, pointer_size)
    return None if type_ is None else type_.name


class CppNames:
    """The types and variables of a dump.

    ``names`` are those of the MASM evaluator, whose registers and symbols they share; ``memory`` is the address space
    that values are read in.
    """

    def __init__(self, target: Target, names: Names, memory: Memory | None = None, radix: int = 16) -> None:
        self.target = target
        self.names = names
        self.memory = memory or target.memory
        self.radix = radix
        self._readers: dict[tuple[int, int], TypedReader | None] = {}
        self._found: dict[str, tuple[TypeReference, TypedReader | None] | None] = {}

    @property
    def pointer_size(self) -> int:
        return self.target.memory.pointer_size

    # types ------------------------------------------------------------------------------------------------------

    def reader(self, module: Module, memory: Memory | None = None) -> TypedReader | None:
        """Reads values of a module's types; ``None`` where it has none."""
        memory = memory or self.memory
        key = module.base, id(memory)
        if key not in self._readers:
            table = self.target.types_of(module)
            self._readers[key] = None if table is None else TypedReader(self.target, table, memory)
        return self._readers[key]

    def nt(self, memory: Memory | None = None) -> TypedReader | None:
        """Reads values of the kernel's types."""
        modules = self.target.modules
        kernel = self.target.kernel
        module = next((module for module in modules if kernel is not None and module.base == kernel.base), None)
        if module is not None:
            return self.reader(module, memory)
        if self.target.nt is None:
            return None
        from volatility3_kdump.symbols.types import TypeTable

        return TypedReader(self.target, TypeTable(self.target.nt), memory or self.memory)

    def type_named(self, name: str) -> tuple[TypeReference, TypedReader | None] | None:
        """A structure, union, enumeration or header's name of a type: ``_EPROCESS``, ``nt!_EPROCESS``, ``ULONG``."""
        if name not in self._found:
            self._found[name] = self._type_named(name)
        return self._found[name]

    def _type_named(self, name: str) -> tuple[TypeReference, TypedReader | None] | None:
        module_name, qualified, type_name = name.rpartition("!")
        if not qualified:
            plain = self._of_headers(name)
            if plain is not None:
                return plain, None
        for reader in self._searched(module_name):
            exact = reader.table.find(type_name)
            description = reader.describe(exact) if exact is not None else None
            if exact is None or description is None:
                continue
            if description.kind == "base" and not qualified:
                return None
            return TypeReference(description.kind, exact, description.size), reader
        return None

    def _of_headers(self, name: str) -> TypeReference | None:
        if name in ("PVOID", "HANDLE"):
            return TypeReference("pointer", None, self.pointer_size, cpp.VOID)
        return _header_type(name, self.pointer_size)

    def words_type(self, keywords: list[str]) -> TypeReference | None:
        """The type of the language that some words name: ``unsigned long``."""
        return _WORDS.get(" ".join(sorted(keywords)))

    def _searched(self, module_name: str) -> Iterator[TypedReader]:
        """The modules whose types are looked through: the named one, else the kernel and those with symbols so far."""
        if module_name and module_name.lower() not in KERNEL_NAMES:
            for module in self.target.modules:
                if module.name.lower() == module_name.lower():
                    reader = self.reader(module)
                    if reader is not None:
                        yield reader
            return
        nt = self.nt()
        if nt is not None:
            yield nt
        if not module_name:
            for module in self.target.modules[1:]:
                if self.target.names.status_of(module) in (PDB_SYMBOLS, PRIVATE_SYMBOLS):
                    reader = self.reader(module)
                    if reader is not None:
                        yield reader

    def why_no_type(self, name: str) -> str:
        """Why a type is not known, in words."""
        module_name = name.rpartition("!")[0]
        module = next((loaded for loaded in self.target.modules if loaded.name.lower() == module_name.lower()), None)
        if module_name and module is None:
            return f"no loaded module is named {printable(module_name)}"
        if module is None or module is self.target.modules[0]:
            return "" if self.target.has_names and self.target.nt is not None else self.target.symbol_status
        if self.reader(module) is None:
            return f"no types of {module.name}: {self.target.names.reason_of(module) or 'no symbol table has them'}"
        return ""

    # variables --------------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> CppValue | None:
        """A variable or function by name, ``None`` for no such. Raises :class:`EvaluationError`."""
        try:
            address = self.names.symbol(name)
        except Unresolved as error:
            raise EvaluationError(str(error) or f"there is no symbol {printable(name)}") from None
        if address is None:
            return None
        place = self.target.names.module_of(address)
        if place is not None and address == place.base and "!" not in name:
            raise EvaluationError(f"{printable(name)} is a module: name a symbol or a type of it")
        reader = self.reader(place) if place is not None else None
        plain = name.rpartition("!")[2]
        type_ = reader.table.type_of_symbol(plain) if reader is not None else None
        kernel = self.target.kernel
        if type_ is None and place is not None and kernel is not None and place.base == kernel.base:
            type_ = self._known_type(plain)
        return CppValue(type_ or cpp.UNTYPED, reader, address)

    def _known_type(self, name: str) -> TypeReference | None:
        """The type that public documentation gives to a variable of the kernel."""
        declared = _DECLARED.fullmatch(_variables().get(name, ""))
        if declared is None:
            return None
        definition = self.type_named(declared[1]) or self.type_named(f"nt!{declared[1]}")
        type_ = definition[0] if definition is not None else None
        for _ in declared[2] if type_ is not None else ():
            type_ = TypeReference("pointer", None, self.pointer_size, type_)
        return type_

    def constant(self, name: str) -> CppValue | None:
        """A constant of an enumeration of the kernel: ``Running``, ``nt!NonPagedPool``, ``_KTHREAD_STATE::Running``."""
        module_name, _, plain = name.rpartition("!")
        scope, _, label = plain.rpartition("::")
        for reader in self._searched(module_name):
            enumerator = reader.table.constant(label, scope)
            if enumerator is not None:
                enumeration, number, size = enumerator
                return CppValue(TypeReference("enum", enumeration, size), reader, None, number)
        return None

    def register(self, name: str) -> CppValue:
        """A register or pseudo-register, typed as the debugger casts it. Raises :class:`EvaluationError`."""
        given = self.names.typed(name)
        if isinstance(given, CppValue):
            return given
        try:
            number = self.names.register(name)
        except Unresolved as error:
            raise EvaluationError(str(error) or f"there is no register {printable(name)}") from None
        structure = _POINTERS.get(name[1:].lower()) if name.startswith("$") else None
        definition = self.type_named(f"nt!{structure}") if structure is not None else None
        if definition is not None:
            return cpp.pointer_to(definition[0], number, self.pointer_size, definition[1])
        if self.pointer_size == 4 and not name.startswith("$"):
            return cpp.integer(number, cpp.UNSIGNED_INT)
        return cpp.unsigned64(number)


@functools.lru_cache(maxsize=1)
def _variables() -> dict[str, str]:
    """Variables of the kernel whose type is documented, by name."""
    return {record["name"]: record["type"] for record in tables.json_lines("globals.jsonl")}
