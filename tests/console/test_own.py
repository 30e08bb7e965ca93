"""Commands that the debugger has not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.serving.confinement import refuse
from volatility3_kdump.target import Target


def test_the_verdict_names_the_driver(session: Session) -> None:
    assert "myfault" in "\n".join(answer(session, "!kdump.verdict"))


def test_a_report_is_written_once(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "crash.json"
    assert answer(session, f"!kdump.report {path}") == [f"Wrote {path}"]
    assert json.loads(path.read_text())["bug_check"] is not None
    assert answer(session, f"!kdump.report {path}") == [f"{path}: not written: it exists, and is not overwritten"]
    with pytest.raises(KdumpError):
        refuse(f"!kdump.report {path}", ())


def test_waits_and_big_pool(scene: Callable[..., Target]) -> None:
    for name, line in (("locks", "!kdump.waits"), ("memory", "!kdump.bigpool")):
        session = session_on(scene(name))
        lines = answer(session, line)
        assert len(lines) > 1
        assert not any("knows no" in shown or "mistake" in shown for shown in lines)
