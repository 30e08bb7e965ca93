"""Every table is described by a page that is generated from it, and a key means the same in all tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from volatility3_kdump.views.schemas import columns_of, described, main, renewed, tables

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.glob("*.md"))}
TABLES = dict(tables())


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_up_to_date(name: str) -> None:
    assert PAGES[name] == renewed(PAGES[name]), "run: python -m volatility3_kdump.views.schemas docs/"


def test_every_column_of_every_table_is_described() -> None:
    known = set().union(*(described(page) for page in PAGES.values()))
    assert {column.name for table in TABLES.values() for column in table.columns} <= known


def test_a_key_has_one_type_and_one_meaning() -> None:
    meanings: dict[str, set[tuple[str, str]]] = {}
    for table in TABLES.values():
        for column in table.columns:
            meanings.setdefault(column.name, set()).add((column.kind.word, column.says))
    assert {name: said for name, said in meanings.items() if len(said) > 1} == {}


def test_keys_are_plain_words() -> None:
    names = {column.name: column.kind.word for table in TABLES.values() for column in table.columns}
    assert [name for name in names if not re.fullmatch(r"([A-Z][a-z0-9]*)+", name)] == []
    # Not Note beside Notes; but Thread is an address, and Threads a number.
    assert [name for name in names if names.get(f"{name}s") == names[name]] == []


def test_every_column_says_what_it_means() -> None:
    assert [
        f"{name}.{column.name}" for name, table in TABLES.items() for column in table.columns if not column.meaning
    ] == []


def test_pages_are_renewed_in_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n\n<!-- columns of thread.OWNER -->\nold\n<!-- end of columns -->\n\nAfter\n")
    assert main(str(tmp_path)) == 0
    new = page.read_text()
    assert "| `Pid` | number |" in new
    assert new.startswith("Before\n")
    assert new.endswith("\nAfter\n")
    assert renewed(new) == new


def test_a_page_cannot_name_what_there_is_not() -> None:
    with pytest.raises(LookupError, match=r"thread\.NOTHING is no table"):
        columns_of("thread.NOTHING")
