"""What a finished ``vol`` printed, after a look at its exit status."""

from __future__ import annotations

import json
from subprocess import CompletedProcess
from typing import Any


def lines(finished: CompletedProcess[str]) -> list[str]:
    """The lines of text."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def rows(finished: CompletedProcess[str]) -> list[dict[str, Any]]:
    """The rows of ``-r json``."""
    assert finished.returncode == 0, finished.stderr
    found: list[dict[str, Any]] = json.loads(finished.stdout)
    return found
