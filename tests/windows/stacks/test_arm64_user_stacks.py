"""User mode of ARM64 processes: a real program is executed (unicorn), and its stack must be the shadow stack."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample.physical import PAGE
from tests import arm64_machine as made
from tests.cpu import test_arm64_unwind as executed
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.cpu import arm64_unwind
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target
from volatility3_kdump.windows.stacks.arm64_user_walk import walk_arm64_user
from volatility3_kdump.windows.stacks.frames import UNWIND
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.user.code import UserCode, user_code

PROGRAM = "nested_collided.exe"
PROCESS, THREAD = 0xFFFFBB8E00800000, 0xFFFFBB8E00810000
ROOT = 0x9F000000
KERNEL_STACK = 0xFFFFE00E20000000
PEB, TEB, LOADER, STRINGS = 0x7F8000000000, 0x7F8000001000, 0x7F8000004000, 0x7F8000005000
DEPTH = 4


@dataclass
class Moment:
    """Registers at the first instruction of a function, the calls that led there, and the stack."""

    image: executed.Image
    x: tuple[int, ...]
    calls: list[int]
    stack: bytes


@pytest.fixture(scope="module")
def moment(shared_data: Path) -> Moment:
    pytest.importorskip("unicorn")
    image = executed.load_image(shared_data / "pe" / "seh" / "ARM64" / PROGRAM)
    kept: list[Moment] = []
    for function in image.functions:
        for seed in range(4):
            run = executed._Run(executed.Shadow(image), function, seed)

            def check(rva: int, x: tuple[int, ...], d: object, run: Any = run) -> None:
                if rva == run.entered[-1] and len(run.calls) >= DEPTH:
                    stack = run.read(executed.STACK, executed.STACK_SIZE)
                    kept.append(Moment(image, x, [call.pc for call in reversed(run.calls)], stack))
                    run.cpu.emu_stop()

            run.check = check  # type: ignore[method-assign]
            run.execute()
            if kept:
                return kept[0]
    pytest.fail("no call is that deep")


class _Process:
    """A process and its thread, which waits in the kernel."""

    def __init__(self, machine: made.Machine, moment: Moment, held: bool) -> None:
        self.machine = machine
        nt = machine.small.nt
        assert nt is not None
        self.nt: Layouts = nt
        for page in (PROCESS, THREAD, KERNEL_STACK, KERNEL_STACK + PAGE):
            machine.page(page)
        machine.memory.claim(ROOT // PAGE)
        self.tables = made.Tables(machine.memory, ROOT)
        self.tables.following = machine.tables.following + 0x1000
        self._objects()
        self._kernel_stack(moment.x)
        for at in range(0, len(moment.stack), PAGE):
            if moment.stack[at : at + PAGE].strip(b"\0"):
                self.user(executed.STACK + at, moment.stack[at : at + PAGE])
        if held:
            for at in range(0, len(moment.image.data), PAGE):
                self.user(moment.image.base + at, moment.image.data[at : at + PAGE])
        self._loader(moment.image)
        kernel = machine.memory.pages[made.ROOT // PAGE][PAGE // 2 :]
        machine.memory.pages[ROOT // PAGE][PAGE // 2 :] = kernel
        self.tables.set(made.SELF_MAP, 0, ROOT | 0x0060_0000_0000_0F03)

    def user(self, address: int, data: bytes) -> None:
        """A page of user mode: accessible from it (AP[1]), not global (nG)."""
        frame = self.tables.frame()
        self.tables.set(address, 3, frame << 12 | 0x0000_0000_0000_0FC3)
        self.machine.memory.pages[frame][: len(data)] = data

    def field(self, type_name: str, address: int, **values: int) -> None:
        for path, value in values.items():
            place = self.nt.field(type_name, path.replace("__", "."))
            self.machine.put(address + place.offset, (value << (place.bit or 0)).to_bytes(place.size, "little"))

    def _objects(self) -> None:
        self.field("_EPROCESS", PROCESS, Pcb__Header__Type=3, Pcb__DirectoryTableBase=ROOT, Peb=PEB)
        self.field("_EPROCESS", PROCESS, UniqueProcessId=0x1234)
        self.machine.put(PROCESS + self.nt.offset("_EPROCESS", "ImageFileName"), PROGRAM[:14].encode())
        top = KERNEL_STACK + 2 * PAGE
        self.field("_ETHREAD", THREAD, Tcb__Header__Type=6, Tcb__State=5, Tcb__Teb=TEB, Tcb__KernelStack=top - 0x400)
        self.field("_ETHREAD", THREAD, Tcb__StackLimit=KERNEL_STACK, Tcb__StackBase=top, Tcb__InitialStack=top)
        self.field("_ETHREAD", THREAD, Tcb__Process=PROCESS, Tcb__ApcState__Process=PROCESS)
        self.field("_ETHREAD", THREAD, Tcb__KernelStackResident=1)
        self.field("_ETHREAD", THREAD, Cid__UniqueProcess=0x1234, Cid__UniqueThread=0x5678)

    def _kernel_stack(self, x: tuple[int, ...]) -> None:
        """The trap frame of the system call, to whose record the frame pointer of the switch leads."""
        trap = KERNEL_STACK + 2 * PAGE - 0x200
        frame = bytearray(0x150)
        struct.pack_into("<IIQ", frame, 0x90, 0, 0, x[31])
        struct.pack_into("<19Q", frame, 0xA0, *x[:19])
        struct.pack_into("<3Q", frame, 0x138, x[30], x[29], x[32])
        self.machine.put(trap, bytes(frame))
        switch = THREAD + self.nt.offset("_KTHREAD", "SwitchFrame")
        self.machine.put(switch + 0x10, struct.pack("<QQ", trap + 0x140, made.KERNEL + 0x2084D0))

    def _loader(self, image: executed.Image) -> None:
        """PEB, TEB and the loader's list with the program."""
        nt, name = self.nt, PROGRAM.encode("utf-16-le")
        entry = LOADER + 0x100
        head = LOADER + nt.offset("_PEB_LDR_DATA", "InLoadOrderModuleList")
        pages = {PEB: bytearray(PAGE), TEB: bytearray(PAGE), TEB + PAGE: bytearray(PAGE)}
        pages |= {LOADER: bytearray(PAGE), STRINGS: bytearray(name.ljust(PAGE, b"\0"))}

        def put(type_name: str, address: int, path: str, value: int) -> None:
            place = nt.field(type_name, path)
            at = address + place.offset
            page = pages[at & -PAGE]
            page[at % PAGE : at % PAGE + place.size] = value.to_bytes(place.size, "little")

        put("_PEB", PEB, "Ldr", LOADER)
        put("_PEB", PEB, "ImageBaseAddress", image.base)
        put("_TEB", TEB, "NtTib.Self", TEB)
        put("_TEB", TEB, "ProcessEnvironmentBlock", PEB)
        put("_TEB", TEB, "ClientId.UniqueThread", 0x5678)
        put("_TEB", TEB, "LastErrorValue", 5)
        for order in ("InLoadOrder", "InMemoryOrder", "InInitializationOrder"):
            own = LOADER + nt.offset("_PEB_LDR_DATA", f"{order}ModuleList")
            link = entry + nt.offset("_LDR_DATA_TABLE_ENTRY", f"{order}Links")
            for address, value in ((own, link), (own + 8, link), (link, own), (link + 8, own)):
                page = pages[address & -PAGE]
                page[address % PAGE : address % PAGE + 8] = value.to_bytes(8, "little")
        assert head
        for path, value in {
            "DllBase": image.base,
            "SizeOfImage": len(image.data),
            "BaseDllName.Length": len(name),
            "BaseDllName.MaximumLength": len(name),
            "BaseDllName.Buffer": STRINGS,
            "FullDllName.Length": len(name),
            "FullDllName.MaximumLength": len(name),
            "FullDllName.Buffer": STRINGS,
        }.items():
            put("_LDR_DATA_TABLE_ENTRY", entry, path, value)
        for address, page in pages.items():
            self.user(address, bytes(page))


