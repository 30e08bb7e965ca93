"""Commands over what the kernel keeps by the way: debug output, the shared page, system PTEs, cached files, tokens."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, flags, number

_SPECIAL_POOL = "its free PTEs are a chain through the page tables themselves, which is not followed; !vm shows its use"


@command("!dbgprint", help="the last that was printed with DbgPrint", plugin="dbgprint")
def debug_output(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_data import debug_print_grid

    return debug_print_grid(session.target).kd_lines()


@command("!kuser", help="the shared page KUSER_SHARED_DATA")
def shared_page(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_data import shared_page_text

    return shared_page_text(session.target)


@command(
    "!sysptes",
    help="system PTEs: how many there are, and which are free",
    arguments=(
        flags(
            Bit(1, "the blocks of free PTEs, the 100 largest"),
            Bit(2, "free PTEs of special pool", _SPECIAL_POOL),
            Bit(4, "mappings of locked pages, where the kernel tracks them"),
            Bit(8, "expansion of nonpaged pool", "kernels have none since Windows Vista"),
            Bit(0x10, "free PTEs of the session's special pool", _SPECIAL_POOL),
        ),
    ),
    examples=(Example("!sysptes 1", "with the free blocks"),),
)
def system_page_table_entries(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_data import system_ptes_text

    wanted = arguments.number("FLAGS") or 0
    return system_ptes_text(session.target, bool(wanted & 1), bool(wanted & 4))


@command(
    "!filecache",
    help="files that the system cache maps",
    arguments=(flags(Bit(1, "sorted by shared cache map, not by size")),),
    examples=(Example("!filecache"),),
    plugin="cache",
)
def cached_files(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_data import file_cache_grid

    return file_cache_grid(session.target, not (arguments.number("FLAGS") or 0) & 1).kd_lines()


@command(
    "!podev",
    help="the power state of a device",
    arguments=(number("ADDRESS", "of a DEVICE_OBJECT", required=True),),
    examples=(Example("!podev ffff9189`4e241a20"),),
)
def device_power(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_data import device_power_text

    return device_power_text(session.target, arguments.number("ADDRESS") or 0)


@command("!tokens", help="the token and user of every process")
def process_tokens(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_data import tokens_text

    return tokens_text(session.target)
