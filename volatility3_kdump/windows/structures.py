"""Reading a structure that may be in the dump only in part: as many of its fields as there are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.errors import SymbolsNotFound, Unreadable
from volatility3_kdump.layout import FieldPath, LayoutError, Layouts, StructReader
from volatility3_kdump.memory import Memory, sign_extended
from volatility3_kdump.symbols.generations import generation_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


def read_row(memory: Memory, reader: StructReader, address: int) -> Any | None:
    """The fields of ``reader``, with one access where the dump holds them all.

    Otherwise each field is read for itself, and those that the dump lacks are ``None``, like fields that the kernel's
    structure does not have. Pointers of 32-bit targets are sign-extended. ``None`` when nothing is there.
    """
    data = memory.read(address, reader.size)
    row = reader.unpack(data) if data is not None else _in_part(memory, reader, address)
    return None if row is None else extended_pointers(reader, row, memory.pointer_size)


def extended_pointers(reader: StructReader, row: Any, pointer_size: int) -> Any:
    """What ``reader`` has unpacked, with the pointers of 32-bit targets sign-extended."""
    if pointer_size == 8:
        return row
    return row._replace(
        **{
            name: sign_extended(value, pointer_size)
            for name, value in row._asdict().items()
            if isinstance(value, int) and _is_pointer(reader, name)
        }
    )


def _is_pointer(reader: StructReader, name: str) -> bool:
    field = reader.fields[name]
    return field is not None and field.kind == "pointer"


def _in_part(memory: Memory, reader: StructReader, address: int) -> Any | None:
    pieces = bytearray(reader.size)
    absent: dict[str, None] = {}
    present = False
    for name, field in reader.fields.items():
        piece = memory.read(address + field.offset, field.size) if field is not None and field.size else None
        if field is None or piece is None:
            absent[name] = None
        else:
            present = True
            pieces[field.offset : field.offset + field.size] = piece
    return reader.unpack(pieces)._replace(**absent) if present else None


def read_fields(target: Target, type_name: str, address: int, paths: Mapping[str, FieldPath]) -> dict[str, Any]:
    """As :func:`read_row` for a structure that drivers are compiled against, by name.

    Raises :class:`Unreadable` when none of the fields is in the dump, :class:`LayoutError` for a type that is not
    known, :class:`SymbolsNotFound` without layouts.
    """
    layouts = layouts_of(target)
    if not layouts.has_type(type_name):
        raise LayoutError(f"{layouts.origin}: no type {type_name}")
    row = read_row(target.memory, layouts.reader(type_name, **paths), address)
    if row is None:
        raise Unreadable.at(address, type_name, target.memory.why_unreadable(address))
    fields: dict[str, Any] = row._asdict()
    return fields


def field_offset(
    target: Target, type_name: str, path: str, debugger_field: str | None, generation: str | None = None
) -> int | None:
    """Offset of a structure field: from the symbols, else from KDDEBUGGER_DATA64, else by structure sizes.

    ``debugger_field`` names the field of KDDEBUGGER_DATA64 that holds the offset; ``generation`` the key of the
    shipped table of structure generations. ``None`` when none of them knows it.
    """
    if target.nt is not None and target.nt.has_type(type_name):
        field = target.nt.find(type_name, path)
        if field is not None or target.has_names:
            return None if field is None else field.offset
    if target.debugger is None:
        return None
    if debugger_field is not None:
        return target.debugger[debugger_field]
    if generation is not None:
        return generation_offset(target.debugger["SizeEProcess"], target.debugger["SizeEThread"], generation)
    return None


def require_symbols(target: Target, what: str, *needed: str, names: bool = False) -> Layouts:
    """The kernel's types, which ``what`` (``tokens``) cannot be read without; with ``names`` its symbols as well.

    Raises :class:`SymbolsNotFound` where there are none, or where they lack one of ``needed``: types (``_TOKEN``) and
    fields (``_TOKEN.UserAndGroups``).
    """
    nt = target.nt
    if nt is None or (names and not target.has_names):
        raise SymbolsNotFound(
            f"{target.name}: {what} need the kernel's symbols: {target.symbol_status}",
            name=what,
            reason=target.symbol_status,
        )
    lacking = [name for name in needed if not (nt.has(*name.split(".", 1)) if "." in name else nt.has_type(name))]
    if lacking:
        reason = f"those at hand do not describe {', '.join(lacking)} ({nt.origin})"
        raise SymbolsNotFound(f"{target.name}: {what} need the kernel's symbols: {reason}", name=what, reason=reason)
    return nt


def layouts_of(target: Target) -> Layouts:
    """The layouts of structures that drivers are compiled against: the kernel's own, else the shipped ones.

    Raises :class:`SymbolsNotFound` when there are none (32 bit).
    """
    if target.nt is not None and target.nt.has_type("_IRP"):
        return target.nt
    if target.memory.pointer_size == 8:
        return _shipped()
    raise SymbolsNotFound(f"IRPs and devices of 32-bit kernels need symbols: {target.symbol_status}")


@functools.lru_cache(maxsize=1)
def _shipped() -> Layouts:
    return Layouts.load(tables.kernel_table_path())
