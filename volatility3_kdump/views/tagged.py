"""Rows of ``kdump.info --tagged``: data that kernel components added to the dump."""

from __future__ import annotations

from volatility3_kdump.target import Target
from volatility3_kdump.text.tagged import tagged_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.table import BLANK, HEX, TEXT, Column, table

_MOST_DUMPED = 0x1000

TAGGED = table(
    "kdump.info --tagged",
    Column("Guid", TEXT, "the GUID of its owner", lambda blob: str(blob.tag)),
    keys.NAME(lambda blob: BLANK if blob.name is None else blob.name, "its owner, where that is known"),
    keys.SIZE(lambda blob: blob.size),
    Column("FileOffset", HEX, "where it lies in the dump's file", lambda blob: blob.offset),
    keys.BYTES(more=f"the first {_MOST_DUMPED:#x} of them"),
)


def tagged_grid(target: Target) -> KdumpGrid:
    """Every blob, with the first of its bytes (``.enumtag``)."""
    dump = target.dump
    blobs = [(blob, dump.source.read(blob.offset, min(blob.size, _MOST_DUMPED))) for blob in dump.tagged]
    rows = (TAGGED.row(0, blob, Bytes=data.hex(" ") or BLANK) for blob, data in blobs)
    return TAGGED.grid(rows, lambda: tagged_lines(blobs))
