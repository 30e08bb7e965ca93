"""Where the pools are in kernels from Windows 7 to 8.1, which keep no table of regions: variables that symbols name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.patched import patched
from volatility3_kdump.layout import Layouts
from volatility3_kdump.windows.memory.kernel_regions import NONPAGED_POOL, PAGED_POOL, kernel_region, ranges_of_kinds

_START, _LAST = 0xFFFFFA8001800000, 0xFFFFFA80FFFFFFFF
_PAIRS = (
    (NONPAGED_POOL, "MmNonPagedPoolStart", "MiNonPagedPoolEnd"),
    (PAGED_POOL, "MiPagedPoolStart", "MmPagedPoolEnd"),
)


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "low", "high"), _PAIRS)
@pytest.mark.parametrize("behind", [0, 1], ids=["last byte", "behind it"])
def test_pools_by_symbols(
    isf_paths: list[Path], sample: Callable[..., Path], kind: str, low: str, high: str, behind: int
) -> None:
    named = [path for path in isf_paths if all(Layouts.load(path).symbol(name) is not None for name in (low, high))]
    assert named
    target = volatility3_kdump.open(sample(1, named[0]), isf_file=str(named[0]))
    places = [target.symbol(name) for name in (low, high)]
    assert None not in places
    values = (_START, _LAST + behind)
    bounds = {place or 0: value.to_bytes(8, "little") for place, value in zip(places, values, strict=True)}
    with_pool = patched(target, bounds)
    region = kernel_region(with_pool, _START)
    assert region is not None and region.kind == kind
    assert (_START, _LAST + 1) in ranges_of_kinds(with_pool, {kind})
    for wrong in ((_LAST, _START), (0x7FFF0000, _LAST), (0, 0)):
        changes = {place or 0: value.to_bytes(8, "little") for place, value in zip(places, wrong, strict=True)}
        assert kernel_region(patched(target, changes), _START + 0x1000) in (
            None,
            kernel_region(target, _START + 0x1000),
        )
