"""What our layers map, read and call valid, against the host's own layer over the same tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import exceptions
from volatility3.framework.layers import intel

from tests.archives import packing
from tests.layers import paging
from tests.layers.test_translation import CLASSES, bits_of, host_layer, virtual_layer

PAGE = 0x1000


@pytest.fixture(params=CLASSES)
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[intel.Intel, intel.Intel, int]:
    """Our layer, the host's, and the address from which 200 pages are mapped, a third of them absent or not mapped."""
    mode = request.param
    memory, values = paging.machine(mode)
    tables = paging.Tables(mode, 0x40, 0x100)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items() if pfn >= 0x40}
    base = 0x80000000 if bits_of(mode) == 32 else 0xF00040000000
    choose = random.Random(mode)
    pfn = 0x200
    for number in range(200):
        pfn += choose.choice([1, 1, 1, 1, 2, -1])
        kind = choose.randrange(8)
        if kind:
            tables.map(base + number * PAGE, pfn, flags=0x800 if kind == 1 else paging.PRESENT_WRITABLE)
        if kind != 2:
            memory[pfn] = packing.page(pfn)
    memory.update({pfn: bytes(page) for pfn, page in tables.memory.items()})
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, bits_of(mode))
    assert layer is not None
    host = host_layer(layer)
    layer.context.add_layer(host)
    return layer, host, base


def outcome(call: Callable[..., Any], *arguments: object) -> Any:
    """What a call gives, or which kind of error, and where."""
    try:
        found = call(*arguments)
        return list(found) if isinstance(found, Iterator) else found
    except exceptions.PagedInvalidAddressException as error:
        return type(error), error.invalid_bits
    except exceptions.InvalidAddressException as error:
        return type(error), error.invalid_address


def test_ranges(layers: tuple[intel.Intel, intel.Intel, int]) -> None:
    layer, host, base = layers
    choose = random.Random(0)
    ranges = [(base, 200 * PAGE), (base, 0), (base - PAGE, 0), (base - (1 << 22), 1 << 24), (base, 1 << 65)]
    for _ in range(60):
        length = choose.choice([0, 1, PAGE, choose.randrange(40 * PAGE)])
        ranges.append((base + choose.randrange(210 * PAGE), length))
    for start, length in ranges:
        for ignore in (True, False):
            if length <= 1 << 32 or not ignore:
                expected = outcome(host.mapping, start, length, ignore)
                assert outcome(layer.mapping, start, length, ignore) == expected, (hex(start), hex(length), ignore)
        if length <= 200 * PAGE:
            assert layer.is_valid(start, length) == host.is_valid(start, length)
            assert outcome(layer.read, start, length) == outcome(host.read, start, length)
            assert layer.read(start, length, pad=True) == host.read(start, length, pad=True)


def test_single_addresses(layers: tuple[intel.Intel, intel.Intel, int]) -> None:
    layer, host, base = layers
    for address in range(base - PAGE, base + 202 * PAGE, 0x7FF):
        assert outcome(layer._translate, address) == outcome(host._translate, address)
        assert outcome(layer.translate, address) == outcome(host.translate, address)
        if layer.is_valid(address):
            assert layer.is_dirty(address) == host.is_dirty(address)


def test_scans_find_the_same(layers: tuple[intel.Intel, intel.Intel, int]) -> None:
    from volatility3.framework.layers import scanners

    layer, host, base = layers
    needle = packing.page(0x210)[:8]
    sections = [(base, 256 * PAGE)]
    found = list(layer.scan(layer.context, scanners.BytesScanner(needle), sections=sections))
    assert found == list(host.scan(layer.context, scanners.BytesScanner(needle), sections=sections))
