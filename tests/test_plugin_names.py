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
failed = framework.import_files(volatility3.plugins, True)
names = {name: plugin.__module__ for name, plugin in framework.list_plugins().items()}
print(json.dumps({"failed": failed, "names": names}))
"""


def list_plugins(*directories: Path) -> tuple[dict[str, str], list[str]]:
    """Name to module of every plugin that the host lists, and the modules that it could not import."""
    finished = subprocess.run(
        [sys.executable, "-c", LIST_PLUGINS, *map(str, directories)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(finished.stdout)
    return answer["names"], answer["failed"]


@pytest.fixture(scope="module")
def everything() -> tuple[dict[str, str], list[str]]:
    return list_plugins(CHECKOUT / "plugins")


@pytest.fixture(scope="module")
def ours(everything: tuple[dict[str, str], list[str]]) -> dict[str, str]:
    return {name: module for name, module in everything[0].items() if "kdump" in module}


@pytest.fixture(scope="module")
def theirs(everything: tuple[dict[str, str], list[str]]) -> list[str]:
    return [name for name, module in everything[0].items() if "kdump" not in module]


def test_every_plugin_file_is_loaded_and_holds_one_plugin(
    everything: tuple[dict[str, str], list[str]], ours: dict[str, str]
) -> None:
    files = [path.stem for path in (CHECKOUT / "plugins" / "kdump").glob("*.py") if not path.name.startswith("__")]
    assert [module for module in everything[1] if "kdump" in module] == []
    assert sorted(ours.values()) == sorted(f"volatility3.plugins.kdump.{name}" for name in files)
    assert files


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
