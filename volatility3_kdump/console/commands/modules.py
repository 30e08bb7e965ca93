"""Commands on modules, drivers, devices and requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number, word
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module, UnloadedModule, find_module
from volatility3_kdump.target import Target
from volatility3_kdump.text import drivers as text
from volatility3_kdump.views.drivers import (
    address_grid,
    check_grid,
    drivers_grid,
)
from volatility3_kdump.views.irp import device_lines, device_named, driver_grid, driver_stacks, irp_grid, stack_grid
from volatility3_kdump.wildcards import Wildcard
from volatility3_kdump.windows.io.drivers import read_details
from volatility3_kdump.windows.listing.modules import chosen_modules, chosen_unloaded, module_at
from volatility3_kdump.windows.user.loader import user_modules
from volatility3_kdump.windows.user.spaces import user_space

_LM_WORD = re.compile(r"\s*(1m|sm|[A-Za-z])")
#: Options that choose which modules are listed, how, and those that change nothing here.
#: States of symbols, for the options ``l`` and ``e``.
_NOT_LOADED = frozenset({"deferred", "no symbols"})
_IN_TROUBLE = frozenset({"no symbols", "export symbols"})
_LM_LETTERS = frozenset("lekuovtfnpcidD") | {"sm", "1m"}


# lm -------------------------------------------------------------------------------------------------------------------


@command(
    "lm",
    help="modules: v verbose, t times, f paths, m PATTERN, a ADDRESS, k kernel, u user, 1m names, sm sorted",
    usage="[OPTIONS] [m PATTERN | a ADDRESS]",
    own=True,
    options=(
        Option("v", "everything that is known of a module"),
        Option("t n", "when it was built"),
        Option("f", "its path"),
        Option("k", "kernel modules"),
        Option("u", "user modules of the current process"),
        Option("o", "loaded modules only"),
        Option("l", "those whose symbols are loaded"),
        Option("e", "those that have no symbols, or only exports"),
        Option("1m", "names alone, for loops"),
        Option("sm", "sorted by name"),
        Option("m", "modules that a pattern fits", value="PATTERN"),
        Option("a", "the module at an address", value="ADDRESS"),
        Option("c p i d D", "accepted, as in KD; they change nothing here"),
    ),
    examples=(Example("lmvm nt", "one module, everything"), Example("lm a fffff800`60da1981", "whose address it is")),
    plugin="drivers",
    glued=True,
)
def list_modules(session: Session, arguments: Arguments) -> Iterable[str]:
    options, pattern, place = _lm_options(arguments)
    target = _listed(session, options, pattern, place)
    if "u" in options and "k" not in options:
        return _user_modules(session, pattern)
    names = [pattern] if pattern else []
    if place is not None:
        address = session.evaluate(place)
        module = module_at(target, address)
        if module is None or "v" not in options:
            return address_grid(target, [address]).kd_lines()
        names = [module.name]
    if not chosen_modules(target, names) and not chosen_unloaded(target, names):
        if not names:
            raise KdumpError(f"{target.name}: no module list is in the dump")
        return [text.header(target.memory.pointer_size)]
    if "v" in options:
        return drivers_grid(target, names, True, session.progress).kd_lines()
    return _lines(session, target, options, names)


def _listed(session: Session, options: set[str], pattern: str | None, place: str | None) -> Target:
    """Whose modules are listed: those of user mode too where they are asked for, or were loaded by ``.process /r``."""
    if "k" in options and "u" not in options:
        return session.target
    return session.seen if pattern or place or session.state.user_modules else session.target


def _lm_options(arguments: Arguments) -> tuple[set[str], str | None, str | None]:
    """(options, pattern, address) of what follows ``lm``."""
    typed = arguments.text
    options: set[str] = set()
    position = 0
    while position < len(typed.rstrip()):
        match = _LM_WORD.match(typed, position)
        word = match[1] if match else ""
        position = match.end() if match else position
        rest = typed[position:].strip()
        if word in ("m", "M", "a"):
            if not rest:
                raise KdumpError(f"lm {word} takes {'an address' if word == 'a' else 'a pattern'}")
            return options, (None if word == "a" else rest.strip('"')), (rest if word == "a" else None)
        if word not in _LM_LETTERS:
            raise arguments.unknown(word or typed[position:].split(maxsplit=1)[0])
        options.add(word)
    return options, None, None


def _lines(session: Session, target: Target, options: set[str], names: list[str]) -> Iterator[str]:
    size = target.memory.pointer_size
    modules: list[Module] = chosen_modules(target, names)
    if "sm" in options:
        modules.sort(key=lambda module: module.name.lower())
    if "l" in options:
        modules = [module for module in modules if target.names.status_of(module) not in _NOT_LOADED]
    if "e" in options:
        modules = [module for module in modules if target.names.status_of(module) in _IN_TROUBLE]
    if "1m" in options:
        yield from (module.name for module in modules)
        return
    yield text.header(size)
    show = _show(target, options)
    for index, module in enumerate(modules):
        if session.progress is not None and "t" in options:
            session.progress(100 * index / len(modules), "Reading images")
        yield show(module)
    if options & {"o", "l", "e"}:
        return
    unloaded: list[UnloadedModule] = chosen_unloaded(target, names)
    if unloaded:
        yield ""
        yield text.unloaded_header()
        for gone in unloaded:
            # KD has the details of unloaded modules where it was asked for time stamps, and only there.
            yield from text.unloaded_timed(gone, size) if "t" in options else (text.unloaded_line(gone, size),)


def _show(target: Target, options: set[str]) -> Callable[[Module], str]:
    size = target.memory.pointer_size
    if options & {"t", "n"} and "f" not in options:
        return lambda module: text.line(read_details(target, module), size)
    if "f" in options:
        return lambda module: text.path_line(module, size)
    names = target.names
    return lambda module: text.symbols_line(module, names.status_of(module), size, names.file_of(module))


def _user_modules(session: Session, pattern: str | None) -> Iterator[str]:
    target = session.target
    process = session.current.process
    if process is None:
        raise KdumpError(f"{target.name}: the dump does not say which process crashed: .process names one")
    listing = user_modules(user_space(target, process))
    if not listing.modules:
        why = listing.problems[0] if listing.problems else "the loader's list is empty"
        raise KdumpError(f"{target.name}: no user modules: {why}")
    wildcard = None if pattern is None else Wildcard(pattern)
    yield text.header(target.memory.pointer_size)
    for module in sorted(listing.modules, key=lambda module: module.base):
        if wildcard is None or wildcard.matches(module.name or ""):
            yield text.user_line(module, target.memory.pointer_size)
    for problem in listing.problems:
        yield f"NOTE: {problem}"


@command(
    "!drivers",
    help="kernel modules with the sizes of their code and data",
    arguments=(
        flags(
            Bit(1, "as KD of Windows 2000 shows them", "the sizes are always shown"),
            Bit(2, "working sets", "not known in a dump"),
        ),
    ),
    examples=(Example("!drivers"),),
    plugin="drivers",
)
def drivers(session: Session, arguments: Arguments) -> Iterable[str]:
    if not session.target.modules:
        raise KdumpError(f"{session.target.name}: no module list is in the dump")
    return drivers_grid(session.target, [], False, session.progress, sizes=True).kd_lines()


@command(
    "!chkimg",
    help="compares code with the files on the image path",
    options=(
        Option("-d", "each difference"),
        Option("-lo", "how many lines of differences", value="COUNT", note="all are shown"),
        Option("-ss", "one section", value="SECTION", note="all sections of code are compared"),
        Option("-mmw", "masks", value="FILE", note="masks are not read"),
        Option("-v", "says more", note="what is compared is always said"),
        Option("-f", "repairs the image in memory", refused="a dump is not changed"),
        Option("-db", "differences as bytes", note="each difference has its bytes"),
        Option("-np -nar -nospec -noplock -r -as -es", "other choices of KD", note="it changes nothing here"),
    ),
    arguments=(word("MODULE", "a module, by default all"),),
    examples=(Example("!chkimg -d nt"),),
    plugin="drivers",
)
def check_image(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    module = arguments.word("MODULE")
    names = [module.removeprefix("!")] if module else []
    if names and not chosen_modules(target, names):
        raise KdumpError(f"{target.name}: no module is named {names[0]}")
    if not target.images.has_path:
        raise KdumpError("!chkimg needs the drivers' files: .exepath or -i names their directory")
    return check_grid(target, names, session.progress).kd_lines()


# requests and devices ------------------------------------------------------------------------------------------------


@command(
    "!irp",
    help="an I/O request",
    arguments=(
        number("ADDRESS", "of the IRP; 0 or none for all in pool"),
        flags(Bit(1, "its stack locations in full", "they always are")),
    ),
    examples=(Example("!irp ffff9189`4ef3a010"), Example("!irp 0", "every IRP, as !irpfind")),
    plugin="irp",
)
def request(session: Session, arguments: Arguments) -> Iterable[str]:
    if not arguments.number("ADDRESS"):
        from volatility3_kdump.findings.irp_search import IrpSearch
        from volatility3_kdump.views.pool_search import irps_grid

        return irps_grid(IrpSearch(session.target, progress=session.progress)).kd_lines()
    return irp_grid(session.target, arguments.number("ADDRESS") or 0).kd_lines()


@command(
    "!drvobj",
    help="a driver object with its dispatch table",
    arguments=(
        word("NAME|ADDRESS", "a driver's name, or the address of its object", required=True),
        flags(
            Bit(1, "its devices"),
            Bit(2, "its dispatch table"),
            Bit(4, "each device with those attached to it"),
        ),
    ),
    examples=(Example("!drvobj Ntfs"), Example("!drvobj \\Driver\\disk 2", "with its dispatch table")),
    plugin="irp",
)
def driver_object(session: Session, arguments: Arguments) -> Iterable[str]:
    chosen = arguments.number("FLAGS")
    chosen = 1 if chosen is None else chosen
    grid = driver_grid(session.target, arguments.word("NAME|ADDRESS") or "", bool(chosen & 1), bool(chosen & 2))
    yield from grid.kd_lines()
    if chosen & 4:
        yield from driver_stacks(session.target, arguments.word("NAME|ADDRESS") or "")


@command(
    "!devstack",
    help="a device and those attached to it",
    arguments=(word("ADDRESS|NAME", "a device object, or its name in \\Device", required=True),),
    examples=(Example("!devstack ffff9189`4ef3a010"),),
    plugin="irp",
)
def device_stack(session: Session, arguments: Arguments) -> Iterable[str]:
    return stack_grid(session.target, _device(session, arguments)).kd_lines()


@command(
    "!devobj",
    help="a device object",
    arguments=(word("ADDRESS|NAME", "a device object, or its name in \\Device", required=True),),
    examples=(Example("!devobj ffff9189`4ef3a010"),),
    plugin="irp",
)
def device_object(session: Session, arguments: Arguments) -> Iterable[str]:
    return device_lines(session.target, _device(session, arguments))


# headers --------------------------------------------------------------------------------------------------------------


def _module(session: Session, named: str) -> Module:
    """A module by its name or an address in it. Raises :class:`KdumpError`."""
    target = session.seen
    by_name = chosen_modules(target, [named])
    if by_name:
        return by_name[0]
    address = session.evaluate(named)
    module = find_module(target.modules, address)
    if module is None:
        raise KdumpError(f"{target.name}: no module is at {address:x}")
    return module


@command(
    "!lmi",
    help="a module: headers, debug record, where its symbols come from",
    arguments=(word("MODULE", "its name, or an address in it", required=True),),
    examples=(Example("!lmi myfault"),),
)
def module_information(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.image_headers import module_lines

    return module_lines(session.seen, _module(session, arguments.word("MODULE") or ""))


@command(
    "!chksym",
    help="whether the symbols in use belong to a module",
    arguments=(word("MODULE", "its name, or an address in it", required=True), word("PDB", "accepted, as in KD")),
    examples=(Example("!chksym nt"),),
)
def check_symbols(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.image_headers import check_lines

    return check_lines(session.seen, _module(session, arguments.word("MODULE") or ""))


@command(
    "!dh",
    help="the headers of an image",
    options=(Option("-f", "file headers"), Option("-s", "section headers"), Option("-a", "everything")),
    arguments=(number("ADDRESS", "of the image, or its module's name", required=True),),
    examples=(Example("!dh -f nt"), Example("!dh -s myfault")),
)
def image_headers(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.image_headers import header_lines

    everything = arguments.has("-a") or not (arguments.has("-f") or arguments.has("-s"))
    return header_lines(
        session.seen,
        arguments.number("ADDRESS") or 0,
        session.current.memory,
        everything or arguments.has("-f"),
        everything or arguments.has("-s"),
    )


def _device(session: Session, arguments: Arguments) -> int:
    """A device by its name, which is tried first, or by its address."""
    typed = arguments.word("ADDRESS|NAME") or ""
    named = device_named(session.target, typed)
    if named is None and typed.startswith("\\"):
        raise KdumpError(f"{session.target.name}: no device is named {typed}")
    if named is not None:
        return named
    address = session.evaluate(typed)
    if any(module.base == address for module in session.target.modules) and not typed[:1].isdigit():
        raise KdumpError(f"no device is named {typed}, which is a module: !drvobj {typed} lists a driver's devices")
    return address
