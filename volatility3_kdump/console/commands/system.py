"""Commands on the system: version and times, processors' control blocks, resources and memory."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import banner
from volatility3_kdump.views.error_log import errlog_grid
from volatility3_kdump.views.locks import locks_grid
from volatility3_kdump.views.memusage import memusage_grid
from volatility3_kdump.views.pool import block_grid, usage_grid
from volatility3_kdump.views.processors import block_grid as control_block_grid
from volatility3_kdump.views.processors import dpcs_grid, models_grid, region_grid
from volatility3_kdump.views.vm import vm_grid
from volatility3_kdump.windows.machine.system import read_system

_WITHOUT_PROCESSES = 1
#: Flags of !poolused.
_VERBOSE, _BY_NONPAGED, _BY_PAGED = 1, 2, 4
#: Flag of !memusage.
_SUMMARY = 8


@command("vertarget", help="Windows, its kernel, and when it crashed", plugin="info")
def version_of_target(session: Session, arguments: Arguments) -> Iterable[str]:
    return banner.version(read_system(session.target))


@command("version", help="vertarget, and the version of kdump", plugin="info")
def version(session: Session, arguments: Arguments) -> Iterable[str]:
    yield from banner.version(read_system(session.target))
    yield banner.title()


@command(".time", help="when it crashed, and how long it had been up", plugin="info")
def times(session: Session, arguments: Arguments) -> Iterable[str]:
    return banner.times(read_system(session.target))


@command(".lastevent", help="what stopped the system: the bug check", plugin="bugcheck")
def last_event(session: Session, arguments: Arguments) -> Iterable[str]:
    code = session.target.header.bug_check_code
    shown = "?" * 8 if code is None else f"{code:X}"
    yield f"Last event: Bugcheck {shown}"
    yield from banner.times(read_system(session.target))


@command("!pcr", help="a processor's control region", usage="[PROCESSOR]", plugin="cpu")
def control_region_of(session: Session, arguments: Arguments) -> Iterable[str]:
    return region_grid(session.target, _processor(session, arguments)).kd_lines()


@command("!prcb", help="a processor's control block", usage="[PROCESSOR]", plugin="cpu")
def control_block_of(session: Session, arguments: Arguments) -> Iterable[str]:
    return control_block_grid(session.target, _processor(session, arguments)).kd_lines()


def _processor(session: Session, arguments: Arguments) -> int:
    number = session.evaluate(arguments.text) if arguments.text else session.current.processor
    if number is None:
        raise KdumpError(f"{session.target.name}: the dump does not say which processor crashed: name one")
    return number


@command("!cpuinfo", help="family, model and stepping of the processors", usage="[PROCESSOR]", plugin="cpu")
def processor_information(session: Session, arguments: Arguments) -> Iterable[str]:
    return models_grid(session.target, session.evaluate(arguments.text) if arguments.text else None).kd_lines()


@command(
    "!dpcs",
    help="deferred procedure calls that are queued, and those that run",
    usage="[PROCESSOR]",
    plugin="cpu",
)
def deferred_calls(session: Session, arguments: Arguments) -> Iterable[str]:
    return dpcs_grid(session.target, session.evaluate(arguments.text) if arguments.text else None).kd_lines()


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


@command("!sysinfo", help="the machine and its firmware, by its SMBIOS tables", usage="machineid", plugin="info")
def system_information(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.dump.smbios import machine_information
    from volatility3_kdump.text.machine import machine_lines

    if arguments.text.lower() != "machineid":
        raise KdumpError("!sysinfo takes machineid; !cpuinfo shows the processors")
    target = session.target
    machine = machine_information(target.dump.source, target.dump.tagged)
    if machine is None:
        raise KdumpError(f"{target.name}: its tagged data has no SMBIOS tables")
    return machine_lines(machine)


@command(".dumpdebug", help="the fields of the dump's header", plugin="info")
def dump_header(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text.dump_header import header_lines

    return header_lines(session.target.header)


@command("!errrec", help="a hardware error record (WHEA_ERROR_RECORD)", usage="ADDRESS", plugin="errrec")
def hardware_error(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.hardware import error_record_grid

    if not arguments.text:
        raise KdumpError("!errrec takes an address: that of bug check 124 is its second argument")
    return error_record_grid(session.current.memory, session.evaluate(arguments.text)).kd_lines()


@command(
    "!locks",
    help="resources that are held or waited for: -d all, -v with their threads",
    usage="[-v] [-d] [-p] [ADDRESS]",
    plugin="locks",
)
def locks(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.words
    options = {word.lower() for word in operands if word.startswith("-")}
    unknown = options - {"-v", "-d", "-p"}
    if unknown:
        raise KdumpError(f"!locks knows no {min(unknown)}: use -v, -d or an address")
    rest = [word for word in operands if not word.startswith("-")]
    one = session.evaluate(" ".join(rest)) if rest else None
    return locks_grid(session.target, "-d" in options, "-v" in options, one or None, session.progress).kd_lines()


@command("!errlog", help="pending entries of the I/O error log", plugin="errlog")
def error_log(session: Session, arguments: Arguments) -> Iterable[str]:
    return errlog_grid(session.target, session.progress).kd_lines()


@command("!vm", help="page files, commit and limits; 1 without processes", usage="[FLAGS]", plugin="vm")
def virtual_memory(session: Session, arguments: Arguments) -> Iterable[str]:
    flags = session.evaluate(arguments.text) if arguments.text else 0
    return vm_grid(session.target, not flags & _WITHOUT_PROCESSES, session.progress).kd_lines()


@command(
    "!memusage",
    help="physical memory by list and by use; 8 for the lists' lengths alone",
    usage="[FLAGS]",
    plugin="memusage",
)
def physical_memory_usage(session: Session, arguments: Arguments) -> Iterable[str]:
    flags = session.evaluate(arguments.text) if arguments.text else 0
    return memusage_grid(session.target, bool(flags & _SUMMARY), session.progress).kd_lines()


@command(
    "!poolused",
    help="pool by tag: 1 allocations and frees, 2 by nonpaged, 4 by paged use; only tags that fit",
    usage="[FLAGS [TAG]]",
    plugin="pool",
)
def pool_used(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.words
    if len(operands) > 2:
        raise KdumpError("!poolused takes flags and a tag")
    flags = session.evaluate(operands[0]) if operands else 0
    order = "nonpaged" if flags & _BY_NONPAGED else "paged" if flags & _BY_PAGED else "tag"
    tag = operands[1] if len(operands) > 1 else None
    return usage_grid(session.target, order, tag, None, bool(flags & _VERBOSE), session.progress).kd_lines()


@command("!pool", help="the pool block that an address lies in, and those around it", usage="ADDRESS", plugin="pool")
def pool_block(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.words
    if not operands:
        raise KdumpError("!pool takes an address")
    return block_grid(session.target, session.evaluate(operands[0]), None, session.progress).kd_lines()
