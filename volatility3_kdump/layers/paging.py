"""Which layers walk page tables: the one place that asks."""

from __future__ import annotations

from volatility3.framework import interfaces
from volatility3.framework.layers import intel


def paged(layer: interfaces.layers.DataLayerInterface | None) -> intel.Intel | None:
    """The layer where it walks page tables, ``None`` for files, physical memory and small memory dumps."""
    return layer if isinstance(layer, intel.Intel) else None
