"""Every scene of the sample maker: small, deterministic, for every kernel, and laid out as the arguments say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_sample import DUMP_TYPES, scene_names, write_sample
from kdump_sample.machine import Machine
from kdump_sample.scenes import DEFAULT, make_scene, scene
from tests.amounts import only, step
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.symbols.isf import load_table_file

TRIAGE, KERNEL, FULL = 4, 6, 1
LARGEST = 4 << 20

#: The scenes of which everything is looked at in quick tests too.
SOME = scene_names()[:: step()]

#: Kernels by the size of EPROCESS that lack what a scene needs: Windows 7 has no fast fail, and DPCs are sampled from
#: Windows 10 1809 on.
ABSENT = {(0x4F8, "list-corruption"), *((size, "dpc-samples") for size in (0x4F8, 0x700, 0x708))}

CONTEXT_FLAGS_AT, RIP_AT = 0x30, 0xF8


@pytest.mark.parametrize("name", scene_names())
def test_scenes_are_small(name: str, sample: Callable[..., Path]) -> None:
    for dump_type in (TRIAGE, KERNEL) if name in SOME else (KERNEL,):
        data = sample(dump_type, None, name).read_bytes()
        assert len(data) < LARGEST
        assert data[:4] == b"PAGE"


@pytest.mark.parametrize("name", only(SOME, scene_names()))
def test_scenes_are_deterministic(name: str, sample: Callable[..., Path], tmp_path: Path) -> None:
    write_sample(tmp_path / "again.dmp", KERNEL, scene=name)
    assert sample(KERNEL, None, name).read_bytes() == (tmp_path / "again.dmp").read_bytes()


@pytest.mark.parametrize("dump_type", DUMP_TYPES)
def test_a_scene_can_be_of_every_type(dump_type: int, tmp_path: Path) -> None:
    path = tmp_path / "x.dmp"
    write_sample(path, dump_type, scene="double-fault")
    code, *parameters = struct.unpack_from("<I4x4Q", path.read_bytes(), 0x38)
    assert (code, parameters[0]) == (0x7F, 8)


@pytest.mark.parametrize("name", only(SOME, scene_names()))
def test_a_scene_stands_on_every_kernel(name: str, some_kernels: Callable[[str], list[Path]]) -> None:
    for path in some_kernels(name):
        table = load_table_file(path)
        if (table.size_of("_EPROCESS"), name) in ABSENT:
            with pytest.raises(LayoutError, match="which the scene needs"):
                make_scene(name, table)
        else:
            Machine(make_scene(name, table), table)


def test_names() -> None:
    names = scene_names()
    assert names[0] == DEFAULT
    assert len(names) == len(set(names)) > 20


def test_a_scene_that_does_not_exist(layouts: Layouts) -> None:
    with pytest.raises(KdumpError, match="no scene nothing: choose one of myfault, "):
        make_scene("nothing", layouts)


def test_two_scenes_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two scenes of the name myfault"):
        scene(DEFAULT)(lambda layouts: make_scene(DEFAULT, layouts))


def read(machine: Machine, address: int, size: int) -> bytes:
    data = machine.work.memory.read(address, size)
    assert data is not None
    return data


@pytest.mark.parametrize("name, number", [("bad-pointer", 3), ("system-thread", 4)])
def test_the_context_lies_where_the_argument_says(layouts: Layouts, name: str, number: int) -> None:
    machine = Machine(make_scene(name, layouts), layouts)
    check = machine.scene.bug_check
    record = read(machine, check.parameters[number - 1], 0x4D0)
    assert struct.unpack_from("<I", record, CONTEXT_FLAGS_AT) == (0x10000F,)
    assert struct.unpack_from("<Q", record, RIP_AT) == (check.parameters[1],)


@pytest.mark.parametrize(
    "name, number, code, ip",
    [("system-thread", 3, 0xC0000094, 2), ("list-corruption", 3, 0xC0000409, None)],
)
def test_the_exception_record_lies_where_the_argument_says(
    layouts: Layouts, name: str, number: int, code: int, ip: int | None
) -> None:
    machine = Machine(make_scene(name, layouts), layouts)
    parameters = machine.scene.bug_check.parameters
    record = read(machine, parameters[number - 1], 0x98)
    assert struct.unpack_from("<I", record) == (code,)
    if ip is not None:
        assert struct.unpack_from("<Q", record, 0x10) == (parameters[ip - 1],)
    else:
        assert struct.unpack_from("<I4xQ", record, 0x18) == (1, parameters[0])


@pytest.mark.parametrize("name, number", [("kernel-exception", 3), ("list-corruption", 2), ("double-fault", 2)])
def test_the_trap_frame_lies_where_the_argument_says(layouts: Layouts, name: str, number: int) -> None:
    """Rip, SegCs, EFlags and Rsp at 0x168 of a KTRAP_FRAME; the code there is that of the driver."""
    machine = Machine(make_scene(name, layouts), layouts)
    frame = read(machine, machine.scene.bug_check.parameters[number - 1], 0x190)
    ip, cs, flags, sp, ss = struct.unpack_from("<QQQQQ", frame, 0x168)
    assert 0xFFFFF80060DA1000 <= ip < 0xFFFFF80060DA3000
    assert (cs, ss, flags & 2) == (0x10, 0x18, 2)
    assert sp >> 32 == 0xFFFFD48F


def test_the_double_fault_is_taken_on_a_stack_of_its_own(layouts: Layouts) -> None:
    machine = Machine(make_scene("double-fault", layouts), layouts)
    check = machine.scene.bug_check
    process = machine.scene.processes[-1]
    thread = next(item for item in process.threads if item.state == 2)
    extent = machine.processes.stacks[thread.address]
    assert check.parameters[2] < extent.limit == thread.stack_base - thread.stack_size
    ((low, high),) = extent.others
    assert low < check.parameters[1] < high
    task_state = machine.scene.processors[check.processor].pcr + 0x11000
    # KTSS64: four reserved bytes, three stack pointers, then Ist, whose first entry is not used
    assert struct.unpack("<Q", read(machine, task_state + 4 + 3 * 8 + 8, 8)) == (high,)


def test_the_critical_process_lies_where_the_argument_says(layouts: Layouts) -> None:
    machine = Machine(make_scene("critical-process", layouts), layouts)
    victim = machine.scene.bug_check.parameters[0]
    name = read(machine, victim + layouts.offset("_EPROCESS", "ImageFileName"), 15)
    assert name.rstrip(b"\0") == b"csrss.exe"
    assert read(machine, victim + layouts.offset("_EPROCESS", "ExitStatus"), 4) == b"\1\0\0\0"
