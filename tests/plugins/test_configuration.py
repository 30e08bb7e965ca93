"""Saved configurations, and the host's other ways to name a dump."""

from __future__ import annotations

import json
from pathlib import Path


def test_saved_configuration_runs_again(sample, run_vol, tmp_path: Path):
    saved = tmp_path / "saved.json"
    first = run_vol("-f", sample(), "--save-config", saved, "-r", "json", "kdump.bugcheck")
    assert first.returncode == 0, first.stderr
    again = run_vol("-c", saved, "-r", "json", "kdump.bugcheck")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_dump_option(sample, run_plugin):
    finished = run_plugin("-r", "windbg", "kdump.bugcheck", "--dump", sample().as_uri())
    assert finished.stdout.startswith("Bugcheck code 000000D1\n")


def test_no_dump(run_plugin):
    finished = run_plugin("kdump.bugcheck")
    assert finished.returncode == 1
    assert "kdump: no dump given: use -f FILE" in finished.stderr
