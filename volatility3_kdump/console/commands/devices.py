"""Commands on the tree of devices, power, and Driver Verifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, flags, number, word
from volatility3_kdump.errors import KdumpError

_CHILDREN, _STOPPED, _PROBLEMS = 0x1, 0x10, 0x20
_NOT_SHOWN = "not shown here"
_FIRST_RULE = 0x10000
_LISTS = {1: "removals", 2: "ejects"}


@command(
    "!devnode",
    help="nodes of the device tree: 0 1 all of it",
    arguments=(
        number("ADDRESS", "of a DEVICE_NODE; 0 for the root", required=True),
        flags(
            Bit(_CHILDREN, "with what stands below"),
            Bit(2, "resources in use", _NOT_SHOWN),
            Bit(4, "resources required", _NOT_SHOWN),
            Bit(8, "translated resources", _NOT_SHOWN),
            Bit(_STOPPED, "only nodes that are not started"),
            Bit(_PROBLEMS, "only nodes with problems"),
        ),
        word("SERVICE", "only nodes of this service"),
    ),
    examples=(Example("!devnode 0 1", "the whole tree"), Example("!devnode 0 1 usbhub3", "those of a service")),
    plugin="devnode",
)
def device_nodes(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.device_tree import node_grid, tree_grid

    address, wanted = arguments.number("ADDRESS") or 0, arguments.number("FLAGS") or 0
    if address in _LISTS:
        raise KdumpError(f"!devnode {address}: pending {_LISTS[address]} are not listed here; 0 1 shows the tree")
    service = arguments.word("SERVICE")
    if not wanted & (_CHILDREN | _STOPPED | _PROBLEMS) and service is None:
        if address:
            return node_grid(session.target, address).kd_lines()
        from volatility3_kdump.windows.io.device_tree import root_address

        return node_grid(session.target, root_address(session.target)).kd_lines()
    return tree_grid(
        session.target,
        address or None,
        service,
        bool(wanted & _CHILDREN),
        bool(wanted & _STOPPED),
        bool(wanted & _PROBLEMS),
    ).kd_lines()


@command(
    "!poaction",
    help="the power action, power requests that are not completed, and their threads",
    arguments=(flags(Bit(1, "with the action"), Bit(2, "the requests and threads alone")),),
    examples=(Example("!poaction 2", "requests and threads"),),
    plugin="power",
)
def power_action(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.power import power_grid

    return power_grid(session.target, arguments.number("FLAGS") != 2).kd_lines()


@command("!powertriage", help="the power action, its requests, and devices with problems")
def power_triage(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.power import triage_lines

    return triage_lines(session.target)


@command(
    "!verifier",
    help="Driver Verifier: flags and counters; 1 the drivers that are verified",
    arguments=(
        flags(
            Bit(1, "the drivers that are verified"),
            Bit(2, "their pool", "allocations are not listed: their structures are in no public symbols"),
            Bit(4, "the fault injection log", _NOT_SHOWN),
            Bit(8, "the log of IRQL changes", _NOT_SHOWN),
            Bit(0x40, "the log of forced pending IRPs", _NOT_SHOWN),
            Bit(0x80, "the log of allocations and frees", _NOT_SHOWN),
            Bit(0x100, "the log of IRPs", _NOT_SHOWN),
            Bit(0x200, "the log of critical regions", _NOT_SHOWN),
            Bit(0x400, "cancelled IRPs that are watched", _NOT_SHOWN),
            Bit(0x800, "the log of low resource simulation", _NOT_SHOWN),
        ),
        word("DRIVER", "only this driver"),
    ),
    examples=(Example("!verifier 1", "with the drivers"), Example("!verifier 1 myfault.sys")),
    plugin="verifier",
)
def driver_verifier(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.verifier import verifier_grid

    listed = bool((arguments.number("FLAGS") or 0) & 1)
    return verifier_grid(session.target, listed, arguments.word("DRIVER")).kd_lines()


@command(
    "!deadlock",
    help="the deadlock that Driver Verifier reported",
    arguments=(flags(Bit(1, "with where each lock was taken")),),
    examples=(Example("!deadlock 1", "with stacks"),),
    plugin="verifier",
)
def deadlock(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.verifier import deadlock_grid

    return deadlock_grid(session.target, arguments.number("FLAGS") == 1).kd_lines()


@command(
    "!ruleinfo",
    help="a rule of Driver Verifier by its number, the first argument of bug check c4",
    arguments=(
        number("RULE", "its number, 10000 or more", required=True),
        number("STATE", "the third argument of the bug check"),
        number("SUBSTATE", "the fourth argument"),
    ),
    examples=(Example("!ruleinfo 91001"),),
)
def rule_information(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.analysis.bugcheck import describe

    rule = arguments.number("RULE") or 0
    if rule < _FIRST_RULE:
        raise KdumpError(f"{rule:#x} is no rule: those have numbers from 10000 on; kdump.bugcheck --show c4 {rule:x}")
    bug_check = describe(0xC4, (rule, None, None, None))
    yield f"RULE_ID: {rule:#x}"
    yield ""
    yield f"RULE_DESCRIPTION: {bug_check.variant or 'the rule is not in the public tables'}"
    for name in ("STATE", "SUBSTATE"):
        value = arguments.number(name)
        if value is not None:
            yield ""
            yield f"RULE_{name}: 0x{value:X}"
