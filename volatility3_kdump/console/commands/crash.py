"""Commands on what happened: the bug check and its analysis."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.views.bugcheck import bug_check_grid


@command(".bugcheck", help="bug check code and arguments", plugin="bugcheck")
def bugcheck(session: Session, arguments: Arguments) -> Iterable[str]:
    return bug_check_grid(session.target).kd_lines()
