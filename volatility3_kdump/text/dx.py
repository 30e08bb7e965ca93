"""Values in the layouts of ``dx`` (a tree, a grid) and of ``??``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from volatility3_kdump.symbols.types import TypeReference
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.types import tag

#: Names of base types where they differ from those of PDB files: in ``dx``, and in ``??``.
_DX_NAMES = {
    **{"long long": "__int64", "unsigned long long": "unsigned __int64", "wchar": "wchar_t"},
    **{"int8": "char", "uint8": "unsigned char", "f32": "float"},
}
_CPP_NAMES = {**_DX_NAMES, "long long": "int64", "unsigned long long": "unsigned int64"}
#: Numbers below this are shown without a prefix by ``??``.
_PLAIN = 10
#: The width of a name, and what stands between the expression itself and its value.
_WIDTH, _GAP = 16, " " * 17


def dx_type(type_: TypeReference) -> str:
    """A type as ``dx`` names it: ``_EPROCESS *``, ``unsigned long [26]``."""
    return _type(type_, _DX_NAMES, "")


def cpp_type(type_: TypeReference) -> str:
    """A type as ``??`` names it: ``struct _EPROCESS *``, ``unsigned int64``."""
    return _type(type_, _CPP_NAMES, "struct ")


def _type(type_: TypeReference, names: dict[str, str], prefix: str) -> str:
    suffix = ""
    while type_.kind in ("pointer", "array", "bitfield"):
        if type_.kind == "pointer":
            suffix = f" *{suffix.lstrip()}" if suffix.startswith(" *") else f" *{suffix}"
        elif type_.kind == "array":
            suffix = f" [{type_.count or 0}]{suffix.lstrip() if suffix.startswith(' [') else suffix}"
        if type_.target is None:
            return f"void{suffix}"
        type_ = type_.target
    if type_.kind in ("struct", "union"):
        word = prefix if type_.kind == "struct" else prefix and "union "
        return f"{word}{tag(type_.name)}{suffix}"
    if type_.kind == "function":
        return f"<function>{suffix}"
    return f"{names.get(type_.name or '', type_.name or '?')}{suffix}"


def ordinal(number: int, base: int, bits: int = 64) -> str:
    """A number as format specifiers have it: ``0x1f``, ``31``, ``037``, ``0y11111``."""
    if base == 10:
        return str(number)
    if number < 0:
        number &= (1 << bits) - 1
    return {16: f"{number:#x}", 8: f"0{number:o}" if number else "0", 2: f"0y{number:b}"}[base]


def quoted(text: str, bare: bool = False) -> str:
    """Text in double quotes."""
    return text if bare else f'"{text}"'


# dx -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of ``dx``: ``name`` and what stands before it (``place``), ``value`` and ``type`` where it has them.

    A line whose ``name`` is ``None`` is what a pointer points to.
    """

    name: str | None
    value: str | None = None
    type: str | None = None
    place: str = ""


def place(offset: int, bit: int | None = None, bits: int | None = None) -> str:
    """Where a member lies: ``[+0x2f8]``, ``[+0x2f8 ( 1: 1)]``."""
    if bit is None or bits is None:
        return f"[+0x{offset:03x}] "
    return f"[+0x{offset:03x} ({bit + bits - 1:2}:{bit:2})] "


def head_line(line: Line) -> str:
    """The first line: the expression itself."""
    return f"{line.name}{_GAP if line.value is not None else ' ' * _WIDTH}{_told(line)}"


def tree_line(level: int, line: Line) -> str:
    """A line below it."""
    indent = "    " * level
    if line.name is None:
        return f"{indent}{line.value or ''}{f' [Type: {line.type}]' if line.type else ''}"
    told = _told(line)
    return f"{indent}{line.place}{line.name:<{_WIDTH}}{' ' if told else ''}{told}"


def _told(line: Line) -> str:
    parts = [] if line.value is None else [f": {line.value}"]
    if line.type is not None:
        parts.append(f"[Type: {line.type}]")
    return " ".join(parts)


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]], most: int | None = None) -> Iterator[str]:
    """``dx -g``: a row for each element, a column for each of its properties; cells of at most ``most`` characters."""
    cells = [[_cut(cell, most) for cell in row] for row in (["", *headings], *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    head, *body = cells
    rule = "=" * (sum(widths) + 3 * len(widths) + 1)
    yield rule
    yield f"= {' = '.join(cell.ljust(width) for cell, width in zip(head, widths, strict=True))} ="
    yield rule
    for row in body:
        yield f"= {' - '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} ="
    yield rule


def _cut(cell: str, most: int | None) -> str:
    return cell if most is None or len(cell) <= most else f"{cell[: max(most - 3, 0)]}..."


# ?? -------------------------------------------------------------------------------------------------------------------


def cpp_number(number: float, signed: bool, size: int = 8) -> str:
    """A number: ``5``, ``0x1000``, ``0n-2``."""
    if isinstance(number, float):
        return f"{number:g}"
    if signed:
        return f"0n{number}"
    if number < _PLAIN:
        return str(number)
    return f"0x{pointer(number, 8)}" if size == 8 and number >> 32 else f"{number:#x}"


def cpp_address(number: int, size: int) -> str:
    """A pointer's value."""
    return f"0x{pointer(number, size)}"
