"""Headers of pool blocks, and what stands before a block.

``_POOL_HEADER`` counts in units of two pointers. The classic pool keeps the sizes of neighbours in step, which is how a
header can be told from other data; the segment heap that replaced it in Windows 10 1903 does not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.windows.structures import layouts_of

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The bit of POOL_HEADER.PoolType that says that the block is allocated.
_IN_USE = 2
_PROTECTED = 0x80000000


class PoolHeader(NamedTuple):
    """A POOL_HEADER. Sizes are in bytes, headers included; ``tag`` is ``None`` where it is not printable."""

    address: int
    previous_size: int
    block_size: int
    pool_type: int
    tag_value: int
    tag: str | None

    @property
    def allocated(self) -> bool:
        return bool(self.pool_type & _IN_USE)

    @property
    def text(self) -> str:
        """The header in words."""
        state = "allocated" if self.allocated else "free"
        tag = f"tag {self.tag}" if self.tag else f"no printable tag ({self.tag_value:#x})"
        return f"{tag}, {self.block_size:#x} bytes, {state}, block before it {self.previous_size:#x} bytes"


@functools.lru_cache(maxsize=4096)
def tag_text(value: int) -> str | None:
    """The characters of a pool tag; ``None`` where it has unprintable ones. Its top bit marks protected blocks."""
    data = (value & ~_PROTECTED & 0xFFFFFFFF).to_bytes(4, "little").rstrip(b"\0")
    return data.decode("ascii") if data and all(0x20 <= byte < 0x7F for byte in data) else None


def header_size(target: Target) -> int:
    """Bytes of a POOL_HEADER, which are the unit of its sizes as well."""
    return 2 * target.memory.pointer_size


def read_header(target: Target, address: int) -> PoolHeader | None:
    """The pool header at an address, ``None`` when it is not in the dump. It may be no header: compare its tag."""
    data = target.memory.read(address, header_size(target))
    return None if data is None else unpack_header(target, address, data, 0)


def unpack_header(target: Target, address: int, data: bytes, offset: int) -> PoolHeader:
    """The pool header at an offset of bytes; ``address`` is where it lies."""
    form = target.once(_HeaderForm)
    previous, size, pool_type, tag = form.reader.unpack(data, offset)
    return PoolHeader(address, previous * form.unit, size * form.unit, pool_type, tag, tag_text(tag))


class _HeaderForm:
    """How this kernel lays a header out, looked up once: pages are walked by the thousand."""

    def __init__(self, target: Target) -> None:
        self.unit = header_size(target)
        self.reader = layouts_of(target).reader(
            "_POOL_HEADER", previous="PreviousSize", size="BlockSize", pool_type="PoolType", tag="PoolTag"
        )


def block_before(target: Target, address: int) -> PoolHeader | None:
    """The last block before an address on its page, found by walking the headers from the start of the page.

    ``None`` unless the headers up to there agree with each other, as those of the classic pool do.
    """
    position = address - address % PAGE_SIZE
    previous: PoolHeader | None = None
    while position < address:
        header = read_header(target, position)
        expected = 0 if previous is None else previous.block_size
        if header is None or header.previous_size != expected or header.block_size == 0 or header.tag is None:
            return None
        previous = header
        position += header.block_size
    return previous
