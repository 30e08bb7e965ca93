"""Virtual address descriptors: against the host's objects for every kernel layout, and trees that are damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.host import ADDRESS, host_kernel, plain
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.symbols.kernel_table import KernelTable
from volatility3_kdump.target import Target
from volatility3_kdump.text.vads import protection_text, vad_lines
from volatility3_kdump.windows.memory.vads import Vad, process_vads, read_vads
from volatility3_kdump.windows.processes.processes import read_process

NOTEPAD, NOTMYFAULT, SYSTEM = 0xFFFF9189527E9080, 0xFFFF91895301A080, 0xFFFF91894C27A040


@pytest.fixture(scope="module")
def target(sample: Callable[..., Path]) -> Target:
    return volatility3_kdump.open(sample(1, None, "user-mode"))


@pytest.fixture
def session(sample: Callable[..., Path], target: Target) -> Session:
    return session_on(target)


def test_the_host_finds_the_same(isf_path: Path, sample: Callable[..., Path]) -> None:
    """Addresses, regions, charges, protections and files of each process that has VADs."""
    path = sample(1, isf_path, "user-mode")
    target = volatility3_kdump.open(path, isf_file=isf_path)
    module = host_kernel(path, isf_path)
    head = module.object("_LIST_ENTRY", offset=module.get_symbol("PsActiveProcessHead").address)
    compared = 0
    for process in head.to_list("nt!_EPROCESS", "ActiveProcessLinks"):
        address = int(process.vol.offset) | ~ADDRESS & 0xFFFFFFFFFFFFFFFF
        if not read_process(target, address).vad_root:
            continue
        tree = process_vads(target, address)
        assert tree.problems == ()
        theirs = {
            int(vad.vol.offset): (
                int(vad.get_start()),
                int(vad.get_end()),
                int(vad.get_private_memory()),
                int(vad.Protection),
                plain(vad.get_file_name()),
            )
            for vad in process.get_vad_root().traverse()
        }
        ours = {vad.address & ADDRESS: row(vad) for vad in tree.vads}
        assert ours == theirs
        charges = {int(vad.vol.offset): int(vad.get_commit_charge()) for vad in process.get_vad_root().traverse()}
        # What the host shows as the field's largest value stands for no charge.
        assert {vad.address & ADDRESS: vad.commit for vad in tree.vads} == {
            at: -1 if charge in (0x7FFFFFFF, 0x7FFFFFFFFFFFF) else charge for at, charge in charges.items()
        }
        compared += len(tree.vads)
    assert compared == 20


def row(vad: Vad) -> tuple[int | None, int | None, int, int | None, str | None]:
    assert vad.private is not None
    return vad.start, vad.end, int(vad.private), vad.protection, vad.section.file if vad.section else None


def test_levels_and_page_file_sections(isf_path: Path, sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample(1, isf_path, "user-mode"), isf_file=isf_path)
    tree = process_vads(target, NOTEPAD)
    assert [vad.level for vad in tree.vads] == [3, 2, 3, 1, 3, 2, 3, 0, 3, 2, 3, 1, 3, 2]
    assert [vad.first for vad in tree.vads] == sorted(vad.first or 0 for vad in tree.vads)
    assert tree.vads[7].address == tree.root == read_process(target, NOTEPAD).vad_root
    sections = {vad.first: vad.section for vad in tree.vads if vad.section and vad.section.in_page_file}
    assert {first: section.committed for first, section in sections.items()} == {0x1A8C4A00: 0x10, 0x7DF5D4B60: 5}
    assert [vad.kind for vad in tree.vads] == [0] * 8 + [4] + [0] * 3 + [2, 2]


def test_the_command(session: Session) -> None:
    shown = answer(session, "!vad")
    assert shown[0] == "VAD              Level         Start           End   Commit"
    assert shown[1][16:] == "     2         7ffe0         7ffe0       -1 Private             READONLY"
    assert shown[5][16:] == (
        "     2     7ff6d0c40     7ff6d0ccb        5 Mapped  Exe         EXECUTE_WRITECOPY  "
        "\\Tools\\NotMyFault\\notmyfault64.exe"
    )
    assert shown[7:] == [
        "",
        "Total VADs: 6, average level: 1, maximum depth: 2",
        "Total private commit: 0x35 pages (212 KB)",
        "Total shared commit: 0x0 pages (0 KB)",
    ]
    of_notepad = answer(session, f".process {NOTEPAD:x};!vad")
    assert of_notepad[15][16:] == shown[6][16:].replace(" 1   ", " 2   ", 1)
    assert of_notepad[7][16:] == (
        "     2      1a8c4a00      1a8c4a0f        0 Mapped              READWRITE          "
        "Pagefile section, shared commit 0x10"
    )
    assert "Total shared commit: 0x15 pages (84 KB)" in of_notepad


def test_the_region_of_an_address_and_a_part_of_the_tree(session: Session, target: Target) -> None:
    found = answer(session, "!vad 7ff6`d0c41f60")
    assert [line.split()[2:4] for line in found[1:2]] == [["7ff6d0c40", "7ff6d0ccb"]]
    assert found[3].startswith("Total VADs: 1,")
    root = process_vads(target, NOTMYFAULT).root
    assert answer(session, f"!vad {root:x}") == answer(session, "!vad")
    assert answer(session, "!vad 1000") == [f"{target.name}: no VAD of the current process holds 1000"]
    assert answer(session, "!vad 1 2")[0].startswith("!vad knows no flag 2")


def test_processes_without_vads(target: Target) -> None:
    with pytest.raises(KdumpError, match=r"process ffff91894c27a040 \(System\) has no VADs: its VadRoot is 0"):
        process_vads(target, SYSTEM)


def test_a_count_that_differs(plain: Target) -> None:
    """The demonstration has the root of Notepad's tree alone."""
    tree = process_vads(plain, NOTEPAD)
    assert len(tree.vads) == 1
    assert tree.problems == ("process ffff9189527e9080 (notepad.exe) counts 285 VADs, 1 are in its tree",)


