"""Stack walks on made machines: the maker says where the calls lie, the walker must find them; then damage."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample import context as sample_context
from kdump_sample import pe
from kdump_sample.code import Allocate, Call, FramePointer, Function, pushes
from kdump_sample.dispatch import CLOCK
from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Scene
from kdump_sample.scenes import make_scene, scene_names
from kdump_sample.scenes.crashes import TOUCHES, add, request, touch
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, crashing, draft_stack, kernel_trap
from tests import transcript
from tests.amounts import part
from tests.archives import packing
from tests.edited import calls_on_stack, edited, write_scene
from tests.layers import paging
from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target
from volatility3_kdump.text import stacks as stack_text
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_processor, crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.stacks.frames import MOST_FRAMES, NoStack, Stack, Start
from volatility3_kdump.windows.stacks.places import may_follow_call
from volatility3_kdump.windows.stacks.starts import (
    context_start,
    crash_start,
    processor_start,
    thread_start,
    trap_start,
)
from volatility3_kdump.windows.stacks.walker import StackWalker, walk_threads, walker

PAGE = 0x1000
NOTEPAD = 0xFFFF91895309D080
CRASH_THREAD = 0xFFFF918952F55080
CRASH_STACK = 0xFFFFD48F77AFA000
NT = 0xFFFFF80062600000
TRUSTED = {"context", "unwind", "trap frame", "stack switch"}


@pytest.fixture(scope="module")
def machine(layouts: Layouts) -> Machine:
    return Machine(high_irql_fault(), layouts)


@pytest.fixture
def changed(plain: Target, sample, tmp_path: Path) -> Callable[..., Target]:
    """``changed({address: bytes}, absent=())``: the demonstration with memory changed, opened."""

    def make(changes: Mapping[int, bytes] | None = None, absent: tuple[int, ...] = (), **options: object) -> Target:
        return edited(plain, sample(), tmp_path / "changed.dmp", changes, absent, **options)

    return make


def opened(scene: Scene, layouts: Layouts, path: Path, dump_type: int = 6) -> tuple[Target, Machine]:
    machine = write_scene(path, scene, layouts, dump_type)
    return volatility3_kdump.open(path), machine


def crash_stack(target: Target) -> Stack:
    return walker(target).walk(crash_start(target))


def places(stack: Stack) -> list[tuple[int | None, int]]:
    return [(frame.sp, frame.ip) for frame in stack.frames]


def sites(target: Target, stack: Stack) -> list[str]:
    """Module and function of each frame."""
    names = (frame.name for frame in stack.frames)
    return [
        f"{frame.ip:#x}" if name is None else str(name).split("+")[0]
        for frame, name in zip(stack.frames, names, strict=True)
    ]


def trusts(stack: Stack) -> set[str]:
    return {frame.trust for frame in stack.frames}


def why_none(target: Target, thread: int) -> str:
    with pytest.raises(NoStack) as caught:
        thread_start(target, thread)
    return str(caught.value)


def field(target: Target, thread: int, path: str) -> int:
    """The address of a field of a KTHREAD."""
    return thread + target.nt.offset("_KTHREAD", path)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


# every call that the maker put on a stack ------------------------------------------------------------------------


def _scenes() -> list[Any]:
    """All scenes; a quarter of them without ``--thorough``: they have few stacks between them."""
    return [
        pytest.param(
            name, marks=() if name == "myfault" or zlib.crc32(name.encode()) % 4 == 0 else pytest.mark.thorough
        )
        for name in scene_names()
    ]


@pytest.mark.parametrize("name", _scenes())
def test_every_scene_is_walked_call_by_call(name: str, layouts: Layouts, tmp_path: Path) -> None:
    scene = make_scene(name, layouts)
    target, machine = opened(scene, layouts, tmp_path / "scene.dmp")
    stack = crash_stack(target)
    # Where modules are known that the dump does not hold, it says so.
    assert stack.complete or stack.end.startswith("user mode: "), stack.end
    thread = crashing(scene)[1].address
    got = places(stack)[1:]
    if stack.end.startswith("user mode"):
        got.pop()
    strays = {frame.ip for frame in stack.frames if target.names.module_of(frame.ip) is None and frame.sp >> 63}
    assert [place for place in got if place[1] not in strays] == calls_on_stack(machine, thread)
    # Calls of places outside every module, from where unwinding cannot go on.
    traps = (placed.frame.trap for placed in machine.processes.frames[thread])
    assert len(strays) == sum(trap is not None and trap.called for trap in traps)
    assert trusts(stack) == TRUSTED & trusts(stack) | ({"scan"} if strays else set())
    for before, after in itertools.pairwise(stack.frames):
        assert before.return_address in (after.ip, None)


def test_every_kernel_layout_gives_the_same_call_sites(isf_path: Path, tmp_path: Path) -> None:
    layouts = load_table_file(isf_path)
    scene = high_irql_fault()
    machine = write_scene(tmp_path / "kernel.dmp", scene, layouts)
    target = volatility3_kdump.open(tmp_path / "kernel.dmp", isf_file=isf_path)
    stack = crash_stack(target)
    published = [line.rsplit(" : ", 1)[1].split("+")[0] for line in transcript.STACK_TEXT.splitlines()[1:]]
    assert sites(target, stack)[:-1] == published[:-1]
    assert places(stack)[1:-1] == calls_on_stack(machine, CRASH_THREAD)
    assert trusts(stack) == TRUSTED - {"stack switch"}
    assert stack.complete
    waiting = walker(target).walk(thread_start(target, NOTEPAD))
    # Below the switch frame lies only SwapContext, which has no frame of its own to be found.
    assert places(waiting)[:-1] == calls_on_stack(machine, NOTEPAD)[1:]
    assert waiting.complete


# where to start --------------------------------------------------------------------------------------------------


def test_a_dpc_stack_leads_back_to_the_thread_that_it_interrupted(layouts: Layouts, tmp_path: Path) -> None:
    scene = make_scene("dpc-timeout", layouts)
    target, _ = opened(scene, layouts, tmp_path / "dpc.dmp")
    stack = crash_stack(target)
    top = target.memory.pointer(crash_processor(target).prcb + layouts.offset("_KPRCB", "DpcStack"))
    on_dpc_stack = [frame for frame in stack.frames if frame.sp is not None and top - 0x6000 <= frame.sp <= top]
    names = sites(target, stack)
    # The one that has switched stacks.
    assert names[len(on_dpc_stack) - 1] == "nt!KiDispatchInterrupt"
    low, high = stack_limits(target, crash_thread(target).address)
    assert low <= stack.frames[len(on_dpc_stack)].sp < high
    assert trusts(stack) == TRUSTED - {"stack switch"}


def test_an_interrupt_stack_leads_back_too(layouts: Layouts, tmp_path: Path) -> None:
    interrupts = 0xFFFFC3014F48C000
    made = request(
        touch("Wait", bytes.fromhex("f390ebfc")),
        (
            Frame("myfault!Wait", stopped_at=TOUCHES),
            Frame("KiInterruptDispatchNoLockNoEtw", trap=kernel_trap(eflags=0x246, stack=interrupts)),
            Frame("KiInterruptSubDispatchNoLockNoEtw"),
            Frame("KiCallInterruptServiceRoutine"),
            Frame("HalpTimerClockInterrupt"),
            Frame("KeClockInterruptNotify"),
            Frame("KeAccumulateTicks"),
        ),
        CLOCK,
    )
    block = made.processors[2].pcr + layouts.offset("_KPCR", "Prcb")
    made = crashed(
        add(made, structures=(KernelStructure("_KPRCB", block, {"IsrStack": interrupts}),)), 0x133, (0, 0x501, 0x500, 0)
    )
    target, machine = opened(made, layouts, tmp_path / "isr.dmp")
    stack = crash_stack(target)
    assert stack.end == "user mode"
    assert places(stack)[1:-1] == calls_on_stack(machine, CRASH_THREAD)
    assert stack.frames[0].sp in range(interrupts - 0x6000, interrupts)
    assert trusts(stack) == TRUSTED - {"stack switch"}


def test_a_double_fault_is_walked_from_its_own_stack_into_the_one_that_overflowed(
    layouts: Layouts, tmp_path: Path
) -> None:
    scene = make_scene("double-fault", layouts)
    target, _ = opened(scene, layouts, tmp_path / "overflow.dmp")
    stack = crash_stack(target)
    _, thread = crashing(scene)
    names = sites(target, stack)
    assert names[:3] == ["nt!KeBugCheckEx", "nt!KiBugCheckDispatch", "nt!KiDoubleFaultAbort"]
    fault = stack.frames[3]
    # In the guard page.
    assert thread.stack_base - thread.stack_size - PAGE <= fault.sp < thread.stack_base - thread.stack_size
    assert fault.trust == "trap frame"
    assert stack.frames[2].trap_frame is not None
    assert stack.end == "user mode"


#: A function that runs its callout on another stack and keeps rbp.
_EXPAND = Function(
    "KeExpandKernelStackAndCalloutInternal",
    (*pushes("rbp", "rbx"), Allocate(0x40), FramePointer("rbp", 0x20)),
    (Call(0xA0, "register:rax"),),
)


def expanded(layouts: Layouts) -> Scene:
    """The crash on a second stack that the thread expanded to. Its KTHREAD describes that one."""
    scene = high_irql_fault()
    scene = dataclasses.replace(scene, kernel_functions=(_EXPAND,))
    process, thread = crashing(scene)
    top, size = 0xFFFFD48F77C20000, 0x8000
    control = "_KSTACK_CONTROL" if layouts.has_type("_KSTACK_CONTROL") else "_KERNEL_STACK_CONTROL"
    initial = top - 0x60
    frames = list(thread.frames)
    frames.insert(3, Frame(_EXPAND.name, switches_to=initial))
    old = {
        "Previous.StackBase": thread.stack_base,
        "Previous.StackLimit": thread.stack_base - thread.stack_size,
        "Previous.InitialStack": thread.stack_base - 0x30,
    }
    new = {"StackBase": top, "StackLimit": top - size, "InitialStack": initial}
    process = dataclasses.replace(
        process, threads=tuple(dataclasses.replace(item, frames=tuple(frames)) for item in process.threads)
    )
    scene = dataclasses.replace(
        scene, processes=tuple(process if item.address == process.address else item for item in scene.processes)
    )
    structures = (KernelStructure("_KTHREAD", thread.address, new), KernelStructure(control, initial, old))
    return add(scene, structures=structures)


def test_an_expanded_stack_leads_back_to_the_one_before(layouts: Layouts, tmp_path: Path) -> None:
    target, machine = opened(expanded(layouts), layouts, tmp_path / "expanded.dmp")
    assert stack_limits(target, CRASH_THREAD) == (0xFFFFD48F77C18000, 0xFFFFD48F77C20000)
    stack = crash_stack(target)
    assert stack.end == "user mode"
    assert places(stack)[1:-1] == calls_on_stack(machine, CRASH_THREAD)
    assert stack.frames[0].sp >> 16 != stack.frames[-2].sp >> 16
    assert trusts(stack) == TRUSTED - {"stack switch"}


def test_running_threads_are_where_their_processors_stopped(plain: Target, machine: Machine) -> None:
    """KTHREAD.KernelStack of a running thread is of long ago."""
    for processor in processors(plain):
        start = thread_start(plain, processor.current_thread)
        assert start.context.sp != plain.memory.pointer(field(plain, processor.current_thread, "KernelStack"))
        if processor.number == 2:
            assert start == crash_start(plain)
            continue
        assert start.context.source == f"KPRCB.Context of processor {processor.number}"
        walked = walker(plain).walk(start)
        assert places(walked) == calls_on_stack(machine, processor.current_thread)
        assert walked.end == "start of the thread"


def test_without_the_context_pointer_the_processor_state_serves(plain: Target, machine: Machine, changed) -> None:
    first, second = processors(plain)[:2]
    offset = plain.nt.offset("_KPRCB", "Context")
    record = plain.memory.read(plain.memory.pointer(second.prcb + offset), sample_context.SIZE)
    state = second.prcb + plain.nt.offset("_KPRCB", "ProcessorState.ContextFrame")
    target = changed({first.prcb + offset: words(0), second.prcb + offset: words(0), state: record})
    start = processor_start(target, 1)
    assert start.context.source == "KPRCB.ProcessorState of processor 1"
    assert places(walker(target).walk(start)) == calls_on_stack(machine, second.current_thread)
    with pytest.raises(NoStack, match="the dump holds no registers of processor 0"):
        processor_start(target, 0)
    with pytest.raises(NoStack, match="processor 3 has no control block in the dump"):
        processor_start(target, 3)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("State", b"\0", "the thread is initialized: it has no stack"),
        ("State", b"\4", "the thread is terminated: it has no stack"),
        ("State", b"\2", "the thread is running, and no processor in the dump says that it runs it"),
        ("State", b"\6", "kernel stack not resident: it is paged out"),
        ("KernelStack", words(0xFFFFD48F777C0000), "KernelStack 0xffffd48f777c0000 lies outside the stack "),
        ("KernelStack", words(0xFFFFD48F777B9FF8), "KernelStack 0xffffd48f777b9ff8 lies outside the stack "),
        ("KernelStack", words(0), "KernelStack 0x0 lies outside the stack "),
        ("StackBase", words(0), "KernelStack 0xffffd48f777bead0 lies outside the stack "),
    ],
)
def test_threads_without_a_stack_say_why(plain: Target, changed, path: str, value: bytes, reason: str) -> None:
    assert why_none(changed({field(plain, NOTEPAD, path): value}), NOTEPAD).startswith(reason)


def test_a_stack_that_is_paged_out_says_so(plain: Target, changed) -> None:
    resident = plain.nt.field("_KTHREAD", "KernelStackResident")
    address = NOTEPAD + resident.offset
    value = plain.memory.unsigned(address, resident.size) & ~(1 << resident.bit)
    assert value != plain.memory.unsigned(address, resident.size)
    assert why_none(changed({address: value.to_bytes(resident.size, "little")}), NOTEPAD) == (
        "kernel stack not resident: it is paged out"
    )


@pytest.mark.parametrize("state", [1, 3, 5, 7])
def test_threads_that_wait_or_are_ready_have_a_switch_frame(plain: Target, changed, state: int) -> None:
    target = changed({field(plain, NOTEPAD, "State"): bytes([state])})
    assert places(walker(target).walk(thread_start(target, NOTEPAD))) == places(
        walker(plain).walk(thread_start(plain, NOTEPAD))
    )


def test_damaged_switch_frames_say_why(plain: Target, changed) -> None:
    frame = plain.memory.pointer(field(plain, NOTEPAD, "KernelStack"))
    elsewhere = changed({frame + 0x38: words(0xFFFFECCBD0A01000)})
    assert why_none(elsewhere, NOTEPAD) == (
        f"no switch frame at {frame:#x}: its return address 0xffffeccbd0a01000 is not in the kernel"
    )
    absent = changed(absent=(frame,))
    assert why_none(absent, NOTEPAD).startswith(f"the switch frame at {frame:#x} cannot be read: ")
    assert why_none(changed(absent=(NOTEPAD,)), NOTEPAD) == "the thread object is not in the dump"


def test_many_threads_with_and_without_a_stack(plain: Target, changed) -> None:
    system = 0xFFFF91894C2B3040
    target = changed({field(plain, system, "State"): b"\4"})
    found = dict(walk_threads(walker(target), iter((system, NOTEPAD, CRASH_THREAD, NT)), 3))
    assert found[system] == Stack((), "the thread is terminated: it has no stack", False)
    assert [len(found[thread].frames) for thread in (NOTEPAD, CRASH_THREAD)] == [3, 3]
    assert found[NOTEPAD].end == "3 frames, the limit"
    assert not found[NT].frames


def test_user_memory_is_that_of_the_process_that_crashed(sample) -> None:
    """Threads of other processes have other memory at the same addresses."""
    target = volatility3_kdump.open(sample())
    held = target.memory.read
    target.memory.read = lambda address, size: held(address, size) if address >> 63 else b"\x11" * size
    at = 0x1111111111111111
    assert crash_stack(target).frames[-2].arguments == (at,) * 4
    notepad = walker(target).walk(thread_start(target, NOTEPAD))
    assert notepad.end == "user mode"
    assert notepad.frames[-2].arguments == (None,) * 4


# traps -----------------------------------------------------------------------------------------------------------


def test_a_trap_frame_of_user_mode_is_one_frame(plain: Target) -> None:
    start = trap_start(plain, 0xFFFFD48F77AF9E40)
    stack = walker(plain).walk(start)
    assert [(frame.sp, frame.ip, frame.trust) for frame in stack.frames] == [
        (0x0000007AE6BDE8D8, 0x00007FF8F16ECE54, "trap frame")
    ]
    assert (stack.end, stack.complete) == ("user mode", True)


def test_a_context_record_is_a_start(plain: Target) -> None:
    prcb = crash_processor(plain).prcb
    record = plain.memory.pointer(prcb + plain.nt.offset("_KPRCB", "Context"))
    assert places(walker(plain).walk(context_start(plain, record))) == places(crash_stack(plain))
    with pytest.raises(NoStack, match="no context record at 0x10: not mapped"):
        context_start(plain, 0x10)
    with pytest.raises(NoStack, match=r"no context record at 0xfffff80062600000: ContextFlags 0x[0-9a-f]+ are not"):
        context_start(plain, NT)
    with pytest.raises(NoStack, match="no trap frame at 0xfffff80062600000: "):
        trap_start(plain, NT)


def jump_to(address: int, layouts: Layouts) -> Scene:
    """A call of ``address``, where nothing is: the processor faults there."""
    caller = Function("CallBad", (*pushes("rbx"), Allocate(0x20)), (Call(0x1C, "register:rax"),))
    trap = dataclasses.replace(kernel_trap(), called=True, rip=address)
    made = request(
        caller,
        (
            Frame("myfault!CallBad", sets={"rbx": address}),
            Frame("KiPageFault", trap=trap),
            Frame("KiBugCheckDispatch"),
        ),
    )
    return crashed(made, 0xD1, (address, 0xFF, 8, address), called_with=(0xA, address, 0xFF, 8, address))


@pytest.mark.parametrize("address", [0, 0x30, 0x41414141, 0xFFFF91894EE41230])
def test_after_a_call_to_nowhere_the_caller_is_on_top_of_the_stack(
    address: int, layouts: Layouts, tmp_path: Path
) -> None:
    target, machine = opened(jump_to(address, layouts), layouts, tmp_path / "jump.dmp")
    stack = crash_stack(target)
    names = sites(target, stack)
    stray = names.index("nt!KiPageFault") + 1
    assert stack.frames[stray].ip == address
    assert stack.frames[stray].trust == "trap frame"
    assert names[stray + 1] == "myfault"
    assert stack.frames[stray + 1].trust == "scan"
    assert stack.end == "user mode"
    assert [place for place in places(stack)[1:-1] if place[1] != address] == calls_on_stack(machine, CRASH_THREAD)


def test_a_jump_to_nowhere_that_is_no_call_ends_the_walk(layouts: Layouts, tmp_path: Path) -> None:
    scene = jump_to(0x30, layouts)
    stack_pointer = draft_stack(scene, layouts).frame("KiPageFault")
    (tmp_path / "other").mkdir()
    target, _ = opened(scene, layouts, tmp_path / "jump.dmp")
    frames = crash_stack(target).frames
    stray = next(frame for frame in frames if frame.ip == 0x30)
    assert stack_pointer.child_sp < stray.sp
    # In front of this address stands no call: KeBugCheckEx's entry.
    damaged = edited(
        target, tmp_path / "jump.dmp", tmp_path / "x.dmp", {stray.sp: words(target.symbol("KeBugCheckEx"))}
    )
    stack = crash_stack(damaged)
    assert stack.frames[-1].ip == 0x30
    assert (stack.end, stack.complete) == (
        "0x30 lies outside every module, and no return address is on top of the stack",
        False,
    )


def test_the_header_context_of_an_exception_in_a_small_dump(layouts: Layouts, tmp_path: Path) -> None:
    """0x1000007E: the header has the registers of the exception; the saved stack begins at KeBugCheckEx, below them."""
    scene = make_scene("system-thread", layouts)
    whole, machine = opened(scene, layouts, tmp_path / "whole.dmp")
    record = scene.bug_check.parameters[3]
    context = whole.memory.read(record, sample_context.SIZE)
    write_scene(tmp_path / "small.dmp", scene, layouts, 4)
    data = bytearray((tmp_path / "small.dmp").read_bytes())
    struct.pack_into("<I", data, 0x38, 0x1000007E)
    data[0x348 : 0x348 + len(context)] = context
    (tmp_path / "small.dmp").write_bytes(data)
    small = volatility3_kdump.open(tmp_path / "small.dmp")
    assert small.dump.triage.stack.address < small.header_context.sp
    stack = crash_stack(small)
    wanted = calls_on_stack(machine, crashing(scene)[1].address)
    fault = next(index for index, (sp, _) in enumerate(wanted) if sp == small.header_context.sp)
    assert places(stack)[0] == wanted[fault]
    assert stack.frames[0].trust == "context"
    # No images in a small dump: the calls behind are found by a scan, and none is missed.
    assert trusts(stack) == {"context", "scan"}
    assert {ip for _, ip in wanted[fault:]} <= {frame.ip for frame in stack.frames}


def test_a_real_dump_whose_header_has_the_context_of_the_exception(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    assert target.header.bug_check_code == 0x1000007E
    stack = crash_stack(target)
    assert (stack.frames[0].sp, target.dump.triage.stack.address) == (0xFFFF850429892120, 0xFFFF850429890EE8)
    assert stack.frames[0].name.module == "amdppm"
    trap = trap_start(target, 0xFFFF850429891F90)
    assert places(walker(target).walk(trap)) == places(stack)


# damage ----------------------------------------------------------------------------------------------------------


def entries(target: Target, base: int) -> Iterator[tuple[int, int, int, int]]:
    """(address of the entry, begin, end, unwind information) of an image's function table."""
    start = base + struct.unpack("<I", target.memory.read(base + 0x3C, 4))[0]
    rva, size = struct.unpack("<II", target.memory.read(start + 0x18 + 112 + 8 * 3, 8))
    for address in range(base + rva, base + rva + size, 12):
        yield address, *struct.unpack("<III", target.memory.read(address, 12))


