"""The host's own plugins, unmodified, on our layers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3 import framework
from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.framework.configuration.requirements import (
    ListRequirement,
    ModuleRequirement,
    TranslationLayerRequirement,
)
from volatility3.framework.layers import intel

import volatility3_kdump.layers
from tests.amounts import only
from volatility3_kdump.layers.crash import KdumpCrash64Layer

Sample = Callable[..., Path]
RunVol = Callable[..., subprocess.CompletedProcess[str]]

PHYSICAL = [1, 2, 5, 6, 8, 9, 10]
PLUGINS = ["windows.info", "windows.crashinfo", "windows.pslist", "windows.modules"]


@pytest.fixture(scope="session")
def plain_table(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A symbol directory as a user has it, with the whole table of the sample's kernel in it and no other."""
    directory = tmp_path_factory.mktemp("symbols")
    name = Path("windows", "ntkrnlmp.pdb", "1B4A6F5E0766C552C90710C8ACC0295C-1.json.xz")
    table = directory / name
    table.parent.mkdir(parents=True)
    table.write_bytes((shared_data / "isf" / name).read_bytes())
    return directory


def construct(path: Path, plugin_name: str, symbols: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin as the host's command line builds it, with every scan made an error."""
    import volatility3.symbols
    from volatility3.framework import constants

    def no_scan(self: object, *arguments: object, **options: object) -> None:
        raise AssertionError(f"{type(self).__name__} was scanned")

    monkeypatch.setattr(interfaces.layers.DataLayerInterface, "scan", no_scan)
    monkeypatch.setattr(volatility3.symbols, "__path__", [str(symbols), *volatility3.symbols.__path__])
    monkeypatch.setattr(constants, "OFFLINE", True)
    failures = framework.import_files(volatility3.plugins, True)
    assert not [failure for failure in failures if "kdump" in failure]
    context = contexts.Context()
    plugin = framework.list_plugins()[plugin_name]
    context.config["automagic.LayerStacker.single_location"] = path.as_uri()
    available = automagic.choose_automagic(automagic.available(context), plugin)
    return plugins.construct_plugin(context, available, plugin, "plugins", None, None)


def beside(first: Any, plugin_name: str) -> Any:
    """Another plugin on the layers and the kernel that were found for the first, its options at their defaults."""
    plugin = framework.list_plugins()[plugin_name]
    context = first.context
    join = interfaces.configuration.path_join
    path = join("plugins", plugin.__name__)
    for requirement in plugin.get_requirements():
        if isinstance(requirement, ModuleRequirement):
            context.config.splice(join(path, "kernel"), context.config.branch(join(first.config_path, "kernel")))
            context.config[join(path, "kernel")] = first.config["kernel"]
        elif isinstance(requirement, TranslationLayerRequirement):
            context.config[join(path, requirement.name)] = context.modules[first.config["kernel"]].layer_name
        elif isinstance(requirement, interfaces.configuration.SimpleTypeRequirement | ListRequirement):
            context.config[join(path, requirement.name)] = requirement.default
    return plugin(context, path)


def rows_of(plugin: Any) -> list[list[str]]:
    found: list[list[str]] = []
    plugin.run().populate(lambda node, accumulator: found.append([str(value) for value in node.values]))
    return found


@pytest.mark.newest_host
@pytest.mark.parametrize(
    "dump_type", [pytest.param(number, marks=() if number in (1, 6) else pytest.mark.thorough) for number in PHYSICAL]
)
def test_host_plugins_run_on_every_type_without_a_scan_and_say_the_same(
    dump_type: int, sample: Sample, plain_table: Path, monkeypatch: pytest.MonkeyPatch, on_type_1: dict[str, Any]
) -> None:
    plugin = construct(sample(dump_type), "windows.modules.Modules", plain_table, monkeypatch)
    kernel = plugin.context.modules[plugin.config["kernel"]]
    layer = plugin.context.layers[kernel.layer_name]
    assert isinstance(layer, intel.WindowsIntel32e)
    assert isinstance(plugin.context.layers[layer.config["memory_layer"]], KdumpCrash64Layer)
    modules = rows_of(plugin)
    assert modules[0][3] == "ntoskrnl.exe" and "myfault.sys" in [row[3] for row in modules]
    processes = rows_of(beside(plugin, "windows.pslist.PsList"))
    names = [row[2] for row in processes]
    assert names[0] == "System" and "notepad.exe" in names and "notmyfault64.e" in " ".join(names)
    (crash,) = rows_of(beside(plugin, "windows.crashinfo.Crashinfo"))
    # The type and the bitmap's size are the file's own; debuggers write the address of the page frame database itself.
    named = {1: "Full Dump (0x1)", 5: "Bitmap Dump (0x5)", 6: "(0x6, kernel memory dump with a bitmap)"}
    assert named.get(dump_type, f"({dump_type:#x}, ") in crash[10]
    crash = crash[:4] + crash[5:10] + crash[11:14]
    info = {row[0]: row[1] for row in rows_of(beside(plugin, "windows.info.Info"))}
    assert info["Is64Bit"] == "True" and info["Major/Minor"].startswith("15.19041") and info["NtSystemRoot"]
    info = {
        name: value for name, value in info.items() if not re.match(r"\d|layer_name|primary|memory_layer|base_", name)
    }
    found = {"modules": modules, "processes": processes, "crash": crash, "info": info}
    assert found == (on_type_1 or found)
    on_type_1.update(found)


@pytest.fixture(scope="module")
def on_type_1() -> dict[str, Any]:
    """What the first type that was tested gave."""
    return {}


@pytest.mark.newest_host
@pytest.mark.parametrize(
    "dump_type, plugin",
    only(
        [(10, "windows.info"), (6, "windows.crashinfo")], [*((6, plugin) for plugin in PLUGINS), (10, "windows.info")]
    ),
)
def test_host_plugins_run_from_the_command_line(
    dump_type: int, plugin: str, sample: Sample, run_vol: RunVol, plain_table: Path
) -> None:
    finished = run_vol("-q", "-s", plain_table, "-r", "json", "-f", sample(dump_type), plugin)
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(finished.stdout)
    assert rows
    expected = {
        "windows.info": ("Value", "C:\\Windows"),
        "windows.crashinfo": ("Signature", "PAGE"),
        "windows.pslist": ("ImageFileName", "notepad.exe"),
        "windows.modules": ("Name", "myfault.sys"),
    }
    column, value = expected[plugin]
    assert value in [row[column] for row in rows]


@pytest.mark.parametrize("plugin", ["windows.info", "windows.pslist"])
def test_nothing_of_ours_is_stacked_for_host_plugins_on_a_small_memory_dump(
    plugin: str, sample: Sample, run_vol: RunVol, plain_table: Path
) -> None:
    finished = run_vol("-q", "-s", plain_table, "-vvv", "-f", sample(4), plugin)
    assert finished.returncode != 0
    assert "Unsatisfied requirement" in finished.stdout + finished.stderr
    assert not re.search(r"Stacked \S+ using Kdump", finished.stderr)
    (said,) = [line for line in finished.stderr.splitlines() if "is a small memory dump" in line]
    assert "Use the kdump.* plugins" in said


def test_our_own_plugins_do_not_warn_of_a_small_memory_dump(sample: Sample, run_vol: RunVol) -> None:
    finished = run_vol("-q", "-f", sample(4), "kdump.bugcheck")
    assert finished.returncode == 0
    assert "small memory dump" not in finished.stderr


def test_our_stackers_leave_other_files_alone(tmp_path: Path) -> None:
    from volatility3.framework.layers import physical

    from volatility3_kdump.layers.stackers import KdumpCrashStacker, KdumpIntelStacker

    for number, content in enumerate((b"\0" * 64, b"\x7fELF" + bytes(100), b"PAGEDUXX" + bytes(100), b"P")):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(content)
        context = contexts.Context()
        context.config["file.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "file", "file"))
        assert KdumpCrashStacker.stack(context, "file") is None
        assert KdumpIntelStacker.stack(context, "file") is None


def test_importing_the_layers_registers_them() -> None:
    assert volatility3_kdump.layers.__all__
    names = {cls.__name__ for cls in framework.class_subclasses(interfaces.automagic.StackerLayerInterface)}
    assert {"KdumpCrashStacker", "KdumpIntelStacker"} <= names
