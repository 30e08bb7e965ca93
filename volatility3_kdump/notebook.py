"""How values look in notebooks: HTML tables, with every text of a dump escaped."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence

from volatility3_kdump.escape import printable

#: Rows of a table that a notebook shows.
MOST_ROWS = 500
#: Notebooks typeset what stands between dollar signs, also in tables; these classes keep MathJax off names of a dump.
_START = "<table class='tex2jax_ignore mathjax_ignore'>"


def html_table(headers: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table of texts; no more than :data:`MOST_ROWS`, and how many there are is said where they are cut."""
    shown = list(rows)
    parts = [_START]
    if caption:
        parts.append(f"<caption>{_text(caption)}</caption>")
    parts.append("<thead><tr>" + "".join(f"<th>{_text(header)}</th>" for header in headers) + "</tr></thead><tbody>")
    for row in shown[:MOST_ROWS]:
        parts.append("<tr>" + "".join(f"<td style='text-align:left'>{_text(cell)}</td>" for cell in row) + "</tr>")
    parts.append("</tbody></table>")
    if len(shown) > MOST_ROWS:
        parts.append(f"<p>{len(shown) - MOST_ROWS:,} more rows</p>")
    return "".join(parts)


def _text(cell: object) -> str:
    return html.escape(printable("" if cell is None else str(cell)))


class Shown:
    """A dataclass that notebooks show as a table of its fields, without those that the dump does not have."""

    def _repr_html_(self) -> str:
        assert dataclasses.is_dataclass(self)
        values = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]
        rows = [(name, _value(name, value)) for name, value in values if value is not None and value != ()]
        return html_table(("Field", "Value"), rows, type(self).__name__)


#: Fields that are numbers, not addresses.
_DECIMAL = ("pid", "tid", "parent", "count", "size", "pages", "priority", "time", "session")


def _value(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and not any(word in name for word in _DECIMAL):
        return f"{value:#x}"
    return str(value)
