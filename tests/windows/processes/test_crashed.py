"""Who crashed, in dumps whose header was never given the registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.archives import packing
from tests.patched import patched
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import crash_context, crash_process, crash_processor, crash_thread
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.stacks.frames import NoStack
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.switched import interruption
from volatility3_kdump.windows.stacks.walker import walker


def without_registers(source: Path, path: Path) -> Target:
    """A copy of a dump whose header still has the fill where registers and exception belong."""
    data = bytearray(source.read_bytes())
    for name in ("ContextRecord", "Exception"):
        offset, code = packing.FIELDS_64[name]
        size = int(code[:-1])
        data[offset : offset + size] = packing.fill(size)
    path.write_bytes(data)
    return volatility3_kdump.open(path)


def test_the_processor_in_kebugcheckex_saved_them(sample: Callable[..., Path], tmp_path: Path) -> None:
    """volatility 661: type 1, context and exception still the fill."""
    plain = volatility3_kdump.open(sample(1))
    target = without_registers(sample(1), tmp_path / "bare.dmp")
    assert target.header_context is None
    context = crash_context(target)
    assert context is not None and crash_processor(target) == crash_processor(plain)
    assert context.source.startswith("KPRCB.")
    thread, expected = crash_thread(target), crash_thread(plain)
    assert thread is not None and expected is not None and thread.address == expected.address
    frames = [(frame.ip, frame.sp) for frame in walker(target).walk(crash_start(target)).frames]
    assert frames == [(frame.ip, frame.sp) for frame in walker(plain).walk(crash_start(plain)).frames]


@pytest.mark.parametrize("fill", [b"\xff", b"PAGE"])
def test_fill_is_no_name(plain: Target, fill: bytes) -> None:
    process = crash_process(plain)
    assert process is not None and process.name and plain.nt is not None
    place = process.address + plain.nt.offset("_EPROCESS", "ImageFileName")
    changed = read_process(patched(plain, {place: (fill * 15)[:15]}), process.address)
    assert changed is not None and changed.image_name is None


def test_a_thread_of_zeros_is_not_the_idle_thread(sample: Callable[..., Path], tmp_path: Path) -> None:
    """A small memory dump whose copy of the thread was not written."""
    data = bytearray(sample(4).read_bytes())
    start = packing.get_triage(data, 64, "ThreadOffset")
    data[start : start + 0x600] = bytes(0x600)
    (tmp_path / "zeros.dmp").write_bytes(data)
    assert interruption(volatility3_kdump.open(tmp_path / "zeros.dmp")) is None


def test_registers_of_the_header_come_first(sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample())
    assert crash_context(target) is target.header_context


def test_no_processor_in_kebugcheckex_no_registers(
    sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from volatility3_kdump.windows.processes import crashed

    target = without_registers(sample(1), tmp_path / "bare.dmp")
    monkeypatch.setattr(crashed, "_BUG_CHECK_ROUTINES", set())
    assert crash_context(target) is None
    with pytest.raises(NoStack, match="the dump header holds no registers"):
        crash_start(target)
