"""``!sysinfo``: the machine, its firmware and its processors, as the dump's tagged data has them."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, joined, word
from volatility3_kdump.errors import KdumpError

_GROUPS = ("devices", "memory", "power", "processor", "system")
_PARTS = ("cpuinfo", "cpumicrocode", "cpuspeed", "machineid", "registers", "smbios")


@command(
    "!sysinfo",
    help="the machine, its firmware, processors and memory modules",
    options=(
        Option("-csv", "as comma-separated values"),
        Option("-noheaders", "with -csv: without the line of names"),
        Option("-v", "smbios: also structures whose fields are not known"),
        *(Option(f"-{group}", f"smbios: only the structures of this group: {group}") for group in _GROUPS),
        Option("-debug", "smbios: lines and comma-separated values"),
    ),
    arguments=(word("WHAT", "cpuinfo, cpumicrocode, cpuspeed, machineid, registers, smbios", required=True),),
    examples=(
        Example("!sysinfo machineid", "maker, product and BIOS"),
        Example("!sysinfo smbios -memory", "memory modules"),
        Example("!sysinfo cpuspeed"),
    ),
    plugin="smbios",
)
def system_information(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.machine import register_lines, smbios_grid, sysinfo_csv, sysinfo_lines

    target, what = session.target, (arguments.word("WHAT") or "").lower()
    if what == "gbl":
        raise KdumpError("!sysinfo gbl: no symbol says where the kernel keeps the firmware's ACPI tables")
    if what not in _PARTS:
        raise KdumpError(f"!sysinfo takes {joined(_PARTS)}, not {what}")
    groups = [group for group in _GROUPS if arguments.has(f"-{group}")]
    chosen = [f"-{group}" for group in groups] + [name for name in ("-v", "-debug") if arguments.has(name)]
    if chosen and what != "smbios":
        raise KdumpError(f"!sysinfo {what}: {chosen[0]} is an option of smbios")
    if what == "registers":
        return register_lines(target, session.current.processor)
    if arguments.has("-csv"):
        return sysinfo_csv(target, what, not arguments.has("-noheaders"), groups)
    if what != "smbios":
        return sysinfo_lines(target, what)
    lines = list(smbios_grid(target, groups, arguments.has("-v")).kd_lines())
    return [*lines, "", *sysinfo_csv(target, what, True, groups)] if arguments.has("-debug") else lines
