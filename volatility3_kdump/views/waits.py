"""Rows of ``kdump.thread --waits``: who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.wait_chains import NamedWait, WaitChains
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text.waits import wait_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, POINTER, TEXT, Column, Part, Table
from volatility3_kdump.windows.listing.threads import ThreadChoice

WAITS = Table(
    "kdump.thread --waits",
    Part[NamedWait](
        "",
        keys.THREAD(lambda named: named.wait.waiter, "the one that waits"),
        Column("Waiter", TEXT, "who waits: image and ids (hexadecimal)", lambda named: named.waiter),
        keys.WAITS_FOR(lambda named: named.wait.kind),
        keys.OBJECT(lambda named: named.wait.object, "the mutant, thread, process, ERESOURCE or message"),
        Column(
            "Holder", POINTER, "the ETHREAD, or the EPROCESS, that ends the wait", lambda named: named.holder_address
        ),
        Column("HolderName", TEXT, "its image and ids (hexadecimal)", lambda named: named.holder),
        Column(
            "Sure",
            FLAG,
            "false where the wait can end otherwise: it is for any of several objects",
            lambda named: named.wait.sure,
        ),
        keys.DEADLOCK(lambda named: BLANK if named.deadlock is None else named.deadlock),
        keys.NOTES(),
    ),
)


def waits_grid(target: Target, chosen: ThreadChoice, progress: Progress | None = None) -> KdumpGrid:
    """A row for each wait whose end depends on a known thread or process."""
    chains = WaitChains(target, chosen, progress)
    return WAITS.grid(_rows(chains), lambda: wait_lines(chains.waits, chains.deadlocks, chains.problems))


def _rows(chains: WaitChains) -> Iterator[Row]:
    for named in chains.waits:
        yield WAITS.row(0, named)
    for problem in chains.problems:
        yield WAITS.row(0, Notes=[problem])