def entry_of(target: Target, symbol: str) -> tuple[int, int, int, int]:
    rva = target.symbol(symbol) - NT
    return next(entry for entry in entries(target, NT) if entry[1] == rva)


DAMAGED = "IopXxxControlFile"
#: Its codes, padded to even, in the sample: seven pushes and an allocation of two slots; no flags.
_SLOTS = 9


@pytest.mark.parametrize(
    "damage",
    ["past the image", "past the section", "ends inside", "loop", "unknown operation", "version 3", "version 0", "rsp"],
)
def test_bad_unwind_data_is_stepped_over_by_a_scan(plain: Target, changed, damage: str) -> None:
    entry, begin, end, rva = entry_of(plain, DAMAGED)
    info = NT + rva
    head = plain.memory.read(info, 4)
    assert head[2] == _SLOTS
    link = info + 4 + 2 * (_SLOTS + 1)
    changes = {
        "past the image": {entry + 8: struct.pack("<I", 0x1046000 - 2)},
        # The rest of the section was never written: it is not mapped.
        "past the section": {entry + 8: struct.pack("<I", 0xE82FFE)},
        "ends inside": {info + 4: b"\x00\x11" * 8 + b"\x00\x11"},
        "loop": {info: bytes([head[0] | 4 << 3]), link: struct.pack("<III", begin, end, rva)},
        "unknown operation": {info + 4: b"\x04\x0b"},
        "version 3": {info: bytes([3])},
        "version 0": {info: bytes([0])},
        "rsp": {info + 4 + 4: b"\x10\x40"},
    }[damage]
    target = changed(changes)
    stack = crash_stack(target)
    names = sites(target, stack)
    known = crash_stack(plain)
    at = sites(plain, known).index(f"nt!{DAMAGED}")
    assert places(stack)[: at + 1] == places(known)[: at + 1]
    assert stack.frames[at + 1].trust == "scan"
    assert not stack.trusted
    # Nothing but what stands behind a call; the callers are among it.
    assert all(may_follow_call(target, frame.ip) for frame in stack.frames if frame.trust == "scan")
    assert "nt!NtDeviceIoControlFile" in names[at + 1 :]
    assert "nt!KiSystemServiceCopyEnd" in names


