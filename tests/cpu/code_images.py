"""Code that is read at an address, and the functions of real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from volatility3_kdump.cpu import amd64_unwind

Read = Callable[[int, int], "bytes | None"]

BASE = 0xFFFFF80600001000
#: Images of 64-bit programs beside the test data.
REAL_IMAGES = ("xcpt4.exe", "xframe_eh_exe.exe")


def reader(code: bytes, base: int = BASE) -> Read:
    """What reads these bytes at their address, and nothing beyond."""

    def read(address: int, size: int) -> bytes | None:
        offset = address - base
        return code[offset : offset + size] if offset >= 0 and offset + size <= len(code) else None

    return read


def functions_of(shared_data: Path, image: str) -> tuple[Read, list[amd64_unwind.Function]]:
    """A real image as it is loaded at 0, and the entries of its function table."""
    pefile = pytest.importorskip("pefile")
    path = shared_data / "pe" / "seh" / "x64" / image
    if not path.exists():
        pytest.skip(f"{image} is not at hand")
    pe = pefile.PE(str(path))
    memory = pe.get_memory_mapped_image()
    read = reader(memory, 0)
    directory = pe.OPTIONAL_HEADER.DATA_DIRECTORY[3]
    table = amd64_unwind.FunctionTable(read, (directory.VirtualAddress, directory.Size), len(memory))
    return read, list(table.functions())
