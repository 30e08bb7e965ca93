"""Bytes of real dumps for the tests of processor state, found without the package's own readers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from volatility3_kdump.cpu import Read


@pytest.fixture(scope="session")
def dump_bytes(shared_data: Path) -> Callable[[str], bytes]:
    """``dump_bytes("triage_x64_19041")``: the file's bytes."""

    def load(name: str) -> bytes:
        path = shared_data / "dumps" / f"{name}.dmp"
        if not path.is_file():
            pytest.skip(f"no {path}")
        return path.read_bytes()

    return load


@pytest.fixture(scope="session")
def triage_reader(dump_bytes: Callable[[str], bytes]) -> Callable[[str], Read]:
    """``triage_reader(name)``: a reader over the data blocks and the call stack of a 64-bit triage dump."""

    def make(name: str) -> Read:
        data = dump_bytes(name)
        stack_offset, stack_size = struct.unpack_from("<II", data, 0x2028)
        (top,) = struct.unpack_from("<Q", data, 0x2048)
        blocks_offset, count = struct.unpack_from("<II", data, 0x2078)
        blocks = [struct.unpack_from("<QII", data, blocks_offset + 16 * index) for index in range(count)]
        blocks.append((top, stack_offset, stack_size))

        def read(address: int, size: int) -> bytes | None:
            found = b""
            while len(found) < size:
                where = address + len(found)
                for start, offset, length in blocks:
                    if start <= where < start + length:
                        skip = where - start
                        found += data[offset + skip : offset + min(length, skip + size - len(found))]
                        break
                else:
                    return None
            return found

        return read

    return make
