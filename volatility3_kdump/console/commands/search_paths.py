"""The symbol and image paths, and what is loaded along them: ``.sympath``, ``.exepath``, ``.symfix``, ``.reload``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.commands.control import own_path, search_path
from volatility3_kdump.console.commands.stacks import load_user_modules
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, rest, word
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module
from volatility3_kdump.stores.paths import expanded
from volatility3_kdump.stores.servers import MICROSOFT
from volatility3_kdump.text.banner import dotted
from volatility3_kdump.windows.listing.modules import module_named, symbols_of

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@command(
    ".sympath",
    ".sympath+",
    help="shows, sets or extends the symbol path",
    arguments=(rest("PATH", "a path in the debugger's grammar: srv*CACHE*SERVER;DIRECTORY"),),
    examples=(Example(".sympath srv*"), Example(".sympath+ /symbols", "one place more")),
)
def symbol_path(session: Session, arguments: Arguments) -> Iterable[str]:
    session.options = replace(session.options, symbol_path=_changed(session, arguments, "symbol"))
    if arguments.text:
        yield from _reload(session)
    yield from _shown_path("Symbol search path is", search_path(session, "symbol"))


@command(
    ".exepath",
    ".exepath+",
    help="shows, sets or extends the image path",
    arguments=(rest("PATH", "directories and servers, as for .sympath"),),
    examples=(Example(".exepath /images"),),
)
def image_path(session: Session, arguments: Arguments) -> Iterable[str]:
    session.options = replace(session.options, image_path=_changed(session, arguments, "image"))
    if arguments.text:
        yield from _reload(session)
    yield from _shown_path("Executable image search path is", search_path(session, "image"))


@command(
    ".symfix",
    ".symfix+",
    help="makes the symbol path that of Microsoft's public server, + adds it",
    arguments=(rest("CACHE", "a directory that keeps what is fetched"),),
    examples=(Example(".symfix+"),),
)
def fix_symbol_path(session: Session, arguments: Arguments) -> Iterable[str]:
    cache = arguments.text.strip('"')
    if ";" in cache or "*" in cache:
        raise KdumpError(f"{arguments.name} takes a directory, not a path: .sympath takes paths")
    path = f"srv*{cache}*{MICROSOFT}" if cache else "srv*"
    before = search_path(session, "symbol")
    path = f"{before};{path}" if arguments.name.endswith("+") and before else path
    session.options = replace(session.options, symbol_path=path)
    yield from _reload(session)
    yield f"Symbol search path is: {path}"


def _shown_path(title: str, path: str) -> Iterator[str]:
    """As KD shows it: what was typed, and in small letters what each element stands for."""
    yield f"{title}: {path}"
    if not path:
        return
    yield f"Expanded {title}: {expanded(path).lower()}"


def _changed(session: Session, arguments: Arguments, kind: str) -> str | None:
    own = own_path(session, kind)
    path_text = arguments.text.strip('"')
    if not path_text:
        return own
    before = search_path(session, kind)
    return f"{before};{path_text}" if arguments.name.endswith("+") and before else path_text


@command(
    ".reload",
    help="looks for symbols and images anew",
    options=(
        Option("/f", "loads the symbols now"),
        Option("/i", "accepts symbols that do not fit", note="symbols that do not fit are never used"),
        Option("/u", "unloads symbols", note="everything is read anew"),
        Option("/user", "the user modules of the current process: lm lists them from now on"),
        Option("/n /s /l /v /d /unl /o /w /P /a /ef", "other choices of KD", note="it changes nothing here"),
    ),
    arguments=(word("MODULE", "one module, by default all; MODULE=BASE,SIZE,TIME where it is the one of the list"),),
    examples=(Example(".reload /f nt"),),
)
def reload(session: Session, arguments: Arguments) -> Iterable[str]:
    forced = arguments.has("/f")
    module = arguments.word("MODULE")
    name, _, place = (module or "").partition("=")
    if name and place and session.dumps:
        _check_place(session, name, place)
    wanted = module_named(session.seen, name) if name and session.dumps else None
    if name and session.dumps and wanted is None:
        raise KdumpError(f'"{name}" was not found in the image list: lm lists it')
    yield from _reload(session, wanted)
    if not session.dumps:
        return
    if wanted is not None:
        yield from _load(session.seen, wanted, forced)
    elif arguments.has("/user"):
        yield from load_user_modules(session.current)
    else:
        yield from dotted(session.target.modules, "Loading Kernel Symbols")
        if session.state.user_modules:
            yield from load_user_modules(session.current)
        yield from dotted(session.target.unloaded_modules, "Loading unloaded module list")


def _check_place(session: Session, name: str, place: str) -> None:
    """``MODULE=BASE,SIZE,TIME``: refused where the list of modules has it otherwise, or not at all."""
    module = module_named(session.target, name)
    if module is None:
        raise KdumpError(
            f'"{name}" was not found in the image list, and {place} does not add it: modules are those that lm lists'
        )
    parts = place.split(",")
    if len(parts) > 3:
        raise KdumpError(f".reload takes {name}=BASE,SIZE,TIME, not {place}")
    listed = (("base", module.base), ("size", module.size), ("timestamp", module.timestamp))
    for part, (what, value) in zip(parts, listed, strict=False):
        if session.evaluate(part) != value:
            told = "not in the dump" if value is None else f"{value:x}"
            raise KdumpError(f"the {what} of {module.name} is {told} in the image list: {part} is not taken for it")


def _load(target: Target, module: Module, forced: bool) -> Iterator[str]:
    """``.reload /f MODULE``: its symbols now, and where they come from, or why there are none."""
    symbols = symbols_of(target, module, forced)
    if symbols.state == "no symbols":
        yield f"*** ERROR: Module load completed but symbols could not be loaded for {module.image_name}"
    because = f": {symbols.reason}" if symbols.reason else ""
    yield "; ".join(filter(None, (f"{module.name} ({symbols.state}){because}", symbols.remedy)))


def _reload(session: Session, module: Module | None = None) -> Iterator[str]:
    session.reload(module)
    for dump in session.dumps:
        for problem in dump.target.problems:
            dump.told.add(problem)
            yield f"WARNING: {problem}"
