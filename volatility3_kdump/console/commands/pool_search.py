"""Commands that search the pool: ``!poolfind``, ``!irpfind``, and ``!poolval``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number, word
from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    from volatility3_kdump.findings.pool_search import TagPattern

#: KD's numbers of the pools.
_POOLS = {0: "nonpaged", 1: "paged", 2: "special", 4: "session"}
_TYPE = number("TYPE", "of pool: 0 nonpaged, 1 paged, 2 special, 4 session")
_LEVELS = 4


def _pool(arguments: Arguments) -> str | None:
    value = arguments.number("TYPE")
    if value is not None and value not in _POOLS:
        kinds = ", ".join(f"{number} {pool}" for number, pool in _POOLS.items())
        raise KdumpError(f"{arguments.name} knows no pool type {arguments.word('TYPE')}: use {kinds}")
    return None if value is None else _POOLS[value]


@command(
    "!poolfind",
    help="every block of a pool tag",
    options=(
        Option("-nonpaged", "in nonpaged pool"),
        Option("-paged", "in paged pool"),
        Option("-special", "in special pool"),
        Option("-session", "in session pool"),
        Option("-global", "in nonpaged and paged pool"),
        Option("-small", "only blocks with a header"),
        Option("-large", "only those of nt!PoolBigPageTable"),
        Option("-tag", "the tag, where it has a space", "TAG"),
        Option("-x", "a command for each block", "COMMAND", refused="it runs no commands here"),
        Option("-process", "blocks charged to a process", refused="the kernel encodes who is charged"),
    ),
    arguments=(word("TAG", "four characters, with ? and * for any, or a number that begins with 0x"), _TYPE),
    examples=(Example("!poolfind Leak", "in nonpaged pool"), Example("!poolfind Mm* 1", "in paged pool")),
    plugin="pool",
)
def find_blocks(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.findings.pool_search import PoolSearch, TagPattern
    from volatility3_kdump.views.pool_search import found_grid

    tag = arguments.option("-tag") or arguments.word("TAG")
    if not tag:
        raise KdumpError("!poolfind takes a pool tag")
    if arguments.has("-tag") and arguments.word("TAG"):
        raise arguments.unknown(arguments.word("TAG") or "")
    pools = [name for name in _POOLS.values() if arguments.has(f"-{name}")]
    if arguments.has("-global"):
        pools += ["nonpaged", "paged"]
    chosen = _pool(arguments)
    if chosen is not None:
        pools.append(chosen)
    search = PoolSearch(
        session.target,
        _number(tag) if tag.startswith("0x") else TagPattern(tag),
        tuple(dict.fromkeys(pools)) or ("nonpaged",),
        small=arguments.has("-small") or not arguments.has("-large"),
        large=arguments.has("-large") or not arguments.has("-small"),
        progress=session.progress,
    )
    return found_grid(search).kd_lines()


def _number(tag: str) -> TagPattern:
    from volatility3_kdump.findings import pool_search

    try:
        value = int(tag.replace("`", ""), 16)
    except ValueError:
        raise KdumpError(f"{tag} is no number of a pool tag") from None
    return pool_search.TagPattern.of_value(value)


@command(
    "!irpfind",
    help="every IRP in pool",
    options=(Option("-v", "each IRP in full"),),
    arguments=(
        _TYPE,
        number("START", "where the search begins"),
        word("CRITERION", "arg, device, fileobject, mdlprocess, thread or userevent"),
        number("VALUE", "what it must be"),
    ),
    examples=(
        Example("!irpfind", "in nonpaged pool"),
        Example("!irpfind 0 0 thread ffff9189`52f55080", "those of a thread"),
    ),
    plugin="irp",
)
def find_requests(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.findings.irp_search import IrpSearch, parse_criterion
    from volatility3_kdump.views.pool_search import irps_grid

    kind, value = arguments.word("CRITERION"), arguments.number("VALUE")
    if kind is not None and value is None:
        raise KdumpError(f"!irpfind: the criterion {kind} needs a value")
    criterion = None if kind is None else parse_criterion(kind, value or 0)
    pools = (_pool(arguments) or "nonpaged",)
    search = IrpSearch(session.target, pools, arguments.number("START") or 0, criterion, session.progress)
    return irps_grid(search, arguments.has("-v")).kd_lines()


@command(
    "!poolval",
    help="whether the pool headers of a page agree",
    arguments=(
        number("ADDRESS", "in the page", required=True),
        number("LEVEL", "1 lists the headers, 2 with sizes and tags, 3 in full"),
    ),
    examples=(Example("!poolval ffff9189`4ef70000 2"),),
)
def validate_page(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.pool_search import check_lines

    level = arguments.number("LEVEL") or 0
    if level >= _LEVELS:
        raise KdumpError(f"!poolval knows no level {level:x}: use 0 to 3")
    return check_lines(session.target, arguments.number("ADDRESS") or 0, level)
