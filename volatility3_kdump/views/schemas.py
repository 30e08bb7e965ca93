"""The tables of columns in the pages under ``docs/``: ``python -m volatility3_kdump.views.schemas docs/`` renews them.

A page says where they belong by a comment that names parts or tables of this package, such as
``<!-- columns of thread.OWNER thread.THREAD -->``, and ends each with ``<!-- end of columns -->``.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volatility3_kdump import views
from volatility3_kdump.views.table import Column, Part, Table

_MARKED = re.compile(r"<!-- columns of ([\w. ]+) -->\n.*?<!-- end of columns -->", re.DOTALL)
_END = "<!-- end of columns -->"


def tables() -> Iterator[tuple[str, Table]]:
    """Every table of the package, with the name of its variable (``thread.THREADS``)."""
    for module in pkgutil.iter_modules(views.__path__):
        for name, value in vars(importlib.import_module(f"{views.__name__}.{module.name}")).items():
            if isinstance(value, Table) and not name.startswith("_"):
                yield f"{module.name}.{name}", value


def columns_of(reference: str) -> tuple[Column[Any], ...]:
    """The columns of a part or table that a page names. Raises ``LookupError`` for one that there is not."""
    module, _, name = reference.partition(".")
    declared = getattr(importlib.import_module(f"{views.__name__}.{module}"), name, None)
    if not isinstance(declared, Part | Table):
        raise LookupError(f"{reference} is no table and no part of one")
    return declared.columns


def rendered(columns: tuple[Column[Any], ...]) -> str:
    """The columns as a table of Markdown."""
    lines = ["| key | type | meaning |", "|---|---|---|"]
    for column in columns:
        meaning = column.meaning.replace("|", "\\|")
        lines.append(f"| `{column.name}` | {column.kind.word} | {meaning} |")
    return "\n".join(lines)


def renewed(page: str) -> str:
    """A page with its tables as they are declared now."""

    def section(match: re.Match[str]) -> str:
        columns = tuple(column for reference in match[1].split() for column in columns_of(reference))
        return f"<!-- columns of {match[1]} -->\n{rendered(columns)}\n{_END}"

    return _MARKED.sub(section, page)


def described(page: str) -> set[str]:
    """The keys that the tables of a page describe."""
    return {
        column.name
        for match in _MARKED.finditer(page)
        for reference in match[1].split()
        for column in columns_of(reference)
    }


def main(folder: str) -> int:
    """Renew every page in a folder; the names of those that changed are printed."""
    for path in sorted(Path(folder).glob("*.md")):
        page = path.read_text(encoding="utf-8")
        new = renewed(page)
        if new != page:
            path.write_text(new, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 2 else "usage: python -m volatility3_kdump.views.schemas DOCS")
