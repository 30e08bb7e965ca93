"""What the tests run in their own process (``run_plugin``) is what ``vol`` prints for the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vol_here import VolHere

#: Of each area one, in each renderer, with and without options, and what fails.
COMMANDS = [
    ("-q", "-r", "json", "kdump.process", "--pid", "7824"),
    ("-q", "-r", "windbg", "kdump.analyze"),
    ("-q", "kdump.info"),
    ("-q", "-r", "csv", "kdump.drivers"),
    ("-q", "-r", "json", "kdump.stack", "--all", "--unique"),
    ("-q", "-r", "pretty", "kdump.irp", "--pending"),
    ("-q", "-r", "windbg", "kdump.thread", "--tid", "1"),
    ("-q", "kdump.process", "--detail", "8"),
    ("-q", "kdump.memory", "--address", "nonsense!"),
]


@pytest.mark.newest_host
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[-1])
def test_the_same_as_the_true_command(
    arguments: tuple[str, ...], sample: Callable[..., Path], run_vol: Any, here: VolHere, home: Path
) -> None:
    expected = run_vol("-f", sample(), *arguments)
    finished = here.run(["--offline", "-f", str(sample()), *arguments], home)
    assert finished.returncode == expected.returncode
    assert finished.stdout == expected.stdout
    assert finished.stderr == expected.stderr
    assert (expected.returncode == 0) == (arguments[-1] not in ("1", "8", "nonsense!"))
