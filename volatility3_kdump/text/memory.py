"""Memory in the columns of KD's ``d`` commands. Bytes that the dump lacks are question marks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import characters
from volatility3_kdump.windows.memory.contents import Stretch
from volatility3_kdump.windows.memory.ranges import Pointed


@dataclass(frozen=True)
class Format:
    """How units of memory are shown: bytes of a unit, units of a row, and whether text stands beside them."""

    size: int
    columns: int
    text: bool = False
    show: Callable[[int | None, int], str] | None = None

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.size * self.columns


def _real(code: str, width: int, digits: int) -> Callable[[int | None, int], str]:
    def show(value: int | None, size: int) -> str:
        if value is None:
            return f"{'?' * 2 * size:>{width}}"
        return f"{struct.unpack(f'<{code}', value.to_bytes(size, 'little'))[0]:{width}.{digits}g}"

    return show


#: By the letters behind ``d``; ``p`` is ``q`` or ``d``.
FORMATS = {
    "b": Format(1, 16, True),
    "w": Format(2, 8),
    "W": Format(2, 8, True),
    "d": Format(4, 4),
    "c": Format(4, 4, True),
    "q": Format(8, 2),
    "f": Format(4, 4, False, _real("f", 16, 8)),
    "D": Format(8, 2, False, _real("d", 22, 12)),
}
#: Bytes shown where no range is given.
DEFAULT_LENGTH = 128


def hexadecimal(value: int | None, size: int) -> str:
    """A unit of memory: eight bytes with the backtick."""
    if size == 8:
        return pointer(value, 8)
    return "?" * (2 * size) if value is None else f"{value:0{2 * size}x}"


def unit_lines(stretch: Stretch, layout: Format, size: int = 8, columns: int | None = None) -> Iterator[str]:
    """Rows of ``db``, ``dw``, ``dd``, ``dq``, ``dc``, ``dW``, ``df`` and ``dD``; ``size`` is the width of addresses."""
    columns = columns or layout.columns
    row = columns * layout.size
    show = layout.show or hexadecimal
    width = len(show(0, layout.size)) * columns + columns - 1
    for start in range(0, len(stretch.data), row):
        stop = min(start + row, len(stretch.data))
        cells = [show(stretch.unit(at, layout.size), layout.size) for at in range(start, stop, layout.size)]
        body = _byte_cells(cells) if layout.size == 1 else " ".join(cells)
        line = f"{pointer(stretch.address + start, size)}  {body}"
        if layout.text:
            line = f"{pointer(stretch.address + start, size)}  {body:<{width}}  {text_of(stretch, start, stop)}"
        yield line


def _byte_cells(cells: Sequence[str]) -> str:
    """Bytes with a hyphen in the middle of each sixteen."""
    return "".join(("" if not i else "-" if i % 16 == 8 else " ") + cell for i, cell in enumerate(cells))


def text_of(stretch: Stretch, start: int, stop: int) -> str:
    """The bytes as characters, a question mark for each absent one."""
    shown = characters(stretch.data[start:stop])
    return "".join(character if held else "?" for character, held in zip(shown, stretch.held[start:stop], strict=True))


def bit_lines(stretch: Stretch, unit: int, size: int = 8) -> Iterator[str]:
    """Rows of ``dyb`` (``unit`` 1) and ``dyd`` (4): four bytes in binary and hexadecimal, under a ruler."""
    indent = " " * (len(pointer(0, size)) + 2)
    if unit == 1:
        yield f"{indent}76543210 76543210 76543210 76543210"
        yield f"{indent}-------- -------- -------- --------"
    else:
        yield f"{indent} 3          2          1          0"
        yield f"{indent}10987654 32109876 54321098 76543210"
        yield f"{indent}-------- -------- -------- --------"
    for start in range(0, len(stretch.data), 4):
        places = range(start, min(start + 4, len(stretch.data)))
        values = [stretch.unit(at, 1) for at in (places if unit == 1 else reversed(places))]
        bits = " ".join("????????" if value is None else f"{value:08b}" for value in values)
        numbers = (" " if unit == 1 else "").join("??" if value is None else f"{value:02x}" for value in values)
        yield f"{pointer(stretch.address + start, size)}  {bits:<35}  {numbers}"


def string_line(address: int, text: str | None, size: int = 8) -> str:
    """A row of ``da`` or ``du``: the text in quotes, question marks without quotes where it is not in the dump."""
    shown = "????????" if text is None else f'"{readable(text)}"'
    return f"{pointer(address, size)}  {shown}"


def readable(text: str) -> str:
    """Text on one line: a full stop for each character that cannot be shown."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "." for c in text)


def pointed_line(address: int, value: int | None, behind: str | None, width: int, size: int = 8) -> str:
    """A row of ``dps`` and its relatives: a pointer of ``width`` bytes and what is said about it."""
    line = f"{pointer(address, size)}  {hexadecimal(value, width)}"
    return f"{line} {behind}" if behind else line


def pointed_text(pointed: Pointed, what: str, size: int) -> str | None:
    """What stands behind a pointer of ``size`` bytes in ``dps`` (``what`` is ``s``), ``dpp``, ``dpa`` and ``dpu``."""
    if pointed.value is None or what == "s":
        return pointed.symbol
    if what == "p":
        return hexadecimal(pointed.pointed, size) + (f" {pointed.pointed_symbol}" if pointed.pointed_symbol else "")
    return "????????" if pointed.text is None else f'"{readable(pointed.text)}"'
