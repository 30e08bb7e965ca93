"""Values, then views: what shows the target does not read its memory."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PRODUCT = CHECKOUT / "volatility3_kdump"
_READS = {"read", "unsigned", "pointer", "unicode_string", "utf16", "c_string", "present"}
#: It shows bytes of memory as they are: reading is what it does.
_SHOWS_BYTES = PRODUCT / "views" / "memory.py"


def reads(source: str) -> list[str]:
    """The calls of methods of a :class:`Memory` in a module, as ``line: expression``."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        f"{call.lineno}: {ast.unparse(call)}"
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in _READS
        and ast.unparse(call.func.value).rpartition(".")[2] in ("memory", "_memory", "physical_memory")
    ]


def modules() -> list[Path]:
    rooms = [PRODUCT / "console", PRODUCT / "text", PRODUCT / "views", CHECKOUT / "plugins"]
    return [path for room in rooms for path in sorted(room.rglob("*.py")) if path != _SHOWS_BYTES]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_views_words_and_commands_read_no_memory(path: Path) -> None:
    assert reads(path.read_text("utf-8")) == []


def test_a_read_is_found() -> None:
    source = "value = self.target.memory.pointer(address)\nother = memory.why_unreadable(address)\n"
    assert reads(source) == ["1: self.target.memory.pointer(address)"]
