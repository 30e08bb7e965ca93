"""The lines of KD's ``??``: a C++ expression with its type."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp import CppParser
from volatility3_kdump.expressions.cpp_names import CppNames
from volatility3_kdump.expressions.cpp_values import CppValue
from volatility3_kdump.text import dx as text
from volatility3_kdump.text import types as dt
from volatility3_kdump.text.memory import readable
from volatility3_kdump.windows.typed_values import Options


def evaluate_cpp(expression: str, names: CppNames) -> object:
    """The value of a C++ expression. Raises :class:`KdumpError`."""
    with cpp.bounded():
        return CppParser(expression, names).whole()({})


def cpp_lines(expression: str, names: CppNames) -> Iterator[str]:
    """The value of a C++ expression with its type; of structures the fields, too."""
    value = evaluate_cpp(expression, names)
    if isinstance(value, bool):
        yield f"bool {'true' if value else 'false'}"
    elif isinstance(value, float):
        yield f"double {value:g}"
    elif isinstance(value, str):
        yield f'char [{len(value) + 1}] "{readable(value)}"'
    elif isinstance(value, CppValue):
        yield from _typed_lines(value, names.pointer_size)
    else:
        raise KdumpError("the expression has no value")


def _typed_lines(value: CppValue, size: int) -> Iterator[str]:
    type_ = value.type
    if type_.kind == "untyped":
        raise KdumpError(
            f"Type information missing error for the symbol at {value.address or 0:x}: cast its address, as in "
            "*(nt!_EPROCESS **)&nt!PsInitialSystemProcess"
        )
    shown = printable(text.cpp_type(type_))
    if type_.kind in ("struct", "union"):
        yield shown
        yield from _fields(value, size)
    elif type_.kind == "array":
        string = cpp.text_of(value)
        yield f"{shown} {text.cpp_address(value.address or 0, size)}" + (
            "" if string is None else f'  "{readable(string)}"'
        )
    elif type_.kind == "pointer":
        yield from _pointer_lines(value, shown, size)
    else:
        yield f"{shown} {_scalar(value)}"


def _pointer_lines(value: CppValue, shown: str, size: int) -> Iterator[str]:
    number = cpp.whole(value)
    goal = value.type.target
    line = f"{shown} {text.cpp_address(number, size)}"
    string = cpp.text_of(value) if number else None
    if string is not None:
        line += f' "{readable(string)}"'
    elif goal is not None and goal.kind == "function" and value.reader is not None:
        name = cpp.function_of(value)
        line += "" if name is None else f" {name}"
    yield line
    if number and goal is not None and goal.kind in ("struct", "union"):
        yield from _fields(cpp.pointee(value), size)


def _scalar(value: CppValue) -> str:
    type_ = value.type
    number = cpp.load(value)
    if isinstance(number, float):
        return f"{number:g}"
    storage = type_.target if type_.kind == "bitfield" and type_.target is not None else type_
    if storage.kind == "enum" and storage.name is not None and value.reader is not None:
        constant = value.reader.constant(storage.name, number, storage.size if type_.kind == "enum" else None)
        return f"{constant} (0n{number})" if constant is not None else f"0n{number} (No matching name)"
    if type_.kind == "bitfield":
        return f"0y{number:0{type_.bits or 1}b}"
    if storage.name == "bool":
        return "true" if number else "false"
    told = text.cpp_number(number, cpp.is_signed(value), storage.size or 8)
    if storage.name in ("char", "unsigned char", "int8", "uint8"):
        character = chr(number & 0xFF)
        return f"{told} '{character if 0x20 <= number & 0xFF < 0x7F else ''}'"
    return told


def _fields(value: CppValue, size: int) -> Iterator[str]:
    reader, name = value.reader, value.type.name
    if reader is None or name is None or value.address is None or reader.describe(name) is None:
        return
    summary = dt.record_text(reader.value("", 0, value.type, value.address), size)
    if summary:
        yield summary
    for level, field in reader.walk(name, value.address, Options()):
        yield dt.field_line(level, field, size)
    gap = reader.gap(value.address, value.type.size or 0)
    if gap is not None:
        yield dt.gap_line(gap)
