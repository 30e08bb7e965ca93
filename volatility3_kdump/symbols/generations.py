"""Offsets in EPROCESS and ETHREAD without symbols, by the sizes of the two that KDDEBUGGER_DATA64 reports."""

from __future__ import annotations

import functools
from typing import Any

from volatility3_kdump import tables


@functools.lru_cache(maxsize=1)
def _generations() -> dict[tuple[int, int], dict[str, Any]]:
    return {
        (size, record["ethread"]): record
        for record in tables.json_lines("generations.jsonl")
        for size in record["eprocess"]
    }


def generation_offset(eprocess_size: int | None, ethread_size: int | None, name: str) -> int | None:
    """Offset of a field of EPROCESS or ETHREAD in the generation that has structures of these sizes (x64 only)."""
    if eprocess_size is None or ethread_size is None:
        return None
    record = _generations().get((eprocess_size, ethread_size))
    return None if record is None else record["offsets"].get(name)
