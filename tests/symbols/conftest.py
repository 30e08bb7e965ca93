"""Images and PDB files of the test data, and memory made of pieces, for the tests of images and names."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from volatility3_kdump.images.image_files import Pieces
from volatility3_kdump.images.modules import Module
from volatility3_kdump.memory import Memory

IMAGES = (
    "x64/nested_collided.exe",
    "x64/xcpt4.exe",
    "x64/xframe_eh_dll.dll",
    "x64/xframe_eh_exe.exe",
    "ARM64/nested_collided.exe",
    "ARM64/xcpt4.exe",
    "ARM64/xframe_eh_dll.dll",
    "ARM64/xframe_eh_exe.exe",
)


@pytest.fixture
def may_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no environment that names symbols, and no word that forbids the network."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("KDUMP_OFFLINE", "KDUMP_ISF_DIR", "_NT_SYMBOL_PATH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setattr("volatility3.framework.constants.OFFLINE", False)


@pytest.fixture(params=IMAGES, ids=[name.replace("/", "-") for name in IMAGES])
def image_path(request: pytest.FixtureRequest, shared_data: Path) -> Path:
    """A real image file with its PDB beside it; a test that asks for it runs once for each."""
    path: Path = shared_data / "pe" / "seh" / request.param
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture
def xcpt4(shared_data: Path) -> Path:
    """An x64 program of five kinds of sections, with relocations, imports and control flow guard."""
    path = shared_data / "pe" / "seh" / "x64" / "xcpt4.exe"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


class Pieced:
    """Memory that holds some pieces of the address space, of any size, and remembers how often it was asked."""

    def __init__(self, held: Mapping[int, bytes]) -> None:
        self.held = dict(held)
        self.reads = 0
        self.memory = Memory(self.read, 8, lambda address: "not in this test's memory")

    def read(self, address: int, size: int) -> bytes | None:
        self.reads += 1
        data = b""
        while len(data) < size:
            position = address + len(data)
            for start, held in self.held.items():
                if start <= position < start + len(held):
                    data += held[position - start : position - start + size - len(data)]
                    break
            else:
                return None
        return data

    def pieces(self, address: int, size: int) -> Iterator[tuple[int, bytes]]:
        for start, held in sorted(self.held.items()):
            low, high = max(start, address), min(start + len(held), address + size)
            if low < high:
                yield low, held[low - start : high - start]


@pytest.fixture
def memory() -> Callable[..., tuple[Memory, Pieces]]:
    """``memory({address: bytes})``: a memory of these pieces, and the function that yields its pieces."""

    def make(held: Mapping[int, bytes] | None = None) -> tuple[Memory, Pieces]:
        pieced = Pieced(held or {})
        return pieced.memory, pieced.pieces

    return make


def optional_header(data: bytes) -> int:
    """File offset of the optional header (PE format specification: e_lfanew, signature, file header)."""
    return int(struct.unpack_from("<I", data, 0x3C)[0]) + 0x18


@pytest.fixture
def module_of() -> Callable[..., Module]:
    """``module_of(path, base)``: the module that an image file would be, loaded at ``base``."""

    def make(path: Path, base: int, name: str | None = None) -> Module:
        data = path.read_bytes()
        start = optional_header(data)
        (timestamp,) = struct.unpack_from("<I", data, start - 0x10)
        (size,) = struct.unpack_from("<I", data, start + 0x38)
        (checksum,) = struct.unpack_from("<I", data, start + 0x40)
        image_name = name or path.name
        return Module(image_name.rsplit(".", 1)[0], image_name, None, base, size, timestamp, checksum)

    return make
