"""Values in notebooks: hostile texts are escaped, and the notebook of the documentation runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from volatility3_kdump.notebook import MOST_ROWS, html_table
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.process import process_grid
from volatility3_kdump.views.table import BLANK, Missing
from volatility3_kdump.windows.listing.processes import ProcessChoice

CHECKOUT = Path(__file__).parent.parent


@given(st.text())
def test_texts_are_escaped(text: str) -> None:
    shown = html_table([text], [[text]], text or "a")
    assert shown.count("<") == html_table(["a"], [["a"]], "a").count("<") and "\x1b" not in shown


def test_long_tables_are_cut() -> None:
    assert "7 more rows" in html_table(["a"], [[number] for number in range(MOST_ROWS + 7)])


def test_a_table_of_a_view(sample: Callable[..., Path]) -> None:
    grid = process_grid(volatility3_kdump.open(sample(6)), ProcessChoice(), 0)
    first = grid._repr_html_()
    assert "notmyfault64.exe" in first and "<th>Pid</th>" in first and "<td style='text-align:left'>7256</td>" in first
    assert grid._repr_html_() == first


def test_what_is_missing_is_marked_with_its_reason() -> None:
    grid = KdumpGrid([("A", str), ("B", str)], [(0, (Missing("paged <out>"), BLANK))], lambda: [])
    shown = grid._repr_html_()
    assert "- (paged &lt;out&gt;)" in shown
    assert "<td style='text-align:left'></td>" in shown


@pytest.mark.thorough
def test_the_notebook_of_the_documentation(
    sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(CHECKOUT / "docs" / "scripting.ipynb", as_version=4)
    (tmp_path / "MEMORY.DMP").write_bytes(sample(1).read_bytes())
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs)
    assert "myfault.sys" in text and "notmyfault64.exe" in text
