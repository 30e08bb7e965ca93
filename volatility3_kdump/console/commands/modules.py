"""Commands on modules, drivers, devices and requests."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module, UnloadedModule
from volatility3_kdump.text import drivers as text
from volatility3_kdump.views.drivers import (
    address_grid,
    check_grid,
    drivers_grid,
)
from volatility3_kdump.views.irp import device_lines, driver_grid, irp_grid, pending_grid, stack_grid
from volatility3_kdump.windows.io.drivers import read_details
from volatility3_kdump.windows.listing.modules import chosen_modules, chosen_unloaded
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.user_mode import read_user_mode

_LM_WORD = re.compile(r"\s*(1m|sm|[A-Za-z])")
#: Options that choose which modules are listed, how, and those that change nothing here.
_LM_LETTERS = frozenset("lekuovtfnpcidD") | {"sm", "1m"}


# lm -------------------------------------------------------------------------------------------------------------------


@command(
    "lm",
    help="modules: v verbose, t times, f paths, m PATTERN, a ADDRESS, k kernel, u user, 1m names, sm sorted",
    usage="[OPTIONS] [m PATTERN | a ADDRESS]",
    plugin="drivers",
    glued=True,
)
def list_modules(session: Session, arguments: Arguments) -> Iterable[str]:
    options, pattern, place = _lm_options(arguments.text)
    target = session.target
    if "u" in options and "k" not in options:
        return _user_modules(session, pattern)
    names = [pattern] if pattern else []
    if place is not None:
        address = session.evaluate(place)
        module = target.names.module_of(address)
        if module is None or "v" not in options:
            return address_grid(target, [address]).kd_lines()
        names = [module.name]
    if not chosen_modules(target, names) and not chosen_unloaded(target, names):
        if not names:
            raise KdumpError(f"{target.name}: no module list is in the dump")
        return [text.header(target.memory.pointer_size)]
    if "v" in options:
        return drivers_grid(target, names, True, session.progress).kd_lines()
    return _lines(session, options, names)


def _lm_options(typed: str) -> tuple[set[str], str | None, str | None]:
    """(options, pattern, address) of what follows ``lm``."""
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
            raise KdumpError(
                f"lm knows no option {(word or typed[position:].split(maxsplit=1)[0])!r}: .help lm lists them"
            )
        options.add(word)
    return options, None, None


def _lines(session: Session, options: set[str], names: list[str]) -> Iterator[str]:
    target = session.target
    size = target.memory.pointer_size
    modules: list[Module] = chosen_modules(target, names)
    if "sm" in options:
        modules.sort(key=lambda module: module.name.lower())
    if "l" in options:
        modules = [module for module in modules if target.names.status_of(module) != "deferred"]
    if "e" in options:
        modules = [module for module in modules if target.names.status_of(module) == "no symbols"]
    if "1m" in options:
        yield from (module.name for module in modules)
        return
    yield text.header(size)
    show = _show(session, options)
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


def _show(session: Session, options: set[str]) -> Callable[[Module], str]:
    target = session.target
    size = target.memory.pointer_size
    if options & {"t", "n"} and "f" not in options:
        return lambda module: text.line(read_details(target, module), size)
    if "f" in options:
        return lambda module: text.path_line(module, size)
    return lambda module: text.symbols_line(module, target.names.status_of(module), size)


def _user_modules(session: Session, pattern: str | None) -> Iterator[str]:
    target = session.target
    process = session.current.process
    if process is None:
        raise KdumpError(f"{target.name}: the dump does not say which process crashed: .process names one")
    user_mode = read_user_mode(target, read_process(target, process))
    if user_mode.absent is not None:
        raise KdumpError(f"{target.name}: no user modules: {user_mode.absent}")
    if not user_mode.modules:
        raise KdumpError(f"{target.name}: no user modules: the loader's list is empty, or not in the dump")
    yield text.header(target.memory.pointer_size)
    for module in sorted(user_mode.modules, key=lambda module: module.base):
        if pattern is None or fnmatch.fnmatchcase((module.name or "").lower(), pattern.lower()):
            yield text.user_line(module, target.memory.pointer_size)


@command("!drivers", help="kernel modules with the sizes of their code and data", plugin="drivers")
def drivers(session: Session, arguments: Arguments) -> Iterable[str]:
    if not session.target.modules:
        raise KdumpError(f"{session.target.name}: no module list is in the dump")
    return drivers_grid(session.target, [], False, session.progress, sizes=True).kd_lines()


@command("!chkimg", help="compares code with the files on the image path", usage="[-d] [MODULE]", plugin="drivers")
def check_image(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    options = arguments.words
    names = []
    while options:
        word = options.pop(0)
        if word in ("-lo", "-mmw", "-ss"):
            options = options[1:]
        elif not word.startswith("-"):
            names.append(word.removeprefix("!"))
    if names and not chosen_modules(target, names):
        raise KdumpError(f"{target.name}: no module is named {' or '.join(names)}")
    if not target.images.has_path:
        raise KdumpError("!chkimg needs the drivers' files: .exepath or -i names their directory")
    return check_grid(target, names, session.progress).kd_lines()


# requests and devices ------------------------------------------------------------------------------------------------


@command("!irp", help="an I/O request", usage="ADDRESS", plugin="irp")
def request(session: Session, arguments: Arguments) -> Iterable[str]:
    return irp_grid(session.target, _address(session, arguments, "an IRP")).kd_lines()


@command("!irpfind", help="the requests of all threads", plugin="irp")
def requests(session: Session, arguments: Arguments) -> Iterable[str]:
    return pending_grid(session.target, session.progress).kd_lines()


@command("!drvobj", help="a driver object with its dispatch table", usage="NAME | ADDRESS [FLAGS]", plugin="irp")
def driver_object(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.words
    if not operands:
        raise KdumpError("!drvobj takes a driver's name or the address of its object")
    return driver_grid(session.target, operands[0]).kd_lines()


@command("!devstack", help="a device and those attached to it", usage="ADDRESS", plugin="irp")
def device_stack(session: Session, arguments: Arguments) -> Iterable[str]:
    return stack_grid(session.target, _address(session, arguments, "a device object")).kd_lines()


@command("!devobj", help="a device object", usage="ADDRESS", plugin="irp")
def device_object(session: Session, arguments: Arguments) -> Iterable[str]:
    return device_lines(session.target, _address(session, arguments, "a device object"))


def _address(session: Session, arguments: Arguments, what: str) -> int:
    operands = arguments.words
    if not operands:
        raise KdumpError(f"{arguments.name} takes the address of {what}")
    return session.evaluate(operands[0])
