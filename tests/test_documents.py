"""The pages for whoever works on this name what there is."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
MAP = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
GUIDE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
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
