"""Who waits for whom in one line each, which KD does not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.findings.wait_chains import NamedWait


def wait_line(named: NamedWait) -> str:
    """Who waits for what of whom."""
    wait, holder = named.wait, named.holder
    if wait.kind in ("thread", "process"):
        what = f"the end of {wait.kind} {wait.object:x}, {holder}"
    else:
        what = f"the {wait.kind} {f'{named.object} ({wait.object:x})' if named.object else f'{wait.object:x}'}"
        what += f" of {holder} ({named.holder_address:x})"
    return f"{named.waiter} ({wait.waiter:x}) waits for {what}"


def wait_lines(
    waits: Sequence[NamedWait], deadlocks: Sequence[tuple[int, Sequence[NamedWait]]], problems: Sequence[str]
) -> Iterator[str]:
    """All waits, the circles among them, and what is not known."""
    for wait in waits:
        yield wait_line(wait)
    if not waits:
        yield "No thread waits for another one, as far as objects have owners."
    for number, circle in deadlocks:
        yield ""
        certain = all(named.wait.sure for named in circle)
        yield f"DEADLOCK {number}:" if certain else f"Possible deadlock {number} (some wait may end otherwise):"
        for named in circle:
            yield f"    {wait_line(named)}"
    for problem in problems:
        yield f"NOTE: {problem}"
