"""Processes against the published session, the host's plugins on every kernel layout, and damaged dumps."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import volatility3_kdump
from kdump_sample.scenes import waits as scene
from tests.edited import edited
from tests.host import ADDRESS, host_kernel, plain, whole_seconds
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import data_path
from volatility3_kdump.target import Target
from volatility3_kdump.text.times import filetime
from volatility3_kdump.windows.listing.processes import ListedProcess
from volatility3_kdump.windows.processes.crashed import crash_process
from volatility3_kdump.windows.processes.crossview import BACKWARDS, HANDLES, IDS, LIST, OWNERS, SESSIONS, cross_view
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses, walk_processes
from volatility3_kdump.windows.processes.processes import Process, process_reader, read_process
from volatility3_kdump.windows.processes.user_mode import NOT_IN_THE_DUMP, read_user_mode

Sample = Callable[..., Path]

NOTEPAD, NOTMYFAULT, SYSTEM, EXPLORER = 0xFFFF9189527E9080, 0xFFFF91895301A080, 0xFFFF91894C27A040, 0xFFFF91894F386080

#: What the published session says of Notepad.
SESSION = {
    "pid": 0x1E90,
    "parent": 0x15E8,
    "session": 2,
    "peb": 0xBB6F2AC000,
    "directory_table_base": 0x1D822D000,
    "object_table": 0xFFFFD80249EB8040,
    "handle_count": 817,
    "image_name": "notepad.exe",
    "vad_root": 0xFFFF918953A30A20,
    "vad_count": 285,
    "clone_root": 0,
    "private_pages": 2175,
    "modified_pages": 340,
    "locked_pages": 2,
    "device_map": 0xFFFFD80247FE8CF0,
    "token": 0xFFFFD8024A19C770,
    "user_time": 0,
    "kernel_time": 0,
    "paged_quota": 430688,
    "nonpaged_quota": 39648,
    "working_set": 11788,
    "minimum_working_set": 50,
    "maximum_working_set": 345,
    "peak_working_set": 11793,
    "page_faults": 14745,
    "memory_priority": 0,
    "base_priority": 8,
    "commit_charge": 3452,
}


def of(target: Target, address: int) -> Process:
    return read_process(target, address)


def test_notepad_on_every_kernel(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path)
    process = of(target, NOTEPAD)
    assert {name: getattr(process, name) for name in SESSION} == SESSION
    assert (process.virtual_size or 0) >> 20 == 2101500
    assert (process.peak_virtual_size or 0) >> 20 == 2101501
    assert (process.elapsed(target.header.system_time) or 0) // 10_000 == 47_378
    assert process.image_path == "\\Device\\HarddiskVolume3\\Windows\\System32\\notepad.exe"
    assert (process.state, process.wow64, process.active_threads) == ("running", 0, 1)
    assert process.notes == ()
    assert process.name == "notepad.exe"
    # The name in EPROCESS is cut.
    assert (of(target, NOTMYFAULT).image_name, of(target, NOTMYFAULT).name) == ("notmyfault64.e", "notmyfault64.exe")


def test_one_memory_read_for_a_process(sample: Sample) -> None:
    """But for the path, the session and the handle table, which lie elsewhere."""
    target = volatility3_kdump.open(sample())
    of(target, NOTEPAD)
    reads = []
    read = target.memory.read
    target.memory.read = lambda address, size: reads.append(address) or read(address, size)
    of(target, NOTEPAD)
    assert sum(NOTEPAD <= address < NOTEPAD + 0xA40 for address in reads) == 1


# the host -----------------------------------------------------------------------------------------------------------


@pytest.mark.newest_host
def test_the_host_lists_the_same_processes(isf_path: Path, sample: Sample) -> None:
    from volatility3.plugins.windows import pslist

    path = sample(1, isf_path, "waits")
    kernel = host_kernel(path, isf_path)
    target = volatility3_kdump.open(path, isf_file=isf_path)
    theirs = list(pslist.PsList.list_processes(kernel.context, kernel.name))
    ours = [of(target, address) for address in process_addresses(target)]
    assert [process.address & ADDRESS for process in ours] == [int(process.vol.offset) for process in theirs]
    assert len(ours) == 15
    for process, other in zip(ours, theirs, strict=True):
        assert process.pid == int(other.UniqueProcessId)
        assert process.parent == int(other.InheritedFromUniqueProcessId)
        name = other.ImageFileName.cast("string", max_length=other.ImageFileName.vol.count, errors="replace")
        assert process.image_name == str(name)
        assert process.active_threads == int(other.ActiveThreads)
        assert process.session == plain(other.get_session_id())
        assert bool(process.wow64) == other.get_is_wow64()
        assert whole_seconds(filetime(process.create_time)) == plain(other.get_create_time())
        assert whole_seconds(filetime(process.exit_time)) == plain(other.get_exit_time())
        handles = plain(other.get_handle_count()) if process.object_table else None
        assert handles in (None, process.handle_count)
        assert process.directory_table_base == int(other.Pcb.DirectoryTableBase)


# kinds of processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(sample: Sample) -> Target:
    return volatility3_kdump.open(sample(6, None, "waits"))


def test_states(busy: Target) -> None:
    states = {process.pid: process.state for process in map(process_reader(busy).read, cross_view(busy).order)}
    assert states[scene.EXITED] == "exited"
    assert states[scene.FROZEN] == "frozen"
    assert states[scene.MINIMAL] == "minimal"
    assert states[scene.WOW64] == states[scene.DEADLOCK] == "running"
    exited = of(busy, scene.process_address(2))
    assert (exited.exit_status, exited.handle_count, exited.session_space) == (0xC0000005, 0, 0)
    assert (exited.exit_time or 0) - (exited.create_time or 0) == 30_000_000
    assert of(busy, scene.process_address(3)).freeze_count == 1
    assert of(busy, scene.process_address(5)).wow64


def test_names_keep_what_they_hold(busy: Target) -> None:
    assert of(busy, scene.process_address(5)).name == "old\x1b[31m.exe"


def test_cross_view_finds_the_hidden_process(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path, "waits"), isf_file=isf_path)
    cross = cross_view(target)
    assert cross is not None
    assert cross.problems == ()
    assert set(cross.views) == {LIST, BACKWARDS, IDS, SESSIONS, HANDLES, OWNERS}
    missing = {address: cross.missing_from(of(target, address)) for address in cross.order}
    assert {address for address, places in missing.items() if places} == {scene.process_address(1)}
    assert missing[scene.process_address(1)] == (LIST, BACKWARDS)
    assert set(cross.seen_in(scene.process_address(1))) == {IDS, SESSIONS, HANDLES, OWNERS}
    assert cross.order[-1] == scene.process_address(1)


def test_a_process_that_is_only_in_the_list(sample: Sample, tmp_path: Path) -> None:
    """Entries of PspCidTable and of the other lists taken out one by one are each noticed."""
    path = sample()
    target = volatility3_kdump.open(path)
    nt = target.nt
    assert nt is not None
    links = NOTEPAD + nt.offset("_EPROCESS", "SessionProcessLinks")
    after, before = target.memory.pointer(links), target.memory.pointer(links + 8)
    assert after and before
    changes = {before: struct.pack("<Q", after), after + 8: struct.pack("<Q", before)}
    found = edited(target, path, tmp_path / "session.dmp", changes)
    cross = cross_view(found)
    assert cross is not None
    assert cross.missing_from(of(found, NOTEPAD)) == (SESSIONS,)


def test_small_memory_dumps_have_no_cross_view(sample: Sample) -> None:
    assert cross_view(volatility3_kdump.open(sample(4))) is None


# user mode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump_type", (1, 5, 9, 10))
def test_command_line_of_dumps_with_user_pages(sample: Sample, dump_type: int) -> None:
    target = volatility3_kdump.open(sample(dump_type))
    user = read_user_mode(target, of(target, NOTEPAD))
    assert user.absent is None
    assert user.command_line == '"C:\\Windows\\system32\\notepad.exe" C:\\Users\\user\\Desktop\\note.txt'
    assert user.image_path == "C:\\Windows\\System32\\notepad.exe"
    # Its page tables, not those of the process that crashed.
    assert read_user_mode(target, of(target, NOTMYFAULT)).command_line == ('"C:\\Tools\\NotMyFault\\notmyfault64.exe" ')
    assert read_user_mode(target, of(target, SYSTEM)).absent == "the process has no user mode"


@pytest.mark.parametrize("dump_type", (2, 4, 6, 8))
def test_no_user_pages_in_kernel_dumps(sample: Sample, dump_type: int) -> None:
    target = volatility3_kdump.open(sample(dump_type))
    user = read_user_mode(target, of(target, NOTMYFAULT))
    assert (user.absent, user.command_line, user.modules) == (NOT_IN_THE_DUMP, None, ())


# small memory dumps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, address, with_symbols",
    [("triage_x64_19041", 0xFFFFC08BDCE94180, True), ("triage_arm64_22000", 0xFFFFBB8EB1690080, False)],
)
def test_process_of_real_small_memory_dumps(shared_data: Path, name: str, address: int, with_symbols: bool) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp", [shared_data / "isf"])
    process = crash_process(target)
    assert process is not None
    assert (process.address, process.pid, process.name) == (address, 4, "System")
    assert target.has_names == with_symbols
    # What the dump cannot say is None, not 0.
    assert process.handle_count == (234 if with_symbols else None)
    assert process.state == "running"


# damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(sample: Sample, tmp_path: Path) -> Callable[..., Target]:
    path = sample()
    target = volatility3_kdump.open(path)
    return lambda changes=None, absent=(): edited(target, path, tmp_path / "damaged.dmp", changes, absent)


@pytest.fixture
def whole(sample: Sample) -> list[int]:
    return process_addresses(volatility3_kdump.open(sample()))


def links_of(target: Target, process: int) -> int:
    assert target.nt is not None
    return process + target.nt.offset("_EPROCESS", "ActiveProcessLinks")


@pytest.mark.parametrize(
    "link, words",
    [
        (0x00007FF712345678, "which is no kernel structure"),
        (0, "which is no kernel structure"),
        (0xFFFF918900000001, "which is no kernel structure"),
        (0xFFFFBEEF00000000, "is not in the dump"),
        (None, "the list is cyclic"),
    ],
    ids=["user space", "null", "misaligned", "absent", "cyclic"],
)
def test_a_broken_link_costs_nothing_that_blink_still_reaches(
    damaged: Callable[..., Target], sample: Sample, whole: list[int], link: int | None, words: str
) -> None:
    reference = volatility3_kdump.open(sample())
    at = links_of(reference, whole[3])
    value = links_of(reference, whole[1]) if link is None else link
    target = damaged({at: struct.pack("<Q", value)})
    walk = walk_processes(target)
    assert set(whole) <= set(walk.entries)
    assert any(words in problem for problem in walk.problems)
    assert process_addresses(target) == list(walk.entries)
    assert any(words in problem for problem in target.problems)


def test_a_list_broken_both_ways_is_completed_by_ids(
    damaged: Callable[..., Target], sample: Sample, whole: list[int]
) -> None:
    reference = volatility3_kdump.open(sample())
    first, second = links_of(reference, whole[3]), links_of(reference, whole[6])
    target = damaged({first: bytes(8), second + 8: bytes(8)})
    assert set(whole) - set(walk_processes(target).entries) == {whole[4], whole[5]}
    cross = cross_view(target)
    assert cross is not None
    assert set(cross.order) == set(whole)
    lost = cross.missing_from(of(target, whole[4]))
    assert lost == (f"{LIST} (incomplete)", f"{BACKWARDS} (incomplete)")


def test_a_process_whose_page_is_missing(damaged: Callable[..., Target], whole: list[int]) -> None:
    """Its neighbours in the list name it, from both sides."""
    target = damaged(absent=(EXPLORER,))
    walk = walk_processes(target)
    assert set(walk.entries) == set(whole)
    process = of(target, EXPLORER)
    assert process.pid is None
    assert process.image_name is None
    others = [of(target, address) for address in walk.entries if address != EXPLORER]
    assert all(other.pid is not None for other in others)


def test_nothing_of_a_process(sample: Sample) -> None:
    process = of(volatility3_kdump.open(sample()), 0xFFFFBEEF00000000)
    assert (process.pid, process.present, process.state) == (None, False, None)
    assert len(process.notes) == 1
    assert process.notes[0].startswith("EPROCESS is not in the dump: ")


def test_the_head_is_missing(damaged: Callable[..., Target], sample: Sample) -> None:
    reference = volatility3_kdump.open(sample())
    head = reference.symbol("PsActiveProcessHead")
    assert head is not None
    walk = walk_processes(damaged({head: bytes(16)}))
    assert walk.entries == ()
    assert len(walk.problems) == 1


@pytest.mark.parametrize(
    "field, value, attribute, words",
    [
        ("VadCount", b"\xff" * 8, "vad_count", "VADs: impossible"),
        ("CommitCharge", b"\xff" * 8, "commit_charge", "pages of commit charge: impossible"),
        ("NumberOfPrivatePages", b"\xff" * 8, "private_pages", "private pages: impossible"),
        ("CreateTime", struct.pack("<Q", 1), "create_time", "created before the machine started"),
        ("CreateTime", struct.pack("<Q", 1 << 62), "create_time", "created after the crash"),
        ("ExitTime", struct.pack("<Q", 5), "exit_time", "exited before it was created"),
        ("ObjectTable", struct.pack("<Q", 0x1000), "handle_count", "is no kernel address"),
    ],
)
def test_impossible_values_are_said_to_be(
    damaged: Callable[..., Target], sample: Sample, field: str, value: bytes, attribute: str, words: str
) -> None:
    reference = volatility3_kdump.open(sample())
    assert reference.nt is not None
    process = of(damaged({NOTEPAD + reference.nt.offset("_EPROCESS", field): value}), NOTEPAD)
    assert any(words in note for note in process.notes)
    if "Time" in field:
        assert getattr(process, attribute) == int.from_bytes(value, "little")
    else:
        assert getattr(process, attribute) is None
    assert process.pid == 0x1E90


def test_elapsed_time_of_a_process_from_the_future(damaged: Callable[..., Target], sample: Sample) -> None:
    reference = volatility3_kdump.open(sample())
    assert reference.nt is not None
    at = NOTEPAD + reference.nt.offset("_EPROCESS", "CreateTime")
    target = damaged({at: struct.pack("<Q", 1 << 62)})
    assert of(target, NOTEPAD).elapsed(target.header.system_time) is None


@pytest.mark.parametrize("code", (0, 7, 0x1000, 0xFFFFBEEF00000001, 0xFFFFBEEF00000002))
def test_a_damaged_id_table(damaged: Callable[..., Target], sample: Sample, whole: list[int], code: int) -> None:
    reference = volatility3_kdump.open(sample())
    assert reference.nt is not None
    table = reference.memory.pointer(reference.symbol("PspCidTable") or 0)
    assert table
    changes = {table + reference.nt.offset("_HANDLE_TABLE", "TableCode"): struct.pack("<Q", code)}
    cross = cross_view(damaged(changes))
    assert cross is not None
    assert list(cross.order) == whole
    assert any(problem.startswith(IDS) for problem in cross.problems)
    assert all(cross.missing_from(of(reference, address)) == () for address in whole)


def test_an_id_table_that_names_itself(damaged: Callable[..., Target], sample: Sample, whole: list[int]) -> None:
    reference = volatility3_kdump.open(sample())
    assert reference.nt is not None
    at = reference.nt.offset("_HANDLE_TABLE", "TableCode")
    table = reference.memory.pointer(reference.symbol("PspCidTable") or 0)
    code = reference.memory.pointer((table or 0) + at)
    assert table and code
    page = code & ~7
    target = damaged({table + at: struct.pack("<Q", page | 2), page: struct.pack("<Q", page) * 512})
    cross = cross_view(target)
    assert cross is not None
    assert list(cross.order) == whole
    assert any("twice" in problem for problem in cross.problems)


def test_threads_of_a_torn_list(damaged: Callable[..., Target], sample: Sample) -> None:
    reference = volatility3_kdump.open(sample())
    assert reference.nt is not None
    head = NOTEPAD + reference.nt.offset("_EPROCESS", "ThreadListHead")
    target = damaged({head: struct.pack("<Q", 0x1234)})
    # Backwards the thread is still there.
    assert thread_addresses(target, NOTEPAD) == thread_addresses(reference, NOTEPAD)
    assert any("ThreadListHead" in problem for problem in target.problems)


# protection -----------------------------------------------------------------------------------------------------------


def test_protection_by_its_byte(sample: Sample, tmp_path: Path) -> None:
    """The byte of lsass, of Defender and of System as published listings have them, and one that has no name."""
    path = sample()
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    place = NOTEPAD + target.nt.offset("_EPROCESS", "Protection.Level")
    assert read_process(target, NOTEPAD).protection_name == "none"
    for byte, name in (
        (0x41, "Lsa-Light"),
        (0x31, "Antimalware-Light"),
        (0x72, "WinSystem-Protected"),
        (0xF3, "signer 15-type 3"),
    ):
        changed = edited(target, path, tmp_path / f"{byte:x}.dmp", {place: bytes([byte])})
        assert read_process(changed, NOTEPAD).protection_name == name


def test_protection_is_named_as_the_enumerations_of_kernels_name_it(shared_data: Path) -> None:
    seen = 0
    for path in sorted((shared_data / "isf" / "windows" / "ntkrnlmp.pdb").glob("*.json.xz"))[:6]:
        layouts = load_table_file(path)
        signers = layouts.enum("_PS_PROTECTED_SIGNER")
        for value, constant in signers.items():
            if value and not constant.endswith("Max"):
                seen += 1
                name = constant.removeprefix("PsProtectedSigner")
                assert Process(0, 0, "", "", protection=value << 4 | 1).protection_name == f"{name}-Light"
    assert seen


def test_protection_that_this_windows_does_not_have_says_so(sample: Sample) -> None:
    target = volatility3_kdump.open(sample())
    listed = ListedProcess(target, Process(NOTEPAD, 1, "a", None), None)
    assert listed.why_no_protection == "not in the dump"
    old = load_table_file(Path(str(data_path("layout-9200-x64.isf.xz"))))
    assert not old.has("_EPROCESS", "Protection.Level")
    listed = ListedProcess(cast(Target, SimpleNamespace(nt=old)), Process(NOTEPAD, 1, "a", None), None)
    assert listed.why_no_protection == "this Windows has no EPROCESS.Protection, which came with Windows 8.1"
