"""IoTriageDumpData: blocks of memory as tagged data."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from volatility3_kdump.dump.io_triage import parse_blocks
from volatility3_kdump.windows.processes.crashed import crash_process

PATH = "\\Device\\HarddiskVolume3\\Windows\\explorer.exe".encode("utf-16-le")
BLOCKS = {0xFFFFF803CD0FE140: bytes(range(0x20)), 0xFFFFA686EA7A53A0: PATH}


def blob(blocks: dict[int, bytes] = BLOCKS, count: int | None = None, total: int | None = None) -> bytes:
    """The head of 18h bytes, the record of 2Ch bytes, the blocks, and what comes behind them."""
    body = b"".join(struct.pack("<QII", address, len(data), 0) + data for address, data in blocks.items())
    sizes = (0x2C, len(blocks) if count is None else count, len(body) if total is None else total, 0, 0x18)
    record = (struct.pack("<5I", *sizes) + b"IoTriageDumpData\0").ljust(0x2C, b"\0")
    return struct.pack("<6I", 0x18, 0x20001, 0, 0, 0, 0) + record + body + bytes(8)


def test_blocks_by_address() -> None:
    assert parse_blocks(blob()) == BLOCKS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x18\0\0\0",
        blob()[:0x44],
        blob()[:-0x20],
        blob(count=3),
        blob(count=1),
        blob(count=0xFFFFFFFF),
        blob(total=0xFFFFFFFF),
        blob(total=0x20),
        b"\xff\xff\xff\xff" + blob()[4:],
        blob().replace(b"IoTriage", b"NoTriage"),
    ],
)
def test_blocks_that_do_not_add_up(data: bytes) -> None:
    assert parse_blocks(data) == {}


@given(st.binary(max_size=200), st.integers(0, 120))
def test_any_bytes(data: bytes, position: int) -> None:
    made = blob()
    for content in parse_blocks(made[:position] + data + made[position + len(data) :]).values():
        assert len(content) <= len(made) + len(data)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("0x13a", r"\Device\HarddiskVolume3\Windows\System32\svchost.exe"),
        ("0x3b", r"\Device\HarddiskVolume3\Windows\explorer.exe"),
        ("0xbe", r"\Device\HarddiskVolume3\Users\userA\AppData\Local\Discord\app-1.0.9171\Discord.exe"),
    ],
)
def test_the_path_of_the_crashed_process(shared_data: Path, name: str, path: str) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / f"triage_x64_26100_{name}.dmp")
    process = crash_process(target)
    assert process is not None
    assert process.image_path == path
    assert path.endswith(f"\\{process.image_name}")
