"""``kdump -z``: the whole program, from its options to its end."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import children, transcript
from volatility3_kdump import cli
from volatility3_kdump.console import application
from volatility3_kdump.console.application import Console
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError

CHECKOUT = Path(__file__).resolve().parents[2]

Run = Callable[..., list[str]]

SESSION = (
    "!analyze -v; .trap ffffd48f`77af97e0; kv; !process 0 0; !process ffff9189527e9080 7; "
    ".cxr; kb 3; .bugcheck; lm m myfault; q"
)


def joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def in_order(text: str, parts: tuple[str, ...]) -> None:
    """Each part is there, behind the one before it."""
    position = 0
    for part in parts:
        found = text.find(part, position)
        assert found >= 0, part
        position = found + len(part)


#: Of the process's block, the stack lost a column when it was published.
SHOWN = (
    transcript.EXPLANATION,
    transcript.PROCESS,
    transcript.TRAP_FRAME,
    transcript.STACK_TEXT,
    *transcript.VERDICT.splitlines(),
    transcript.REGISTERS,
    transcript.KV_AFTER_TRAP,
    transcript.NOTEPAD_ENTRY,
    transcript.NOTEPAD_PROCESS,
    "\n".join(transcript.NOTEPAD_STACK.splitlines()[:8]),
    "\n".join(transcript.NOTEPAD_STACK.splitlines()[9:]),
    "Resetting default scope\n # RetAddr               : Args to Child",
    "Bugcheck code 000000D1\nArguments ffffd802`4aaa8010 00000000`00000002 00000000`00000000 fffff800`60da1981\n",
    "fffff800`60da0000 fffff800`60da9000   myfault",
    "quit:\n",
)


def test_the_session_of_the_transcript(sample, kdump: Run) -> None:
    path = sample()
    text = joined(kdump("-z", path, "-y", "srv*", "-c", SESSION))
    head, _, rest = transcript.BANNER.partition("\n\n")
    banner = f"Loading Dump File [{path}]\n{head}\n\nSymbol search path is: srv*\nExecutable search path is: \n{rest}"
    in_order(text, (banner, "For analysis of this file, run !analyze -v\n"))
    in_order(text, (f"2: kd> kd: Reading initial command '{SESSION}'\n", *SHOWN))


def test_piped_commands_are_shown_behind_the_prompt(sample, kdump: Run) -> None:
    shown = kdump("-z", sample(), typed=".bugcheck\n~1s\n\nk 1\n* a comment\nq\nk\n")
    start = shown.index("2: kd> .bugcheck")
    assert shown[start : start + 4] == [
        "2: kd> .bugcheck",
        "Bugcheck code 000000D1",
        "Arguments ffffd802`4aaa8010 00000000`00000002 00000000`00000000 fffff800`60da1981",
        "2: kd> ~1s",
    ]
    assert [line for line in shown if "kd> " in line][2:] == ["1: kd> ", "1: kd> k 1", "1: kd> * a comment", "1: kd> q"]
    assert shown[-1] == "quit:"


def test_the_end_of_the_input_ends_the_session(sample, kdump: Run) -> None:
    assert kdump("-z", sample(), "-c", "k 1")[-1].startswith("00 ffffd48f`77af9698")


def test_a_script_runs_before_the_commands(sample, kdump: Run, tmp_path: Path) -> None:
    script = tmp_path / "commands.txt"
    script.write_text(".echo first\n.echo second; .echo third\n")
    shown = kdump("-z", sample(), "-cf", script, "-c", ".echo last; q")
    assert [line for line in shown if line in ("first", "second", "third", "last")] == [
        "first",
        "second",
        "third",
        "last",
    ]


def test_two_dumps(sample, kdump: Run) -> None:
    first, second = sample(), sample(4)
    shown = kdump("-z", first, "-z", second, "-c", "||; ||1s; .bugcheck; ||; q")
    assert "||0:2: kd> kd: Reading initial command '||; ||1s; .bugcheck; ||; q'" in shown
    assert [line for line in shown if line[:4] in (".  0", "   1", "   0", ".  1")] == [
        f".  0 64-bit Kernel bitmap dump: {first}",
        f"   1 64-bit Mini kernel dump: {second}",
        f"   0 64-bit Kernel bitmap dump: {first}",
        f".  1 64-bit Mini kernel dump: {second}",
    ]


def test_the_log_holds_what_is_shown(sample, kdump: Run, tmp_path: Path) -> None:
    log = tmp_path / "session.log"
    shown = kdump("-z", sample(), "-logo", log, "-c", ".bugcheck; .logclose; k; q")
    text = log.read_text(encoding="utf-8").splitlines()
    assert text == shown[: len(text)]
    assert text[-2:] == [
        "Arguments ffffd802`4aaa8010 00000000`00000002 00000000`00000000 fffff800`60da1981",
        f"Closing open log file {log}",
    ]
    kdump("-z", sample(), "-loga", log, "-c", "q")
    appended = log.read_text(encoding="utf-8").splitlines()
    assert appended[: len(text)] == text
    assert appended[-1] == "quit:"


@pytest.mark.parametrize(
    ("make", "words"),
    (
        (lambda path: None, "cannot be opened: No such file or directory"),
        (lambda path: path.write_bytes(b"x" * 8192), "x.dmp: "),
        (lambda path: path.mkdir(), "is a directory, not a dump file"),
    ),
)
def test_a_dump_that_cannot_be_opened(
    make: Callable[[Path], object],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.dmp"
    make(path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert cli.main(["-z", str(path), "-c", ".bugcheck;q"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("kdump: x.dmp: ")
    assert words in error
    assert len(error.splitlines()) == 1


def test_no_member_of_that_name(sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    path = tmp_path / "x.dmp.gz"
    path.write_bytes(gzip.compress(sample(4).read_bytes()))
    assert cli.main(["-z", str(path), "--member", "other", "-c", "q"]) == 1
    assert "other" in capsys.readouterr().err


def test_no_dump_and_help(kdump: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert kdump("-c", "k; .echo here; q")[-3:] == ["no dump is open: .opendump FILE opens one", "here", "quit:"]
    with pytest.raises(SystemExit) as left:
        cli.main(["-?"])
    assert left.value.code == 0
    assert "-logo FILE" in capsys.readouterr().out


def test_escape_sequences_reach_no_terminal(sample, kdump: Run) -> None:
    evil = "\x1b]0;x\x07\x9b31m\u202e"
    shown = kdump("-z", sample(), "-c", f".echo {evil}; {evil} k; q", typed="")
    assert not any(set(line) & set("\x1b\x07\x9b\u202e") for line in shown)
    assert "\\x1b]0" in joined(shown)
    shown = kdump("-z", sample(), typed=f".echo {evil}\nq\n")
    assert not any(set(line) & set("\x1b\x07\x9b\u202e") for line in shown)


def test_bytes_that_are_no_text(sample) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "volatility3_kdump", "-z", str(sample())],
        input=b".echo \xff\xfe\n.echo on\nq\n",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8:strict"},
        check=False,
    )
    assert finished.returncode == 0
    assert finished.stdout.splitlines()[-3:-1] == [b"on", b"2: kd> q"]
    assert finished.stderr == b""


def test_the_prompt() -> None:
    def dump(processor: int | None, processors: int | None) -> SimpleNamespace:
        return SimpleNamespace(
            processor=processor,
            target=SimpleNamespace(header=SimpleNamespace(number_processors=processors)),
            state=SimpleNamespace(machine=None),
        )

    session = Session()
    assert session.prompt == "NoTarget> "
    for found, text in (
        (dump(0, 1), "kd> "),
        (dump(12, 16), "12: kd> "),
        (dump(None, 4), "kd> "),
        (dump(0, None), "0: kd> "),
    ):
        session.dumps[:] = [found]
        assert session.prompt == text
    session.dumps.append(dump(3, 4))
    session.index = 1
    assert session.prompt == "||1:3: kd> "


def test_a_mistake_ends_the_command_only(sample, kdump: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr("volatility3_kdump.views.bugcheck.bug_check_grid", broken)
    shown = kdump("-z", sample(), "-c", ".bugcheck; .echo on; q")
    assert shown[-3:] == ["This command failed by a mistake of kdump: TypeError: no such thing", "on", "quit:"]
    shown = kdump("-z", sample(), "-v", "-c", ".bugcheck; .echo on; q")
    assert "Traceback (most recent call last):" in shown


def test_a_pager_that_stops_ends_the_command(session: Session) -> None:
    output = io.StringIO()
    seen = iter((False, False, True))
    Console(session, output).answer("!process 0 0", lambda line: next(seen))
    assert len(output.getvalue().splitlines()) == 3


# in a terminal --------------------------------------------------------------------------------------------------------


class Terminal:
    """The program in a pseudo-terminal."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self.text = ""

    def wait_for(self, words: str, again: str = "", seconds: float = 60) -> str:
        """What is shown up to some words, which are taken away with it; ``again`` is typed until they come.

        A signal that arrives just before readline begins to wait is noticed with the next key only.
        """
        end = time.monotonic() + seconds
        while words not in self.text:
            ready, _, _ = select.select([self.master], [], [], 0.5 if again else seconds)
            if not ready and again and time.monotonic() < end:
                self.type(again)
                continue
            assert ready, f"{words!r} was not shown: {self.text!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                data = b""
            assert data, f"{words!r} was not shown: {self.text!r}"
            self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        before, found, self.text = self.text.partition(words)
        return before + found

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def terminal(dump: Path, *options: str, toolkit: bool = False) -> Iterator[Terminal]:
    hidden = "" if toolkit else "sys.modules['prompt_toolkit'] = None; "
    # Ctrl-C reaches the program as the terminal's own signal.
    own = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    program = f"{own}{hidden}from volatility3_kdump.cli import main; sys.exit(main(sys.argv[1:]))"
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"}
    command = [sys.executable, "-c", program, "-z", str(dump), *options]
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    try:
        with children.running(command, **streams, env=environment, start_new_session=True) as process:
            os.close(slave)
            yield Terminal(master, process)
    finally:
        os.close(master)


