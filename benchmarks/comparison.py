"""How measurements are taken and shown: workers in their own processes, in alternating order, and one table."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Values = dict[str, float]


class NotMeasured(Exception):
    """A contender did not run; the text is the last line that it wrote."""


@dataclass(frozen=True)
class Row:
    """A line of the table. ``met`` is ``None`` where the row has no floor, or could not be measured."""

    what: str
    ours: str
    peer: str
    ratio: str
    floor: str
    met: bool | None


def run(*command: str | Path, cache: Path | None = None) -> str:
    """Run Python with some arguments in a process of its own; returns what it printed. Raises NotMeasured."""
    environment = dict(os.environ)
    if cache is not None:
        environment.update(XDG_CACHE_HOME=str(cache), APPDATA=str(cache))
    finished = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, check=False
    )
    if finished.returncode:
        raise NotMeasured((finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"])[-1])
    return finished.stdout


def run_worker(script: str, *arguments: str | Path | int) -> Values:
    """Run a module of this directory as a worker, which prints its values as JSON. Raises NotMeasured."""
    output = run(Path(script).resolve(), *map(str, arguments))
    values: Values = json.loads(output.splitlines()[-1])
    return values


def alternate(
    what: str, rounds: int, contenders: Mapping[str, Callable[[], Values]]
) -> dict[str, Values | NotMeasured]:
    """Run each contender ``rounds`` times, in alternating order; gives the least of each value.

    A contender that does not run gives its :class:`NotMeasured`.
    """
    taken: dict[str, list[Values]] = {name: [] for name in contenders}
    failed: dict[str, NotMeasured] = {}
    for number in range(rounds):
        for name in contenders if number % 2 == 0 else reversed(list(contenders)):
            if name in failed:
                continue
            progress(f"{what}: {name}, {number + 1} of {rounds}")
            try:
                taken[name].append(contenders[name]())
            except NotMeasured as reason:
                failed[name] = reason
    least = {
        name: {key: min(values[key] for values in runs) for key in runs[0]}
        for name, runs in taken.items()
        if name not in failed
    }
    return {name: failed[name] if name in failed else least[name] for name in contenders}


def faster(
    what: str, ours: Values | NotMeasured, peer: Values | NotMeasured, name: str, floor: float | None = None
) -> Row:
    """A row that compares ``seconds``: how many times faster ours is, and at least must be."""
    shown = f">= {floor:g}x faster" if floor is not None else "-"
    if isinstance(ours, NotMeasured) or isinstance(peer, NotMeasured):
        return _unmeasured(what, ours, peer, name, shown)
    ratio = peer["seconds"] / ours["seconds"]
    met = None if floor is None else ratio >= floor
    text = f"{_significant(ratio)}x faster" if ratio >= 1 else f"{_significant(1 / ratio)}x slower"
    return Row(what, _time(ours), f"{name} {_time(peer)}", text, shown, met)


def at_most(what: str, ours: Values | NotMeasured, base: Values | NotMeasured, name: str, limit: float) -> Row:
    """A row that compares ``seconds``: how many times as long as ``base`` ours takes, and at most may take."""
    shown = f"<= {limit:g}x"
    if isinstance(ours, NotMeasured) or isinstance(base, NotMeasured):
        return _unmeasured(what, ours, base, name, shown)
    ratio = ours["seconds"] / base["seconds"]
    return Row(what, _time(ours), f"{name} {_time(base)}", f"{ratio:.2f}x", shown, ratio <= limit)


def _unmeasured(what: str, ours: Values | NotMeasured, peer: Values | NotMeasured, name: str, floor: str) -> Row:
    cells = [f"not measured: {value}" if isinstance(value, NotMeasured) else _time(value) for value in (ours, peer)]
    return Row(what, cells[0], f"{name} {cells[1]}", "-", floor, None)


def _time(values: Values) -> str:
    seconds = values["seconds"]
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _significant(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def peak_memory() -> int:
    """The most physical memory that this process has held so far, in bytes.

    Linux passes ``ru_maxrss`` on from the process that started this one, so its own high-water mark is preferred.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    met = {True: "yes", False: "**no**", None: "-"}
    cells = [("what", "ours", "peer", "ratio", "floor", "met")]
    cells += [(row.what, row.ours, row.peer, row.ratio, row.floor, met[row.met]) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def environment() -> str:
    """Versions and machine, in a line."""
    parts = [f"Python {platform.python_version()}"]
    for distribution in ("volatility3", "kdmp-parser", "leechcorepyc"):
        try:
            parts.append(f"{distribution} {importlib.metadata.version(distribution)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{distribution} not installed")
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"])
