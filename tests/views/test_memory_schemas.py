"""The written schemas of the memory plugins have every column and rule that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from volatility3_kdump.findings import memory_use
from volatility3_kdump.views import memusage, vm

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
TABLES = {"vm": vm._COLUMNS, "memusage": memusage._COLUMNS}


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_described(name: str) -> None:
    table = (DOCUMENTS / f"{name}-schema.md").read_text(encoding="utf-8").split("| key |", 1)[1].split("\n\n", 1)[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    described = [key for cell in first_cells for key in re.findall(r"`([^`]+)`", cell)]
    assert sorted(described) == sorted(column for column, _ in TABLES[name])


def test_every_rule_of_a_warning_is_described() -> None:
    section = (DOCUMENTS / "vm-schema.md").read_text(encoding="utf-8").split("## Warnings\n", 1)[1]
    described = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    source = Path(memory_use.__file__).read_text(encoding="utf-8")
    rules = re.findall(r'Warning\("([\w-]+)"', source) + re.findall(r'\("([\w-]+)", ".* failures", "', source)
    assert sorted(described) == sorted(rules)
