"""Targets over a few pieces of memory that a test lays out by hand, without any dump."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target

_KERNEL_HALF = {8: 0xFFFF800000000000, 4: 0xFFFFFFFF80000000}


def target_over(
    pieces: Mapping[int, bytes], nt: Layouts | None, variables: Mapping[str, int], width: int = 8, system_time: int = 0
) -> Target:
    """As much of a target as reading a kernel list needs: memory, layouts, and the addresses of some variables.

    Every other address cannot be read, with the reason ``not there``; reads within one piece succeed.
    """

    def read(address: int, size: int) -> bytes | None:
        for start, data in pieces.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return None

    return cast(
        Target,
        SimpleNamespace(
            name="made.dmp",
            nt=nt,
            memory=Memory(read, width, lambda address: "not there"),
            symbol_status="no table at hand",
            header=SimpleNamespace(system_time=system_time),
            names=SimpleNamespace(module_of=lambda address: None),
            is_kernel_address=lambda address: address >= _KERNEL_HALF[width],
            symbol=variables.get,
            variable=lambda symbol, field=None: variables.get(symbol),
        ),
    )
