"""Types and typed values in the words and columns of KD's ``dt``. A value that the dump lacks is ``??``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.symbols.types import TypeDescription, TypeReference
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.memory import readable
from volatility3_kdump.windows.typed_values import FieldValue, Gap, character_width

#: KD's names of base types.
_NAMED = {
    "void": "Void",
    "char": "Char",
    "unsigned char": "UChar",
    "wchar": "Wchar",
    "bool": "Bool",
    "float": "Float",
    "f32": "Float",
    "int8": "Char",
    "uint8": "UChar",
    "char8": "UChar",
    "char16": "Wchar",
    "double": "Double",
    "short": "Int2B",
    "unsigned short": "Uint2B",
    "int": "Int4B",
    "long": "Int4B",
    "unsigned int": "Uint4B",
    "unsigned long": "Uint4B",
    "long long": "Int8B",
    "unsigned long long": "Uint8B",
}
#: Types without a name; tables number them.
UNNAMED = "<unnamed-tag>"
_NUMBERED = ("__anonymous_", "__unnamed_")
#: A bit field of more bits than this is given in hexadecimal as well.
_PLAIN_BITS = 3


def type_text(type_: TypeReference) -> str:
    """A type as ``dt`` names it: ``Ptr64 _ETHREAD``, ``[15] UChar``, ``Pos 3, 1 Bit``."""
    if type_.kind == "pointer":
        goal = "Void" if type_.target is None else type_text(type_.target)
        return f"Ptr{8 * (type_.size or 8)} {goal}"
    if type_.kind == "array":
        return f"[{type_.count or 0}] {'?' if type_.target is None else type_text(type_.target)}"
    if type_.kind == "bitfield":
        return f"Pos {type_.bit or 0}, {type_.bits or 0} Bit{'' if type_.bits == 1 else 's'}"
    if type_.kind == "function":
        return "Function"
    if type_.kind == "base":
        return _NAMED.get(type_.name or "", type_.name or "?")
    return tag(type_.name)


def tag(name: str | None) -> str:
    """The name of a structure, union or enumeration; KD's word for those that have none."""
    scope, separator, last = (name or "").rpartition("::")
    return f"{scope}{separator}{UNNAMED}" if not last or last.startswith(_NUMBERED) else name or UNNAMED


def value_text(value: FieldValue, size: int = 8) -> str:
    """The value of a field as ``dt`` shows it; ``size`` is the width of addresses."""
    type_ = value.type
    if type_.kind == "array":
        return f"[{type_.count or 0}] {_array_text(value, size)}"
    if type_.kind in ("struct", "union"):
        return f"{type_text(type_)}{record_text(value, size)}"
    if not value.held or value.value is None:
        return "??"
    number = value.value
    if type_.kind == "pointer":
        return _pointer_text(value, int(number), size)
    if isinstance(number, float):
        return f"{number:g}"
    if type_.kind == "bitfield":
        return _bits_text(value, number)
    if type_.kind == "enum":
        return f"{_hexadecimal(number, type_.size)} ({_constant(value)}"
    if character_width(type_) == 1:
        return f"{number if value.signed else _hexadecimal(number, 1)} '{_character(number)}'"
    if value.signed and type_.name != "wchar":
        return f"0n{number}"
    return _hexadecimal(number, type_.size)


def _constant(value: FieldValue) -> str:
    return "No matching name)" if value.constant is None else f" {value.constant} )"


def _bits_text(value: FieldValue, number: int) -> str:
    bits = value.type.bits or 0
    digits = f"0y{number:0{bits}b}"
    if value.constant is not None:
        return f"{digits} ( {value.constant} )"
    return digits if bits <= _PLAIN_BITS else f"{digits} ({_hexadecimal(number, 8)})"