def test_in_a_terminal(sample) -> None:
    with terminal(sample()) as shown:
        shown.wait_for("2: kd> ")
        shown.type(".trap ffffd48f`77af97e0\n")
        assert transcript.REGISTERS in shown.wait_for("2: kd> ")
        shown.type("kv\n")
        assert transcript.KV_AFTER_TRAP in shown.wait_for("2: kd> ")
        # Enter alone repeats.
        shown.type("\n")
        assert transcript.KV_AFTER_TRAP in shown.wait_for("2: kd> ")
        # Ctrl-C ends a command, and not the session.
        shown.type('!for_each_module "!process 0 7; !stacks 2; !analyze -v"\n')
        shown.wait_for("NT ACTIVE PROCESS DUMP")
        shown.type("\x03")
        shown.wait_for("Interrupted.\n2: kd> ")
        # Nor does a program that never ends.
        shown.type(".echo begun; .while (1) { r $t0=@$t0+1 }\n")
        shown.wait_for("\nbegun\n")
        shown.type("\x03")
        shown.wait_for("Interrupted.\n2: kd> ")
        shown.type("\x03")
        shown.wait_for("2: kd> ", again="\x03")
        shown.type(".bugcheck\n")
        shown.wait_for("Bugcheck code 000000D1\n")
        shown.wait_for("2: kd> ")
        shown.type("q\n")
        shown.wait_for("quit:")
        assert shown.process.wait(60) == 0


