"""Every view on dumps whose kernel structures are damaged: only errors of ours come out, and soon.

``test_dumps.py`` damages files where their headers are; here the pointers, counts and texts that the kernel left in
memory are wrong.
"""

from __future__ import annotations

import functools
import importlib
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import contexts

from tests.fuzz.running import Runner, fit_for_a_terminal
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.plugin import KdumpPlugin, PluginFailure

CHECKOUT = Path(__file__).resolve().parents[2]
#: Rows and lines above which a view does not end by itself.
MOST = 400_000

#: Options with which a plugin reads most, where it has any: several runs of one where options exclude each other.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "address": [{"address": "ffff9189527e9080"}],
    "cpu": [{}, {"dpcs": True}, {"timers": True}, {"spin-locks": True}],
    "disasm": [{"address": "nt!KiPageFault", "count": 40}],
    "devnode": [{}, {"address": "ffff91894e241a20"}],
    "file": [{"address": "ffff91894e251a20"}],
    "hang": [{"verbose": True}],
    "drivers": [{"verbose": True}, {"address": ["nt!KeBugCheckEx+5", "myfault+10"]}],
    "irp": [{"pending": True}, {"driver": "\\Driver\\MYFAULT"}, {"address": "ffff91894ed94d70"}, {"find": True}],
    "locks": [{"all": True, "verbose": True}],
    "memory": [{"address": "ffff91894ed94d70", "length": "40"}],
    "object": [{}, {"handles": True}],
    "pool": [
        {"verbose": True},
        {"big": True, "free": True},
        {"address": "ffff91894ed94d70"},
        {"find": True, "tag": "*"},
    ],
    "process": [{"detail": 7}, {"detail": 1}],
    "dx": [
        {"expression": "@$cursession.Processes.Select(p => p.Threads.Select(t => t.Stack.Frames))", "depth": 4},
        {"expression": "@$curprocess.Io.Handles", "depth": 2},
        {"expression": "*(nt!_EPROCESS **)&nt!PsInitialSystemProcess", "depth": 3},
    ],
    "pte": [{"address": "ffff9189527e9080"}],
    "stack": [{"all": True}, {"all-cpus": True}],
    "symbols": [{"match": "*!Ke*"}, {"near": "nt!KeBugCheckEx+5"}],
    "thread": [{"all": True}, {"waits": True}],
    "trap": [{"address": "ffffd48f77af97e0"}],
    "type": [{"type": "nt!_EPROCESS", "address": "ffff9189527e9080", "depth": 2}],
}
#: Scenes that have what a plugin shows, where the demonstration does not.
SCENES = {
    "cpu": "hang-dpc",
    "peb": "wow64-stacks",
    "power": "blocked-power-irp",
    "verifier": "verifier-deadlock",
    "stack": "wow64-stacks",
    "teb": "wow64-stacks",
    "exqueue": "hang-workers",
    "hang": "hang-workers",
    "alpc": "kernel-objects",
    "cache": "kernel-data",
    "dbgprint": "kernel-data",
    "job": "kernel-objects",
    "lookaside": "kernel-objects",
    "registry": "registry",
    "dpcwatchdog": "dpc-samples",
    "errlog": "error-log",
    "errrec": "machine-check",
    "locks": "locks",
    "token": "user-mode",
    "vad": "user-mode",
}
#: One searches memory for what the user gives, and has nothing of its own to parse; the other reads no dump.
LEFT_OUT = {"error", "yara"}
#: These need types that the shipped symbol table does not have.
OWN_TABLE = {"alpc", "cache", "job", "lookaside", "registry"}
NAMES = sorted({path.stem for path in (CHECKOUT / "plugins" / "kdump").glob("[!_]*.py")} - LEFT_OUT)
POINTERS = (0, (1 << 64) - 1, 0xFFFF800000000000, 0xFFFFFFFFFFFFF000, 0x4547415045474150, 0x7FFFFFFFFFFF, 1 << 63)


def plugin_class(name: str) -> Any:
    module = importlib.import_module(f"volatility3.plugins.kdump.{name}")
    (plugin,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, KdumpPlugin) and value.__module__ == module.__name__
    )
    return plugin


