"""The host runs the plugin whose name contains what the user typed, and refuses if several do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

LIST_PLUGINS = """
import json, sys
import volatility3.plugins
from volatility3 import framework
volatility3.plugins.__path__[:0] = sys.argv[1:]
framework.import_files(volatility3.plugins, True)
print(json.dumps({name: plugin.__module__ for name, plugin in framework.list_plugins().items()}))
"""


@pytest.fixture(scope="module")
def everything() -> dict[str, str]:
    """Name to module of every plugin that the host lists."""
    finished = subprocess.run(
        [sys.executable, "-c", LIST_PLUGINS, str(CHECKOUT / "plugins")],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    names: dict[str, str] = json.loads(finished.stdout)
    return names


@pytest.fixture(scope="module")
def ours(everything: dict[str, str]) -> dict[str, str]:
    return {name: module for name, module in everything.items() if "kdump" in module}


@pytest.fixture(scope="module")
def theirs(everything: dict[str, str]) -> list[str]:
    return [name for name, module in everything.items() if "kdump" not in module]


def test_every_plugin_file_is_loaded_and_holds_one_plugin(ours: dict[str, str]) -> None:
    files = [path.stem for path in (CHECKOUT / "plugins" / "kdump").glob("*.py") if path.name[:2] != "__"]
    assert files
    assert sorted(ours.values()) == sorted(f"volatility3.plugins.kdump.{name}" for name in files)


def test_what_a_user_types_names_one_plugin(ours: dict[str, str], theirs: list[str]) -> None:
    names = [*ours, *theirs]
    for name in ours:
        for typed in (name, name.rpartition(".")[0]):
            assert [other for other in names if typed in other] == [name]


def test_no_plugin_of_the_host_becomes_ambiguous(ours: dict[str, str], theirs: list[str]) -> None:
    assert len(theirs) > 100
    for name in theirs:
        for typed in (name, name.rpartition(".")[0]):
            assert [other for other in ours if typed in other] == []
