"""Tables of pool trackers: arrays in memory, of which pages may be missing.

The kernel's pool trackers are arrays of ``_POOL_TRACKER_TABLE`` and ``_POOL_TRACKER_BIG_PAGES``. A count that is read
from the dump is checked before anything is read by it, and rows that lie in absent pages are counted, not made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.layout import FieldPath, Layouts
from volatility3_kdump.memory import PAGE_SIZE, Memory

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: No table has more rows: the tracker of a machine with a terabyte of big pool has a quarter of it.
MOST_ROWS = 1 << 22
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Table:
    """An array of structures as far as the dump holds it.

    ``columns`` maps the names asked for to numpy arrays, ``None`` for a field that the structure does not have;
    ``addresses`` is where each row lies; ``count`` is how many rows the array has, ``missing`` how many of them lie in
    absent pages. The columns have ``count - missing`` values.
    """

    columns: Mapping[str, Any]
    addresses: Any
    count: int
    missing: int


def table_bounds(
    target: Target, name: str, size_name: str, stride: int, most: int = MOST_ROWS
) -> tuple[int, int] | str:
    """(address, rows) of a table by the kernel variables that hold them, or why there is none to read."""
    memory = target.memory
    variable, size_variable = target.symbol(name), target.symbol(size_name)
    if variable is None or size_variable is None:
        if not target.has_names:
            return target.symbol_status
        return f"this kernel has no nt!{name if variable is None else size_name}"
    address, count = memory.pointer(variable), memory.pointer(size_variable)
    if address is None or count is None:
        return f"nt!{name} is not in the dump: {memory.why_unreadable(variable)}"
    if address == 0 or count == 0:
        return f"nt!{name} is empty"
    if not target.is_kernel_address(address) or count > most or address + count * stride > 1 << 64:
        return f"nt!{name} is impossible: {count:#x} rows at {address:#x}"
    return address, count


def read_table(
    memory: Memory, layouts: Layouts, type_name: str, address: int, count: int, **fields: FieldPath
) -> Table:
    """Read ``count`` structures. Bit fields are extracted; pointers of 32-bit targets are sign-extended."""
    import numpy as np

    stride = layouts.size_of(type_name)
    located = {name: layouts.find(type_name, path) for name, path in fields.items()}
    data, present = _read(memory, address, count * stride)
    starts = np.arange(count, dtype=np.int64) * stride + address % PAGE_SIZE
    whole = present[starts // PAGE_SIZE] & present[(starts + stride - 1) // PAGE_SIZE]
    rows = np.frombuffer(data, np.uint8).reshape(count, stride)[whole]
    columns: dict[str, Any] = {}
    for name, field in located.items():
        if field is None or field.code is None:
            columns[name] = None
            continue
        values = rows[:, field.offset : field.offset + field.size].copy().view(f"<{field.code}")[:, 0]
        if field.bits:
            values = values >> field.bit & ((1 << field.bits) - 1)
        if field.kind == "pointer" and field.size == 4:
            values = values.astype(np.int32).astype(np.int64).astype(np.uint64)
        columns[name] = values
    addresses = (np.arange(count, dtype=np.uint64) * np.uint64(stride) + np.uint64(address))[whole]
    return Table(columns, addresses, count, count - int(whole.sum()))


def _read(memory: Memory, address: int, size: int) -> tuple[bytearray, Any]:
    """The bytes of a range, and for each page that it touches whether it is present."""
    import numpy as np

    first = address // PAGE_SIZE
    present = np.ones((address + size - 1) // PAGE_SIZE - first + 1, dtype=bool)
    data = bytearray(size)
    position = 0
    while position < size:
        length = min(_CHUNK - (address + position) % _CHUNK, size - position)
        chunk = memory.read(address + position, length)
        if chunk is not None:
            data[position : position + length] = chunk
        else:
            low = (address + position) // PAGE_SIZE - first
            present[low : (address + position + length - 1) // PAGE_SIZE - first + 1] = False
            for at, piece in memory.present(address + position, length):
                data[at - address : at - address + len(piece)] = piece
                present[at // PAGE_SIZE - first] = True
        position += length
    return data, present
