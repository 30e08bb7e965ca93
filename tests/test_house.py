"""Values are read before they are shown: what shows them reads no memory and looks up no name."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.names import AddressNames

CHECKOUT = Path(__file__).resolve().parents[1]
PRODUCT = CHECKOUT / "volatility3_kdump"
#: Who shows values. Commands that are about memory or names ask windows/ or analysis/.
ROOMS = (PRODUCT / "views", PRODUCT / "text", PRODUCT / "pages", PRODUCT / "console", CHECKOUT / "plugins")
#: What Memory reads with, and says why it cannot.
READS = {name for name in vars(Memory) if not name.startswith("_")} | {"read"}
#: What gives names to addresses, by what it is asked of: a target, or its names.
NAMES = {"name_of", "lookup", "lookup_many", "lookup_return", "module_of", "load", "text", "address_of"}
#: What is read and is no memory: a line that is typed, what a command takes, a template, a part that is shown as it is.
ALLOWED = {
    ("volatility3_kdump/console/application.py", "reader.read"),
    ("volatility3_kdump/console/commands/__init__.py", "syntax.read"),
    ("volatility3_kdump/console/commands/objects.py", "arguments.syntax.read"),
    ("volatility3_kdump/pages/rendering.py", "stream.read"),
    ("volatility3_kdump/views/tagged.py", "dump.source.read"),
}


def _uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a module reads memory or looks a name up, as (line, words)."""
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        reads = node.attr == "read" or (node.attr in READS and node in called)
        named = node.attr == "name_of" or (node.attr in NAMES and owner.split(".")[-1] == "names")
        if reads or named:
            yield node.lineno, f"{owner}.{node.attr}"


def test_what_is_looked_for_is_there() -> None:
    assert {"unsigned", "pointer", "why_absent", "why_unreadable", "present", "c_string"} <= READS
    assert set(dir(AddressNames)) >= NAMES - {"name_of"}


@pytest.mark.parametrize(
    "code",
    [
        "value = target.memory.unsigned(at, 4)",
        "headers = read_headers(memory.read)",
        "why = self.reader.memory.why_absent(at)",
        "name = target.name_of(at)",
        "place = value.reader.target.names.lookup(at)",
        "reading = Reading(memory, target.names.text)",
    ],
)
def test_a_use_is_seen(code: str) -> None:
    assert len(list(_uses(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "size = target.memory.pointer_size",
        "if thread.present: pass",
        "pointer(at, 8)",
        "name = names_of(target, [at])[at]",
    ],
)
def test_values_are_no_use(code: str) -> None:
    assert not list(_uses(ast.parse(code)))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_reads_nothing(room: Path) -> None:
    uses = [
        f"{path.relative_to(CHECKOUT)}:{line}: {words}"
        for path in sorted(room.rglob("*.py"))
        for line, words in _uses(ast.parse(path.read_text(encoding="utf-8")))
        if (path.relative_to(CHECKOUT).as_posix(), words) not in ALLOWED
    ]
    assert not uses, "read it in windows/, and give the view a value"


def test_every_door_opens_dumps_alike() -> None:
    """Memory images are settled once they are open: one place opens targets, whoever asks."""
    opened = {
        path.relative_to(PRODUCT).as_posix()
        for path in PRODUCT.rglob("*.py")
        if "Target." in (source := path.read_text(encoding="utf-8"))
        and any(
            isinstance(node, ast.Call) and ast.unparse(node.func) in ("Target.open", "Target.from_context")
            for node in ast.walk(ast.parse(source))
        )
    }
    assert opened == {"windows/opening.py"}


def _libraries(tree: ast.AST) -> Iterator[str]:
    """The packages of others that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_the_linters_have_every_library_whose_types_they_read() -> None:
    # "make lint" in a fresh environment has the extra "lint" alone, and mypy fails on what it cannot find.
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    untyped = next(section for section in setup if section.startswith("mypy-elftools"))
    known = {re.split(r"[.-]", name)[0] for name in untyped.removeprefix("mypy-").split(",")}
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["lint"]
    for line in [name for library in ("mcp", "jinja2") for name in metadata.requires(library) or ()] + wanted.split(
        "\n"
    ):
        known.add(re.split(r"[^\w-]", line)[0].replace("-", "_").lower())
    used = {
        library
        for root in (PRODUCT, CHECKOUT / "kdump_sample")
        for path in root.rglob("*.py")
        for library in _libraries(ast.parse(path.read_text("utf-8")))
    }
    assert {"volatility3", "distributed"} <= used
    assert used - known - sys.stdlib_module_names - {"volatility3_kdump", "kdump_sample"} == set()
