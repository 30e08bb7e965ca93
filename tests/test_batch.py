"""``kdump batch``: every dump has its line, whatever happens to it, to the worker, to the run."""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import dying
from tests.dump import cabinets
from tests.test_bad_input import FATAL
from volatility3_kdump import __version__, batch, cli
from volatility3_kdump.batch import Done, LineFile, Options, Summary, collect
from volatility3_kdump.errors import KdumpError

CHECKOUT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
Line = dict[str, Any]


class Here(concurrent.futures.Executor):
    """An executor that does everything at once, in the caller's thread; ``dies`` names files that break it."""

    def __init__(self, dies: str = "no such file") -> None:
        self.dies = dies
        self.broken = False
        self.files: list[str] = []

    def submit(self, task: Any, /, *arguments: Any, **more: Any) -> concurrent.futures.Future[Any]:
        if self.broken:
            raise concurrent.futures.BrokenExecutor("it is broken")
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        file = arguments[0]
        self.files.append(Path(file.path).name)
        try:
            if self.dies in file.path:
                self.broken = True
                raise concurrent.futures.BrokenExecutor("a worker died")
            future.set_result(task(*arguments, **more))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def dumps(sample: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of dumps of several scenes, whole and broken, in archives and beside other files."""
    root = tmp_path_factory.mktemp("dumps")
    (root / "Later").mkdir()
    (root / "a").mkdir()
    for name, path in {
        "kernel.dmp": sample(6),
        "small.dmp": sample(4),
        "Later/named otherwise": sample(6, None, "double-fault"),
        "a/again.DMP": sample(4),
    }.items():
        shutil.copyfile(path, root / name)
    (root / "readme.txt").write_text("no dump")
    (root / "empty.dmp").write_bytes(b"")
    (root / "a" / "zeros.dmp").write_bytes(FATAL["zero-filled"][0]())
    (root / "a" / "user.mdmp").write_bytes(FATAL["user-mode minidump"][0]())
    (root / "a" / "cut").write_bytes(FATAL["cut in the bitmap"][0]())
    with zipfile.ZipFile(root / "three.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(sample(4), "x/one.dmp")
        archive.writestr("readme", b"hello")
        archive.write(sample(6, None, "double-fault"), "two.dmp")
        archive.writestr("bad.dmp", FATAL["NumberOfRuns PAGE"][0]())
    with zipfile.ZipFile(root / "none.zip", "w") as archive:
        archive.writestr("readme", b"hello")
    (root / "small.dmp.gz").write_bytes(gzip.compress(sample(4).read_bytes()))
    (root / "cut.cab").write_bytes(cabinets.cabinet([("m.dmp", sample(4).read_bytes())]).pack()[:-500])
    return root


#: (path below the directory, name of the member, words of the error), in the order of the lines.
EXPECTED = [
    ("cut.cab", None, r"^cut\.cab: the CAB archive ends at offset"),
    ("empty.dmp", None, r"^empty\.dmp: the file is empty"),
    ("kernel.dmp", None, None),
    ("small.dmp", None, None),
    ("small.dmp.gz", "small.dmp", None),
    ("three.zip", "x/one.dmp", None),
    ("three.zip", "two.dmp", None),
    ("three.zip", "bad.dmp", r"^three\.zip: bad\.dmp inside: .*NumberOfRuns never set"),
    ("Later/named otherwise", None, None),
    ("a/again.DMP", None, None),
    ("a/cut", None, r"^cut: .*BitmapSize"),
    ("a/user.mdmp", None, r"^user\.mdmp: .*user-mode minidump"),
    ("a/zeros.dmp", None, r"^zeros\.dmp: the file holds only zeros"),
]


def place(line: Line) -> tuple[str, str | None]:
    member = line["file"]["member"]
    return line["file"]["path"], None if member is None else member["name"]


def without_time(lines: list[Line]) -> list[str]:
    """What is the same in every run, in an order of its own."""
    return sorted(json.dumps({**line, "elapsed_seconds": None}) for line in lines)


@pytest.fixture(scope="module")
def lines(dumps: Path) -> list[Line]:
    return list(batch.batch([dumps], executor=Here(), jobs=1))


# lines ----------------------------------------------------------------------------------------------------------------


def test_every_dump_has_one_line_in_the_order_of_names(dumps: Path, lines: list[Line]) -> None:
    found = [(Path(path).relative_to(dumps).as_posix(), name) for path, name in map(place, lines)]
    assert found == [(path, name) for path, name, _ in EXPECTED]
    for line, (_, _, words) in zip(lines, EXPECTED, strict=True):
        assert list(line)[:5] == ["batch", "file", "elapsed_seconds", "kdump_version", "error"]
        assert line["batch"] == 1 and line["kdump_version"] == __version__ and line["elapsed_seconds"] >= 0
        path = Path(line["file"]["path"])
        assert line["file"]["size"] == path.stat().st_size and line["file"]["name"] == path.name
        assert line["file"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["file"]["modified"])
        if words is None:
            assert line["error"] is None and line["verdict"]["bucket"]
        else:
            assert re.search(words, line["error"]["message"]) and not line["error"]["again"]
            assert len(line) == 5
    json.dumps(lines)


def test_a_line_is_the_document_of_the_plugin(
    dumps: Path, lines: list[Line], run_vol: Callable[..., Any], tmp_path: Path
) -> None:
    for number, options in ((2, ()), (6, ("--member", "two.dmp"))):
        line = lines[number]
        report = tmp_path / f"{number}.json"
        finished = run_vol("-q", "-f", line["file"]["path"], "kdump.analyze", "--report", report, *options)
        assert finished.returncode == 0, finished.stderr
        ours = ("batch", "file", "elapsed_seconds", "kdump_version", "error")
        assert {key: value for key, value in line.items() if key not in ours} == json.loads(report.read_text())


def test_processes_give_the_same_lines(dumps: Path, lines: list[Line]) -> None:
    progress: list[tuple[int, int]] = []
    found = list(batch.batch([dumps], jobs=2, progress=lambda *counts: progress.append(counts)))
    assert without_time(found) == without_time(lines)
    assert progress[-1] == (len(EXPECTED), len(EXPECTED))


def test_the_schema_names_every_key(lines: list[Line]) -> None:
    summary = Summary()
    for line in lines:
        summary.add(line)
    schema = (CHECKOUT / "docs" / "batch-schema.md").read_text(encoding="utf-8")
    described = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", schema))))
    document = summary.document()
    keys = {*lines[1], *lines[1]["file"], *lines[1]["error"], *lines[6]["file"]["member"], *document}
    keys.update(*document["groups"], *document["errors"], *document["groups"][0]["examples"])
    assert keys <= described, keys - described


# files ----------------------------------------------------------------------------------------------------------------


def test_what_a_directory_holds(dumps: Path) -> None:
    files, left_out = collect([dumps])
    names = [Path(file.path).name for file in files]
    assert "none.zip" in names and "readme.txt" not in names and left_out == 1
    assert not any(file.explicit for file in files)
    assert collect([dumps, dumps / "a"]) == (files, left_out)
    narrowed, left_out = collect([dumps], ["*.dmp", "THREE*"])
    assert {Path(file.path).name for file in narrowed} == {
        *("empty.dmp", "kernel.dmp", "small.dmp", "three.zip", "again.DMP", "zeros.dmp")
    }
    assert left_out == 0


def test_what_is_named_has_a_line_whatever_it_is(dumps: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    paths = [dumps / "readme.txt", tmp_path / "gone.dmp", dumps / "none.zip"]
    words = ["no crash dump header", r"^gone\.dmp: cannot be opened: No such file", "without a crash dump|inside: no"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
        paths.append(pipe)
        words.append(r"^pipe: is not an ordinary file$")
    # What was named stays so where it is met in a directory as well.
    for given in (paths, [dumps / "a", *paths], [*paths, dumps / "a"]):
        found = {Path(line["file"]["path"]): line for line in batch.batch(given, executor=Here(), jobs=1)}
        for path, expected in zip(paths, words, strict=True):
            assert re.search(expected, found[path]["error"]["message"])
    assert found[paths[1]]["file"]["size"] is None and found[paths[1]]["file"]["sha256"] is None


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="everything is readable for the superuser")
def test_what_cannot_be_read_has_a_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    (line,) = batch.batch([tmp_path], executor=Here(), jobs=1)
    assert line["file"]["name"] == "closed" and "cannot be searched: Permission denied" in line["error"]["message"]


@posix
def test_links_lead_to_files_and_not_round_in_circles(dumps: Path, tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "broken.dmp").symlink_to("nowhere")
    (tmp_path / "link.dmp").symlink_to(dumps / "small.dmp")
    (line,) = batch.batch([tmp_path], executor=Here(), jobs=1)
    assert line["file"]["name"] == "link.dmp" and line["error"] is None


@posix
def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = b"evil\x1b[2J\xff\n\xe2\x80\xae.dmp"
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    out = LineFile(tmp_path / "out", resume=False)
    summary = Summary()
    for line in batch.batch([tmp_path], executor=Here(), jobs=1):
        out.write(line)
        summary.add(line)
    assert all(text.isprintable() for text in summary.text())
    done = Done()
    (line,) = out.read(lambda line: True)
    done.add(line)
    assert line["error"]["message"].isprintable() and line["file"]["path"].encode()
    assert list(batch.batch([tmp_path], executor=Here(), jobs=1, done=done)) == []


# workers --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def grim(sample: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory with a copy of a dump under each name."""

    def make(*names: str) -> Path:
        for name in names:
            shutil.copyfile(sample(4), tmp_path / name)
        return tmp_path

    return make


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Analyses that say nothing, for what does not depend on what they say."""
    monkeypatch.setattr(batch, "_document", lambda *arguments: {})


@posix
def test_a_worker_that_dies_costs_its_own_file_a_line(grim: Callable[..., Path]) -> None:
    root = grim("a.dmp", "b-killed.dmp", "c.dmp", "d-killed.dmp", "e.dmp")
    found = {line["file"]["name"]: line for line in batch.batch([root], executor=dying.Pool, jobs=2)}
    assert len(found) == 5
    for name, line in found.items():
        if "killed" in name:
            assert line["error"]["kind"] == "WorkerDied" and line["error"]["again"]
            assert line["file"]["sha256"] is None and line["file"]["size"] == (root / name).stat().st_size
        else:
            assert line["error"] is None and line["verdict"]["hash"]


@posix
@pytest.mark.parametrize("how", ["loops", "hangs"])
def test_the_time_limit_ends_what_does_not_end(
    how: str, grim: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "GRACE", 60.0)  # what the batch waits at most; that of the processes is shorter
    root = grim("a.dmp", f"b-{how}.dmp", "c.dmp")
    found = list(batch.batch([root], Options(time_limit=1), executor=dying.Pool, jobs=1))
    assert [line["error"] and line["error"]["kind"] for line in found] == [None, "TimeLimit", None]
    assert found[1]["error"]["message"] == "not analysed within the time limit of 1 s" and found[1]["error"]["again"]
    # Only what can be interrupted lives to read the file.
    assert (found[1]["file"]["sha256"] is None) == (how == "hangs")


def test_an_executor_that_breaks_is_replaced(dumps: Path, lines: list[Line], unread: None) -> None:
    made: list[Here] = []

    def make(workers: int) -> Here:
        made.append(Here(dies="small.dmp"))
        return made[-1]

    found = list(batch.batch([dumps], executor=make, jobs=1))
    died = [line for line in found if line["error"] and line["error"]["kind"] == "WorkerDied"]
    assert [line["file"]["name"] for line in died] == ["small.dmp", "small.dmp.gz"]
    assert len(made) == 3
    assert [place(line)[0] for line in found] == [place(line)[0] for line in lines]


def test_an_executor_that_breaks_and_cannot_be_replaced(dumps: Path) -> None:
    found = list(batch.batch([dumps], executor=Here(dies="small.dmp"), jobs=1))
    assert [line["file"]["name"] for line in found[:3]] == ["cut.cab", "empty.dmp", "kernel.dmp"]
    assert all(line["error"]["kind"] == "WorkerDied" and line["error"]["again"] for line in found[3:])
    assert {line["file"]["name"] for line in found[3:]} > {"small.dmp", "three.zip", "zeros.dmp"}


def test_threads_give_up_waiting(grim: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing interrupts a thread, so the file has its line and the batch goes on with a new executor."""
    go_on = []

    def slow(file: batch.File, *arguments: Any) -> Line:
        while "slow" in file.path and not go_on:
            time.sleep(0.01)
        return batch._line(file, {}, 0.0, None, {})

    monkeypatch.setattr(batch, "analyze_file", slow)
    monkeypatch.setattr(batch, "_TICK", 0.02)
    root = grim("a.dmp", "b-slow.dmp", "c.dmp")
    try:
        found = list(batch.batch([root], Options(time_limit=0.5), concurrent.futures.ThreadPoolExecutor, jobs=1))
        assert [line["error"] and line["error"]["kind"] for line in found] == [None, "TimeLimit", None]
        # An executor of the caller's cannot be replaced.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            found = list(batch.batch([root], Options(time_limit=0.5), executor, jobs=1))
            assert [line["error"] and line["error"]["kind"] for line in found] == [None, "TimeLimit", "WorkerDied"]
            go_on.append(True)
    finally:
        go_on.append(True)


@pytest.mark.parametrize(
    "failure, kind, again",
    [
        (MemoryError(), "MemoryError", True),
        (OSError(5, "Input/output error"), "OSError", True),
        (RecursionError("too deep"), "RecursionError", False),
        (TypeError("two\nlines\x1b"), "TypeError", False),
        (KdumpError("one line"), "KdumpError", False),
    ],
)
def test_whatever_an_analysis_raises_is_in_the_line(
    failure: Exception, kind: str, again: bool, grim: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Line:
        raise failure

    monkeypatch.setattr(batch, "_document", fail)
    (line,) = batch.batch([grim("a.dmp")], executor=Here(), jobs=1)
    assert (line["error"]["kind"], line["error"]["again"]) == (kind, again)
    assert line["error"]["message"].isprintable() and line["file"]["sha256"]
    if kind == "TypeError":
        assert "(test_batch.py:" in line["error"]["message"]


_RUN = """
import sys
from tests import dying
from volatility3_kdump import batch, cli
batch.WorkerPool = dying.Pool
if __name__ == "__main__":
    sys.exit(cli.main(["batch", *sys.argv[1:]]))
"""


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True


@posix
@pytest.mark.parametrize("how", ["loops", "hangs"])
def test_an_interrupt_leaves_a_file_to_go_on_with(how: str, grim: Callable[..., Path]) -> None:
    root = grim("a.dmp", f"b-{how}.dmp", "c.dmp")
    out = root / "out.jsonl"
    running = start(root, "--jsonl", out, "--jobs", "1")
    stuck = root / f"b-{how}.dmp.pid"
    wait_for(stuck, running)
    running.send_signal(signal.SIGINT)
    printed, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said == f"kdump: interrupted: --resume goes on with {out}\n"
    assert "\n1 analysed in 1 group, 0 failed\n" in printed
    assert [json.loads(line)["file"]["name"] for line in out.read_text().splitlines()] == ["a.dmp"]
    assert gone(int(stuck.read_text()))
    stuck.unlink()
    # Without what keeps it, the rest.
    (root / f"b-{how}.dmp").rename(root / "b.dmp")
    assert cli.main(["batch", str(root), "--jsonl", str(out), "--resume", "--jobs", "1"]) == 0
    assert [json.loads(line)["file"]["name"] for line in out.read_text().splitlines()] == ["a.dmp", "b.dmp", "c.dmp"]


@posix
def test_workers_do_not_outlive_a_batch_that_is_killed(grim: Callable[..., Path]) -> None:
    root = grim("loops.dmp")
    running = start(root, "--jsonl", root / "out", "--jobs", "1")
    wait_for(root / "loops.dmp.pid", running)
    running.kill()
    running.communicate()
    while not gone(int((root / "loops.dmp.pid").read_text())):
        time.sleep(0.01)


# going on -------------------------------------------------------------------------------------------------------------


def known(lines: list[Line]) -> Done:
    done = Done()
    for line in lines:
        done.add(line)
    return done


@pytest.mark.parametrize("count", range(14))
def test_what_is_left_is_done(count: int, dumps: Path, lines: list[Line], unread: None) -> None:
    executor = Here()
    rest = list(batch.batch([dumps], executor=executor, jobs=1, done=known(lines[:count])))
    assert [place(line) for line in rest] == [place(line) for line in lines[count:]]
    if count == 13:
        # Archives are listed anew, to see whether every dump in them has its line.
        assert sorted(executor.files) == ["none.zip", "small.dmp.gz", "three.zip"]


def test_a_file_is_known_by_its_hash_where_it_was_moved_or_touched(grim: Callable[..., Path], unread: None) -> None:
    root = grim("moved.dmp", "touched.dmp", "changed.dmp", "stays.dmp")
    for number, path in enumerate(sorted(root.iterdir())):
        with path.open("r+b") as stream:
            stream.seek(0x300)
            stream.write(bytes([number]) * 8)
    with zipfile.ZipFile(root / "moved.zip", "w") as archive:
        archive.write(root / "stays.dmp", "in the archive")
    done = list(batch.batch([root], executor=Here(), jobs=1))
    assert len(done) == 5
    (root / "moved.dmp").rename(root / "new name.dmp")
    (root / "moved.zip").rename(root / "new name.zip")
    os.utime(root / "touched.dmp", (1, 1))
    status = (root / "changed.dmp").stat()
    with (root / "changed.dmp").open("r+b") as stream:
        stream.seek(0x400)
        stream.write(b"other")
    os.utime(root / "changed.dmp", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    # A copy of a file that is still there is a file of its own, and so is the second copy of one that is not.
    shutil.copyfile(root / "stays.dmp", root / "copy.dmp")
    shutil.copyfile(root / "new name.dmp", root / "new name 2.dmp")
    rest = [line["file"]["name"] for line in batch.batch([root], executor=Here(), jobs=1, done=known(done))]
    assert len(rest) == 3 and {"changed.dmp", "copy.dmp"} < set(rest)
    assert set(rest) & {"new name.dmp", "new name 2.dmp"}


def write(path: Path, lines: list[Line]) -> bytes:
    out = LineFile(path, resume=False)
    for line in lines:
        out.write(line)
    out.close()
    return path.read_bytes()


def resumed(path: Path, anew: Callable[[Line], bool] = lambda line: True) -> Iterator[Line]:
    out = LineFile(path, resume=True)
    try:
        yield from out.read(anew)
        out.write({"the": "end"})
    finally:
        out.close()


def made_line(number: int, error: dict[str, Any] | None = None) -> Line:
    file = batch.File(f"/x/{number}\u2028\udc80\n.dmp", number, "then")
    return batch._line(file, {"sha256": f"{number:064x}"}, 0.5, error, {"text": "\x1b\u202e" * number})


def test_a_line_that_was_torn_off_is_removed(tmp_path: Path) -> None:
    lines = [made_line(number) for number in range(4)]
    whole = write(tmp_path / "whole", lines)
    ends = [position + 1 for position, byte in enumerate(whole) if byte == 10]
    choose = random.Random(3)
    cuts = {0, 1, *ends, *(end + 1 for end in ends[:-1]), *(choose.randrange(len(whole)) for _ in range(40))}
    for cut in sorted(cuts):
        path = tmp_path / "cut"
        # After a loss of power a file may end in zeros.
        path.write_bytes(whole[:cut] + bytes(cut % 3 if cut not in ends else 0))
        kept = sum(end <= cut for end in ends)
        assert list(resumed(path)) == lines[:kept]
        assert path.read_bytes() == whole[: [0, *ends][kept]] + b'{"the": "end"}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"text",
        b"text\n",
        b"[1]\n",
        b"{}\n",
        b'{"batch": 1}\n',
        b"\0" * 9 + b"x",
        b'{"batch": 1, "file": 3, "error": 0}\n',
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    good = write(tmp_path / "good", [made_line(1)])
    for before in (b"", good):
        path = tmp_path / "other"
        path.write_bytes(before + content)
        with pytest.raises(KdumpError, match=r"other: line [12] is not of `kdump batch`"):
            list(resumed(path))
        assert path.read_bytes() == before + content
        with pytest.raises(KdumpError, match="is there already: --resume goes on"):
            LineFile(path, resume=False)
        assert path.read_bytes() == before + content


def test_what_failed_for_the_time_being_is_done_anew(tmp_path: Path) -> None:
    failed = {"kind": "TimeLimit", "message": "", "again": True}
    refused = {"kind": "NotACrashDump", "message": "", "again": False}
    lines = [made_line(number, failed if number in (0, 3) else refused if number == 2 else None) for number in range(6)]
    path = tmp_path / "lines"
    write(path, lines)
    assert [line["file"]["size"] for line in resumed(path)] == [1, 2, 4, 5]
    assert path.read_bytes() == write(tmp_path / "expected", [*lines[1:3], *lines[4:], {"the": "end"}])
    # Of files that this run is not about, the line stays.
    other = tmp_path / "other"
    write(other, lines)
    assert list(resumed(other, lambda line: line["file"]["size"] == 3)) == [*lines[:3], *lines[4:]]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["expected", "lines", "other"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_line_is_written_as_a_whole_or_not_at_all(failure: Any, tmp_path: Path) -> None:
    out = LineFile(tmp_path / "out", resume=False)
    out.write(made_line(1))
    before = (tmp_path / "out").read_bytes()
    real = out._file

    class Failing:
        def write(self, data: memoryview) -> int:
            if real.tell() > len(before):
                raise failure
            return real.write(data[:7])

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    out._file = Failing()
    with pytest.raises((KeyboardInterrupt, KdumpError)):
        out.write(made_line(2))
    assert (tmp_path / "out").read_bytes() == before
    out._file = real
    out.write(made_line(2))
    assert len((tmp_path / "out").read_text().splitlines()) == 2


# the summary ----------------------------------------------------------------------------------------------------------


def test_the_summary_groups_by_hash(dumps: Path, lines: list[Line]) -> None:
    documents = []
    for seed in range(5):
        mixed = list(lines)
        random.Random(seed).shuffle(mixed)
        summary = Summary()
        for line in mixed:
            summary.add(line)
        documents.append((summary.document(), list(summary.text())))
    assert all(made == documents[0] for made in documents)
    document, text = documents[0]
    assert (document["analysed"], document["failed"]) == (7, 6)
    first, second = document["groups"]
    assert (first["bucket"], first["count"], first["culprit"]) == ("AV_myfault!unknown_function", 5, "myfault.sys")
    assert first["hash"] == "9745090a-9bce-ccba-c096-ca6e9ca04c64" and first["bug_check"] is None
    assert first["first_utc"] == first["last_utc"] == "2021-10-07T11:33:12.945381+00:00"
    assert [(Path(example["path"]).name, example["member"]) for example in first["examples"]] == [
        *[("again.DMP", None), ("kernel.dmp", None), ("small.dmp", None)],
        *[("small.dmp.gz", "small.dmp"), ("three.zip", "x/one.dmp")],
    ]
    assert second["count"] == 2 and second["bucket"] == "0x7f_8_myfault!unknown_function"
    assert sum(error["count"] for error in document["errors"]) == 6
    assert text[0].split() == [str(first["count"]), first["bucket"], "myfault.sys"]
    assert text[-1] == "7 analysed in 2 groups, 6 failed"


def crash(when: str | None, path: str, **verdict: Any) -> Line:
    verdict = {"hash": "h", "bucket": "b", "suspect": None, "image_name": "x.sys", **verdict}
    file = {"path": path, "size": 1, "modified": "m", "sha256": None, "member": None}
    return {
        **{"error": None, "file": file, "verdict": verdict},
        **{"system": {"time_utc": when}, "bug_check": {"name": "NAME", "code": "0xd1"}},
    }


def test_the_first_and_the_last_crash_and_the_most_frequent_culprit() -> None:
    summary = Summary()
    for line in (
        crash("2021-02-03T04:05:06+00:00", "/3", suspect="y.sys"),
        crash("2020-01-01T00:00:00.500000+00:00", "/2"),
        crash(None, "/1"),
        crash("2020-01-01T00:00:00+00:00", "/4", suspect="y.sys"),
        crash("2021-01-01T00:00:00+00:00", "/5", hash=None, bucket=None, image_name=None),
        *[crash("2022-01-01T00:00:00+00:00", f"/{number}", suspect="y.sys") for number in range(6, 10)],
    ):
        summary.add(line)
    first, second = summary.document()["groups"]
    assert (first["count"], first["culprit"], first["bug_check"]) == (8, "y.sys", None)
    assert (first["first_utc"], first["last_utc"]) == ("2020-01-01T00:00:00+00:00", "2022-01-01T00:00:00+00:00")
    assert [example["path"] for example in first["examples"]] == ["/1", "/4", "/2", "/3", "/6"]
    assert (second["hash"], second["bucket"], second["bug_check"], second["culprit"]) == (None, None, "NAME", None)
    assert "        and 3 more" in list(summary.text())


# the command ----------------------------------------------------------------------------------------------------------


def test_the_command(dumps: Path, lines: list[Line], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    arguments = ["batch", str(dumps), "--jsonl", str(out), "--summary", str(summary), "--jobs", "1", "--offline"]
    assert cli.main(arguments) == 1
    written = [json.loads(line) for line in out.read_text("ascii").splitlines()]
    assert [place(line) for line in written] == [place(line) for line in lines]
    assert without_time(written) == without_time(lines)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.endswith(
        "7 analysed in 2 groups, 6 failed\nleft out: 2 other files in the directories, without a crash dump\n"
    )
    document = json.loads(summary.read_text("ascii"))
    assert document["analysed"] == 7
    # Again, nothing is left to do.
    before = out.read_bytes()
    assert cli.main([*arguments, "--resume"]) == 1
    assert out.read_bytes() == before and json.loads(summary.read_text()) == document
    assert "from before: 13 lines" in capsys.readouterr().out
    assert cli.main(arguments) == 1
    assert (
        capsys.readouterr().err == f"kdump: {out}: is there already: --resume goes on with it, or name another file\n"
    )


def test_the_command_succeeds_where_every_dump_was_analysed(
    grim: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = grim("a.dmp")
    assert cli.main(["batch", str(root / "a.dmp"), "--jsonl", str(root / "out"), "--time-limit", "60"]) == 0
    assert cli.main(["batch", str(root), "--pattern", "*.none", "--jsonl", str(root / "none")]) == 1
    assert capsys.readouterr().err == f"kdump: no crash dump found in {root}\n"


@pytest.mark.parametrize(
    "options", [[], ["--jobs", "0"], ["--jobs", "x"], ["--time-limit", "0"], ["--time-limit", "nan"]]
)
def test_a_wrong_command_line(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path), "--jsonl", str(tmp_path / "out"), *options] if options else [str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["batch", *arguments])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()


def test_files_that_cannot_be_written(grim: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = grim("a.dmp")
    assert cli.main(["batch", str(root), "--jsonl", str(root / "no" / "out")]) == 1
    assert re.fullmatch(r"kdump: .*out: cannot be written: No such file or directory\n", capsys.readouterr().err)
    assert cli.main(["batch", str(root), "--jsonl", str(root / "out"), "--triage-ini", str(root / "none.ini")]) == 1
    assert capsys.readouterr().err.startswith("kdump: ")
