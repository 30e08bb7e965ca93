"""The host imports our plugin files for every command of its user: they must cost next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# One worker imports everything.
pytestmark = pytest.mark.xdist_group("import_cost")

CHECKOUT = Path(__file__).resolve().parents[1]
HEAVY = ("numpy", "capstone", "pefile", "yara", "jinja2", "mcp")

# Host plugins import some of the heavy libraries themselves, so what counts is which module asks for one.
IMPORT_EVERYTHING = """
import builtins, importlib, json, pkgutil, sys
checkout, *heavy = sys.argv[1:]

import volatility3.cli, volatility3.plugins
from volatility3 import framework

class WithoutOurs:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("volatility3.plugins.kdump"):
            raise ImportError(name)

sys.meta_path.insert(0, WithoutOurs())  # they may be installed as well
framework.import_files(volatility3.plugins, True)
del sys.meta_path[0]
before = set(sys.modules)
asked = []
real_import = builtins.__import__

def watched(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if level == 0 and name.split(".")[0] in heavy and "kdump" in importer:
        asked.append([importer, name])
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = watched
volatility3.plugins.__path__.insert(0, checkout + "/plugins")
framework.import_files(volatility3.plugins, True)
by_plugins = set(sys.modules) - before
import volatility3_kdump
for module in pkgutil.walk_packages(volatility3_kdump.__path__, "volatility3_kdump."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
everything = set(sys.modules) - before
print(json.dumps({
    "asked": asked,
    "by_plugins": sorted(by_plugins),
    "everything": sorted(everything),
}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, str(CHECKOUT), *HEAVY],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def test_all_our_modules_were_imported(imported: dict[str, Any]) -> None:
    assert "volatility3_kdump.layout" in imported["everything"]
    files = [path.stem for path in (CHECKOUT / "plugins" / "kdump").glob("*.py") if path.name[:2] != "__"]
    assert files
    assert {f"volatility3.plugins.kdump.{name}" for name in files} <= set(imported["by_plugins"])


def test_no_module_imports_a_heavy_library_before_it_is_used(imported: dict[str, Any]) -> None:
    # The server is made of its protocol; `kdump mcp` alone imports it.
    asked = [entry for entry in imported["asked"] if entry[0] != "volatility3_kdump.serving.server"]
    assert asked == []
    assert "mcp" not in {name.partition(".")[0] for name in imported["by_plugins"]}


def test_plugins_bring_few_modules_into_every_command(imported: dict[str, Any]) -> None:
    foreign = [name for name in imported["by_plugins"] if "kdump" not in name]
    assert len(foreign) < 20, foreign
