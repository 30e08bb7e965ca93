"""What a finished ``vol`` printed, after a look at its exit status."""

from __future__ import annotations

import json
import re
from subprocess import CompletedProcess
from typing import Any

from volatility3.framework import interfaces

from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.table import Hexadecimal


def lines(finished: CompletedProcess[str]) -> list[str]:
    """The lines of text."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def rows(finished: CompletedProcess[str]) -> list[dict[str, Any]]:
    """The rows of ``-r json``; addresses, which are strings of hexadecimal digits there, are numbers."""
    assert finished.returncode == 0, finished.stderr
    return parsed(finished.stdout)


def parsed(document: str) -> list[dict[str, Any]]:
    """The rows of a JSON document, with addresses as numbers."""
    table: list[dict[str, Any]] = json.loads(document, object_hook=_numbers)
    return table


def number(cell: Any) -> Any:
    """A cell of a table itself: the number of a hexadecimal one."""
    return int(cell) if isinstance(cell, Hexadecimal) else cell


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {key: int(cell, 16) if _is_address(cell) else cell for key, cell in row.items()}


def _is_address(cell: object) -> bool:
    return isinstance(cell, str) and re.fullmatch("0x[0-9a-f]{1,16}", cell) is not None


def rows_of(grid: KdumpGrid) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a table itself, each with its depth (1 is the outermost); what is absent is ``None``."""
    table: list[tuple[int, dict[str, Any]]] = []

    def visit(node: Any, _: None) -> None:
        cells = (None if isinstance(cell, interfaces.renderers.BaseAbsentValue) else cell for cell in node.values)
        row = dict(zip((column.name for column in grid.columns), cells, strict=True))
        table.append((node.path_depth, row))

    grid.populate(visit)
    return table
