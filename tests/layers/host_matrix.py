"""Runs the host's plugins in this process, on our layers or on the host's own, and says what each gave."""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import volatility3.plugins
from volatility3 import framework
from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.framework.configuration.requirements import (
    ListRequirement,
    ModuleRequirement,
    TranslationLayerRequirement,
)

#: Options that a plugin needs, and those without which it does next to nothing.
OPTIONS: dict[str, dict[str, Any]] = {
    "windows.pe_symbols.PESymbols": {"source": "kernel", "module": "ntoskrnl.exe", "symbols": ["PsActiveProcessHead"]},
    "windows.pedump.PEDump": {"base": 0xF80062600000, "kernel_module": True},
    "windows.strings.Strings": {"strings_file": None},
    "windows.vadregexscan.VadRegExScan": {"pattern": "kdump", "maxsize": 0x100},
    "windows.vadyarascan.VadYaraScan": {"yara_string": "This program"},
    "windows.registry.printkey.PrintKey": {"recurse": False},
}
_LONGEST = 60


class Timeout(Exception):
    """A plugin took too long."""


@dataclass
class Outcome:
    """What a plugin gave: its rows, or the last line of what went wrong; ``seconds`` are of processor time."""

    rows: list[tuple[int, tuple[str, ...]]]
    error: str | None
    seconds: float


class Memory(interfaces.plugins.FileHandlerInterface):  # type: ignore[misc]
    """Files that plugins write, thrown away."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Timeout(f"still running after {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    # Of processor time: how busy the machine is does not count.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def names() -> list[str]:
    """The host's plugins for Windows."""
    framework.import_files(volatility3.plugins, True)
    return sorted(name for name in framework.list_plugins() if name.startswith("windows."))


def opened(path: Path, stock: bool) -> Any:
    """A plugin whose layers and kernel others can use; with ``stock`` they are the host's alone."""
    framework.import_files(volatility3.plugins, True)
    context = contexts.Context()
    plugin = framework.list_plugins()["windows.modules.Modules"]
    context.config["automagic.LayerStacker.single_location"] = path.as_uri()
    available = automagic.choose_automagic(automagic.available(context), plugin)
    if stock:
        context.config["automagic.LayerStacker.stackers"] = ["WindowsCrashDumpStacker", "WindowsIntelStacker"]
        available = [magic for magic in available if not type(magic).__module__.startswith("volatility3_kdump")]
    return plugins.construct_plugin(context, available, plugin, "plugins", None, Memory)


def run(first: Any, name: str, options: dict[str, Any]) -> Outcome:
    """Another plugin on the layers and the kernel of the first."""
    plugin = framework.list_plugins()[name]
    context = first.context
    join = interfaces.configuration.path_join
    path = join("plugins", plugin.__name__)
    for requirement in plugin.get_requirements():
        if requirement.name in options:
            context.config[join(path, requirement.name)] = options[requirement.name]
        elif isinstance(requirement, ModuleRequirement):
            context.config.splice(join(path, "kernel"), context.config.branch(join(first.config_path, "kernel")))
            context.config[join(path, requirement.name)] = first.config["kernel"]
        elif isinstance(requirement, TranslationLayerRequirement):
            context.config[join(path, requirement.name)] = context.modules[first.config["kernel"]].layer_name
        elif isinstance(requirement, interfaces.configuration.SimpleTypeRequirement | ListRequirement):
            if requirement.default is not None:
                context.config[join(path, requirement.name)] = requirement.default
    rows: list[tuple[int, tuple[str, ...]]] = []
    start = time.process_time()
    error = None
    try:
        with _at_most(_LONGEST):
            made = plugin(context, path)
            made.set_open_method(Memory)

            def visit(node: Any, accumulator: object) -> None:
                rows.append((node.path_depth, tuple(str(value) for value in node.values)))

            made.run().populate(visit, None)
    except Exception as failure:
        last = traceback.extract_tb(failure.__traceback__)[-1]
        error = f"{type(failure).__name__}: {failure} ({Path(last.filename).name}:{last.lineno})"
    return Outcome(rows, error, time.process_time() - start)
