"""What the prompt answers, without a prompt."""

from __future__ import annotations

from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target


def session_on(target: Target) -> Session:
    """A session of its own with one dump, which asks no server."""
    session = Session(Options(offline=True))
    session.dumps.append(OpenDump(target.name, target))
    return session


def answer(session: Session, line: str) -> list[str]:
    """The lines that the commands of a line give."""
    return list(execute(session, line))
