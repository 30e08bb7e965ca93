"""``kdump slice``: write a dump of only what some commands read, and leave out what is secret."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from volatility3_kdump.cli.command import Command
from volatility3_kdump.cli.dumps import add_dump_options, opening_options
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.progress import ProgressLine

if TYPE_CHECKING:
    from volatility3_kdump.dump.recording import Recorder
    from volatility3_kdump.target import Target
    from volatility3_kdump.writing.slices import Forbidden, Scrubbed

#: What a slice is for, and the commands that read what that takes.
PURPOSES = {
    "analyze": ("vertarget", "lm", "!analyze -v", "r", "kv", "!process 0 0", "!thread", "!running -it"),
    "hang": ("vertarget", "lm", "!analyze -v", "!analyze -hang", "!locks", "!running -it", "!ready", "!process 0 0"),
    "all-stacks": ("vertarget", "lm", "!analyze -v", "!process 0 7", "!running -it"),
}

#: What the prompt shows of a dump that is opened, whatever is asked for then.
_OPENING = ("vertarget", "r")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump slice``."""
    parser.description = (
        "Run commands on a dump, and write a dump of type 6 with only the pages that they read: small enough to mail, "
        "and every command that was run gives the same on it."
    )
    parser.add_argument("dump", metavar="DUMP", type=Path, help="the dump, or an archive with one")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the file to write")
    parser.add_argument("-c", "--commands", metavar="COMMANDS", help="commands of the prompt, separated by ;")
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=sorted(PURPOSES),
        help="the commands of a usual way: "
        + "; ".join(f"{name}: {', '.join(PURPOSES[name])}" for name in PURPOSES)
        + " (default: analyze, where no commands are given)",
    )
    parser.add_argument(
        "--scrub",
        action="store_true",
        help="leave out user mode's pages; blank names of users and machines, paths below Users, serial numbers",
    )
    parser.add_argument(
        "--refuse", metavar="RULES.yar", type=Path, help="write nothing if one of these YARA rules matches the result"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    add_dump_options(parser, rules=False)


def run(arguments: argparse.Namespace) -> int:
    """``kdump slice``: 0 where the slice is written."""
    from volatility3_kdump.dump.recording import Recorder
    from volatility3_kdump.writing import write
    from volatility3_kdump.writing.crash_dump import write_bytes
    from volatility3_kdump.writing.slices import plan_slice, scrub_copy

    progress = ProgressLine(sys.stderr)
    forbidden = _forbidden(arguments.refuse) if arguments.refuse is not None else None
    commands = _commands(arguments)
    recorder = Recorder()
    try:
        target = _read(arguments, commands, recorder, progress)
        if target.dump.pages is None:
            data, scrubbed = scrub_copy(target, forbidden) if arguments.scrub else (_whole(target, forbidden), None)
            write_bytes(target, data, arguments.output, arguments.force)
            size, kept = len(data), "all of a small memory dump"
        else:
            made = plan_slice(target, recorder, commands, arguments.scrub, forbidden, progress)
            write(made.plan, arguments.output, arguments.force, progress)
            size, scrubbed = made.plan.size, made.scrubbed
            kept = f"{made.note.pages:,} of {made.note.pages_of_original:,} pages"
    finally:
        progress.clear()
    for line in _told(scrubbed):
        print(printable(line))
    print(f"{printable(str(arguments.output))}: {size:,} bytes, {kept}")
    return 0


def _commands(arguments: argparse.Namespace) -> list[str]:
    commands: list[str] = []
    if arguments.purpose or not arguments.commands:
        commands += PURPOSES[arguments.purpose or "analyze"]
    if arguments.commands:
        commands += [arguments.commands]
    return commands


def _read(arguments: argparse.Namespace, commands: Sequence[str], recorder: Recorder, progress: ProgressLine) -> Target:
    """Open the dump and run the commands, while it is recorded what is read."""
    from volatility3_kdump.console.commands import execute
    from volatility3_kdump.console.session import Session
    from volatility3_kdump.writing.planned import dump_of

    class DumpSession(Session):
        """A session that opens a memory image as the dump that can be made of it."""

        def _target(self, path: str, member: str | None) -> Target:
            opened = super()._target(path, member)
            return opened if opened.header.container is None else dump_of(opened, self.options, self.progress)

    session = DumpSession(dataclasses.replace(opening_options(arguments), member=None))
    session.progress = progress
    with recorder.active():
        target = session.open(str(arguments.dump), arguments.member).target
        for number, command in enumerate((*_OPENING, *commands)):
            progress(100.0 * number / (len(_OPENING) + len(commands)), command)
            for _ in execute(session, command):
                pass
            if session.finished or len(session.dumps) != 1:
                break
    return target


def _whole(target: Target, forbidden: Forbidden | None) -> bytes:
    data = target.dump.source.read(0, target.dump.source.size)
    reason = forbidden(data) if forbidden is not None else None
    if reason:
        raise KdumpError(f"{target.name}: {reason}: nothing is written")
    return data


def _forbidden(rules_file: Path) -> Forbidden:
    """What says that a YARA rule matches."""
    from volatility3_kdump.findings.yara_rules import load_rules

    rules = load_rules(file=str(rules_file))

    def matched(data: bytes) -> str | None:
        match = next(iter(rules.matches(data)), None)
        return None if match is None else f"the rule {match.rule.name} of {rules_file} matches"

    return matched


def _told(scrubbed: Scrubbed | None) -> list[str]:
    if scrubbed is None:
        return []
    from volatility3_kdump.writing.secrets import RULES

    lines = [f"user pages: {scrubbed.pages_left_out:,} left out"]
    lines += [f"{rule}: {scrubbed.times[rule]:,} blanked" for rule in RULES if rule != "user pages"]
    return lines + [f"NOTE: {line}" for line in scrubbed.notes]


COMMAND = Command("slice", "write a dump of only what some commands read", run, add_arguments)