def test_a_real_small_memory_dump(shared_data: Path) -> None:
    """Of the System process a small memory dump holds a few nodes near the root: what is missing is said."""
    small = volatility3_kdump.open(
        shared_data / "dumps" / "triage_x64_19041_0x1a.dmp", isf_directories=[shared_data / "isf"]
    )
    tree = process_vads(small, 0xFFFFBD0EC54DF080)
    assert [(vad.level, vad.first) for vad in tree.vads] == [
        (1, 0x21C3FB00),
        (0, 0x21C3FBB0),
        (3, 0x21C3FBD0),
        (2, 0x21C3FC00),
        (3, 0x21C3FC30),
        (1, 0x21C3FC60),
    ]
    assert tree.problems[-1] == "process ffffbd0ec54df080 (System) counts 16 VADs, 6 are in its tree"
    assert len(tree.problems) == 4
    shown = list(vad_lines(tree))
    assert "shared commit ? [the segment in its control area is not in the dump: not captured" in shown[2]
    assert "NOTE: the totals are of the VADs above alone" in shown


def test_without_the_kernels_symbols(shared_data: Path) -> None:
    small = volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")
    small.__dict__["kernel_table"] = KernelTable(None, "no table", False)
    with pytest.raises(KdumpError, match="VADs need the kernel's symbols"):
        process_vads(small, NOTEPAD)


def test_small_memory_dumps(sample: Callable[..., Path]) -> None:
    small = volatility3_kdump.open(sample(4, None, "user-mode"))
    with pytest.raises(KdumpError, match=r"the VAD [0-9a-f]{16} is not in the dump: "):
        process_vads(small, NOTMYFAULT)


def test_a_cycle_and_a_child_that_is_none(target: Target) -> None:
    assert target.nt is not None
    whole = process_vads(target, NOTEPAD)
    left = target.nt.offset("_MMVAD_SHORT", "VadNode.Left")
    leaf = whole.vads[0]
    cyclic = process_vads(patched(target, {leaf.address + left: struct.pack("<Q", whole.root)}), NOTEPAD)
    assert cyclic.vads == whole.vads
    assert len(cyclic.problems) == 1
    assert cyclic.problems[0].endswith("was there before: the tree is cyclic; those below it are missing")
    torn = process_vads(patched(target, {whole.root + left: struct.pack("<Q", 0x1234)}), NOTEPAD)
    assert torn.vads == whole.vads[7:]
    assert torn.problems == (
        f"0x1234, a child of the VAD {whole.root:x}, is no kernel structure; those below it are missing",
        "process ffff9189527e9080 (notepad.exe) counts 14 VADs, 7 are in its tree",
    )