def test_an_unsorted_table_is_put_in_order(plain: Target, changed) -> None:
    table = list(entries(plain, NT))
    packed = b"".join(struct.pack("<III", *entry[1:]) for entry in reversed(table))
    target = changed({table[0][0]: packed})
    assert crash_stack(target) == crash_stack(plain)


def test_without_the_function_table_known_frames_come_first_then_a_scan(plain: Target, changed) -> None:
    target = changed(absent=tuple({entry[0] & ~0xFFF for entry in entries(plain, NT)}))
    stack, known = crash_stack(target), crash_stack(plain)
    assert [frame.trust for frame in stack.frames[:4]] == ["context", "unwind", "trap frame", "trap frame"]
    assert places(stack)[:4] == places(known)[:4]
    assert stack.frames[2].trap_frame == known.frames[2].trap_frame
    # myfault's own table is there, the kernel's frames above it come from a scan.
    assert [frame.trust for frame in stack.frames if frame.name is not None and frame.name.module == "myfault"] == [
        "trap frame",
        "unwind",
        "unwind",
    ]
    assert set(sites(plain, known)[:-1]) <= set(sites(target, stack))
    # The trap frame of the system call is known by its place and its content.
    assert (stack.end, stack.complete) == ("user mode", True)
    assert places(stack)[-2:] == places(known)[-2:]


