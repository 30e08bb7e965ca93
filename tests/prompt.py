"""What the prompt answers, without a prompt."""

from __future__ import annotations

from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session


def answer(session: Session, line: str) -> list[str]:
    """The lines that the commands of a line give."""
    return list(execute(session, line))
