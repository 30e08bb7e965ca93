"""The written schema of processes and threads has every column that the plugins have, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from volatility3_kdump.views import process, ready, thread, waits

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "process-schema.md"

TABLES = {
    "A process": [*process._COLUMNS, *process._STATISTICS_COLUMNS],
    "A thread": thread.THREAD_COLUMNS,
    "A frame": thread.FRAME_COLUMNS,
    "Who waits for whom: `kdump.thread --waits`": waits._COLUMNS,
    "Processors: `kdump.ready`": ready._COLUMNS,
}


@pytest.mark.parametrize("title", TABLES)
def test_every_column_is_described(title: str) -> None:
    section = SCHEMA.read_text(encoding="utf-8").split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    described = [key for cell in first_cells for key in re.findall(r"`([^`]+)`", cell)]
    assert sorted(described) == sorted(name for name, _ in TABLES[title])


def test_columns_of_a_row_have_different_names() -> None:
    columns = [*process._COLUMNS, *process._STATISTICS_COLUMNS, *thread.THREAD_COLUMNS, *thread.FRAME_COLUMNS]
    names = [name for name, _ in columns]
    assert len(set(names)) == len(names)