def test_without_image_headers_too(plain: Target, changed) -> None:
    myfault = next(module for module in plain.modules if module.name == "myfault").base
    stack, known = crash_stack(changed(absent=(myfault,))), crash_stack(plain)
    assert [frame.trust for frame in stack.frames[4:6]] == ["scan", "scan"]
    assert {frame.ip for frame in known.frames} <= {frame.ip for frame in stack.frames}
    bare = changed(absent=(NT,), isf_file=kernel_table_path())
    stack = crash_stack(bare)
    assert [frame.trust for frame in stack.frames[:4]] == ["context", "unwind", "trap frame", "trap frame"]
    assert places(stack)[:6] == places(known)[:6]
    assert (stack.end, stack.complete) == ("user mode", True)


TRAP_FRAME = 0xFFFFD48F77AF97E0


@pytest.mark.parametrize(
    ("rsp", "end"),
    [
        (TRAP_FRAME - 0x140, "the stack pointer goes down, from 0xffffd48f77af97e0 to 0xffffd48f77af96a0"),
        (TRAP_FRAME, "the stack pointer 0xffffd48f77af97e0 does not go up"),
        (0xFFFFD48F77AFA008, "the stack pointer 0xffffd48f77afa008 lies outside the thread's stacks"),
        (0xFFFFD48F77AF1FF0, "the stack pointer 0xffffd48f77af1ff0 lies outside the thread's stacks"),
        (0xFFFF918952F55080, "the stack pointer 0xffff918952f55080 lies outside the thread's stacks"),
        (1 << 63, "kernel code segment with Rsp 0x8000000000000000"),
        ((1 << 64) - 8, "the stack pointer 0xfffffffffffffff8 lies outside the thread's stacks"),
        (0xFFFFD48F77AF9971, "the stack pointer 0xffffd48f77af9971 is not a multiple of 8"),
    ],
)
def test_a_damaged_stack_pointer_ends_the_walk(plain: Target, changed, rsp: int, end: str) -> None:
    stack = crash_stack(changed({TRAP_FRAME + 0x180: words(rsp)}))
    assert (stack.end.split(";")[0], stack.complete) == (f"the trap frame at {TRAP_FRAME:#x} is damaged: {end}", False)
    assert all(frame.trap_frame is None for frame in stack.frames)
    assert places(stack)[:3] == places(crash_stack(plain))[:3]


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (0, "the return address below 0xffffd48f777beda0 is zero, far from the top of the stack"),
        (0x1234, "the return address 0x1234 lies outside every module"),
        (0x00007FF8F16ECE54, "the return address 0x7ff8f16ece54 lies outside every module"),
        (0xFFFFFFFFFFFFFFFF, "the return address 0xffffffffffffffff lies outside every module"),
        (0x8000000000000000, "the return address 0x8000000000000000 lies outside every module"),
    ],
)
def test_a_damaged_return_address_ends_the_walk(plain: Target, changed, value: int, end: str) -> None:
    known = walker(plain).walk(thread_start(plain, NOTEPAD))
    sp = 0xFFFFD48F777BEDA0
    number = next(frame.number for frame in known.frames if frame.sp == sp)
    target = changed({sp - 8: words(value)})
    stack = walker(target).walk(thread_start(target, NOTEPAD))
    assert places(stack) == places(known)[:number]
    assert (stack.end, stack.complete) == (end, False)


