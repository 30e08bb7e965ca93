"""The check of dependencies for known vulnerabilities, which `make lint` runs."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit"


@pytest.fixture
def audit() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("audit", str(SCRIPT))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("output", "status", "line"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, "advisories for 1 of 1 packages"),
        ({"dependencies": [{"name": "a", "skip_reason": "not there"}]}, 0, "advisories for 0 of 1 packages"),
        (
            {
                "dependencies": [
                    {"name": "a", "version": "1", "vulns": [{"id": "CVE-2020-1", "fix_versions": ["2", "3"]}]},
                    {"name": "b", "version": "1", "vulns": []},
                ]
            },
            1,
            "audit: a 1: CVE-2020-1, fixed in 2, 3",
        ),
        (None, 0, "no advisories can be had here: ConnectionError: no route"),
    ],
)
def test_what_pip_audit_says_decides(
    output: object,
    status: int,
    line: str,
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = "" if output is None else json.dumps(output)
    done = subprocess.CompletedProcess([], 1, shown, "Traceback\nConnectionError: no route\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.main() == status
    assert line in capsys.readouterr().out
