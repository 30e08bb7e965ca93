"""Stacks that go on in user mode: through made DLLs on every kernel, and real ones that an emulator executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.containers import write
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.myfault.frames import waiting
from kdump_sample.scene import Process, UserDll
from kdump_sample.scenes import user_stacks as scene
from tests.archives import cabinets
from tests.cpu.shadow_stack import NONVOLATILE, PAGE, SENTINEL, STACK, STACK_SIZE, Image, ShadowStack, State
from tests.cpu.shadow_stack import Frame as ShadowFrame
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target
from volatility3_kdump.windows.stacks.frames import Stack
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.user.spaces import user_space

Sample = Callable[..., Path]

WAITING = [
    "ntdll!NtWaitForSingleObject+0x14",
    "KERNELBASE!WaitForSingleObjectEx+0x9e",
    "service!Wait+0x24",
    "service!Serve+0x88",
    "service!main+0x40",
    "kernel32!BaseThreadInitThunk+0x14",
    "ntdll!RtlUserThreadStart+0x21",
]


def _stack(target: Target, thread: int) -> Stack:
    return walker(target).walk_from(thread_start, thread)


def _in_user_mode(stack: Stack) -> list[str]:
    return [str(frame.name) for frame in stack.frames if frame.sp is not None and not frame.sp >> 63]


def test_through_the_system_call_into_user_mode(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(1, isf_path, "user-stacks"), isf_file=isf_path)
    stack = _stack(target, scene.THREADS[0])
    assert _in_user_mode(stack) == WAITING
    assert (stack.end, stack.complete) == ("start of the thread", True)
    assert {frame.trust for frame in stack.frames[1:]} <= {"unwind", "trap frame"}
    # Return addresses lead from frame to frame across the entry.
    assert all(above.return_address == below.ip for above, below in zip(stack.frames, stack.frames[1:], strict=False))


def test_what_the_maker_put_there(sample: Sample, layouts: Layouts) -> None:
    target = volatility3_kdump.open(sample(1, None, "user-stacks"))
    stack = _stack(target, scene.THREADS[1])
    assert _in_user_mode(stack) == ["service!Work+0x40", *WAITING[3:]]
    registers = walker(target).registers_of_frame(thread_start(target, scene.THREADS[1]), len(stack.frames) - 4)
    # Serve's frame: what main set, and its own rdi.
    assert registers is not None
    assert tuple(map(registers.get, ("rbx", "rsi", "rdi"))) == (0x11, 0x22, 0x33)


def test_an_absent_page_ends_it_with_the_reason(sample: Sample) -> None:
    stack = _stack(volatility3_kdump.open(sample(1, None, "user-stacks")), scene.THREADS[2])
    assert _in_user_mode(stack) == WAITING[:1]
    assert (stack.end, stack.complete) == ("user mode: user page c74f3ff000 is paged out", False)


def test_what_a_page_file_holds(
    sample: Sample, layouts: Layouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third thread's stack, in page 3 of the first paging file of the archive."""
    page = scene.USER_STACKS[2] - PAGE
    base = scene.user_stacks(layouts)
    *others, service = base.processes
    whole = dataclasses.replace(base, processes=(*others, dataclasses.replace(service, paged_out=())))
    write(tmp_path / "whole.dmp", 1, make_contents(Machine(whole, layouts)))
    target = volatility3_kdump.open(tmp_path / "whole.dmp")
    data = user_space(target, scene.PROCESS).memory.read(page, PAGE)
    assert data is not None
    assert _in_user_mode(_stack(target, scene.THREADS[2])) == WAITING
    # MMPTE_SOFTWARE: PageFileHigh, Protection, SwizzleBit.
    monkeypatch.setattr("kdump_sample.machine._PAGED_OUT", 3 << 32 | 4 << 5 | 1 << 4)
    write(tmp_path / "part.dmp", 1, make_contents(Machine(base, layouts)))
    named = b'<Pagefiles><Pagefile Name="pagefile.sys"/></Pagefiles>'
    members = (
        ("m.dmp", (tmp_path / "part.dmp").read_bytes()),
        ("pagefile.sys", bytes(3 * PAGE) + data),
        ("CabManifest.xml", b"<WatsonPageFileManifest>" + named + b"</WatsonPageFileManifest>"),
    )
    (tmp_path / "crash.cab").write_bytes(cabinets.cabinet(members).pack())
    stack = _stack(volatility3_kdump.open(tmp_path / "crash.cab"), scene.THREADS[2])
    assert (_in_user_mode(stack), stack.complete) == (WAITING, True)


def test_a_dump_of_the_kernel_ends_at_user_mode(sample: Sample) -> None:
    stack = _stack(volatility3_kdump.open(sample(6, None, "user-stacks")), scene.THREADS[0])
    assert (stack.end, stack.complete) == ("user mode", True)
    assert stack.frames[-1].name is None