def test_in_a_terminal_with_prompt_toolkit(sample) -> None:
    pytest.importorskip("prompt_toolkit")
    with terminal(sample(), "--paging", toolkit=True) as shown:
        shown.wait_for("2: kd> ")
        shown.type(".bugcheck\r")
        shown.wait_for("Bugcheck code 000000D1\n")
        shown.wait_for("2: kd> ")
        shown.type("!process 0 0\r")
        shown.wait_for("-- more")
        shown.type("q")
        shown.wait_for("2: kd> ")
        # Typed ahead: no key of a command answers the pager.
        shown.type("!process 0 0\r.echo one\r.echo two\r")
        shown.wait_for("Image: notmyfault64.exe")
        shown.wait_for("\none\n")
        shown.wait_for("\ntwo\n")
        shown.wait_for("2: kd> ")
        # Pasted in brackets: lines run one by one.
        shown.type("\x1b[200~.echo three\n!process 0 0\n.echo four\x1b[201~\r")
        shown.wait_for("\nthree\n")
        shown.wait_for("Image: notmyfault64.exe")
        shown.wait_for("\nfour\n")
        shown.wait_for("2: kd> ")
        # Tab completes; a terminal that can do nothing shows the last character of the line.
        shown.type("dt nt!_EPROCESS ImageFileN\t")
        shown.wait_for("ImageFileNe")
        shown.type(" @$proc\r")
        shown.wait_for('[15]  "notmyfault64.e"')
        shown.wait_for("2: kd> ")
        shown.type("q\r")
        shown.wait_for("quit:")
        assert shown.process.wait(60) == 0


def test_interrupted_where_nobody_types(sample) -> None:
    command = [sys.executable, "-m", "volatility3_kdump", "-z", str(sample())]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with children.running(command, **streams, env=environment, text=True) as process:
        process.stdin.write(".echo ready\n")
        process.stdin.flush()
        for line in process.stdout:
            if line == "ready\n":
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""


def test_a_reader_that_leaves_early(sample) -> None:
    head = subprocess.run(
        f'"{sys.executable}" -m volatility3_kdump -z "{sample()}" -c "!process 0 7;!process 0 7;q" | head -1',
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        check=False,
    )
    assert head.stdout.startswith("kdump ")
    assert head.stderr == ""


def test_a_log_does_not_overwrite_the_dump(sample, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    path = sample()
    before = path.read_bytes()
    for option in ("-logo", "-loga"):
        assert cli.main([option, str(path), "-z", str(path), "-c", "q"]) == 1
        assert capsys.readouterr().err.endswith("the log cannot be opened: it is the dump itself\n")
    with pytest.raises(KdumpError, match="it is the dump itself"):
        session.open_log(str(path))
    assert path.read_bytes() == before


def test_log_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="the log cannot be opened"):
        application.main(["-logo", str(tmp_path), "-c", "q"])
