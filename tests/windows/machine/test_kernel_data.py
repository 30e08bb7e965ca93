"""Debug output, cached files, system PTEs, a device's power: values that the scene put there, and damage to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import kernel_data as scene_of
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.windows.io.device_power import device_power
from volatility3_kdump.windows.io.file_cache import file_cache
from volatility3_kdump.windows.machine.debug_print import debug_print
from volatility3_kdump.windows.memory.system_ptes import free_blocks, system_ptes

_ONES = b"\xff" * 8


@pytest.fixture
def target(sample: Callable[..., Path], isf_path: Path) -> Target:
    return volatility3_kdump.open(sample(1, isf_path, "kernel-data"), isf_file=str(isf_path))


def symbol(target: Target, name: str) -> int:
    address = target.symbol(name)
    assert address is not None
    return address


def test_debug_output_oldest_first(target: Target) -> None:
    ring = debug_print(target)
    assert (ring.address, ring.size, ring.rollovers) == (scene_of.PRINTED, scene_of.PRINTED_SIZE, 3)
    assert ring.lines == (scene_of.OLDEST + scene_of.NEWEST).splitlines()
    assert answer(session_on(target), "!dbgprint") == ring.lines


def test_a_ring_that_has_not_rolled_over(target: Target) -> None:
    fresh = patched(target, {symbol(target, "KdPrintRolloverCount"): bytes(4)})
    assert debug_print(fresh).lines == scene_of.NEWEST.splitlines()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("KdPrintBufferSize", b"\xff\xff\xff\x7f"),
        ("KdPrintBufferSize", bytes(4)),
        ("KdPrintWritePointer", _ONES),
        ("KdPrintCircularBuffer", (0x7FFF0000).to_bytes(8, "little")),
    ],
)
def test_rings_that_cannot_be(target: Target, name: str, data: bytes) -> None:
    with pytest.raises(KdumpError, match="cannot have"):
        debug_print(patched(target, {symbol(target, name): data}))


def test_escapes_in_debug_output(target: Target) -> None:
    """Control characters, an escape sequence, a change of direction: nothing of it reaches a terminal raw."""
    from volatility3_kdump.views.kernel_data import debug_print_grid

    hostile = "\x1b]0;owned\x07\u202egnp.exe\x9b2J"
    changed = patched(target, {scene_of.PRINTED: hostile.encode().ljust(0x40, b"x")})
    lines = list(debug_print_grid(changed).kd_lines())
    assert any("\\x1b]0;owned\\x07\\u202egnp.exe\\x9b2J" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_cached_files(target: Target) -> None:
    cache = file_cache(target)
    assert (cache.vacbs, cache.inactive, cache.problems) == (4, 1, ())
    first, second = cache.files
    assert (first.cache_map, first.file, first.control_area) == (
        scene_of.CACHE_MAPS[0],
        scene_of.FILES[0],
        scene_of.AREA,
    )
    assert (first.name, first.size, first.dirty) == (scene_of.FILE_NAME, 0x3456789, 5)
    assert first.views == (scene_of.VIEWS[0], scene_of.VIEWS[1])
    assert (second.views, second.name) == ((scene_of.VIEWS[2],), "")
    lines = answer(session_on(target), "!filecache")
    assert lines[1] == "  1 nonactive VACBs, 3 active VACBs of 256 kb"
    assert next(line for line in lines if line.endswith("  SOFTWARE")).split() == [
        f"{scene_of.AREA:x}",
        *("0", "20", "512", "SOFTWARE"),
    ]
    assert any(line.endswith("No Name for File") for line in lines)


def test_mapped_pages_are_counted(target: Target) -> None:
    """Views laid over memory that is mapped: of the demonstration's pool every page that the page tables have."""
    from volatility3_kdump.layers.present import present_memory, signed

    assert target.layer_name is not None
    base = scene_of.PRINTED & ~0x3FFFF
    memory = present_memory(target.context.layers[target.layer_name], signed(base), signed(base) + 0x40000)
    assert memory is not None and memory.size
    assert target.nt is not None
    vacb = scene_of.ARRAY + target.nt.size_of("_VACB_ARRAY_HEADER")
    changed = patched(target, {vacb: base.to_bytes(8, "little")})
    assert file_cache(changed).files[0].valid == memory.size // 0x1000


