"""Memory as objects of the dump's own types, for scripts: fields are attributes, pointers are followed when asked.

::

    process = target.object("nt!_EPROCESS", 0xFFFF91895309D080)
    process.ImageFileName.text()
    process.Pcb.DirectoryTableBase.value
    for thread in process.ThreadListHead.entries("nt!_ETHREAD", "ThreadListEntry"):
        thread.Cid.UniqueThread.value

    head = target.symbol_object("nt!PsActiveProcessHead", "_LIST_ENTRY")
    names = [entry.ImageFileName.text() for entry in head.entries("nt!_EPROCESS", "ActiveProcessLinks")]

Nothing is read before it is asked for. What the dump does not hold raises :class:`NotInDump` with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory, sign_extended
from volatility3_kdump.symbols.types import Member, TypeReference, TypeTable

#: At most so many entries of a list, elements of an array, and bytes of a text.
MOST_ENTRIES, MOST_ELEMENTS, _MOST_TEXT = 1 << 20, 1 << 20, 1 << 16
#: Arrays of these are shown as texts, as `dt` shows them.
_CHARACTERS = frozenset({"char", "unsigned char", "wchar"})
_COUNTED = {"_UNICODE_STRING": "utf-16-le", "_STRING": "latin-1", "_ANSI_STRING": "latin-1"}


class NotInDump(KdumpError):
    """Memory that a script asked for and the dump does not hold."""


class Types:
    """Finds types and variables by name and module: ``nt!_EPROCESS``; without a module they are the kernel's."""

    def __init__(
        self,
        memory: Memory,
        modules: Callable[[], Iterable[Module]],
        types_of: Callable[[Module], TypeTable | None],
        address_of: Callable[[Module, str], int | None],
    ) -> None:
        """``types_of`` and ``address_of`` give ``None`` for what is not at hand."""
        self.memory = memory
        self._modules = modules
        self._types_of = types_of
        self._address_of = address_of

    def object(self, type_name: str, address: int) -> TypedObject:
        """Memory as a type. Raises :class:`KdumpError` for a type that is not known."""
        type_, table = self.find(type_name)
        return TypedObject(self, table, type_, address)

    def symbol_object(self, name: str, type_name: str | None = None) -> TypedObject:
        """A variable. Raises :class:`KdumpError` where its place is not known, or its type, and none is given."""
        module_name, _, variable = name.rpartition("!")
        module = self._module(module_name or "nt")
        address = None if module is None else self._address_of(module, variable)
        if module is None or address is None:
            raise KdumpError(f"{name}: no such symbol, or none of its module are at hand")
        table = self._types_of(module)
        if type_name is not None:
            type_, table = self.find(type_name, table)
            return TypedObject(self, table, type_, address)
        own = None if table is None else table.type_of_symbol(variable)
        if table is None or own is None:
            raise KdumpError(f"{name}: its symbols do not say its type: name it")
        return TypedObject(self, table, own, address)

    def find(self, name: str, table: TypeTable | None = None) -> tuple[TypeReference, TypeTable]:
        """A type and the table that it is of; without a module, of the ``table`` if one is given.

        Raises :class:`KdumpError` for one that is not known.
        """
        module_name, mark, type_name = name.rpartition("!")
        if mark or table is None:
            module = self._module(module_name or "nt")
            table = None if module is None else self._types_of(module)
        if table is None:
            raise KdumpError(f"{name}: the types of {module_name or 'nt'} are not at hand")
        exact = table.find(type_name)
        described = None if exact is None else table.describe(exact)
        if described is None:
            raise KdumpError(f"{name}: {table.origin} has no such type")
        return TypeReference(described.kind, described.name, described.size), table

    def _module(self, name: str) -> Module | None:
        return next((module for module in self._modules() if module.name.lower() == name.lower()), None)