def test_stack_pages_that_are_absent_end_the_walk(plain: Target, changed) -> None:
    known = walker(plain).walk(thread_start(plain, NOTEPAD))
    target = changed(absent=(0xFFFFD48F777BF000,))
    stack = walker(target).walk(thread_start(target, NOTEPAD))
    held = sum(0 < 0xFFFFD48F777BF000 - frame.sp < PAGE for frame in known.frames)
    assert places(stack) == places(known)[:held]
    assert stack.end == (
        "the return address at 0xffffd48f777bf3a8 is not in the dump; no further return address on the stack"
    )
    # What lies on the absent page is not zero but unknown.
    assert stack.frames[-1].arguments == (None,) * 4
    nothing = changed(absent=(0xFFFFD48F77AF9000,))
    stack = crash_stack(nothing)
    assert places(stack) == places(crash_stack(plain))[:1]
    assert stack.end.startswith("the return address at 0xffffd48f77af9698 is not in the dump; ")


def test_a_cycle_between_two_stacks_ends(layouts: Layouts, tmp_path: Path) -> None:
    """A trap frame on the DPC stack that leads to the thread's, and one there that leads back."""
    scene = make_scene("dpc-timeout", layouts)
    target, _ = opened(scene, layouts, tmp_path / "dpc.dmp")
    traps = [frame.trap_frame for frame in crash_stack(target).frames if frame.trap_frame is not None]
    inner, outer = traps[0], traps[1]
    start = crash_stack(target).frames[0]
    damaged = edited(
        target,
        tmp_path / "dpc.dmp",
        tmp_path / "cycle.dmp",
        {outer + 0x180: words(start.sp), outer + 0x168: words(start.ip)},
    )
    stack = crash_stack(damaged)
    assert inner < start.sp + 0x1000
    assert stack.frames[-1].sp == outer and stack.frames[-1].trap_frame is None
    problem = f"the stack pointer {start.sp:#x} lies outside the thread's stacks"
    assert (stack.end, stack.complete) == (f"the trap frame at {outer:#x} is damaged: {problem}", False)


