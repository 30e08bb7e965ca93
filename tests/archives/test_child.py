"""Decoders in a process of their own: their bytes arrive, and what kills them becomes one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from volatility3_kdump.archives import child
from volatility3_kdump.archives.cache_files import identify
from volatility3_kdump.archives.child import decode, open_unchanged
from volatility3_kdump.errors import CorruptContainer, KdumpError, UnsupportedContainer

CHECKOUT = str(Path(__file__).resolve().parents[2])


@pytest.fixture(autouse=True)
def tests_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child imports this file by its name in the checkout."""
    monkeypatch.syspath_prepend(CHECKOUT)


def pieces(sizes: list[int]) -> Iterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size


def noisy() -> Iterator[bytes]:
    print("a library prints what it likes")
    os.write(1, b"\xff\xff\xff\xff")
    yield b"data"


def crashing(number: int) -> Iterator[bytes]:
    yield b"first"
    os.kill(os.getpid(), number)


def hanging() -> Iterator[bytes]:
    yield b"first"
    signal.pause()


def greedy() -> Iterator[bytes]:
    yield bytes(4 << 30)


def failing(kind: str) -> Iterator[bytes]:
    yield b"first"
    raise {"corrupt": CorruptContainer, "unsupported": UnsupportedContainer, "other": KdumpError}[kind]("why \x1b[2J")


def leaving() -> Iterator[bytes]:
    yield b"first"
    os._exit(0)


def test_bytes_arrive_in_order() -> None:
    sizes = [1, 0, 70_000, 3 << 20]
    assert b"".join(decode(pieces, "x", {"sizes": sizes})) == b"\0" + b"\2" * 70_000 + b"\3" * (3 << 20)


def test_what_a_library_prints_does_not_come_between() -> None:
    assert b"".join(decode(noisy, "x", {})) == b"data"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number, name", [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGFPE, "SIGFPE")])
def test_a_crash_is_one_line(number: int, name: str) -> None:
    stream = decode(crashing, "a.dmp in the archive", {"number": int(number)})
    with pytest.raises(CorruptContainer, match=rf"a\.dmp in the archive is damaged: its decoder crashed.*{name}"):
        list(stream)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_silence_ends() -> None:
    stream = decode(hanging, "x", {}, silence=4.0)
    assert next(stream) == b"first"
    with pytest.raises(CorruptContainer, match="gave nothing for"):
        next(stream)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory there")
def test_memory_is_limited() -> None:
    with pytest.raises(UnsupportedContainer, match="needs more memory"):
        list(decode(greedy, "x", {}))


@pytest.mark.parametrize(
    "kind, expected",
    [("corrupt", CorruptContainer), ("unsupported", UnsupportedContainer), ("other", KdumpError)],
)
def test_errors_pass_through_escaped(kind: str, expected: type[KdumpError]) -> None:
    with pytest.raises(expected, match=r"why \\x1b\[2J") as failure:
        list(decode(failing, "x", {"kind": kind}))
    assert type(failure.value) is expected


def test_an_end_without_a_word_is_damage() -> None:
    with pytest.raises(CorruptContainer, match="crashed on it"):
        list(decode(leaving, "x", {}))


def test_a_stream_that_is_left_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Recorded(child.subprocess.Popen):  # type: ignore[type-arg, name-defined, misc]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(child.subprocess, "Popen", Recorded)
    stream = decode(pieces, "x", {"sizes": [1 << 20] * 64})
    next(stream)
    stream.close()
    assert len(started) == 1 and started[0].returncode is not None


def test_another_file_under_the_same_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.7z"
    path.write_bytes(b"one")
    with path.open("rb") as file:
        identity = identify(file)
    assert open_unchanged(str(path), identity).read() == b"one"
    path.write_bytes(b"other")
    with pytest.raises(KdumpError, match="changes while it is read"):
        open_unchanged(str(path), identity)
    with pytest.raises(KdumpError, match="cannot be opened"):
        open_unchanged(str(tmp_path / "absent"), identity)
