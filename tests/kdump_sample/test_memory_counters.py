"""The places of the made counters: each is one of some kernel's."""

from __future__ import annotations

from pathlib import Path

from kdump_sample.memory_counters import PARTITION, STATE, VARIABLES
from kdump_sample.memory_use import MemoryUse
from volatility3_kdump.symbols.isf import load_table_file


def test_no_place_is_misspelt(isf_paths: list[Path]) -> None:
    """What a kernel lacks is passed over: so every field and variable must be there in one kernel at least."""
    left = {*PARTITION.values(), *STATE.values(), *(symbol for symbol, _ in VARIABLES.values())}
    for path in isf_paths:
        table = load_table_file(path)
        left = {
            place
            for place in left
            if table.symbol(place) is None
            and not table.has("_MI_PARTITION", place)
            and not table.has("_MI_SYSTEM_INFORMATION", place)
        }
        if not left:
            return
    assert left == set()


def test_every_counter_has_a_place() -> None:
    names = PARTITION.keys() | STATE.keys() | VARIABLES.keys()
    assert names == MemoryUse().counters.keys()
