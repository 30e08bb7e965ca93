"""The written schema of ``kdump.vm`` has every rule that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from volatility3_kdump.findings import memory_use

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"


def test_every_rule_of_a_warning_is_described() -> None:
    section = (DOCUMENTS / "vm-schema.md").read_text(encoding="utf-8").split("## Warnings\n", 1)[1]
    described = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    source = Path(memory_use.__file__).read_text(encoding="utf-8")
    rules = re.findall(r'Warning\("([\w-]+)"', source) + re.findall(r'\("([\w-]+)", ".* failures", "', source)
    assert sorted(described) == sorted(rules)