@pytest.mark.parametrize("data", [_ONES, bytes(8), (1 << 63).to_bytes(8, "little"), b"\xff\xff\xff\x7f\0\0\0\0"])
def test_damaged_arrays_end(target: Target, data: bytes) -> None:
    for place in (
        symbol(target, "CcVacbArrays"),
        symbol(target, "CcVacbArraysHighestUsedIndex"),
        scene_of.ARRAYS,
        scene_of.ARRAY + 8,
        scene_of.ARRAY + 24,
        scene_of.CACHE_MAPS[0] + 96,
    ):
        try:
            cache = file_cache(patched(target, {place: data}))
        except KdumpError:
            continue
        assert len(cache.files) <= 3 and cache.vacbs <= 1 << 13


def test_free_system_ptes(target: Target) -> None:
    first = system_ptes(target)[0]
    assert (first.base, first.entries, first.total, first.free) == (
        scene_of.FIRST_PTE,
        scene_of.PTES,
        scene_of.PTES,
        0x128,
    )
    assert first.failures == 2
    blocks = [(block.address - scene_of.FIRST_PTE, block.ptes) for block in free_blocks(target, first)]
    assert blocks == [(16 * 8, 40), (64 * 8, scene_of.PTES - 64)]
    lines = answer(session_on(target), "!sysptes 1")
    assert lines[:2] == ["System PTE Information", f"  Total System Ptes {scene_of.PTES}"]
    assert lines[-1] == "  free blocks: 2   total free: 296    largest free block: 256"
    assert f"    ending PTE:   {scene_of.FIRST_PTE + 8 * (scene_of.PTES - 1):x}" in lines


def test_bits_cross_the_pieces_that_are_read(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(free_blocks(target, system_ptes(target)[0]))
    for piece in (1, 2, 3, 7):
        monkeypatch.setattr("volatility3_kdump.windows.memory.system_ptes._CHUNK", piece)
        assert list(free_blocks(target, system_ptes(target)[0])) == whole


def test_power_of_a_device(target: Target) -> None:
    """PowerFlags 0x41: S0 in the lowest four bits, D3 in the next."""
    power = device_power(target, scene_of.DEVICE)
    assert (power.system_state, power.device_state) == (1, 4)
    assert power.idle is not None and (power.idle.address, power.idle.idle) == (scene_of.IDLE, 7)
    lines = answer(session_on(target), f"!podev {scene_of.DEVICE:x}")
    assert "PowerFlags: 00000041  SystemState=S0  DeviceState=D3" in lines
    assert "  IdleState: D3  CurrentState: D0" in lines
    assert "  ConservationIdleTime: 600 s  PerformanceIdleTime: 99 s" in lines


def test_the_shared_page(target: Target) -> None:
    """As documented: the raw tick count, and in brackets days, hours, minutes, seconds, milliseconds."""
    lines = answer(session_on(target), "!kuser")
    assert lines[0] == "_KUSER_SHARED_DATA at fffff78000000000"
    assert lines[1].startswith("TickCount:    fa00000 * ")
    assert lines[3:] == ["ImageNumber Range: [8664 .. 8664]", "Crypto Exponent: 0", "SystemRoot: 'C:\\Windows'"]


def test_ticks_of_the_documented_page() -> None:
    """``fa00000 * 00482006 (0:20:30:56.093)`` in "!kuser" of Microsoft's documentation."""
    from volatility3_kdump.symbols.shared_data import SharedPage
    from volatility3_kdump.text.kernel_data import shared_page_lines

    page = SharedPage(0x7FFE0000, 0xFA00000, 0x482006, 2, 0x14C, 0x14C, 0, "F:\\WINDOWS")
    assert list(shared_page_lines(page, 4)) == [
        "_KUSER_SHARED_DATA at 7ffe0000",
        "TickCount:    fa00000 * 00482006 (0:20:30:56.093)",
        "TimeZone Id: 2",
        "ImageNumber Range: [14c .. 14c]",
        "Crypto Exponent: 0",
        "SystemRoot: 'F:\\WINDOWS'",
    ]


def test_shared_tokens_are_told(sample: Callable[..., Path]) -> None:
    """A process that runs with the token of another one."""
    target = volatility3_kdump.open(sample(1, None, "user-mode"))
    session = session_on(target)
    plain = answer(session, "!tokens")
    assert any("User: S-1-5-" in line for line in plain) and not any("too)" in line for line in plain)
    assert target.nt is not None
    owners = [line.split()[1] for line in plain if "User: S-" in line]
    place = target.nt.offset("_EPROCESS", "Token")
    stolen = target.memory.read(int(owners[0], 16) + place, 8)
    assert stolen is not None
    other = next(line.split()[1] for line in plain if line.split()[1] != owners[0])
    lines = answer(session_on(patched(target, {int(other, 16) + place: stolen})), "!tokens")
    assert sum("(the token of process " in line for line in lines) == 1