class TypedObject:
    """A value of a type at an address. ``address_`` and ``type_`` are its own; every other name is a member's."""

    def __init__(self, types: Types, table: TypeTable, type_: TypeReference, address: int) -> None:
        self.types_ = types
        self.table_ = table
        self.type_ = type_
        self.address_ = address

    # members and elements -----------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> TypedObject:
        if name.startswith("__") or name.endswith("_"):
            raise AttributeError(name)
        return self.member(name)

    def member(self, name: str) -> TypedObject:
        """A member by its name, of unnamed members inside as well; of a pointer, one of what it points to.

        Raises ``AttributeError`` where the type has none of that name.
        """
        if self.type_.kind == "pointer":
            return self.deref().member(name)
        chosen = self._find(self.type_, name, 0)
        if chosen is None:
            raise AttributeError(f"{self.type_} has no member {name}")
        offset, type_ = chosen
        return TypedObject(self.types_, self.table_, type_, self.address_ + offset)

    def _find(self, type_: TypeReference, name: str, depth: int) -> tuple[int, TypeReference] | None:
        inside: list[Member] = []
        for member in self._members(type_):
            if member.name == name:
                return member.offset, member.type
            if member.type.kind in ("struct", "union") and member.name.startswith(("unnamed", "__unnamed", "u", "s")):
                inside.append(member)
        for member in inside if depth < 4 else ():
            if "unnamed" in (member.type.name or "") or "anonymous" in (member.type.name or ""):
                place = self._find(member.type, name, depth + 1)
                if place is not None:
                    return member.offset + place[0], place[1]
        return None

    def _members(self, type_: TypeReference) -> tuple[Member, ...]:
        described = self.table_.describe(type_.name) if type_.name else None
        return () if described is None else described.members

    def __dir__(self) -> list[str]:
        type_ = self.type_.target if self.type_.kind == "pointer" and self.type_.target else self.type_
        return [*super().__dir__(), *(member.name for member in self._members(type_))]

    def __getitem__(self, index: int) -> TypedObject:
        """An element of an array, or of what a pointer points to."""
        if self.type_.kind == "pointer":
            target = self._pointed()
            base = self.pointer()
        elif self.type_.kind == "array" and self.type_.target is not None:
            target, base = self.type_.target, self.address_
            if not 0 <= index < min(self.type_.count or 0, MOST_ELEMENTS):
                raise IndexError(f"{self.type_} has no element {index}")
        else:
            raise TypeError(f"{self.type_} has no elements")
        return TypedObject(self.types_, self.table_, target, base + index * (target.size or 0))

    def __len__(self) -> int:
        if self.type_.kind != "array":
            raise TypeError(f"{self.type_} has no length")
        return min(self.type_.count or 0, MOST_ELEMENTS)

    def __iter__(self) -> Iterator[TypedObject]:
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        return self.type_.kind not in ("pointer", "base", "enum", "bitfield") or bool(self.value)

    # values -------------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """The number that stands here: of pointers the address, of bit fields their bits; of booleans that.

        Raises :class:`NotInDump`, and ``TypeError`` for structures and arrays.
        """
        type_ = self.type_
        if type_.kind in ("struct", "union", "array", "function"):
            raise TypeError(f"{type_} is no single value: ask for a member or an element")
        size = type_.size or self.types_.memory.pointer_size
        number = int.from_bytes(self._read(self.address_, size), "little")
        if type_.kind == "pointer":
            return sign_extended(number, size)
        if type_.kind == "bitfield":
            return number >> (type_.bit or 0) & (1 << (type_.bits or 1)) - 1
        described = self.table_.layouts.types.base_types.get(type_.name or "")
        if isinstance(described, dict) and described.get("kind") == "bool":
            return bool(number)
        if isinstance(described, dict) and described.get("signed") and number >> 8 * size - 1:
            return number - (1 << 8 * size)
        return number

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TypedObject):
            return (self.address_, self.type_) == (other.address_, other.type_)
        return bool(self.value == other)

    def __hash__(self) -> int:
        return hash((self.address_, self.type_))

    def pointer(self) -> int:
        """The address that a pointer holds, with its sign. Raises :class:`NotInDump`."""
        if self.type_.kind != "pointer":
            raise TypeError(f"{self.type_} is no pointer")
        return int(self.value)

    def _pointed(self) -> TypeReference:
        target = self.type_.target
        if target is None or target.kind == "function" or (target.kind == "base" and target.name == "void"):
            raise TypeError(f"{self.type_} does not say what it points to: cast it")
        return target

    def deref(self) -> TypedObject:
        """What a pointer points to."""
        return TypedObject(self.types_, self.table_, self._pointed(), self.pointer())

    def cast(self, type_name: str) -> TypedObject:
        """What is here, or what a pointer points to, as another type."""
        type_, table = self.types_.find(type_name, self.table_)
        place = self.pointer() if self.type_.kind == "pointer" else self.address_
        return TypedObject(self.types_, table, type_, place)

    def containing(self, type_name: str, member: str) -> TypedObject:
        """The structure that this is a member of (CONTAINING_RECORD)."""
        type_, table = self.types_.find(type_name, self.table_)
        return TypedObject(self.types_, table, type_, self.address_ - _offset(self.types_, table, type_, member))

    def text(self) -> str:
        """A string: of a UNICODE_STRING or STRING, an array of characters, or what a pointer to those points to."""
        if self.type_.kind == "pointer":
            return self.deref().text()
        if self.type_.kind == "struct" and self.type_.name in _COUNTED:
            length = min(int(self.member("Length").value), _MOST_TEXT)
            data = self._read(self.member("Buffer").pointer(), length) if length else b""
            return data.decode(_COUNTED[self.type_.name], "replace")
        if self.type_.kind == "array" and self.type_.target is not None and self.type_.target.size in (1, 2):
            data = self._read(self.address_, min(self.type_.size or 0, _MOST_TEXT))
            encoding = "latin-1" if self.type_.target.size == 1 else "utf-16-le"
            return data.decode(encoding, "replace").partition("\0")[0]
        raise TypeError(f"{self.type_} is no string")

    def raw(self) -> bytes:
        """All of it as it lies there."""
        return self._read(self.address_, min(self.type_.size or 0, _MOST_TEXT))

    def entries(self, type_name: str, member: str) -> Iterator[TypedObject]:
        """The structures of the list whose head (LIST_ENTRY) this is, by the member that links them.

        A list that is torn ends with :class:`NotInDump`, after the entries that can be reached.
        """
        type_, table = self.types_.find(type_name, self.table_)
        offset = _offset(self.types_, table, type_, member)
        memory = self.types_.memory
        user = self.address_ < 1 << (8 * memory.pointer_size - 1)
        walk = walk_list(memory, self.address_, MOST_ENTRIES, f"the list at {self.address_:#x}", user=user)
        for entry in walk.entries:
            yield TypedObject(self.types_, table, type_, entry - offset)
        if walk.problems:
            raise NotInDump("; ".join(walk.problems))

    def _read(self, address: int, size: int) -> bytes:
        data = self.types_.memory.read(address, size)
        if data is None:
            raise NotInDump(f"{self.type_} at {address:#x}: {self.types_.memory.why_unreadable(address)}")
        return data

    # shown --------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<{self.type_} at {self.address_:#x}>"

    def _repr_html_(self) -> str:
        """The members with their values, for notebooks; of what has none, its own value."""
        from volatility3_kdump.notebook import html_table

        members = self._members(self.type_)[:_MOST_SHOWN]
        if not members:
            return html_table(("Type", "Value"), [(str(self.type_), self._shown())], repr(self))
        rows = [
            (f"+{member.offset:#x}", member.name, str(member.type), self._at(member)._shown()) for member in members
        ]
        return html_table(("Offset", "Member", "Type", "Value"), rows, repr(self))

    def _at(self, member: Member) -> TypedObject:
        return TypedObject(self.types_, self.table_, member.type, self.address_ + member.offset)

    def _shown(self) -> str:
        """The value on one line; nothing for structures and arrays but for texts, and why it cannot be read."""
        target = self.type_.target
        try:
            if self.type_.kind == "struct" and self.type_.name in _COUNTED:
                return self.text()
            if self.type_.kind == "array" and target is not None and target.name in _CHARACTERS:
                return f'"{self.text()}"'
            if self.type_.kind in ("struct", "union", "array", "function"):
                return ""
            number = self.value
        except KdumpError as error:
            return f"? {error}"
        return str(number) if isinstance(number, bool) or abs(number) < 10 else f"{number:#x}"


_MOST_SHOWN = 400


def _offset(types: Types, table: TypeTable, type_: TypeReference, path: str) -> int:
    """The offset of a member, dotted into embedded structures."""
    at = TypedObject(types, table, type_, 0)
    for name in path.split("."):
        at = at.member(name)
    return at.address_
