"""Readers for the sample's tests that share nothing with the package: kdmp-parser, and the numbers of the session."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: The kernel of the published session.
SESSION_KERNEL = "1B4A6F5E0766C552C90710C8ACC0295C-1.json.xz"

PAGE = 0x1000


class VirtualMemory:
    """Virtual memory of a dump, through kdmp-parser."""

    def __init__(self, dump: Any, directory: int = 0) -> None:
        self.dump = dump
        self.directory = directory

    def read(self, address: int, size: int) -> bytes:
        found = self.try_read(address, size)
        assert found is not None, f"{address:#x} is not in the dump"
        return found

    def try_read(self, address: int, size: int) -> bytes | None:
        parts = []
        while size:
            page = self.dump.read_virtual_page(address & ~(PAGE - 1), self.directory)
            if page is None:
                return None
            offset = address % PAGE
            parts.append(bytes(page[offset : min(PAGE, offset + size)]))
            address, size = address + len(parts[-1]), size - len(parts[-1])
        return b"".join(parts)

    def word(self, address: int) -> int:
        value: int = struct.unpack("<Q", self.read(address, 8))[0]
        return value

    def words(self, address: int, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}Q", self.read(address, 8 * count)))


@pytest.fixture(scope="session")
def session_kernel(shared_data: Path) -> Path:
    """The symbol table of the kernel in the published session."""
    path = shared_data / "isf" / "windows" / "ntkrnlmp.pdb" / SESSION_KERNEL
    if not path.exists():
        pytest.skip(f"no {SESSION_KERNEL} in the test data")
    return path


@pytest.fixture(scope="session")
def open_dump() -> Callable[[Path], Any]:
    """kdmp-parser's reader for a dump file."""
    kdmp_parser = pytest.importorskip("kdmp_parser")
    return lambda path: kdmp_parser.KernelDumpParser(str(path))


@pytest.fixture(scope="session")
def memory(sample: Callable[..., Path], open_dump: Callable[[Path], Any]) -> VirtualMemory:
    """Kernel memory of the sample as a kernel bitmap dump."""
    return VirtualMemory(open_dump(sample(6)))
