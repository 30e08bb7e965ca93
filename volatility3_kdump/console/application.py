"""``kdump -z DUMP``: options, banner, and the loop that reads commands and shows what they answer."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.commands.control import opening
from volatility3_kdump.console.session import Session, refuse_same_file
from volatility3_kdump.console.switches import without_meaning
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable, terminal_line
from volatility3_kdump.files import FileFailure, read_lines
from volatility3_kdump.options import Options, kernel_base
from volatility3_kdump.progress import ProgressLine
from volatility3_kdump.text import banner

_INTERRUPTED = 130
#: Bytes of a line and of a file of commands.
_LONGEST_LINE = 1 << 16
_LONGEST_SCRIPT = 16 << 20
#: Commands of one line where nobody can end an endless loop.
_MOST_STEPS = 100_000


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line: KD's options, and ours with two dashes."""
    parser = argparse.ArgumentParser(
        prog="kdump",
        description="Open crash dumps and answer KD's commands.",
        epilog="`kdump -h` lists the other commands of kdump.",
        allow_abbrev=False,
    )
    parser.add_argument("-?", action="help", help="show this and leave")
    parser.add_argument("-z", dest="dumps", metavar="DUMP", action="append", default=[], help="a dump, or an archive")
    parser.add_argument(
        "-y", "--symbol-path", dest="symbol_path", metavar="PATH", help="symbol path (default _NT_SYMBOL_PATH, srv*)"
    )
    parser.add_argument(
        "-i", "--image-path", dest="image_path", metavar="PATH", help="image path (default _NT_EXECUTABLE_IMAGE_PATH)"
    )
    parser.add_argument("-v", dest="verbose", action="store_true", help="say more: warnings, tracebacks of mistakes")
    parser.add_argument("-q", dest="quiet", action="store_true", help="answers only; status 1 if a command failed")
    parser.add_argument("-n", dest="noisy", action="store_true", help="tell where symbols are looked for: !sym noisy")
    parser.add_argument("-lines", dest="lines", action="store_true", help="show source lines in k and ln: .lines")
    parser.add_argument("-version", action="version", version=banner.title(), help="show the version and leave")
    parser.add_argument("-c", dest="commands", metavar="COMMANDS", help='commands to begin with: "!analyze -v;q"')
    parser.add_argument("-cf", dest="script", metavar="FILE", help="a file of commands to begin with")
    log = parser.add_mutually_exclusive_group()
    log.add_argument("-logo", dest="log", metavar="FILE", help="copy the session to this file, written anew")
    log.add_argument("-loga", dest="log_append", metavar="FILE", help="append the session to this file")
    parser.add_argument("--member", metavar="NAME", help="the dump inside an archive: its name or number")
    parser.add_argument(
        "--isf-dir", action="append", default=[], metavar="DIR", help="searched for symbol tables before the host's own"
    )
    parser.add_argument("--isf-file", metavar="FILE", help="the kernel's symbol table itself")
    parser.add_argument(
        "--kernel", type=kernel_base, metavar="ADDRESS", help="the kernel to show, of a memory image with several"
    )
    parser.add_argument("--offline", action="store_true", help="ask no symbol server (also KDUMP_OFFLINE)")
    parser.add_argument(
        "--steps",
        type=_count,
        metavar="N",
        help=f"how many commands a line may run, loops included, where nobody types (default {_MOST_STEPS})",
    )
    parser.add_argument("--paging", action="store_true", help="stop at the end of each screen")
    parser.add_argument("--no-paging", dest="paging", action="store_false", help="do not, as without --paging")
    parser.add_argument("--history", metavar="FILE", help="keep the commands that are typed in this file")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of commands")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    """Run a session. Returns the exit status; raises :class:`KdumpError` when a dump cannot be opened."""
    meant, warnings = without_meaning(arguments)
    options = build_parser().parse_args(meant)
    opening_options = Options(
        options.isf_dir,
        options.isf_file,
        options.symbol_path,
        options.image_path,
        offline=options.offline or None,
        kernel=options.kernel,
    )
    session = Session(opening_options, options.verbose)
    session.noisy, session.quiet, session.lines = options.noisy, options.quiet, options.lines
    session.most_steps = options.steps or (None if sys.stdin.isatty() else _MOST_STEPS)
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    console = Console(session, sys.stdout, options.paging, options.history)
    try:
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(session.close_log)
            return console.run(options, warnings)
    except KeyboardInterrupt:
        return _INTERRUPTED


class Console:
    """Shows what a session answers, on a stream and in its log."""

    def __init__(self, session: Session, output: TextIO, paging: bool = False, history: str | None = None) -> None:
        self.session = session
        self._history = history
        self.paging = paging
        self._output = output
        self._progress = ProgressLine(sys.stderr)
        session.progress = self._progress

    def run(self, options: argparse.Namespace, warnings: Sequence[str] = ()) -> int:
        """The whole session, from the options to its end."""
        log = options.log or options.log_append
        if log:
            for path in options.dumps:
                refuse_same_file(log, path)
            self.session.open_log(log, append=bool(options.log_append))
        self._tell(banner.title(), *warnings)
        for path in options.dumps:
            self._tell("")
            opened = opening(self.session, self.session.open(path, options.member))
            if self.session.quiet:
                # The banner's work is done all the same: it finds out what later notes need not repeat.
                for _ in opened:
                    pass
            else:
                self._all(opened)
        self.session.index = 0
        if options.script:
            for line in _script(options.script):
                self.echo(line)
                self.answer(line)
        if options.commands is not None and not self.session.finished:
            self.echo(f"kd: Reading initial command '{options.commands}'")
            for line in options.commands.splitlines():
                self.answer(line)
                if self.session.finished:
                    break
        if not self.session.finished:
            self._read()
        return int(self.session.quiet and self.session.failed)

    def _tell(self, *lines: str) -> None:
        """What is no answer."""
        if not self.session.quiet:
            for line in lines:
                self.show(line)

    def _read(self) -> None:
        """Read commands until the user is done."""
        if not (sys.stdin.isatty() and self._output.isatty()):
            for line in sys.stdin:
                self.echo(line.rstrip("\r\n"))
                self.answer(line)
                if self.session.finished:
                    return
            return
        from volatility3_kdump.console.terminal import make_reader

        reader = make_reader(self.session, self._history)
        previous = ""
        while not self.session.finished:
            try:
                line = reader.read(self.session.prompt)
            except EOFError:
                self.show("")
                return
            except KeyboardInterrupt:
                continue
            line = line.strip() or previous
            previous = line
            self._to_log(f"{self.session.prompt}{printable(line)}\n")
            try:
                self.answer(line, reader.pager() if self.paging else None)
            except KeyboardInterrupt:
                reader.forget()
                self.show("Interrupted.")

    def answer(self, line: str, stop: Callable[[str], bool] | None = None) -> None:
        """Carry out a line of commands. ``stop`` is asked before each line of text whether the user has seen enough."""
        self._all(execute(self.session, line), stop)

    def _all(self, lines: Iterable[str], stop: Callable[[str], bool] | None = None) -> None:
        for line in lines:
            self.show(line)
            if stop is not None and stop(line):
                return
        self._progress.clear()
        self._output.flush()

    def show(self, line: str) -> None:
        """A line of text, made fit for a terminal."""
        self._progress.clear()
        shown = f"{terminal_line(line)}\n"
        self._output.write(shown)
        self._to_log(shown)

    def echo(self, line: str) -> None:
        """The prompt and a command that nobody types."""
        self._tell(f"{self.session.prompt}{line}")

    def _to_log(self, text: str) -> None:
        if self.session.log is not None:
            try:
                self.session.log.write(text)
            except OSError as error:
                path = self.session.abandon_log()
                self._output.write(f"{path}: the log is closed: {error.strerror or error}\n")


def _script(path: str) -> Iterator[str]:
    try:
        yield from read_lines(path, _LONGEST_LINE, _LONGEST_SCRIPT)
    except FileFailure as failure:
        raise KdumpError(f"{path}: the file of commands {failure}") from failure
