"""Columns, cells and rows of declared tables, and how the host's renderers show them."""

from __future__ import annotations

import csv
import datetime
import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
from volatility3.cli import text_renderer
from volatility3.framework import renderers

from volatility3_kdump.renderers import SafeCSVRenderer, inert
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views import table as kinds
from volatility3_kdump.views.table import BLANK, Column, Hexadecimal, Missing, Part, Table

#: JavaScript's numbers hold integers up to 2**53 only.
BIG = 0xFFFF91895309D083

OWNER = Part[int]("", keys.PROCESS(lambda number: number), keys.PID(lambda number: number & 0xFF))
REST = Part[str](
    "",
    Column("Title", kinds.TEXT, "a text", lambda title: title or None),
    Column("Session", kinds.NUMBER, "a number", {str: len}),
)
TABLE = Table("kdump.made", OWNER, REST)


def printed(renderer: Any, rows: list[Any]) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        renderer().render(TABLE.grid(rows, lambda: []))
    return out.getvalue()


def test_json_shows_addresses_as_text_that_no_reader_rounds() -> None:
    shown = printed(text_renderer.JsonRenderer, [TABLE.row(0, {OWNER: BIG, REST: "one"})])
    # As jq and JavaScript read it: every number is a float.
    (row,) = json.loads(shown, parse_int=float)
    assert (row["Process"], row["Pid"], row["Title"], row["Session"]) == ("0xffff91895309d083", 0x83, "one", 3)


@pytest.mark.parametrize("renderer", [text_renderer.QuickTextRenderer, text_renderer.PrettyTextRenderer])
def test_text_renderers_show_addresses_as_before(renderer: Any) -> None:
    assert "0xffff91895309d083" in printed(renderer, [TABLE.row(0, {OWNER: BIG, REST: "one"})])


def test_csv_shows_addresses_in_hexadecimal() -> None:
    shown = printed(text_renderer.CSVRenderer, [TABLE.row(0, {OWNER: BIG, REST: "one"})])
    (row,) = csv.DictReader(io.StringIO(shown.strip()))
    assert row["Process"] == "0xffff91895309d083"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "-name"])
def test_csv_has_no_formula(name: str) -> None:
    """A name of the dump stays text in a spreadsheet; a table of another plugin is printed as the host does."""
    shown = printed(SafeCSVRenderer, [TABLE.row(0, {OWNER: BIG, REST: name})])
    (row,) = csv.DictReader(io.StringIO(shown.strip()))
    assert (row["Title"], row["Process"]) == (f"'{name}", "0xffff91895309d083")
    out = io.StringIO()
    with redirect_stdout(out):
        SafeCSVRenderer().render(renderers.TreeGrid([("Title", str)], [(0, (name,))]))
    (other,) = csv.DictReader(io.StringIO(out.getvalue().strip()))
    assert other["Title"] == name


@pytest.mark.parametrize("text", ["notepad.exe", "-1", "+12.5", "", "a=b", "\\Device"])
def test_csv_leaves_other_text_alone(text: str) -> None:
    assert inert(text) == text


def test_a_hexadecimal_cell_is_its_number() -> None:
    assert int(Hexadecimal(BIG)) == BIG
    assert hex(Hexadecimal(BIG)) == "0xffff91895309d083"


def test_what_is_absent() -> None:
    _, (process, pid, title, session) = TABLE.row(0, {OWNER: 0, REST: ""})
    assert process is BLANK
    assert (pid, session) == (0, 0)
    assert isinstance(title, Missing)
    _, cells = TABLE.row(0, {OWNER: 1}, Title=Missing("no such field"))
    assert [type(cell) for cell in cells[2:]] == [Missing, renderers.NotApplicableValue]
    assert cells[2].reason == "no such field"


def test_a_row_of_nothing_but_named_cells() -> None:
    level, cells = TABLE.row(2, Title="only this")
    assert (level, cells) == (2, (BLANK, BLANK, "only this", BLANK))
    with pytest.raises(KeyError):
        TABLE.row(0, Titel="a key that there is not")


def test_records_of_another_class_leave_a_column_blank() -> None:
    assert REST.columns[1].cell(b"bytes") is BLANK  # type: ignore[arg-type]


def test_kinds() -> None:
    cell = {kind: Column("X", kind, "", lambda value: value).cell for kind in (kinds.SECONDS, kinds.TIME, kinds.LINES)}
    assert cell[kinds.SECONDS](15_000_000) == 1.5
    assert cell[kinds.TIME](0) is BLANK
    assert cell[kinds.TIME](132_781_131_929_450_000) == datetime.datetime(
        2021, 10, 7, 20, 46, 32, 945000, tzinfo=datetime.timezone.utc
    )
    assert cell[kinds.LINES](["one", "", "two"]) == "one; two"
    assert cell[kinds.LINES]([]) is BLANK


def test_a_column_cannot_stand_twice() -> None:
    with pytest.raises(ValueError, match=r"has a column twice: \['Pid', 'Process'\]"):
        Table("kdump.made", OWNER, OWNER)
