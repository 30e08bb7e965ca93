"""What drivers and the kernel said by ``DbgPrint``: the kernel keeps the last of it in a ring of bytes.

The ring, its size and where the next byte goes are variables that KDDEBUGGER_DATA64 names (``wdbgexts.h``:
KdPrintCircularBufferPtr, KdPrintBufferSize, KdPrintWritePointer, KdPrintRolloverCount). Once it has rolled over, the
oldest byte is the one that is written next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError, Unreadable

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The kernel makes it 4 KB, by the registry up to 16 MB.
_MOST_BYTES = 16 << 20
_PAGE = 0x1000


@dataclass(frozen=True)
class DebugPrint:
    """The ring of debug output: where it is, its bytes, how often it has rolled over, and its text, oldest first.

    ``absent`` are bytes that are not in the dump: nothing of the text stands for them.
    """

    address: int
    size: int
    rollovers: int
    text: str
    absent: int

    @property
    def lines(self) -> list[str]:
        """The text line by line, without empty ones."""
        return [line for line in self.text.splitlines() if line.strip()]


def debug_print(target: Target) -> DebugPrint:
    """The ring of debug output. Raises :class:`KdumpError` where it is not in the dump or cannot be one."""
    pointer, size_variable, write_variable, rollovers_variable = (
        target.variable(name, field)
        for name, field in (
            ("KdPrintCircularBuffer", "KdPrintCircularBufferPtr"),
            ("KdPrintBufferSize", "KdPrintBufferSize"),
            ("KdPrintWritePointer", "KdPrintWritePointer"),
            ("KdPrintRolloverCount", "KdPrintRolloverCount"),
        )
    )
    memory = target.memory
    if not pointer or not size_variable or not write_variable or not rollovers_variable:
        raise KdumpError(f"{target.name}: where the buffer of DbgPrint is, is not known: {target.symbol_status}")
    start, size = memory.pointer(pointer), memory.unsigned(size_variable, 4)
    write, rollovers = memory.pointer(write_variable), memory.unsigned(rollovers_variable, 4)
    if start is None or size is None or write is None or rollovers is None:
        tried = ((pointer, start), (size_variable, size), (write_variable, write), (rollovers_variable, rollovers))
        missing = next(variable for variable, value in tried if value is None)
        raise Unreadable.at(missing, "the variable of the buffer of DbgPrint", memory.why_unreadable(missing))
    if not 0 < size <= _MOST_BYTES or not start <= write <= start + size or not target.is_kernel_address(start):
        raise KdumpError(
            f"{target.name}: the buffer of DbgPrint at {start:#x} cannot have {size:#x} bytes "
            f"and be written at {write:#x}"
        )
    spans = [(write, start + size), (start, write)] if rollovers else [(start, write)]
    pieces, absent = [], 0
    for low, high in spans:
        while low < high:
            length = min(_PAGE - low % _PAGE, high - low)
            piece = memory.read(low, length)
            absent += 0 if piece is not None else length
            pieces.append(piece or b"")
            low += length
    if absent and not any(pieces):
        raise Unreadable.at(start, "the buffer of DbgPrint", memory.why_unreadable(start))
    printed = b"".join(pieces).replace(b"\0", b"").decode("utf-8", "replace")
    return DebugPrint(start, size, rollovers, printed, absent)
