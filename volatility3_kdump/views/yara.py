"""Rows of ``kdump.yara``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.yara_rules import Rule, load_rules
from volatility3_kdump.findings.yara_search import EVERYTHING, Scan, Scope
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import yara as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, BYTES, HEX, TEXT, Column, table

if TYPE_CHECKING:
    pass

#: Bytes of a match in its row.
_MOST_BYTES = 64

YARA = table(
    "kdump.yara",
    keys.ADDRESS(
        lambda hit: hit[0].address,
        "where the match begins; sign-extended, as KD has it (the host cuts addresses to 48 bits)",
    ),
    Column("Rule", TEXT, "name of the rule, without its namespace", lambda hit: hit[0].rule.name),
    Column("String", TEXT, "identifier of the string with its `$`", lambda hit: hit[0].string),
    Column("Length", BYTES, "bytes of the match", lambda hit: hit[0].length),
    keys.BYTES(lambda hit: hit[0].data[:_MOST_BYTES].hex(" "), f"the first {_MOST_BYTES} of them"),
    Column(
        "OwnerKind",
        TEXT,
        "`driver`, `unloaded driver`, `kernel stack`, `processor`, `paged pool`, `nonpaged pool`, `nonpaged NX pool`, "
        "`session pool`, `special pool`, `pool`, `PFN database`, `page tables`, another region of the kernel by its "
        "name, `kernel` where nothing names it, `user`; `note` for a row that says what could not be found",
        lambda hit: hit[1].kind,
    ),
    Column(
        "Owner",
        TEXT,
        "the driver's file; the pool tag; `thread ADDRESS (PROCESS PID.TID)`, ids in hexadecimal, or `DPC stack of "
        "processor N`; `KPRCB of processor N`; `page frame N`; process and id in decimal",
        lambda hit: hit[1].name,
    ),
    Column(
        "OwnerAddress",
        ADDRESS,
        "where that begins: image, pool block with its header, lowest address of the stack, control block, the "
        "EPROCESS for user pages",
        lambda hit: hit[1].address,
    ),
    Column("OwnerOffset", HEX, "how far into it the match lies", lambda hit: hit[1].offset),
    keys.SECTION(lambda hit: hit[1].section, "with the offset in it"),
    keys.SYMBOL(
        lambda hit: hit[1].symbol,
        "the nearest one at or below, `module+offset` where the module has none; for user pages the module of the "
        "process",
    ),
    Column(
        "Detail",
        TEXT,
        "pool: size, state, how the block is known; stacks: how far below the base; page tables: which page the entry "
        "maps; otherwise why no more is known",
        lambda hit: hit[1].detail,
    ),
    Column("Namespace", TEXT, "of the rule", lambda hit: hit[0].rule.namespace),
    Column("RuleTags", TEXT, "of the rule", lambda hit: " ".join(hit[0].rule.tags) or BLANK),
    Column("Meta", TEXT, "of the rule, as `name=value; name=value`", lambda hit: meta_text(hit[0].rule) or BLANK),
    keys.NOTES(more="of a `note`: what could not be found"),
)


def yara_grid(
    target: Target,
    rules: str | None = None,
    rules_file: str | None = None,
    compiled_file: str | None = None,
    scope: Scope = EVERYTHING,
    most: int | None = None,
    progress: Progress | None = None,
) -> KdumpGrid:
    """A row for every match of a string of the rules, and one for what a scan could not find.

    Exactly one of ``rules`` (a text), ``rules_file`` and ``compiled_file`` is given; ``most`` is the number of hits to
    stop after. Raises :class:`~volatility3_kdump.errors.KdumpError` for bad rules, and where the dump holds nothing of
    what is to be scanned.
    """
    if most is not None and most < 1:
        raise KdumpError(f"--limit is {most}: use a number of hits from 1 on")
    loaded = load_rules(rules, rules_file, compiled_file)
    scanned = Scan(target, loaded, scope, most, progress)
    return YARA.grid(_rows(scanned), lambda: _kd_lines(scanned))


# rows and lines -------------------------------------------------------------------------------------------------------


def _rows(scanned: Scan) -> Iterator[Row]:
    for hit in scanned.hits():
        yield YARA.row(0, hit)
    for note in scanned.notes():
        yield YARA.row(0, OwnerKind="note", Notes=[note])


def meta_text(rule: Rule) -> str:
    """The pairs of a rule's ``meta`` in one line."""
    return "; ".join(f"{name}={value}" for name, value in rule.meta)


def _kd_lines(scanned: Scan) -> Iterator[str]:
    size = scanned.target.memory.pointer_size
    yield text.heading(scanned.size, scanned.rules.library)
    hits = 0
    rules: set[tuple[str, str]] = set()
    for hit, owner in scanned.hits():
        hits += 1
        rules.add((hit.rule.namespace, hit.rule.name))
        yield ""
        yield from text.hit(hit, owner, size)
    yield ""
    yield text.summary(hits, len(rules))
    for note in scanned.notes():
        yield f"NOTE: {note}"