@pytest.mark.parametrize("dump_type", (5, 9, 10))
def test_other_dumps_that_hold_user_mode(dump_type: int, sample: Sample) -> None:
    stack = _stack(volatility3_kdump.open(sample(dump_type, None, "user-stacks")), scene.THREADS[0])
    assert _in_user_mode(stack) == WAITING


# real images ----------------------------------------------------------------------------------------------------------

NONVOLATILE_NAMES = ("rbx", "rbp", "rsi", "rdi", "r12", "r13", "r14", "r15")
_DIRECTORIES = 0x150000000


@dataclasses.dataclass
class Stopped:
    """An instruction at which an emulator was stopped: registers, the return addresses below, and the stack."""

    rip: int
    registers: dict[str, int]
    returns: list[int]
    stack: tuple[int, bytes]


def _executed(image: Image, wanted: int) -> list[Stopped]:
    """Instructions of an image that lie at least one call deep, from all over it."""
    shadow = ShadowStack(image, visits=1)
    stops: list[Stopped] = []
    seen: set[int] = set()

    def observe(state: State, frames: Sequence[ShadowFrame]) -> None:
        if len(frames) < 2 or state.strayed is not None or (state.rip in seen and len(frames) < 3):
            return
        seen.add(state.rip)
        rsp = state.registers[4]
        low, high = rsp // PAGE * PAGE, STACK + STACK_SIZE
        data = shadow.read(low, high - low)
        assert data is not None
        values = dict(zip(NONVOLATILE_NAMES, (state.registers[number] for number in NONVOLATILE), strict=True))
        returns = [frame.rip for frame in reversed(frames)]
        stops.append(Stopped(state.rip, {**values, "rsp": rsp}, returns, (low, data)))

    for number, (begin, _, info) in enumerate(image.runtime_functions()):
        if not image.is_chained(info):
            shadow.run(begin, number, observe, most=400)
    assert len(stops) > 4 * wanted
    return stops[:: len(stops) // wanted][:wanted]


@pytest.mark.parametrize("name", ["xframe_eh_dll.dll", "xcpt4.exe"])
def test_real_images_that_an_emulator_executed(name: str, shared_data: Path, layouts: Layouts, tmp_path: Path) -> None:
    """Each stop is the entry of a thread into the kernel: its return addresses are those that calls have pushed."""
    pytest.importorskip("unicorn")
    directory = shared_data / "pe" / "seh" / "x64"
    image = Image.load(directory / name)
    stops = _executed(image, 12)
    assert len(stops) == 12
    base = scene.user_stacks(layouts)
    *others, model = base.processes
    pages = {rva: image.data[rva : rva + PAGE] for rva in range(0, len(image.data), PAGE)}
    dll = UserDll(name, image.base, (len(image.data) + PAGE - 1) // PAGE * PAGE, image=pages)
    processes = [_stopped(model, index, dll, stop) for index, stop in enumerate(stops)]
    machine = Machine(dataclasses.replace(base, processes=(*others, *processes)), layouts)
    path = tmp_path / "executed.dmp"
    write(path, 1, make_contents(machine))
    target = volatility3_kdump.open(path, symbol_path=str(directory), offline=True)
    for process, stop in zip(processes, stops, strict=True):
        stack = _stack(target, process.threads[0].address)
        frames = [frame for frame in stack.frames if frame.ip < 1 << 47]
        assert [frame.ip for frame in frames] == [stop.rip, *stop.returns], hex(stop.rip)
        assert stack.end == f"user mode: {SENTINEL:#x} lies in no module of the process"
        # Named by the PDB beside the image.
        assert {frame.name.source for frame in frames[:-1] if frame.name} == {"pdb"}


def _stopped(model: Process, index: int, dll: UserDll, stop: Stopped) -> Process:
    """A process whose thread entered the kernel at a stop."""
    shift = index * 0x20000
    thread = dataclasses.replace(
        model.threads[0],
        address=model.threads[0].address + shift,
        tid=0x3004 + 0x10 * index,
        stack_base=model.threads[0].stack_base + 0x40000 + 0x8000 * index,
        frames=waiting(stop.rip, stop.registers["rsp"]),
        registers={name: value for name, value in stop.registers.items() if name != "rsp"},
        user_frames=(),
    )
    return dataclasses.replace(
        model,
        address=model.address + shift,
        pid=0x3000 + 0x10 * index,
        directory_table_base=_DIRECTORIES + 0x1000 * index,
        threads=(thread,),
        dlls=(dll,),
        user_memory=(stop.stack,),
        paged_out=(),
    )