def test_no_walk_passes_the_limit(layouts: Layouts, tmp_path: Path) -> None:
    recurse = Function("Recurse", (Allocate(8),), (Call(0x20, "local:Recurse"),))
    made = request(recurse, [*[Frame("myfault!Recurse")] * 1300, Frame("KiBugCheckDispatch")])
    made = crashed(made, 0xE2, (0, 0, 0, 0))
    target, _ = opened(made, layouts, tmp_path / "deep.dmp")
    start = crash_start(target)
    for most, frames in ((10**6, MOST_FRAMES), (300, 300), (0, 1), (-5, 1)):
        stack = walker(target).walk(start, most)
        assert (len(stack.frames), stack.end, stack.complete) == (frames, f"{frames} frames, the limit", False)


# scans -----------------------------------------------------------------------------------------------------------


def test_scans_pass_over_what_is_no_return_address(sample, tmp_path: Path) -> None:
    """Values on the stack that point into modules, but not behind a call."""
    whole = volatility3_kdump.open(sample())
    names = whole.names
    decoys = {
        "entry": whole.symbol("IofCallDriver"),
        "inside": whole.symbol("IofCallDriver") + 0x40,
        "data": whole.symbol("KdDebuggerDataBlock"),
        "header": NT + 0x100,
    }
    assert all(names.module_of(value).name == "nt" for value in decoys.values())
    # Sixteen bytes apart, where return addresses lie, behind DoFault's Child-SP.
    changes = {0xFFFFD48F77AF99A8 + 16 * index: words(value) for index, value in enumerate(decoys.values())}
    myfault = next(module for module in whole.modules if module.name == "myfault").base
    target = edited(whole, sample(), tmp_path / "decoys.dmp", changes, (myfault + 0x5000,))
    stack = crash_stack(target)
    scanned = [frame for frame in stack.frames if frame.trust == "scan"]
    assert scanned
    assert not {frame.ip for frame in stack.frames} & set(decoys.values())
    # Of some code in between the dump has no bytes.
    assert all(may_follow_call(target, frame.ip) is not False for frame in scanned)
    assert {frame.ip for frame in crash_stack(whole).frames} <= {frame.ip for frame in stack.frames}


def test_scans_of_small_dumps_use_the_code_that_is_there(sample) -> None:
    target = volatility3_kdump.open(sample(4))
    stack = crash_stack(target)
    scanned = [frame for frame in stack.frames if frame.trust == "scan"]
    answers = {may_follow_call(target, frame.ip) for frame in scanned}
    assert True in answers
    assert False not in answers


# images from files ------------------------------------------------------------------------------------------------


def write_images(machine: Machine, directory: Path) -> None:
    """The images of a machine as files: sections of theirs lie at the same places in both."""
    directory.mkdir()
    for module in machine.images.modules:
        image = module.image
        with (directory / image.name).open("wb") as file:
            for rva, data in pe.build(image).items():
                file.seek(rva)
                file.write(data)
            file.truncate(image.size)


