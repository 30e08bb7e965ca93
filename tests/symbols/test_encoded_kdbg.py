"""A debugger data block that the kernel keeps encoded, as every system does that was started without debugging."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import volatility3_kdump
from kdump_sample.memory_images import write_image
from tests.amounts import step
from volatility3_kdump.symbols import kdbg
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import crash_process

NEVER, ALWAYS = 0x1122334455667789, 0xFEDCBA9876543210
MASK = 0xFFFFFFFFFFFFFFFF


def encode(word: int, flag: int, never: int = NEVER, always: int = ALWAYS) -> int:
    """What the kernel does to a qword of the block: the published decoding, step by step backwards."""
    value = word ^ always
    value = int.from_bytes(value.to_bytes(8, "little"), "big")
    value ^= flag
    turn = never & 0x3F
    value = (value >> turn | value << (64 - turn)) & MASK
    return value ^ never


def file_offset(target, address: int) -> int:
    layer = target.context.layers[target.layer_name]
    physical, _, _ = layer._translate(address & layer.address_mask)
    return target.dump.pages.offset_of(physical >> 12) + (physical & 0xFFF)


def write_encoded(plain: Target, dump: Path, encoded: Path) -> None:
    """A dump whose kernel was started without debugging."""
    block = plain.debugger
    assert block is not None
    data = bytearray(dump.read_bytes())
    for name, value in (("KiWaitNever", NEVER), ("KiWaitAlways", ALWAYS)):
        struct.pack_into("<Q", data, file_offset(plain, plain.symbol(name)), value)
    start = file_offset(plain, block.address)
    for offset in range(start, start + block.size, 8):
        word = struct.unpack_from("<Q", data, offset)[0]
        struct.pack_into("<Q", data, offset, encode(word, plain.symbol("KdpDataBlockEncoded")))
    encoded.write_bytes(data)


def test_without_symbols_the_block_is_decoded_by_what_stands_in_it(isf_paths, sample, tmp_path: Path):
    isf = next(path for path in isf_paths if path.name.startswith("00F31FD8"))  # 17763, two generations of layouts
    dump, encoded = sample(6, isf), tmp_path / "encoded.dmp"
    plain = volatility3_kdump.open(dump, isf_file=isf, symbol_path="")
    write_encoded(plain, dump, encoded)
    target = volatility3_kdump.open(encoded, symbol_path="")
    assert not target.has_names
    assert target.debugger is not None and target.debugger.data == plain.debugger.data
    # It says which layouts are the kernel's.
    assert target.symbol_status.startswith("layouts of 17763.3650-5122, the same generation (")
    assert crash_process(target).name == crash_process(plain).name == "notmyfault64.exe"
    # What must stand in it does not, so it stays encoded and there are no types.
    data = bytearray(encoded.read_bytes())
    start = file_offset(plain, plain.debugger.address)
    data[start + 0x48] ^= 1  # PsLoadedModuleList
    encoded.write_bytes(data)
    target = volatility3_kdump.open(encoded, symbol_path="")
    assert target.debugger is None and target.nt is None
    assert "KDDEBUGGER_DATA64 is not in the dump or encoded" in target.symbol_status


def test_an_image_without_symbols_has_the_layouts_of_its_generation(isf_paths, tmp_path: Path):
    """The index of kernels says where the block lies; it says where the bug check is recorded."""
    isf = next(path for path in isf_paths if path.name.startswith("00F31FD8"))
    image = tmp_path / "memory.elf"
    write_image(image, "elf", load_table_file(isf), "myfault", False)
    plain = volatility3_kdump.open(image, isf_file=isf, symbol_path="")
    write_encoded(plain, image, image)
    target = volatility3_kdump.open(image, symbol_path="")
    assert target.debugger is not None and target.debugger.data == plain.debugger.data
    assert target.symbol_status.startswith("layouts of 17763.3650-5122, the same generation (")
    assert target.header.crashed and target.header.bug_check_code == plain.header.bug_check_code == 0xD1
    assert target.header.bug_check_parameters == plain.header.bug_check_parameters
    assert [module.name for module in target.modules] == [module.name for module in plain.modules]


def test_any_keys_are_found_out(sample):
    plain = volatility3_kdump.open(sample())
    block = plain.debugger
    pointers = {name: block[name] for name in ("PsLoadedModuleList", "PsActiveProcessHead")}
    source = random.Random(5)
    for number in range(0, 64, step()):
        never, always, flag = (source.getrandbits(64) for _ in range(3))
        never = never & ~0x3F | number & 0x3F  # every amount
        words = [word for (word,) in struct.iter_unpack("<Q", block.data[: len(block.data) & ~7])]
        coded = struct.pack(f"<{len(words)}Q", *(encode(word, flag, never, always) for word in words))

        def read(address: int, size: int, coded: bytes = coded) -> bytes | None:
            start = address - block.address
            return coded[start : start + size] if start >= 0 and start + size <= len(coded) else None

        found = kdbg.recover_debugger_data(read, block.address, block.kernel_base, pointers)
        assert found is not None and found.data == block.data[: len(coded)] and found.size == block.size
        assert kdbg.decode_debugger_data(read, block.address, never, always, flag).data == found.data
        assert kdbg.recover_debugger_data(read, block.address, block.kernel_base + 0x1000, pointers) is None
        assert kdbg.recover_debugger_data(read, block.address, block.kernel_base, {}) is None
        wrong = {**pointers, "PsActiveProcessHead": pointers["PsActiveProcessHead"] + 8}
        assert kdbg.recover_debugger_data(read, block.address, block.kernel_base, wrong) is None


def test_encoded_block_is_decoded(sample, tmp_path: Path):
    plain = volatility3_kdump.open(sample())
    block = plain.debugger
    encoded = tmp_path / "encoded.dmp"
    write_encoded(plain, sample(), encoded)

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