def _pointer_text(value: FieldValue, number: int, size: int) -> str:
    if not number:
        return "(null) "
    goal = value.type.target
    at = f"0x{pointer(number, value.type.size or size)}"
    if goal is None:
        return f"{at} Void"
    if goal.kind == "pointer":
        return f"{at}  -> {'??' if value.pointed is None else f'0x{pointer(value.pointed, size)}'} {_goal_text(goal)}"
    if character_width(goal) or (goal.kind == "struct" and (value.text is not None or value.unread is not None)):
        stem = at if goal.kind == "base" else f"{at} {type_text(goal)}"
        return f"{stem} {_quoted(value, size)}"
    if goal.kind == "function":
        return f"{at}     {value.symbol or '(no symbol)'}"
    if value.first is not None:
        return f"{at} {type_text(goal)}{record_text(value.first, size)}"
    named = f" {value.symbol}" if value.symbol else ""
    return f"{at} {type_text(goal)}{named}"


def _goal_text(type_: TypeReference) -> str:
    """What a pointer points to in the end."""
    return "Void" if type_.target is None else type_text(type_.target)


def _quoted(value: FieldValue, size: int) -> str:
    if value.text is not None:
        return f'"{readable(value.text)}"'
    if value.unread is not None:
        return f'"--- memory read error at address 0x{pointer(value.unread, size)} ---"'
    return "??"


def record_text(value: FieldValue, size: int = 8) -> str:
    """What stands behind the name of a structure that the debugger knows; empty for any other."""
    if value.links is not None:
        forward, backward = ("??" if link is None else f"0x{pointer(link, size)}" for link in value.links)
        return f" [ {forward} - {backward} ]"
    if value.text is not None and value.type.name == "_GUID":
        return f" {value.text}"
    if value.text is not None or value.unread is not None:
        return f" {_quoted(value, size)}"
    if isinstance(value.value, int):
        return f" {_hexadecimal(value.value, 8, True)}"
    return "" if value.held else " ??"


def _array_text(value: FieldValue, size: int) -> str:
    if value.text is not None:
        return f' "{readable(value.text)}"'
    if value.first is not None:
        return value_text(value.first, size)
    return "??" if not value.held else ""


def _hexadecimal(number: int, size: int | None, prefixed: bool = False) -> str:
    """A number as ``%#x`` writes it, zero without a prefix; beyond 32 bits with the backtick."""
    if size and number < 0:
        number &= (1 << 8 * size) - 1
    if number >> 32:
        return f"0x{pointer(number, 8)}" if number >> 64 == 0 else f"0x{number:x}"
    return f"{number:#x}" if number or prefixed else "0"


def _character(number: int) -> str:
    return chr(number & 0xFF) if 0x20 <= number & 0xFF <= 0x7E else ""


def field_line(level: int, value: FieldValue, size: int = 8, offsets: bool = True) -> str:
    """A line of ``dt``."""
    indent = "   " * (level + 1)
    if value.name.startswith("["):
        return f"{indent[:-2]} {value.name} {_shown(value, size)}"
    place = f"+0x{value.offset:03x} " if offsets else ""
    return f"{indent}{place}{value.name:<16} : {'' if value.expanded else _shown(value, size)}"


def _shown(value: FieldValue, size: int) -> str:
    return type_text(value.type) if value.address is None else value_text(value, size)


def heading(description: TypeDescription) -> str:
    """The first line of ``dt -v``."""
    if description.kind == "enum":
        return f"Enum {description.name},  {len(description.constants)} total enums"
    count = len(description.members)
    elements = f"{count} element{'' if count == 1 else 's'}"
    return f"{description.kind} {description.name}, {elements}, {description.size:#x} bytes"


def constants(description: TypeDescription) -> Iterator[str]:
    """The lines of ``dt`` for an enumeration."""
    for name, value in description.constants:
        yield f"   {name} = 0n{value}"


def gap_line(gap: Gap) -> str:
    """What KD says where a structure is not whole."""
    return f"Memory read error {gap.address:x}: {gap.why}"