def test_image_files_make_the_scan_of_a_small_dump_exact(plain: Target, machine: Machine, sample, tmp_path: Path):
    write_images(machine, tmp_path / "images")
    small = volatility3_kdump.open(sample(4))
    assert "scan" in trusts(crash_stack(small))
    helped = volatility3_kdump.open(sample(4), image_path=tmp_path / "images")
    stack, known = crash_stack(helped), crash_stack(plain)
    assert trusts(stack) == {"context", "unwind", "trap frame"}
    assert stack.complete
    assert places(stack) == places(known)
    assert [frame.trust for frame in stack.frames] == [frame.trust for frame in known.frames]
    assert [frame.trap_frame for frame in stack.frames] == [frame.trap_frame for frame in known.frames]


def test_an_image_file_of_another_build_is_not_used(machine: Machine, sample, tmp_path: Path) -> None:
    write_images(machine, tmp_path / "images")
    path = tmp_path / "images" / "myfault.sys"
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 0x3C)[0]
    data[start + 8] ^= 1
    path.write_bytes(data)
    target = volatility3_kdump.open(sample(4), image_path=tmp_path / "images")
    stack = crash_stack(target)
    fault = next(frame for frame in stack.frames if frame.ip == 0xFFFFF80060DA1981)
    assert stack.frames[fault.number + 1].trust == "scan"
    assert any("myfault.sys: TimeDateStamp" in problem for problem in target.problems)
    # The kernel's file still serves.
    site = next(frame for frame in stack.frames if frame.ip == target.symbol("IofCallDriver") + 0x55)
    assert stack.frames[site.number + 1].trust == "unwind"


# other architectures ---------------------------------------------------------------------------------------------

STACK_32, CODE_32 = 0xB2340000, 0x80400000
ESP = STACK_32 + 0x1E00


def machine_32(path: Path, dwords: Mapping[int, int], ebp: int, eip: int = CODE_32 + 0x1234) -> Target:
    """A 32-bit dump with one module, a stack of two pages, and the registers of the crash in its header."""
    memory, values = paging.machine("pae")
    tables = paging.Tables("pae", 0x40, 0x60)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items()}
    tables.map(STACK_32, 0x50)
    tables.map(STACK_32 + PAGE, 0x51)
    memory = {pfn: bytes(page) for pfn, page in tables.memory.items()}
    modules = bytearray(memory[0x30])
    entry = 0x800  # KLDR_DATA_TABLE_ENTRY: DllBase, EntryPoint, SizeOfImage, BaseDllName
    struct.pack_into("<III", modules, entry + 0x18, CODE_32, CODE_32, 0x200000)
    text = "ntoskrnl.exe".encode("utf-16-le")
    struct.pack_into("<HHI", modules, entry + 0x2C, len(text), len(text), 0x80555000 + 0xA00)
    modules[0xA00 : 0xA00 + len(text)] = text
    memory[0x30] = bytes(modules)
    stack = bytearray(2 * PAGE)
    for address, value in dwords.items():
        struct.pack_into("<I", stack, address - STACK_32, value)
    memory[0x50], memory[0x51] = bytes(stack[:PAGE]), bytes(stack[PAGE:])
    record = bytearray(1200)
    struct.pack_into("<I", record, 0, 0x10007)
    struct.pack_into("<IIIIII", record, 0xB4, ebp, eip, 8, 0x10246, ESP, 0x10)
    values["ContextRecord"] = bytes(record)
    path.write_bytes(packing.full(packing.runs_of(memory), 32, memory, **values))
    return volatility3_kdump.open(path)


def chain(*frames: tuple[int, int, int]) -> dict[int, int]:
    """Saved ebp and return address at each (frame, next frame, return address)."""
    return {address: value for at, following, ip in frames for address, value in ((at, following), (at + 4, ip))}


FIRST, SECOND, THIRD = STACK_32 + 0x1E40, STACK_32 + 0x1EC0, STACK_32 + 0x1F80


def test_the_frame_pointers_of_a_32_bit_dump(tmp_path: Path) -> None:
    links = chain((FIRST, SECOND, CODE_32 + 0x2000), (SECOND, THIRD, CODE_32 + 0x3000), (THIRD, 0, CODE_32 + 0x4000))
    arguments = {FIRST + 8 + 4 * index: 0xA0 + index for index in range(4)}
    target = machine_32(tmp_path / "x86.dmp", {**links, **arguments}, FIRST)
    stack = crash_stack(target)
    high = 0xFFFFFFFF00000000
    assert [(frame.sp, frame.ip, frame.trust, frame.call_site) for frame in stack.frames] == [
        (high | ESP, high | CODE_32 + 0x1234, "context", False),
        (high | FIRST + 8, high | CODE_32 + 0x2000, "frame pointer", True),
        (high | SECOND + 8, high | CODE_32 + 0x3000, "frame pointer", True),
        (high | THIRD + 8, high | CODE_32 + 0x4000, "frame pointer", True),
    ]
    assert stack.frames[0].arguments == (0xA0, 0xA1, 0xA2, 0xA3)
    assert stack.frames[0].return_address == high | CODE_32 + 0x2000
    # The arguments of a frame are above its frame pointer and the return address.
    assert [frame.fp for frame in stack.frames] == [high | FIRST, high | SECOND, high | THIRD, 0]
    assert next(stack_text.rows(stack, "kb", 4)) == ("00 b2341e40 80402000 000000a0 000000a1 000000a2 nt+0x1234")
    assert (stack.end, stack.complete) == ("start of the thread", True)
    assert sites(target, stack) == ["nt", "nt", "nt", "nt"]
    with pytest.raises(NoStack, match="no trap frame at 0xb2341e40: EFlags 0x0 have reserved bits wrong"):
        trap_start(target, FIRST)


