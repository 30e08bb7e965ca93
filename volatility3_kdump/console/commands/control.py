"""Commands that steer the session."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session


@command("q", "qq", "qd", help="ends the session")
def leave(session: Session, arguments: Arguments) -> Iterable[str]:
    session.finished = True
    return ()
