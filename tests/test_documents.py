"""The pages for whoever works on this name what there is."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunVol
from volatility3_kdump import cli

CHECKOUT = Path(__file__).resolve().parents[1]
MAP = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
GUIDE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ROOMS = ("volatility3_kdump", "kdump_sample", "plugins", "symbols")


def test_every_room_is_on_the_map() -> None:
    packages = [path.parent for path in CHECKOUT.glob("volatility3_kdump/**/__init__.py")]
    rooms = {package.name for package in packages if package.name != "volatility3_kdump"}
    assert rooms
    assert {room for room in rooms if f"{room}/" not in MAP} == set()
    modules = {path.stem for path in CHECKOUT.glob("volatility3_kdump/[!_]*.py")}
    assert {module for module in modules if not re.search(rf"\b{module}\b", MAP)} == set()


def test_the_pages_name_nothing_that_is_not_there() -> None:
    """Paths are given from the top, or from the package or the tests."""
    for page in (MAP, GUIDE):
        named = {name for name in re.findall(r"`([\w./-]+)`", page) if "/" in name and "NAME" not in name}
        assert len(named) > 15
        places = [CHECKOUT, *(CHECKOUT / room for room in ROOMS)]
        outside = {"../shared/data"}
        assert {name for name in named - outside if not any((place / name).exists() for place in places)} == set()


def test_targets_of_make_are_those_that_are_named() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", GUIDE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_part_of_the_maker_is_in_its_description() -> None:
    modules = {path.stem for path in (CHECKOUT / "kdump_sample").glob("[!_]*") if path.suffix in (".py", "")}
    described = re.findall(r"``(\w+)``", (CHECKOUT / "kdump_sample" / "__init__.py").read_text(encoding="utf-8"))
    assert {name for name in modules if name not in described} == set()


def test_the_pages_name_classes_functions_and_constants_that_there_are() -> None:
    named = {name for name in re.findall(r"`(\w+)`", MAP + GUIDE) if "_" in name or not name.islower()}
    assert len(named) > 20
    for path in (path for room in (*ROOMS, "tests") for path in (CHECKOUT / room).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        named -= {name for name in named if name in source}
    assert named == set()


def _examples() -> list[list[str]]:
    """The pieces of source that the guide shows, as lines: those that begin with a decorator or a column."""
    blocks = re.findall(r"(?:^(?: {4,}\S.*)?\n)+", GUIDE, re.MULTILINE)
    pieces = [[line.strip() for line in block.splitlines() if line.strip()] for block in blocks]
    return [piece for piece in pieces if piece and piece[0].startswith(("@", "Column("))]


def test_worked_examples_are_in_the_source() -> None:
    """Every line of an example stands in one file, so that the guide shows what there is."""
    assert len(_examples()) == 4
    files = [path for room in ROOMS[:2] for path in (CHECKOUT / room).rglob("*.py")]
    sources = [{line.strip() for line in path.read_text(encoding="utf-8").splitlines()} for path in files]
    for example in _examples():
        assert any(source.issuperset(example) for source in sources), example[0]


# what the README shows ------------------------------------------------------------------------------------------------

_PROMPT = re.compile(r"2: kd> (?!kd:)(.*)")


def _commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """The commands that begin with some words, and what is shown below each."""
    for block in re.findall(r"(?:^    .*\n)+", README, re.MULTILINE):
        for shown in re.split(r"^    \$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = (line.removeprefix("    ") for line in shown.splitlines())
            if command.startswith(program):
                yield re.sub(r"\s+# .*", "", command), lines


def _missing(shown: list[str], printed: str) -> list[str]:
    """The lines that do not begin any printed one, in their order; ``...`` stands for anything."""
    rest = iter([" ".join(line.split()) for line in printed.splitlines()])
    missing = []
    for line in shown:
        if line == "...":
            continue
        pattern = re.escape(" ".join(line.split())).replace(re.escape("..."), ".*")
        if not any(re.match(rf"{pattern}( |$)", candidate) for candidate in rest):
            missing.append(line)
    return missing


_PLUGINS = [
    pytest.param(command, lines, id=re.sub(r"\W+", " ", command)[:60], marks=[] if of_sample else pytest.mark.thorough)
    for command, lines in _commands("vol ")
    for of_sample in ["MEMORY.DMP" in command or "-f" not in command]
]


@pytest.mark.parametrize(("command", "shown"), _PLUGINS)
@pytest.mark.newest_host
def test_plugins_print_what_the_readme_shows(
    command: str, shown: list[str], sample: Callable[..., Path], run_plugin: RunVol, tmp_path: Path
) -> None:
    """Only the demonstration without ``--thorough``; a rendering by ``-r windbg`` is the newest host's."""
    (tmp_path / "pooltag.txt").write_text("Cont - nt!mm - Contiguous physical memory\n", encoding="ascii")
    arguments = shlex.split(command)[1:]
    for argument in arguments:
        name, _, kind = argument.partition(".")
        if kind.lower() == "dmp":
            (tmp_path / argument).symlink_to(sample(scene="myfault" if name == "MEMORY" else name))
    finished = run_plugin(*arguments, cwd=tmp_path)
    assert not finished.returncode, finished.stderr
    assert finished.stdout
    assert _missing([line for line in shown if not _PROMPT.match(line)], finished.stdout) == []


def test_the_prompt_prints_what_the_readme_shows(
    sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is typed at the prompt there is given as commands as well; a verdict is one for what was printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MEMORY.DMP").symlink_to(sample())
    command, shown = next(_commands("kdump -z MEMORY.DMP"))
    typed = [match[1] for line in shown if (match := _PROMPT.match(line))]
    assert typed
    arguments = shlex.split(command)[1:]
    assert arguments[-1].endswith("; q")
    arguments[-1] = "; ".join([arguments[-1].removesuffix("; q"), *typed, "q"])
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert _missing([line for line in shown if "2: kd>" not in line], printed) == []
    (tmp_path / "report.txt").write_text(printed, encoding="utf-8")
    ((command, shown),) = _commands("kdump verdict")
    assert cli.main(shlex.split(command)[1:]) == 0
    assert _missing(shown, capsys.readouterr().out) == []


def test_the_script_of_the_readme_runs(
    sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line; what is an expression gives a value."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MEMORY.DMP").symlink_to(sample(1))
    (script,) = re.findall(r"^### For scripts\n\n((?:    .*\n)+)", README, re.MULTILINE)
    names: dict[str, Any] = {}
    values = []
    for statement in ast.parse(textwrap.dedent(script)).body:
        source = ast.unparse(statement)
        if isinstance(statement, ast.Expr):
            values.append(eval(source, names))
        else:
            exec(source, names)
    (code, modules, name), processes = values
    assert (code, modules[0].name, name) == (0xD1, "nt", "nt!IopXxxControlFile+0x5e5")
    assert processes[0] == "System" and "notmyfault64.e" in processes
