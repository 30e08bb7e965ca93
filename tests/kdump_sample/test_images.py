"""The sample's images are PE files that others can read: pefile and llvm-readobj decode headers and unwind data."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pefile
import pytest

PAGE = 0x1000
KERNEL = 0xFFFFF80062600000

#: Module bases and sizes, as the loader entries have them.
IMAGES = {
    "ntoskrnl": (KERNEL, 0x1046000),
    "myfault": (0xFFFFF80060DA0000, 0x9000),
    "win32kfull": (0xFFFFECCBD0A00000, 0x3B6000),
    "win32k": (0xFFFFECCBD15D0000, 0x9A000),
    "Ntfs": (0xFFFFF800601A0000, 0x2D8000),
}

#: Bytes that the prologue takes from the stack, return address excluded: differences of the session's Child-SP values.
FRAMES = {
    "ntoskrnl": {
        0x409100: 0x97E0 - 0x96A0 - 8,  # KiBugCheckDispatch
        0x28F810: 0x9B80 - 0x9B40 - 8,  # IofCallDriver
        0x675180: 0x9C20 - 0x9B80 - 8,  # IopSynchronousServiceTail
        0x674610: 0x9D60 - 0x9C20 - 8,  # IopXxxControlFile
        0x6745A0: 0x9DD0 - 0x9D60 - 8,  # NtDeviceIoControlFile
        0x3FDED0: 0xBEC50 - 0xBEB10 - 8,  # KiSwapContext
        0x20C470: 0xBED00 - 0xBEC50 - 8,  # KiSwapThread
        0x20BD50: 0xBEDA0 - 0xBED00 - 8,  # KiCommitThreadWait
        0x280310: 0xBEEB0 - 0xBEDA0 - 8,  # KeWaitForMultipleObjects
        0x66F330: 0xBF3B0 - 0xBEEB0 - 8,  # ObWaitForMultipleObjects
    },
    "myfault": {0x1950: 0x99A0 - 0x9970 - 8, 0x1C80: 0x9AE0 - 0x99A0 - 8, 0x1E40: 0x9B40 - 0x9AE0 - 8},
    "win32kfull": {0x2378B4: 0xBF460 - 0xBF3B0 - 8},
}


@pytest.fixture(scope="module")
def image_bytes(memory: Any) -> Callable[[str], bytes]:
    """An image as it lies in memory, pages that are not there as zeros."""
    made: dict[str, bytes] = {}

    def read(name: str) -> bytes:
        if name not in made:
            base, size = IMAGES[name]
            pages = (memory.try_read(base + offset, PAGE) or bytes(PAGE) for offset in range(0, size, PAGE))
            made[name] = b"".join(pages)
        return made[name]

    return read


@pytest.fixture(scope="module")
def parsed(image_bytes: Callable[[str], bytes]) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def parse(name: str) -> Any:
        if name not in made:
            made[name] = pefile.PE(data=image_bytes(name))
        return made[name]

    return parse


@pytest.mark.parametrize("name", IMAGES)
def test_headers(name: str, parsed: Callable[[str], Any]) -> None:
    pe = parsed(name)
    base, size = IMAGES[name]
    assert (pe.OPTIONAL_HEADER.ImageBase, pe.OPTIONAL_HEADER.SizeOfImage) == (base, size)
    assert pe.FILE_HEADER.Machine == 0x8664
    # sections follow each other up to the end of the image
    end = PAGE
    for section in pe.sections:
        assert section.VirtualAddress == end, section.Name
        end += -(-section.Misc_VirtualSize // PAGE) * PAGE
    assert end == size
    warnings = [text for text in pe.get_warnings() if "0x00 makes up" not in text]
    assert warnings == []


def test_kernel_pdb_is_the_symbol_table(parsed: Callable[[str], Any], session_kernel: Path) -> None:
    entry = parsed("ntoskrnl").DIRECTORY_ENTRY_DEBUG[0].entry
    assert entry.PdbFileName.rstrip(b"\0") == b"ntkrnlmp.pdb"
    assert f"{entry.Signature_String}" == session_kernel.name.split(".")[0].replace("-", "")


def test_kernel_rsds_is_where_scanners_look(image_bytes: Callable[[str], bytes]) -> None:
    assert b"RSDS" in image_bytes("ntoskrnl")[:0x400000]


def test_exports(parsed: Callable[[str], Any]) -> None:
    kernel = {symbol.name: symbol.address for symbol in parsed("ntoskrnl").DIRECTORY_ENTRY_EXPORT.symbols}
    assert kernel[b"KeBugCheckEx"] == 0x3F71C0
    assert kernel[b"IofCallDriver"] == 0x28F810
    full = {symbol.name: symbol.address for symbol in parsed("win32kfull").DIRECTORY_ENTRY_EXPORT.symbols}
    assert full[b"xxxMsgWaitForMultipleObjectsEx"] + 0xD9 == 0xFFFFECCBD0C3798D - IMAGES["win32kfull"][0]
    assert full[b"NtUserMsgWaitForMultipleObjectsEx"] + 0x3FE == 0xFFFFECCBD0B46C5E - IMAGES["win32kfull"][0]
    forwarded = {symbol.name: symbol.address for symbol in parsed("win32k").DIRECTORY_ENTRY_EXPORT.symbols}
    assert forwarded[b"NtUserMsgWaitForMultipleObjectsEx"] + 0x20 == 0xFFFFECCBD15D6FD0 - IMAGES["win32k"][0]
    assert not hasattr(parsed("myfault"), "DIRECTORY_ENTRY_EXPORT")


def test_version_resource(parsed: Callable[[str], Any]) -> None:
    pe = parsed("myfault")
    fixed = pe.VS_FIXEDFILEINFO[0]
    assert (fixed.FileVersionMS >> 16, fixed.FileVersionMS & 0xFFFF) == (4, 0)
    texts = {
        key: value
        for part in pe.FileInfo[0]
        if hasattr(part, "StringTable")
        for key, value in part.StringTable[0].entries.items()
    }
    assert texts[b"CompanyName"] == b"Sysinternals"
    assert texts[b"OriginalFilename"] == b"myfault.sys"


def taken_by(text: str) -> int:
    """Stack bytes that unwind codes undo, from pefile's or llvm-readobj's words for them."""
    total = 0
    for code in re.split(r"[;\n]", text):
        if re.search(r"ALLOC_?(STACK|LARGE|SMALL)", code):
            size = re.search(r"(?:size=|STACK )(0x[0-9a-f]+|\d+)", code)
            assert size is not None
            total += int(size[1], 0)
        elif "PUSH_NONVOL" in code or "PUSHREG" in code:
            total += 8
    return total


@pytest.mark.parametrize("name", FRAMES)
def test_unwind_data(name: str, parsed: Callable[[str], Any]) -> None:
    entries = parsed(name).DIRECTORY_ENTRY_EXCEPTION
    begins = [entry.struct.BeginAddress for entry in entries]
    assert begins == sorted(begins)
    assert all(entry.struct.EndAddress <= following for entry, following in zip(entries, begins[1:], strict=False))
    found = {
        entry.struct.BeginAddress: sum(taken_by(str(code)) for code in entry.unwindinfo.UnwindCodes)
        for entry in entries
        if entry.struct.BeginAddress in FRAMES[name]
    }
    assert found == FRAMES[name]


def test_machine_frames(parsed: Callable[[str], Any]) -> None:
    """Page faults push an error code, system calls do not; both address the trap frame through rbp - 80h."""
    entries = {entry.struct.BeginAddress: entry.unwindinfo for entry in parsed("ntoskrnl").DIRECTORY_ENTRY_EXCEPTION}
    for begin, error_code in ((0x405000, 1), (0x4086C0, 0)):
        info = entries[begin]
        assert (info.FrameRegister, info.FrameOffset) == (5, 8)
        frame = bytes(info.UnwindCodes[-1].struct.__pack__())
        assert frame[1] & 0xF == 10
        assert frame[1] >> 4 == error_code
    # the call site of the session lies in the function that begins at KiSystemCall64
    entry = next(
        item.struct for item in parsed("ntoskrnl").DIRECTORY_ENTRY_EXCEPTION if item.struct.BeginAddress == 0x4086C0
    )
    assert entry.BeginAddress < 0x408BB5 < entry.EndAddress


@pytest.mark.skipif(shutil.which("llvm-readobj") is None, reason="llvm-readobj is not installed")
@pytest.mark.parametrize("name", FRAMES)
def test_unwind_data_in_llvm(name: str, image_bytes: Callable[[str], bytes], tmp_path: Path) -> None:
    path = tmp_path / f"{name}.sys"
    path.write_bytes(image_bytes(name))
    output = subprocess.run(["llvm-readobj", "--unwind", str(path)], capture_output=True, text=True, check=True).stdout
    found = {}
    for block in output.split("RuntimeFunction {")[1:]:
        start = re.search(r"StartAddress: \S*\(?0x([0-9A-F]+)\)", block)
        assert start is not None
        rva = int(start[1], 16) - IMAGES[name][0]
        if rva in FRAMES[name]:
            found[rva] = taken_by(block)
    assert found == FRAMES[name]
