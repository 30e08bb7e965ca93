"""The page of a batch: groups of crashes, days, drivers, machines, and what could not be analysed."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.pages.rendering import render

#: What a page shows of long lists; it says how many there are.
MOST_GROUPS, MOST_CULPRITS, MOST_MACHINES, MOST_CRASHES, MOST_ERRORS = 100, 40, 60, 12, 30
_MOST_COLUMNS = 92
_WIDTH, _HEIGHT = 1000, 120


@dataclass(frozen=True)
class Bar:
    """A column of the chart of days."""

    x: float
    y: float
    width: float
    height: float
    says: str


def batch_page(summary: Mapping[str, Any]) -> str:
    """The page of a summary (``docs/batch-schema.md``)."""
    return render(
        "batch.html",
        summary=summary,
        chart=_chart(summary["days"]),
        most_groups=MOST_GROUPS,
        most_culprits=MOST_CULPRITS,
        most_machines=MOST_MACHINES,
        most_crashes=MOST_CRASHES,
        most_errors=MOST_ERRORS,
    )


def _chart(days: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Columns for every day from the first crash to the last, or for every month where that is a long time."""
    if not days:
        return None
    counts = {datetime.date.fromisoformat(day["day"]): int(day["count"]) for day in days}
    first, last = min(counts), max(counts)
    columns: list[tuple[str, int]]
    if (last - first).days < _MOST_COLUMNS:
        every = [first + datetime.timedelta(days=number) for number in range((last - first).days + 1)]
        columns = [(day.isoformat(), counts.get(day, 0)) for day in every]
        unit = "day"
    else:
        months: collections.Counter[str] = collections.Counter()
        for day, count in counts.items():
            months[f"{day.year:04}-{day.month:02}"] += count
        # The latest ones: a clock that was never set is decades away.
        columns = sorted(months.items())[-_MOST_COLUMNS:]
        unit = "month with crashes"
    most = max(count for _, count in columns)
    step = min(_WIDTH / len(columns), 40.0)
    bars = tuple(
        Bar(
            round(number * step + 1, 1),
            round(_HEIGHT - _HEIGHT * count / most, 1),
            round(max(step - 2, 1), 1),
            round(_HEIGHT * count / most, 1),
            f"{name}: {count}",
        )
        for number, (name, count) in enumerate(columns)
        if count
    )
    width = round(step * len(columns), 1)
    return {"bars": bars, "first": columns[0][0], "last": columns[-1][0], "most": most, "unit": unit, "width": width}