@pytest.mark.parametrize(
    ("links", "frames", "end"),
    [
        (chain((FIRST, SECOND, 0x77001234)), 2, "user mode"),
        (chain((FIRST, SECOND, CODE_32), (SECOND, FIRST, CODE_32)), 2, "the frame-pointer chain goes down from "),
        (chain((FIRST, FIRST, CODE_32)), 1, "the frame-pointer chain goes down from "),
        (chain((FIRST, 0xB2350000, CODE_32)), 2, "ebp 0xb2350000 is outside the stack"),
        (chain((FIRST, 0x80123454, CODE_32)), 2, "ebp 0x80123454 is outside the stack"),
        (chain((FIRST, SECOND + 2, CODE_32)), 2, "ebp 0xb2341ec2 is not a multiple of 4"),
        (chain((FIRST, 0xB2342000, CODE_32)), 2, "the frame at 0xb2342000 is not in the dump"),
        (chain((FIRST, SECOND, 0)), 1, "start of the thread"),
    ],
)
def test_damaged_frame_pointers_end_the_walk(links: dict[int, int], frames: int, end: str, tmp_path: Path) -> None:
    stack = crash_stack(machine_32(tmp_path / "x86.dmp", links, FIRST))
    assert len(stack.frames) == frames
    assert stack.end.startswith(end)
    assert stack.complete is (end in ("user mode", "start of the thread"))


# random damage ---------------------------------------------------------------------------------------------------


class Overlaid:
    """A target of its own, whose memory can be covered with other bytes."""

    def __init__(self, path: Path) -> None:
        self.target = volatility3_kdump.open(path)
        self.read = self.target.memory.read
        crash_processor(self.target), crash_thread(self.target), self.target.names, self.target.nt

    def with_bytes(self, address: int, content: bytes) -> StackWalker:
        """A new walker over the memory with ``content`` at an address."""
        end = address + len(content)

        def read(start: int, size: int) -> bytes | None:
            data = self.read(start, size)
            if data is None or start >= end or start + size <= address:
                return data
            held = bytearray(data)
            first, last = max(start, address), min(start + size, end)
            held[first - start : last - start] = content[first - address : last - address]
            return bytes(held)

        self.target.memory.read = read  # type: ignore[method-assign]
        self.target.__dict__.pop("images", None)
        return StackWalker(self.target)


@pytest.fixture(scope="module")
def overlaid(sample) -> Overlaid:
    return Overlaid(sample())


def check(walker: StackWalker, start: Start) -> None:
    """What holds of every walk, whatever the memory is."""
    began = time.process_time()
    stack = walker.walk(start)
    assert time.process_time() - began < 2
    assert 1 <= len(stack.frames) <= MOST_FRAMES
    assert stack.end
    assert [frame.number for frame in stack.frames] == list(range(len(stack.frames)))
    assert stack.frames[0].trust == start.trust
    for before, after in itertools.pairwise(stack.frames):
        assert before.return_address in (after.ip, None)
        if after.trust == "scan":
            assert may_follow_call(walker.target, after.ip) is not False
    assert stack.frames[-1].return_address is None
    # The stack pointer only goes up, but for changes of the stack; there are never more of those than stacks.
    kernel = [frame.sp for frame in stack.frames if frame.sp is not None and frame.sp >> 63]
    assert sum(after <= before for before, after in itertools.pairwise(kernel)) <= len(start.segments)


quick = settings(max_examples=part(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

#: Bytes that look like what stands on stacks: return addresses, stack pointers, selectors, zeros, anything.
interesting = st.one_of(
    st.sampled_from(
        [0, 0x10, 0x18, 0x33, 0x246, 0x50286, NT, NT + 0x409169, 0xFFFFF80060DA1D3D, 0xFFFFF80060DA1EA1, TRAP_FRAME]
    ),
    st.integers(0xFFFFD48F77AF4000, CRASH_STACK),
    st.integers(0, (1 << 64) - 1),
)


@quick
@given(st.integers(0, 0x120), st.lists(interesting, min_size=1, max_size=0x60))
def test_no_stack_makes_a_walk_fail(overlaid: Overlaid, offset: int, values: list[int]) -> None:
    walker = overlaid.with_bytes(0xFFFFD48F77AF9698 + 8 * offset, words(*values))
    check(walker, crash_start(overlaid.target))
    with contextlib.suppress(NoStack):
        check(walker, trap_start(overlaid.target, TRAP_FRAME))


@quick
@given(st.integers(0, 0x600), st.binary(min_size=1, max_size=64))
def test_no_unwind_data_makes_a_walk_fail(overlaid: Overlaid, offset: int, content: bytes) -> None:
    check(overlaid.with_bytes(NT + 0xE82000 + offset, content), crash_start(overlaid.target))


@quick
@given(st.integers(0, 0x200), st.lists(st.integers(0, 0x1046000), min_size=1, max_size=16))
def test_no_function_table_makes_a_walk_fail(overlaid: Overlaid, offset: int, values: list[int]) -> None:
    content = struct.pack(f"<{len(values)}I", *values)
    check(overlaid.with_bytes(NT + 0xE02000 + offset, content), crash_start(overlaid.target))


@quick
@given(st.integers(0, 0x400), st.binary(min_size=1, max_size=64))
def test_no_image_header_makes_a_walk_fail(overlaid: Overlaid, offset: int, content: bytes) -> None:
    check(overlaid.with_bytes(NT + offset, content), crash_start(overlaid.target))


@quick
@given(st.binary(min_size=16, max_size=0x200))
def test_no_arm64_stack_makes_a_walk_fail(arm64: Overlaid, content: bytes) -> None:
    start = crash_start(arm64.target)
    check(arm64.with_bytes(start.context.sp, content), start)
    check(arm64.with_bytes(start.context.fp, content), start)


@pytest.fixture(scope="module")
def arm64(shared_data: Path) -> Overlaid:
    return Overlaid(shared_data / "dumps" / "triage_arm64_22000.dmp")