def _dump(shared_data: Path, moment: Moment, path: Path, held: bool = True) -> Path:
    machine = made.arm64_machine(shared_data)
    _Process(machine, moment, held)
    return machine.dump(path)


@pytest.fixture(scope="module")
def complete(shared_data: Path, moment: Moment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _dump(shared_data, moment, tmp_path_factory.mktemp("user") / "user.dmp")


@pytest.fixture(scope="module")
def target(complete: Path) -> Target:
    return volatility3_kdump.open(complete)


def test_the_stack_goes_on_in_user_mode(target: Target, moment: Moment) -> None:
    stack = walker(target).walk(thread_start(target, THREAD))
    user = [frame for frame in stack.frames if not target.is_kernel_address(frame.ip)]
    assert [frame.ip for frame in user] == [moment.x[32], *moment.calls]
    assert user[0].sp == moment.x[31] and len(user) > DEPTH
    assert all(frame.trust == UNWIND for frame in user[1:])
    assert stack.end == f"user mode: {executed.RETURN:#x} lies in no module of the process"
    names = {frame.name.module if frame.name is not None else None for frame in user[:-1]}
    assert names == {"nested_collided"}


def test_an_absent_image_ends_the_stack_with_its_reason(shared_data: Path, moment: Moment, tmp_path: Path) -> None:
    target = volatility3_kdump.open(_dump(shared_data, moment, tmp_path / "absent.dmp", held=False))
    stack = walker(target).walk(thread_start(target, THREAD))
    assert stack.frames[-1].ip == moment.x[32]
    assert stack.end.startswith(f"user mode: the headers of {PROGRAM}: ") and not stack.complete


def test_blocks_and_modules_of_the_process(complete: Path, moment: Moment) -> None:
    session = Session()
    session.open(str(complete))
    list(execute(session, f".process /p {PROCESS:x}"))
    modules = "\n".join(execute(session, "!dlls"))
    assert f"{moment.image.base:08x}" in modules and PROGRAM in modules
    peb = "\n".join(execute(session, f"!peb {PEB:x}"))
    assert f"{moment.image.base:x}" in peb and PROGRAM in peb
    list(execute(session, f".thread /p {THREAD:x}"))
    teb = "\n".join(execute(session, "!teb"))
    assert f"{PEB:x}" in teb and "5678" in teb
    header = "\n".join(execute(session, f"db {moment.image.base:x} L2"))
    assert "4d 5a" in header


@pytest.mark.parametrize(
    "number, chpe, reason",
    [
        (0x8664, 0, "x64 code, which is translated while it runs: its frames are not walked"),
        (0x8664, 0x7FF612345678, "ARM64EC code, whose unwind data (in its CHPE metadata) is not read"),
        pytest.param(
            *(0x14C, 0, "x86 code, which is translated while it runs: its frames are not walked"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(0x1C4, 0, "ARM32 code: its frames are not walked", marks=pytest.mark.thorough),
    ],
)
def test_code_of_other_machines_ends_the_stack_with_that_reason(
    number: int, chpe: int, reason: str, shared_data: Path, moment: Moment, tmp_path: Path
) -> None:
    """The program's own headers with another machine, and IMAGE_LOAD_CONFIG_DIRECTORY64.CHPEMetadataPointer."""
    data = bytearray(moment.image.data)
    (start,) = struct.unpack_from("<I", data, 0x3C)
    struct.pack_into("<H", data, start + 4, number)
    (config, _) = struct.unpack_from("<II", data, start + 0x18 + 0x70 + 8 * 10)
    assert config and struct.unpack_from("<I", data, config)[0] >= 0xD0
    struct.pack_into("<Q", data, config + 0xC8, chpe)
    image = replace(moment, image=replace(moment.image, data=bytes(data)))
    target = volatility3_kdump.open(_dump(shared_data, image, tmp_path / "foreign.dmp"))
    stack = walker(target).walk(thread_start(target, THREAD))
    assert stack.frames[-1].ip == moment.x[32] and not stack.complete
    assert stack.end == f"user mode: {PROGRAM} is {reason}"
    code = user_code(target, PROCESS)
    assert isinstance(code, UserCode)
    outside = arm64_unwind.Registers(moment.x[:31], moment.x[31], 0x7FF500001000)
    kind = code.foreign[0]
    translated = "" if kind == "ARM32" else f"; the process has {kind} code, which may be translated there"
    end = walk_arm64_user(code, outside, False, 4, None).end
    assert end == f"user mode: 0x7ff500001000 lies in no module of the process{translated}"
