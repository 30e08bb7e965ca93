"""``kdump.process`` against the published session, on every dump type, and its options."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tests import transcript
from tests.output import lines, rows


@pytest.fixture(scope="module")
def listing(sample, run_plugin) -> list[str]:
    return lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.process"))


@pytest.fixture(scope="module")
def table(sample, run_plugin) -> list[dict]:
    return rows(run_plugin("-q", "-f", sample(), "-r", "json", "kdump.process"))


def entry_of(shown: list[str], address: str) -> list[str]:
    start = shown.index(f"PROCESS {address}")
    return shown[start : shown.index("", start)]


def test_list_entry_equals_the_session(listing: list[str]) -> None:
    assert listing[0] == "**** NT ACTIVE PROCESS DUMP ****"
    assert entry_of(listing, "ffff9189527e9080") == transcript.NOTEPAD_ENTRY.splitlines()


def test_nothing_but_the_session_lines_in_the_list(listing: list[str]) -> None:
    assert not [line for line in listing if "NOTE" in line]
    assert len([line for line in listing if line.startswith("PROCESS ")]) == 10


def test_system_has_no_session(listing: list[str]) -> None:
    assert entry_of(listing, "ffff91894c27a040") == [
        "PROCESS ffff91894c27a040",
        "    SessionId: none  Cid: 0004    Peb: 00000000  ParentCid: 0000",
        "    DirBase: 001ad000  ObjectTable: ffffd80241c03840  HandleCount: 2312.",
        "    Image: System",
    ]


@pytest.mark.parametrize(
    "options",
    [
        ("--pid", "7824"),
        ("--pid", "0x1e90"),
        ("--address", "ffff9189`527e9080"),
        ("--name", "NotePad", "--detail", "7"),
    ],
)
def test_process_block_equals_the_session(sample, run_plugin, options) -> None:
    shown = run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.process", *options).stdout
    expected = transcript.NOTEPAD_PROCESS + transcript.NOTEPAD_STACK
    # The row of win32k has in this dump the column that the published text lost.
    lost = "        fffff800`62a08bb5     win32k!"
    assert lost in expected
    assert shown == expected.replace(lost, "        ffffd48f`777bfd90 fffff800`62a08bb5     win32k!") + "\n"


def test_details(sample, run_plugin) -> None:
    def shown(detail: str) -> list[str]:
        return lines(
            run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.process", "--pid", "7824", "--detail", detail)
        )

    block = transcript.NOTEPAD_PROCESS.splitlines()
    assert shown("0") == [*block[:4], ""]
    assert shown("1") == block[:21]
    assert shown("3") == [*block[:24], ""]


def test_rows_are_typed(table: list[dict]) -> None:
    assert [row["Pid"] for row in table] == [4, 452, 580, 652, 728, 764, 4324, 5608, 7824, 7256]
    notepad = table[8]
    assert notepad["Process"] == 0xFFFF9189527E9080
    assert (notepad["ParentPid"], notepad["Session"], notepad["Handles"], notepad["Threads"]) == (5608, 2, 817, 1)
    assert notepad["CreateTime"] == "2021-10-07T11:32:25.567166+00:00"
    assert (notepad["ExitTime"], notepad["Wow64"], notepad["State"]) == (None, False, "running")
    assert (table[0]["Session"], table[0]["Peb"]) == (None, None)
    assert all(row["MissingFrom"] is None and row["Notes"] is None for row in table)


def test_threads_and_frames_are_below_their_process(sample, run_plugin) -> None:
    table = rows(run_plugin("-q", "-f", sample(), "-r", "json", "kdump.process", "--pid", "7824", "7256"))
    assert [row["Pid"] for row in table] == [7824, 7256]
    assert "Thread" not in table[0]
    [process] = rows(run_plugin("-q", "-f", sample(), "-r", "json", "kdump.process", "--pid", "7824"))
    assert (process["WorkingSetPages"], process["VirtualSize"] >> 20) == (11788, 2101500)
    [thread] = process["__children"]
    assert (thread["Tid"], thread["ThreadState"], thread["WaitReason"]) == (7828, "Waiting", "UserRequest")
    assert thread["WaitObjects"] == "ffff918953118260  SynchronizationEvent; ffff918952d83d80  QueueObject"
    assert thread["WaitTime"] == pytest.approx(0.1875)
    frames = thread["__children"]
    published = transcript.NOTEPAD_STACK.splitlines()[1:]
    assert len(frames) == len(published)
    for frame, line in zip(frames, published, strict=True):
        assert line.split(" (TrapFrame")[0].endswith(frame["CallSite"])
    assert {frame["Trust"] for frame in frames} == {"context", "unwind", "trap frame"}


@pytest.mark.parametrize("dump_type", (1, 2, 5, 8, 9, 10))
def test_every_type_lists_the_same(sample, run_plugin, table: list[dict], dump_type: int) -> None:
    assert rows(run_plugin("-q", "-f", sample(dump_type), "-r", "json", "kdump.process")) == table


def test_the_idle_process_by_its_id(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.process", "--pid", "0"))
    assert shown[0].startswith("PROCESS fffff800")
    assert shown[3] == "    Image: Idle"
    threads = [line for line in shown if line.startswith("        THREAD ")]
    assert [line.rsplit(" ", 4)[1:] for line in threads] == [["RUNNING", "on", "processor", str(n)] for n in range(3)]
    assert sum("nt!KiIdleLoop" in line for line in shown) == 2
    assert not any("NOTE" in line for line in shown)


def test_user_mode_only_where_the_dump_has_it(sample, run_plugin) -> None:
    def of(dump_type: int) -> dict:
        [row] = rows(
            run_plugin("-q", "-f", sample(dump_type), "-r", "json", "kdump.process", "--pid", "7824", "--detail", "1")
        )
        return row

    assert of(6)["UserMode"] == "user pages not in the dump"
    assert of(6)["CommandLine"] is None
    assert of(1)["UserMode"] is None
    assert of(1)["CommandLine"] == '"C:\\Windows\\system32\\notepad.exe" C:\\Users\\user\\Desktop\\note.txt'


def test_a_hidden_process_is_marked(sample, run_plugin) -> None:
    path = sample(6, None, "waits")
    table = rows(run_plugin("-q", "-f", path, "-r", "json", "kdump.process"))
    [hidden] = [row for row in table if row["MissingFrom"]]
    assert hidden["Image"] == "hidden.exe"
    assert hidden["MissingFrom"].startswith("PsActiveProcessHead, PsActiveProcessHead backwards; seen in PspCidTable")
    shown = lines(run_plugin("-q", "-f", path, "-r", "windbg", "kdump.process"))
    assert any(line.startswith("    NOTE: missing from PsActiveProcessHead") for line in shown)
    # Control characters of names do not reach the terminal.
    assert "    Image: old\\x1b[31m.exe" in shown
    assert "    DeepFreeze" in shown


def test_a_small_memory_dump_says_what_it_lacks(sample, run_plugin, shared_data: Path) -> None:
    sentence = "a small memory dump holds the process that crashed: the others are not in the dump"
    table = rows(run_plugin("-q", "-f", sample(4), "-r", "json", "kdump.process"))
    assert [row["Pid"] for row in table] == [7256, None]
    assert table[1]["Notes"] == sentence
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    shown = lines(run_plugin("-q", "-f", dump, "-r", "windbg", "kdump.process", "--isf-dir", shared_data / "isf"))
    assert shown[1] == "PROCESS ffffc08bdce94180"
    assert shown[-1] == f"NOTE: {sentence}"
    other = run_plugin("-q", "-f", dump, "kdump.process", "--pid", "8", "--isf-dir", shared_data / "isf")
    assert other.returncode == 1
    assert "and no others" in other.stderr


@pytest.mark.parametrize(
    "options, words",
    [
        (("--pid", "x"), "'x' is not an id"),
        (("--pid=-1",), "'-1' is not an id"),
        (("--pid", "9999"), "none is like that"),
        (("--name", "nobody"), "none is like that"),
        (("--address", "zz"), "'zz' is not an address"),
        (("--address", "0x!"), "'0x!' is not an address"),
    ],
)
def test_errors_are_one_line(sample, run_plugin, options, words: str) -> None:
    finished = run_plugin("-q", "-f", sample(), "kdump.process", *options)
    assert finished.returncode == 1
    assert words in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_an_address_that_is_no_process(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.process", "--address", "ffffbeef00000000"))
    assert shown[0] == "PROCESS ffffbeef00000000"
    assert shown[1].startswith("    NOTE: EPROCESS is not in the dump: ")


@pytest.mark.newest_host
def test_timeline(sample, run_vol, tmp_path: Path) -> None:
    """The body file: the host's table of it repeats the times of the last event."""
    options = ("--plugin-filter", "kdump", "--create-bodyfile")
    table = rows(
        run_vol("-q", "-f", sample(6, None, "waits"), "-o", tmp_path, "-r", "json", "timeliner", *options, cwd=tmp_path)
    )
    assert {row["Plugin"] for row in table} == {"Process"}
    assert len(table) == 16
    body = [line.split("|") for line in (tmp_path / "volatility.body").read_text().splitlines()]
    [exited] = [fields for fields in body if "exited.exe" in fields[1]]
    created = datetime.datetime(2021, 10, 7, 11, 33, 2, tzinfo=datetime.timezone.utc)
    # access, modification, change, creation
    assert exited[-4:] == ["0", str(int(created.timestamp()) + 3), "0", str(int(created.timestamp()))]
