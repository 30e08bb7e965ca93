"""A debugger data block that the kernel keeps encoded, as every system does that was started without debugging."""

from __future__ import annotations

import struct
from pathlib import Path

import volatility3_kdump
from volatility3_kdump.windows.processes.crashed import crash_process

NEVER, ALWAYS = 0x1122334455667789, 0xFEDCBA9876543210
MASK = 0xFFFFFFFFFFFFFFFF


def encode(word: int, flag: int) -> int:
    """What the kernel does to a qword of the block: the published decoding, step by step backwards."""
    value = word ^ ALWAYS
    value = int.from_bytes(value.to_bytes(8, "little"), "big")
    value ^= flag
    turn = NEVER & 0x3F
    value = (value >> turn | value << (64 - turn)) & MASK
    return value ^ NEVER


def file_offset(target, address: int) -> int:
    layer = target.context.layers[target.layer_name]
    physical, _, _ = layer._translate(address & layer.address_mask)
    return target.dump.pages.offset_of(physical >> 12) + (physical & 0xFFF)


def test_encoded_block_is_decoded(sample, tmp_path: Path):
    plain = volatility3_kdump.open(sample())
    block = plain.debugger
    data = bytearray(sample().read_bytes())
    for name, value in (("KiWaitNever", NEVER), ("KiWaitAlways", ALWAYS)):
        struct.pack_into("<Q", data, file_offset(plain, plain.symbol(name)), value)
    start = file_offset(plain, block.address)
    for offset in range(start, start + block.size, 8):
        word = struct.unpack_from("<Q", data, offset)[0]
        struct.pack_into("<Q", data, offset, encode(word, plain.symbol("KdpDataBlockEncoded")))
    encoded = tmp_path / "encoded.dmp"
    encoded.write_bytes(data)

    target = volatility3_kdump.open(encoded)
    assert target.kernel.base_known_by == "first loaded module"
    assert target.debugger.data == block.data
    assert crash_process(target).name == "notmyfault64.exe"


def test_garbage_is_not_taken_for_a_block(sample, tmp_path: Path):
    plain = volatility3_kdump.open(sample())
    data = bytearray(sample().read_bytes())
    start = file_offset(plain, plain.debugger.address)
    data[start : start + 0x40] = bytes(range(0x40))
    torn = tmp_path / "torn.dmp"
    torn.write_bytes(data)
    target = volatility3_kdump.open(torn)
    assert target.debugger is None
    assert crash_process(target).name == "notmyfault64.exe"
