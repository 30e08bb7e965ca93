"""Symbol servers through the host's command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores.server import running

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([], [], id="online"),
        pytest.param([], ["--offline"], id="option", marks=pytest.mark.thorough),
        pytest.param(["--offline"], [], id="of the host", marks=pytest.mark.thorough),
    ],
)
def test_offline(before: list[str], after: list[str], sample: Callable[..., Path], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("KDUMP_OFFLINE", None)
    with running() as server:
        path = f"srv*{tmp_path / 'store'}*{server.url}"
        command = [sys.executable, "-m", "volatility3_kdump", "vol", "-q", *before, "-f", str(sample(4))]
        command += ["kdump.stack", "--symbol-path", path, "--image-path", path, *after]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert finished.returncode == 0, finished.stderr
        assert "KeBugCheckEx" in finished.stdout
        assert bool(server.asked) == (not before and not after)