def test_regions_that_contradict_each_other(target: Target) -> None:
    assert target.nt is not None
    whole = process_vads(target, NOTEPAD)
    end = target.nt.offset("_MMVAD_SHORT", "EndingVpn")
    changes = {whole.vads[0].address + end: struct.pack("<I", 1), whole.vads[2].address + end: b"\xff" * 4}
    damaged = process_vads(patched(target, changes), NOTEPAD)
    assert damaged.problems == (
        f"the VAD {whole.vads[0].address:x} ends before it begins",
        f"the VAD {whole.vads[3].address:x} does not begin behind the end of {whole.vads[2].address:x}",
    )


def test_files_that_are_not_in_the_dump(target: Target) -> None:
    assert target.nt is not None
    nt, memory = target.nt, target.memory
    exe = process_vads(target, NOTMYFAULT).vads[4]
    assert exe.section is not None and exe.section.control_area is not None
    pointer = exe.section.control_area + nt.offset("_CONTROL_AREA", "FilePointer")
    file = (memory.pointer(pointer) or 0) & ~0xF
    name = memory.pointer(file + nt.offset("_FILE_OBJECT", "FileName") + 8)
    assert name is not None
    shown = list(vad_lines(process_vads(patched(target, absent=[name]), NOTMYFAULT)))
    assert f"[the name of its file object {file:x} is not in the dump: " in shown[5]
    shown = list(vad_lines(process_vads(patched(target, {pointer: bytes(8)}), NOTMYFAULT)))
    assert shown[5].endswith("[its control area names no file: FilePointer is 0]")
    subsection = exe.address + nt.offset("_MMVAD", "Subsection")
    shown = list(vad_lines(process_vads(patched(target, {subsection: struct.pack("<Q", 0x10)}), NOTMYFAULT)))
    assert shown[5].endswith("[its Subsection 10 is no kernel structure]")


@pytest.mark.parametrize(
    ("value", "name"),
    (
        (0, "NO_ACCESS"),
        (1, "READONLY"),
        (4, "READWRITE"),
        (7, "EXECUTE_WRITECOPY"),
        (0x0C, "READWRITE NOCACHE"),
        (0x10, "DECOMMIT"),
        (0x14, "READWRITE GUARD"),
        (0x18, "NO_ACCESS"),
        (0x1C, "READWRITE WRITECOMBINE"),
        (None, "?"),
    ),
)
def test_names_of_protections(value: int | None, name: str) -> None:
    assert protection_text(value) == name


@settings(max_examples=part(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_nodes_hold(target: Target, data: st.DataObject) -> None:
    """Every tree ends, each VAD is in it once, and it can be shown."""
    whole = process_vads(target, NOTEPAD)
    addresses = [vad.address for vad in whole.vads]
    content = st.one_of(
        st.binary(min_size=16, max_size=16),
        st.tuples(st.sampled_from([0, *addresses]), st.sampled_from([0, *addresses])).map(
            lambda pair: struct.pack("<QQ", *pair)
        ),
    )
    changes = data.draw(st.dictionaries(st.sampled_from(addresses), content, max_size=6))
    absent = data.draw(st.lists(st.sampled_from(addresses[1:]), max_size=1))
    damaged = patched(target, changes, [address for address in absent if address >> 12 != whole.root >> 12])
    tree = read_vads(damaged, whole.root)
    found = [vad.address for vad in tree.vads]
    assert whole.root in found
    assert len(found) == len(set(found))
    assert len(list(vad_lines(tree))) == len(found) + 5 + len(tree.problems) + bool(tree.problems)


def test_one_vad_in_full(session: Session) -> None:
    """The lines of the documentation's example, and the command that it has for the image of a region."""
    lines = answer(session, "!vad 7ff6`d0c41f60 1")
    [vad] = [line.split() for line in answer(session, "!vad 7ff6`d0c41f60") if "notmyfault64" in line]
    area = lines[1].rpartition("Control Area:  ")[2]
    assert lines[:5] == [
        f"VAD @ {vad[0]}",
        f"  Start VPN: {vad[2]:>13}  End VPN: {vad[3]:>8}  Control Area:  {area}",
        "  First ProtoPte: 0000000000000000  Last PTE 0000000000000000  Commit Charge         5 (5.)",
        "  File Offset   0",
        "   ImageMap ViewUnmap EXECUTE_WRITECOPY",
    ]
    assert f"ControlArea  @ {area}" in lines
    assert lines[-1] == "Reload command: .reload notmyfault64.exe=00007ff6`d0c40000,8c000"
    private = answer(session, "!vad 7ae6a10000 1")
    assert private[2:] == ["  Commit Charge 4 (4.)", "   Private READWRITE"]
    assert answer(session, f"!vad {int(vad[0], 16):x} 1")[0] == lines[0]
