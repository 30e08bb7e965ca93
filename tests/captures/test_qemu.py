"""What QEMU itself writes: a guest of a few bytes in long mode, dumped through QMP in every format that QEMU has."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from volatility3_kdump.captures import Capture, open_capture
from volatility3_kdump.captures.notes import notes_in, processors_of
from volatility3_kdump.dump import FileSource, extents
from volatility3_kdump.errors import NotACrashDump

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed"),
]

#: A boot sector: page tables at 1000h that map 2 MB onto themselves; CR4.PAE, CR3, EFER.LME, CR0.PG; in long mode GS
#: base and KERNEL_GS_BASE by WRMSR, values in rax, rbx, r8, r15 and rsp, then HLT for ever. GDT at 7CC0h, IDT at 6000h.
BOOT = bytes.fromhex(
    "fa31c08ed88ec0bf001031c0b90018fcf3ab66c70600100320000066c70600200330000066c7060030830000000f0116d87c0f01"
    "1ede7c66b8200000000f22e066b8001000000f22d866b9800000c00f32660d000100000f3066b8110000800f22c0ea677c0800b8"
    "100000008ed88ed0b9010100c0b866554433ba00f8ffff0f30b9020100c0b8aa9988770f3048b8444433332222111148bbefcdab"
    "896745230149bf1032547698badcfebc0070000049b88888777766665555f4ebfd0f1f00000000000000000000000000009a2000"
    "00000000009200001700c07c0000ff070060"
)


#: A boot sector: a page directory at 1000h that maps 4 MB onto themselves; CR4.PSE, CR3, CR0.PG; FS with a base, values
#: in all general registers, then HLT for ever. GDT at 7C80h, IDT at 6000h. Assembled with GNU as.
BOOT_32 = bytes.fromhex(
    "fa31c08ed88ec066c706001083000000660f0116a07c660f011ea67c66b8100000000f22e066b8001000000f22d80f20c0660d01"
    "0000800f22c066ea427c0000080066b810008ed88ec08ed066b818008ee0bc00700000b844332211bb88776655b9ccbbaa99ba01"
    "ffeeddbe89674523bf12efcdabbd90785634f4ebfd8d76000000000000000000ffff0000009acf00ffff00000092cf00ff008067"
    "459240831f00807c0000ff0700600000"
)


class Guest:
    """A running machine, and its monitor."""

    def __init__(self, directory: Path, boot: bytes = BOOT, emulator: str | None = QEMU) -> None:
        self.directory = directory
        disk, monitor = directory / "boot.img", directory / "qmp"
        disk.write_bytes(boot.ljust(510, b"\0") + b"\x55\xaa")
        assert emulator is not None
        self.process = subprocess.Popen(
            [
                *(emulator, "-accel", "tcg", "-smp", "2", "-m", "32", "-display", "none", "-nodefaults"),
                *("-drive", f"file={disk},format=raw,if=ide", "-qmp", f"unix:{monitor},server=on,wait=off"),
            ]
        )
        connection = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            try:
                connection.connect(str(monitor))
                break
            except OSError:
                time.sleep(0.05)
        self._stream = connection.makefile("rw")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            answer = json.loads(self._stream.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])

    def registers(self, processor: int) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": "info registers", "cpu-index": processor}))

    def dump(self, name: str, **options: Any) -> Path:
        path = self.directory / name
        self.ask("dump-guest-memory", protocol=f"file:{path}", **{"paging": False, **options})
        return path


@contextlib.contextmanager
def stopped(machine: Guest, where: str) -> Iterator[Guest]:
    """A machine that is stopped once its registers show where it halts, and killed in the end."""
    try:
        for _ in range(200):
            if where in machine.registers(0):
                break
            time.sleep(0.1)
        machine.ask("stop")
        yield machine
    finally:
        machine.process.kill()
        machine.process.wait()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with stopped(Guest(tmp_path_factory.mktemp("qemu")), "RIP=0000000000007cb") as machine:
        yield machine


def opened(path: Path) -> Capture:
    capture = open_capture(FileSource(path), path)
    assert capture is not None
    return capture


def value(told: str, pattern: str) -> int:
    found = re.search(pattern, told)
    assert found is not None, pattern
    return int(found[1], 16)


@pytest.mark.parametrize("name, options", [("a.elf", {}), ("p.elf", {"paging": True}), ("z", {"format": "kdump-zlib"})])
def test_registers_of_every_processor(name: str, options: dict[str, Any], guest: Guest) -> None:
    if name == "z" and "kdump-zlib" not in guest.ask("query-dump-guest-memory-capability")["formats"]:
        pytest.skip("this QEMU writes no kdump-zlib")
    states = opened(guest.dump(name, **options)).processors
    assert len(states) == 2
    for state in states[:1]:
        told = guest.registers(state.number)
        for register in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "r10", "r15"):
            assert state.registers[register] == value(told, rf"{register.upper()} *=([0-9a-f]+)"), register
        assert state.registers["r8"] == value(told, r"R8 =([0-9a-f]+)") == 0x5555666677778888
        assert state.gs_base == value(told, r"GS =\w+ ([0-9a-f]+)") == 0xFFFFF80033445566
        # The monitor does not show KERNEL_GS_BASE; the guest has set it.
        assert state.kernel_gs_base in (0xFFFFF800778899AA, None)
        assert state.idt_base == value(told, r"IDT= +([0-9a-f]+)") == 0x6000
        assert state.gdt_base == value(told, r"GDT= +([0-9a-f]+)")
        assert state.registers["cs"] == value(told, r"CS =([0-9a-f]+)") == 8
        assert state.page_tables == value(told, r"CR3=([0-9a-f]+)") == 0x1000
        assert state.control[0] == value(told, r"CR0=([0-9a-f]+)")
    # The other processor waits in the firmware, without paging.
    assert states[1].page_tables is None


@pytest.fixture(scope="module", params=["qemu-system-i386", "qemu-system-x86_64"])
def narrow_guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    emulator = shutil.which(request.param)
    if emulator is None:
        pytest.skip(f"{request.param} is not installed")
    with stopped(Guest(tmp_path_factory.mktemp("narrow"), BOOT_32, emulator), "EIP=00007c7") as machine:
        yield machine


@pytest.mark.parametrize("name, options", [("a.elf", {}), ("p.elf", {"paging": True}), ("z", {"format": "kdump-zlib"})])
def test_registers_of_a_32_bit_guest(name: str, options: dict[str, Any], narrow_guest: Guest) -> None:
    """QEMU's own notes have them, and NT_PRSTATUS of x86 the same: each by itself."""
    path, told = narrow_guest.dump(name, **options), narrow_guest.registers(0)
    state = opened(path).processors[0].narrowed()
    general = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip")
    expected = {register: value(told, rf"{register.upper()}=([0-9a-f]+)") for register in general}
    expected["eflags"] = value(told, "EFL=([0-9a-f]+)")
    expected |= {name: value(told, rf"{name.upper()} =([0-9a-f]+)") for name in ("cs", "ds", "es", "fs", "gs", "ss")}
    assert dict(state.registers) == expected and expected["eax"] == 0x11223344
    assert state.architecture == "x86" and state.page_tables == value(told, r"CR3=([0-9a-f]+)") == 0x1000
    assert state.fs_base == value(told, r"FS =\w+ ([0-9a-f]+)") == 0x83456780
    assert (state.idt_base, state.gdt_base) == (value(told, r"IDT= +(\w+)"), value(told, r"GDT= +(\w+)"))
    data = path.read_bytes()
    if name != "z":
        records = [note for note in notes_in(data[data.index(b"CORE\0") - 12 :]) if note.name == b"CORE"]
        (alone, *_), complaints = processors_of(records)
        assert dict(alone.registers) == expected and complaints == []


def test_every_page(guest: Guest) -> None:
    raw = guest.directory / "memory.raw"
    guest.ask("pmemsave", val=0, size=32 << 20, filename=str(raw))
    memory = raw.read_bytes()
    for name, options in (("b.elf", {}), ("y", {"format": "kdump-zlib"})):
        capture = opened(guest.dump(name, **options))
        compared = 0
        for stretch in extents(capture.pages, 0, 32 << 8):
            assert stretch.offset is not None
            size = stretch.count << 12
            assert capture.source.read(stretch.offset, size) == memory[stretch.pfn << 12 : (stretch.pfn << 12) + size]
            compared += stretch.count
        # The video memory below 1 MB is no memory to one of the commands.
        assert compared >= (32 << 8) - 0x60


def test_it_is_no_windows(guest: Guest) -> None:
    with pytest.raises(NotACrashDump, match=r"neither the page tables of its processors \(CR3 0x1000\) nor a scan"):
        volatility3_kdump.open(guest.dump("c.elf"))