def run_with(name: str, options: dict[str, Any], path: Path) -> Any:
    """The grid of a plugin of ours on a dump or an image, as the host runs it."""
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = path.as_uri()
    chosen = plugin_class(name)
    place = f"plugins.{chosen.__name__}"
    for requirement in chosen.get_requirements():
        value = options.get(requirement.name, requirement.default)
        if value is not None:
            context.config[f"{place}.{requirement.name}"] = value
    return chosen(context, place).run()


def show(name: str, options: dict[str, Any], path: Path) -> int:
    """The rows and the KD lines of a plugin; how many there are."""
    grid = run_with(name, options, path)
    count = 0

    def row(node: Any, accumulator: None) -> None:
        nonlocal count
        count += 1
        assert count < MOST

    grid.populate(row)
    for line in grid.kd_lines():
        count += 1
        assert count < MOST and all(printable(part) == part for part in line.split("\t"))
    return count


Original = tuple[bytes, list[int]]


@pytest.fixture(scope="module")
def original(sample: Callable[..., Path]) -> Callable[[str, Path | None], Original]:
    """The full dump of a scene, and the offsets of what looks like a pointer into the kernel's half."""

    @functools.lru_cache(maxsize=2)
    def make(scene: str, kernel: Path | None) -> Original:
        data = sample(1, kernel, scene).read_bytes()
        values = struct.unpack_from(f"<{(len(data) - 0x2000) // 8}Q", data, 0x2000)
        places = [0x2000 + 8 * number for number, value in enumerate(values) if 0xFFFF8 <= value >> 44 < 0xFFFFF + 1]
        return data, places

    return make


def damaged(original: Original, generator: random.Random) -> bytes:
    """From a few to many pointers replaced, counts and texts beside them as well."""
    data, places = original
    changed = bytearray(data)
    for _ in range(generator.choice((3, 30, 300, 3000))):
        at = generator.choice(places)
        kind = generator.randrange(8)
        if kind <= 2:
            # To another structure, or into its middle.
            source = generator.choice(places)
            (value,) = struct.unpack_from("<Q", data, source)
            struct.pack_into("<Q", changed, at, value + generator.choice((0, 0, 8, -8, 1, 0x1000)) & (1 << 64) - 1)
        elif kind == 3:
            struct.pack_into("<Q", changed, at, generator.choice(POINTERS))
        elif kind == 4:
            # A list that leads back to itself, or to its neighbour.
            (value,) = struct.unpack_from("<Q", data, at)
            struct.pack_into("<Q", changed, at, value ^ generator.choice((8, 0x10, 0x80, 1 << 47)))
        elif kind == 5:
            near = min(len(changed) - 4, max(0x2000, at + generator.randrange(-0x80, 0x80)))
            struct.pack_into("<I", changed, near, generator.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x1B)))
        elif kind == 6:
            near = min(len(changed) - 64, max(0x2000, at + generator.randrange(-0x200, 0x200)))
            changed[near : near + 64] = generator.randbytes(64)
        else:
            # A page table or a page of structures that is another one.
            page, source = (0x2000 + ((place - 0x2000) & ~0xFFF) for place in (at, generator.choice(places)))
            if generator.random() < 0.1 and max(page, source) + 0x1000 <= len(data):
                changed[page : page + 0x1000] = data[source : source + 0x1000]
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_structures(
    name: str,
    original: Callable[[str, Path | None], Original],
    fuzz: Runner,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path = tmp_path / "damaged.dmp"
    kernel: Path | None = None
    if name in OWN_TABLE:
        (kernel, *_) = request.getfixturevalue("some_kernels")(name)
    data, places = original(SCENES.get(name, "myfault"), kernel)
    path.write_bytes(data)
    table = {} if kernel is None else {"isf-file": str(kernel)}
    several = [{**table, **options} for options in OPTIONS.get(name, [{}])]
    for options in several:
        assert show(name, options, path), options

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        for options in several:
            try:
                show(name, options, path)
            except (KdumpError, PluginFailure) as error:
                assert fit_for_a_terminal(str(error))

    fuzz.run(name, [data], lambda data, generator: damaged((data, places), generator), feed, 3)
