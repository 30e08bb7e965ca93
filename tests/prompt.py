"""What the prompt answers, without a prompt."""

from __future__ import annotations

from pathlib import Path

from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target


def session_on(target: Target, path: Path | None = None) -> Session:
    """A session of its own with one dump, which asks no server; with its path it can be opened anew."""
    session = Session(Options(offline=True))
    session.dumps.append(OpenDump(target.name if path is None else str(path), target))
    return session


def session_over(path: Path | str, options: Options | None = None) -> Session:
    """A session that opened one file as the prompt does; without options it asks no server."""
    session = Session(Options(offline=True) if options is None else options)
    session.open(str(path))
    return session


def answer(session: Session, line: str) -> list[str]:
    """The lines that the commands of a line give."""
    return list(execute(session, line))
