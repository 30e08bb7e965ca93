"""Memory images of ARM64 machines: the memory and the registers of a real small dump, in what hypervisors write."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.memory_images import Image, _lime, _raw
from kdump_sample.physical import PAGE
from tests import arm64_machine as made
from volatility3_kdump.captures import open_capture, open_raw
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.dump import FileSource
from volatility3_kdump.errors import NotACrashDump
from volatility3_kdump.layers.self_maps import self_maps
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.opening import open_target

States = dict[int, dict[str, int]]


@pytest.fixture(scope="module")
def running(shared_data: Path) -> tuple[made.Machine, States]:
    """The machine as if it went on."""
    machine = made.arm64_machine(shared_data)
    states = made.regions(machine)
    made.runs_on(machine)
    return machine, states


@pytest.fixture(scope="module")
def tables(running: tuple[made.Machine, States], shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.symbols(running[0], shared_data, tmp_path_factory.mktemp("isf"))


def _opened(path: Path, tables: Path) -> Target:
    return volatility3_kdump.open(path, isf_directories=[tables])


def test_an_elf_file_of_qemu(running: tuple[made.Machine, States], tables: Path, tmp_path: Path) -> None:
    """Every processor's registers are those of the dump, found by x18; its memory by the table that maps itself."""
    machine, states = running
    # A processor in user mode has its TEB in x18, and is not taken for another.
    user = {**states[6], "cpsr": 0, "x18": 0x7FF612340000, "pc": 0x7FF600001000}
    target = _opened(made.elf(machine, tmp_path / "vm.elf", [*list(states.values())[:6], user, states[7]]), tables)
    header = target.header
    assert (header.architecture, header.directory_table_base, header.crashed) == ("arm64", made.ROOT, False)
    assert header.source_of("directory_table_base") == "search for page tables that map themselves"
    assert target.kernel is not None and target.kernel.base == made.KERNEL and target.problems == []
    found = {processor.number: processor.context for processor in processors(target)}
    assert found.keys() == states.keys() and found[6] is None
    for number in states.keys() - {6}:
        context = found[number]
        assert context is not None and context.source == f"NT_PRSTATUS note of processor {number}"
        assert context.registers == {name: states[number][name] for name in context.registers}
        assert len(context.registers) == 34
    session = Session(Options(isf_directories=(tables,)))
    session.open(str(tmp_path / "vm.elf"))
    lines = list(execute(session, "k"))
    session.open(str(machine.small.dump.source.name))
    assert lines == list(execute(session, "k")) and len(lines) == 6


@pytest.mark.parametrize("kind", ["lime", "kdump"])
def test_other_containers(kind: str, running: tuple[made.Machine, States], tables: Path, tmp_path: Path) -> None:
    machine, states = running
    path = tmp_path / f"vm.{kind}"
    if kind == "lime":
        _lime(path, Image(machine.memory, ()))
    else:
        made.kdump(machine, path, states.values())
    capture = open_capture(FileSource(path))
    assert capture is not None
    for frame, page in list(machine.memory.pages.items())[::7]:
        place = capture.pages.offset_of(frame)
        assert place is not None and capture.source.read(place, PAGE) == page
    target = _opened(path, tables)
    assert (target.header.directory_table_base, target.kernel.base if target.kernel else None) == (
        made.ROOT,
        made.KERNEL,
    )
    assert len(target.dump.processors) == (0 if kind == "lime" else 8)
    assert [module.base for module in target.modules] == [module.base for module in machine.small.modules]


def test_registers_of_another_machine(running: tuple[made.Machine, States], tables: Path, tmp_path: Path) -> None:
    machine, states = running
    strange = [{**registers, "x18": registers["x18"] + 0x10000} for registers in states.values()]
    target = _opened(made.elf(machine, tmp_path / "other.elf", strange), tables)
    assert target.dump.processors == ()
    assert target.problems == [
        "no processor's x18 in the ELF core file leads to its KPCR: the registers are of another machine"
    ]
    target = _opened(made.elf(machine, tmp_path / "one.elf", [*strange[:1], *list(states.values())[1:]]), tables)
    assert len(target.dump.processors) == 7
    assert target.problems[0] == (
        "the registers of processor 0 do not fit this memory: its x18 leads to no KPCR; they are not used"
    )


def test_another_system_is_refused(running: tuple[made.Machine, States], tmp_path: Path) -> None:
    """Without a page that maps itself, and with one that leads to no kernel for ARM64."""
    machine, states = running
    root, headers = (bytes(page) for page in (machine.memory.pages[made.ROOT // PAGE], machine.page(made.KERNEL)))
    place = made.SELF_MAP >> 39 & 0x1FF
    wrong = [(made.ROOT // PAGE, root[: 8 * place] + bytes(8) + root[8 * place + 8 :])]
    place = headers.index(b"\x64\xaa")
    wrong.append((machine.frames[made.KERNEL], headers[:place] + b"\x64\x86" + headers[place + 2 :]))
    for frame, content in wrong:
        before = bytes(machine.memory.pages[frame])
        machine.memory.pages[frame][:] = content
        try:
            path = made.elf(machine, tmp_path / "vm.elf", states.values())
        finally:
            machine.memory.pages[frame][:] = before
        with pytest.raises(NotACrashDump, match="no page table of ARM64 that maps itself led to one"):
            volatility3_kdump.open(path)


def test_pages_that_map_themselves(running: tuple[made.Machine, States], tmp_path: Path) -> None:
    """Those of the upper half only, and with progress."""
    machine, _ = running
    path = made.elf(machine, tmp_path / "vm.elf")
    capture = open_capture(FileSource(path))
    assert capture is not None
    told: list[float] = []
    assert list(self_maps(capture.pages, capture.source, lambda percent, _: told.append(percent))) == [made.ROOT]
    assert told == sorted(told) and 0 < told[0] <= told[-1] == 100


@pytest.mark.thorough
def test_a_raw_image_whose_first_gigabytes_are_empty(
    running: tuple[made.Machine, States], tables: Path, tmp_path: Path
) -> None:
    """Raw images count from 0, and the memory of the machine begins at 2 GB: nothing leads to it but its own map."""
    path = tmp_path / "vm.raw"
    _raw(path, Image(running[0].memory, ()))
    told: list[float] = []
    options = Options(isf_directories=(tables,), progress=lambda percent, _: told.append(percent))
    target = open_target(path, options)
    assert (target.header.architecture, target.header.directory_table_base) == ("arm64", made.ROOT)
    assert target.kernel is not None and target.kernel.base == made.KERNEL and target.problems == []
    assert [module.base for module in target.modules] == [module.base for module in running[0].small.modules]
    assert len(told) > 100 and told == sorted(told)


def test_empty_stretches_do_not_count_as_searched(
    running: tuple[made.Machine, States], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raw image of 48 MB: a page that maps itself behind 40 MB of nothing, with room for one stretch."""
    from volatility3_kdump.layers import self_maps as searching

    path = tmp_path / "vm.raw"
    frame = (40 << 20) // PAGE
    page = bytearray(PAGE)
    page[8 * 300 : 8 * 301] = (frame << 12 | 0x703).to_bytes(8, "little")
    with path.open("wb") as stream:
        stream.truncate(48 << 20)
        stream.seek(frame * PAGE)
        stream.write(page)
    monkeypatch.setattr(searching, "_MOST_PAGES", 512)
    capture = open_raw(FileSource(path))
    assert capture is not None
    assert list(self_maps(capture.pages, capture.source)) == [frame * PAGE]
    monkeypatch.setattr(searching, "_MOST_READ", 512)
    assert list(self_maps(capture.pages, capture.source)) == []
