"""Commands on the system: version and times, processors' control blocks, resources and memory."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number, word
from volatility3_kdump.errors import KdumpError

_WITHOUT_PROCESSES = 1
#: Flags of !poolused.
_VERBOSE, _BY_NONPAGED, _BY_PAGED = 1, 2, 4
#: Flag of !memusage.
_SUMMARY = 8


@command("vertarget", help="Windows, its kernel, and when it crashed", plugin="info")
def version_of_target(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text import banner
    from volatility3_kdump.windows.machine.system import read_system

    return banner.version(read_system(session.target))


@command("version", help="vertarget, and the version of kdump", plugin="info")
def version(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text import banner
    from volatility3_kdump.windows.machine.system import read_system

    yield from banner.version(read_system(session.target))
    yield banner.title()


@command(".time", help="when it crashed, and how long it had been up", plugin="info")
def times(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text import banner
    from volatility3_kdump.windows.machine.system import read_system

    return banner.times(read_system(session.target))


@command(".lastevent", help="what stopped the system: the bug check", plugin="bugcheck")
def last_event(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.analysis.bugcheck import why_no_bug_check
    from volatility3_kdump.text import banner
    from volatility3_kdump.windows.machine.system import read_system

    code = session.target.header.bug_check_code
    shown = "?" * 8 if code is None else f"{code:X}"
    if session.target.header.crashed is False:
        yield f"Last event: none. {why_no_bug_check(session.target)}."
    else:
        yield f"Last event: Bugcheck {shown}"
    yield from banner.times(read_system(session.target))


@command(
    "!pcr",
    help="a processor's control region",
    arguments=(number("PROCESSOR", "a processor, by default the current one"),),
    examples=(Example("!pcr 1", "of processor 1"),),
    plugin="cpu",
)
def control_region_of(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.processors import region_grid

    number = arguments.number("PROCESSOR")
    number = session.current.processor if number is None else number
    if number is None:
        raise KdumpError(f"{session.target.name}: the dump does not say which processor crashed: name one")
    return region_grid(session.target, number).kd_lines()


@command(
    "!prcb",
    help="a processor's control block",
    arguments=(number("PROCESSOR", "a processor, by default processor 0"),),
    examples=(Example("!prcb 1", "of processor 1"),),
    plugin="cpu",
)
def control_block_of(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.processors import block_grid as control_block_grid

    return control_block_grid(session.target, arguments.number("PROCESSOR") or 0).kd_lines()


@command(
    "!cpuinfo",
    help="family, model and stepping of the processors",
    arguments=(number("PROCESSOR", "one processor, by default all"),),
    examples=(Example("!cpuinfo 0", "of processor 0"),),
    plugin="cpu",
)
def processor_information(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.processors import models_grid

    return models_grid(session.target, arguments.number("PROCESSOR")).kd_lines()


@command(
    "!dpcs",
    help="deferred procedure calls that are queued, and those that run",
    arguments=(number("PROCESSOR", "one processor, by default all"),),
    examples=(Example("!dpcs 1", "of processor 1"),),
    plugin="cpu",
)
def deferred_calls(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.processors import dpcs_grid

    return dpcs_grid(session.target, arguments.number("PROCESSOR")).kd_lines()


@command("!dpcwatchdog", help="what the processors ran while the DPC watchdog sampled them")
def watchdog_samples(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.dpc_watchdog import watchdog_lines

    return watchdog_lines(session.target)


def _black_box(session: Session, name: str) -> Iterable[str]:
    from volatility3_kdump.dump.blackboxes import black_box
    from volatility3_kdump.text.blackboxes import black_box_lines

    target = session.target
    entries = black_box(target.dump.source, target.dump.tagged, name)
    if entries is None:
        raise KdumpError(f"{target.name}: its tagged data has no black box of that kind")
    if not entries:
        raise KdumpError(f"{target.name}: the black box is cut off or empty")
    return black_box_lines(entries)


@command("!blackboxbsd", help="boot status data that the dump holds")
def black_box_boot(session: Session, arguments: Arguments) -> Iterable[str]:
    return _black_box(session, "bsd")


@command("!blackboxntfs", help="what NTFS recorded, as far as its layout is known")
def black_box_ntfs(session: Session, arguments: Arguments) -> Iterable[str]:
    return _black_box(session, "ntfs")


@command("!blackboxpnp", help="what Plug and Play recorded: time and device")
def black_box_pnp(session: Session, arguments: Arguments) -> Iterable[str]:
    return _black_box(session, "pnp")


@command("!blackboxwinlogon", help="what winlogon recorded: its state")
def black_box_winlogon(session: Session, arguments: Arguments) -> Iterable[str]:
    return _black_box(session, "winlogon")


@command("!blackboxscm", help="what the service control manager recorded; its tag is not public")
def black_box_services(session: Session, arguments: Arguments) -> Iterable[str]:
    raise KdumpError("the tag of the service control manager's black box is not public: .enumtag lists all blobs")


@command(".dumpdebug", help="the fields of the dump's header", plugin="info")
def dump_header(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text.dump_header import header_lines

    return header_lines(session.target.header)


@command(
    "!errrec",
    help="a hardware error record (WHEA_ERROR_RECORD)",
    arguments=(number("ADDRESS", "of the record: the second argument of bug check 124", required=True),),
    examples=(Example("!errrec ffff8781a4f6a010"),),
    plugin="errrec",
)
def hardware_error(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.hardware import error_record_grid

    return error_record_grid(session.current.memory, arguments.number("ADDRESS") or 0).kd_lines()


@command("!whea", help="the sources of hardware errors, and their records", plugin="errrec")
def error_sources(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.hardware import sources_grid

    return sources_grid(session.target).kd_lines()


@command(
    "!errpkt",
    help="a hardware error packet (WHEA_ERROR_PACKET)",
    arguments=(number("ADDRESS", "of the packet", required=True),),
    examples=(Example("!errpkt fffffa8007cf44da"),),
)
def error_packet(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.hardware import packet_text

    return packet_text(session.current.memory, arguments.number("ADDRESS") or 0)


@command("!mca", help="machine check registers, which dumps do not hold, and the processors")
def machine_check_registers(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.processors import models_grid

    yield "The banks of machine check registers are not in a dump: !whea and !errrec show what was reported of them"
    yield from models_grid(session.target, None).kd_lines()


@command(
    "!locks",
    help="resources that are held or waited for",
    options=(
        Option("-d", "all of them, also those that nobody holds"),
        Option("-v", "with their threads"),
        Option("-p", "performance data", note="public symbols do not say where they are"),
    ),
    arguments=(number("ADDRESS", "one resource (ERESOURCE)"),),
    examples=(Example("!locks -v"), Example("!locks ffff8000`12345678", "one resource")),
    plugin="locks",
)
def locks(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.locks import locks_grid

    one = arguments.number("ADDRESS") or None
    return locks_grid(session.target, arguments.has("-d"), arguments.has("-v"), one, session.progress).kd_lines()


@command("!errlog", help="pending entries of the I/O error log", plugin="errlog")
def error_log(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.error_log import errlog_grid

    return errlog_grid(session.target, session.progress).kd_lines()


@command(
    "!vm",
    help="page files, commit and limits, and the processes' commit",
    arguments=(
        flags(
            Bit(_WITHOUT_PROCESSES, "without the processes"),
            Bit(2, "stacks of the threads of memory management"),
            Bit(4, "commit of the processes by session"),
            Bit(8, "the last writes to page files"),
            Bit(0x10, "stacks of threads that own working sets"),
            Bit(0x20, "use of the kernel's address space"),
        ),
    ),
    examples=(Example("!vm 1", "without the processes"), Example("!vm 21", "with the kernel's address space")),
    plugin="vm",
)
def virtual_memory(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.vm import more_vm_lines, vm_grid

    wanted = arguments.number("FLAGS") or 0
    yield from vm_grid(session.target, not wanted & _WITHOUT_PROCESSES, session.progress).kd_lines()
    yield from more_vm_lines(session.target, wanted & ~_WITHOUT_PROCESSES, session.progress)


@command(
    "!memusage",
    help="physical memory by list and by use",
    arguments=(
        flags(
            Bit(1, "modified pages that are not to be written: how many"),
            Bit(2, "modified pages that are not to be written: by use"),
            Bit(_SUMMARY, "the lengths of the lists alone"),
        ),
    ),
    examples=(Example("!memusage 8", "the lengths of the lists"),),
    plugin="memusage",
)
def physical_memory_usage(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.memusage import memusage_grid, no_write_lines

    wanted = arguments.number("FLAGS") or 0
    if wanted in (1, 2, 3):
        return no_write_lines(session.target, bool(wanted & 2), session.progress)
    return memusage_grid(session.target, bool(wanted & _SUMMARY), session.progress).kd_lines()


@command(
    "!poolused",
    help="pool by tag",
    options=(Option("/t", "the first COUNT tags only, as in /t5", value="COUNT", glued=True),),
    arguments=(
        flags(
            Bit(_VERBOSE, "allocations and frees too"),
            Bit(_BY_NONPAGED, "by nonpaged use"),
            Bit(_BY_PAGED, "by paged use"),
            Bit(8, "session pool, of the current process's session (!session -s)"),
        ),
        word("TAG", "only tags that this pattern fits (* and ?)"),
    ),
    examples=(Example("!poolused 2", "by nonpaged use"), Example("!poolused 2 Leak", "one tag")),
    plugin="pool",
)
def pool_used(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.pool import usage_grid

    wanted = arguments.number("FLAGS") or 0
    order = "nonpaged" if wanted & _BY_NONPAGED else "paged" if wanted & _BY_PAGED else "tag"
    tag, verbose = arguments.word("TAG"), bool(wanted & _VERBOSE)
    counted = arguments.option("/t")
    if counted is not None and not counted.isdecimal():
        raise KdumpError("!poolused /t needs a number of tags: /t5")
    most = None if counted is None else int(counted[:9])
    own = session.current.memory if wanted & 8 else None
    return usage_grid(session.target, order, tag, None, verbose, session.progress, most, own).kd_lines()


@command(
    "!pool",
    help="the pool block that an address lies in, and those around it",
    arguments=(
        number("ADDRESS", "an address in a pool block", required=True),
        flags(
            Bit(1, "the first 32 bytes of each block too"),
            Bit(2, "only the block that holds ADDRESS"),
            Bit(0x8000_0000, "without the tag's description and who uses it"),
        ),
    ),
    examples=(Example("!pool ffffd48f`77af9698 2", "one block"),),
    plugin="pool",
)
def pool_block(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.pool import block_grid

    wanted = arguments.number("FLAGS") or 0
    at = arguments.number("ADDRESS") or 0
    alone, bare = bool(wanted & 2), bool(wanted & 0x8000_0000)
    contents = bool(wanted & 1)
    return block_grid(session.target, at, None, session.progress, alone, not bare, contents).kd_lines()
