"""Black boxes in the words of KD's ``!blackboxbsd`` and its like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.dump.blackboxes import Entry
from volatility3_kdump.text.times import filetime


def black_box_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """A line for each fact."""
    for entry in entries:
        if entry.kind == "flag":
            yield f"{entry.name}: {'TRUE' if entry.value else 'FALSE'}"
        elif entry.kind == "time":
            moment = filetime(int(entry.value))
            shown = f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment is not None else "no time"
            yield f"{entry.name}: {int(entry.value):#x} ({shown})"
        else:
            yield f"{entry.name}: {entry.value}"
