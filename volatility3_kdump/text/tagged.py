"""Tagged data in the layout of KD's ``.enumtag``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.dump.tagged import TaggedBlob

_ROW = 16


def tagged_lines(blobs: Iterable[tuple[TaggedBlob, bytes]]) -> Iterator[str]:
    """Every blob with the first of its bytes."""
    none = True
    for blob, data in blobs:
        none = False
        yield f"{{{str(blob.tag).upper()}}} - 0x{blob.size:x} bytes" + (f"  {blob.name}" if blob.name else "")
        yield from _hexadecimal(data)
        if blob.size > len(data):
            yield f"  ... 0x{blob.size - len(data):x} more bytes"
        yield ""
    if none:
        yield "no tagged data in the dump"


def _hexadecimal(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        digits = " ".join(f"{byte:02x}" for byte in row)
        if len(row) > _ROW // 2:
            digits = digits[:23] + "-" + digits[24:]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"  {digits:<48}  {letters}"
