"""Whether plain ``vol`` finds the plugins and tables of this package, and links that make it find them.

Volatility 3 has no entry points: it imports every file below ``volatility3/plugins``, below
``volatility3/framework/plugins`` and below the directories that ``-p`` or ``plugin_dirs`` in its ``vol.json`` name, and
looks for symbol tables likewise. ``pip install`` puts ``kdump`` into those directories. An editable install, or a host
that lives in another ``site-packages``, needs a link.

:func:`examine` tells how things stand, :func:`link` makes the links, :func:`unlink` takes them away.

One file over 500 lines: what :func:`examine` judges are the very places, settings and links that the others change.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.version import __version__

#: Name of our directory below every plugin and symbol directory.
NAME = "kdump"
DISTRIBUTION = "volatility3-kdump"
#: What to do where the host does not find us.
LINK = "python -m volatility3_kdump link"
OLDEST_HOST = (2, 11, 0)
#: From this version on the host looks for renderers after it has imported the plugins.
RENDERERS_OF_PLUGINS = (2, 28, 0)

#: Libraries that we import where they are first used, and what is missing without them.
REQUIRED_LIBRARIES = {
    "numpy": "page maps and page-frame arrays",
    "capstone": "disassembly",
    "pefile": "image files on the image path",
    "yara": "pattern search (distribution yara-python)",
}
#: Libraries that change something when they happen to be there.
OPTIONAL_LIBRARIES = {
    "yara_x": "pattern search in less time; taken instead of yara, as the host does (distribution yara-x)",
    "kdmp_parser": "a peer that `make bench` and the tests compare with",
    "leechcorepyc": "a peer that `make bench` compares with",
    "unicorn": "an oracle of the tests",
    "jsonschema": "makes the host validate each symbol table once, which takes it seconds",
}


class InstallationError(KdumpError):
    """The host was not found, or a link cannot be made or removed; the message says what stands in the way."""


@dataclass(frozen=True)
class Kind:
    """One of the two sorts of directory that the host searches."""

    #: Directory below ``volatility3`` and below a source checkout.
    directory: str
    #: Key of ``vol.json`` whose value is a list of directories joined by semicolons (the default of ``-p``, ``-s``).
    setting: str


PLUGINS = Kind("plugins", "plugin_dirs")
SYMBOLS = Kind("symbols", "symbol_dirs")
KINDS = (PLUGINS, SYMBOLS)


@dataclass(frozen=True)
class Places:
    """Every path that decides whether the host finds us.

    ``searched`` and ``ours`` have one entry for each of :data:`KINDS`, by its ``directory``: the directories that the
    host searches on its own, in its order, and our directory (named ``kdump``).
    """

    host: Path
    host_version: str
    searched: dict[str, tuple[Path, ...]]
    ours: dict[str, Path]
    settings: Path

    def link(self, kind: Kind) -> Path:
        """Where :func:`link` puts its symbolic link."""
        return self.host / kind.directory / NAME


@dataclass(frozen=True)
class Check:
    """One line of ``doctor``. ``passed`` is None for a remark that is neither good nor bad."""

    name: str
    passed: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAIL", None: "note"}[self.passed]
        return f"{mark:<4}  {self.name}: {self.text}"


# where things are ---------------------------------------------------------------------------------------------------


def installed_distribution() -> importlib.metadata.Distribution | None:
    """What pip installed, editable or not; None where the package merely lies on the import path.

    A checkout that is the current directory comes first on the path, and may hold the ``egg-info`` of a build.
    """
    for distribution in importlib.metadata.distributions(name=DISTRIBUTION):
        if distribution.read_text("RECORD") is not None:
            return distribution
    return None


def editable_source(distribution: importlib.metadata.Distribution) -> Path | None:
    """The source directory of an editable install (``direct_url.json``, PEP 610); None for any other."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlparse(origin["url"]).path))


def our_directories(distribution: importlib.metadata.Distribution | None) -> dict[str, Path]:
    """Our plugin and symbol directories: of what pip installed, else of the checkout that this module lies in.

    Raises :class:`InstallationError` when they are not there.
    """
    root = Path(__file__).resolve().parents[1]
    if distribution is not None:
        source = editable_source(distribution)
        root = Path(str(distribution.locate_file("volatility3"))) if source is None else source
    directories = {kind.directory: root / kind.directory / NAME for kind in KINDS}
    for path in directories.values():
        if not path.is_dir():
            raise InstallationError(f"{path}: no such directory; reinstall {DISTRIBUTION}")
    return directories


def settings_path() -> Path:
    """The host's ``vol.json`` (``CommandLine.load_system_defaults`` in ``volatility3/cli``); it need not exist."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", home)) / "volatility3" / "vol.json"
    return home / ".config" / "volatility3" / "vol.json"


def find_places() -> Places:
    """The paths as this interpreter sees them. Raises :class:`InstallationError` when it cannot import the host."""
    try:
        from volatility3.framework import constants
    except ImportError as error:
        raise InstallationError(f"{sys.executable} has no volatility3: pip install volatility3 ({error})") from error
    except OSError as error:
        # The host makes its cache directory while it is imported.
        raise InstallationError(f"volatility3 cannot make its cache directory: {error}") from error
    return Places(
        host=Path(constants.__file__).resolve().parents[2],
        host_version=constants.PACKAGE_VERSION,
        searched={
            PLUGINS.directory: tuple(map(Path, constants.PLUGINS_PATH)),
            SYMBOLS.directory: tuple(map(Path, constants.SYMBOL_BASEPATHS)),
        },
        ours=our_directories(installed_distribution()),
        settings=settings_path(),
    )


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def _present(path: Path) -> bool:
    """Whether anything has that name, a dangling link included."""
    return os.path.lexists(path)


# vol.json -----------------------------------------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    """The contents of ``vol.json``, empty where there is none.

    Raises :class:`InstallationError` when it is not a JSON object, or a list of directories in it is not a string.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InstallationError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(contents, dict):
        raise InstallationError(f"{path}: not a JSON object, so the host ignores it")
    for kind in KINDS:
        if not isinstance(contents.get(kind.setting, ""), str):
            raise InstallationError(f"{path}: {kind.setting} is not a string of directories joined by semicolons")
    return contents


def _directories(contents: dict[str, Any], kind: Kind) -> list[str]:
    return [entry for entry in contents.get(kind.setting, "").split(";") if entry]


def _write_settings(path: Path, contents: dict[str, Any]) -> None:
    """Replace ``vol.json`` in one step; where nothing is left in it, remove it and its directory if that is empty."""
    path = path.resolve()  # the file itself, where vol.json is a link
    try:
        if not contents:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as stream:
            stream.write(json.dumps(contents, indent=4, ensure_ascii=False) + "\n")
        if path.exists():
            shutil.copymode(path, stream.name)
        os.replace(stream.name, path)
    except OSError as error:
        raise InstallationError(f"{path}: cannot be written: {error}") from error


# link and unlink ----------------------------------------------------------------------------------------------------


def searched_by_host(places: Places, kind: Kind) -> list[Path]:
    """The directories of a kind that plain ``vol`` searches, in its order: those of ``vol.json``, then its own."""
    listed = _directories(read_settings(places.settings), kind)
    return [Path(os.path.abspath(entry)) for entry in listed] + list(places.searched[kind.directory])


def visible(places: Places, kind: Kind) -> Path | None:
    """The path below which the host finds our directory of a kind; None when it does not."""
    for directory in searched_by_host(places, kind):
        if _same(directory / NAME, places.ours[kind.directory]):
            return directory / NAME
    return None


def link(places: Places) -> list[str]:
    """Make plain ``vol`` find our plugins and tables; returns one line for each thing done, none if all was well.

    Symbolic links in the host's own directories where they can be made, entries in ``vol.json`` otherwise. Raises
    :class:`InstallationError` where something else already has the name, and then leaves everything as it was.
    """
    missing = [kind for kind in KINDS if visible(places, kind) is None]
    for kind in missing:
        path = places.link(kind)
        if path.is_symlink():
            raise InstallationError(f"{path}: a link to {os.readlink(path)}, not to this installation: remove it first")
        if _present(path):
            raise InstallationError(f"{path}: another copy of the package: pip uninstall {DISTRIBUTION}, or remove it")
    try:
        return list(_make_links(places, missing))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    contents = read_settings(places.settings)
    for kind in missing:
        entry = str(places.ours[kind.directory].parent)
        contents[kind.setting] = ";".join([*_directories(contents, kind), entry])
    _write_settings(places.settings, contents)
    added = " and ".join(kind.setting for kind in missing)
    return [f"{places.settings}: added to {added} (no link can be made in {places.host}: {reason})"]


def _make_links(places: Places, kinds: Sequence[Kind]) -> Iterator[str]:
    """Symbolic links for all the kinds, or for none of them."""
    made: list[Path] = []
    lines: list[str] = []
    for kind in kinds:
        path, target = places.link(kind), places.ours[kind.directory]
        try:
            path.symlink_to(target, target_is_directory=True)
        except OSError:
            for earlier in made:
                earlier.unlink()
            raise
        made.append(path)
        lines.append(f"{path} -> {target}")
    yield from lines


def unlink(places: Places) -> list[str]:
    """Undo :func:`link`; returns one line for each thing removed.

    Removed are symbolic links named ``kdump`` in the host's directories that lead to our directories, and the entries
    of ``vol.json`` that name their parents. Installed files, links to elsewhere and all other settings stay.
    """
    contents = read_settings(places.settings)
    done: list[str] = []
    for kind in KINDS:
        path, ours = places.link(kind), places.ours[kind.directory]
        if path.is_symlink() and _same(path, ours):
            try:
                path.unlink()
            except OSError as error:
                raise InstallationError(f"{path}: cannot be removed: {error}") from error
            done.append(f"removed {path}")
    changed = False
    for kind in KINDS:
        listed = _directories(contents, kind)
        kept = [entry for entry in listed if Path(os.path.abspath(entry)) != places.ours[kind.directory].parent]
        if kept != listed:
            changed = True
            done.append(f"{places.settings}: removed from {kind.setting}")
            if kept:
                contents[kind.setting] = ";".join(kept)
            else:
                del contents[kind.setting]
    if changed:
        _write_settings(places.settings, contents)
    return done


# doctor -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HostRun:
    """What ``vol --help`` said: our plugins, our modules that failed to load, and whether it knows ``-r windbg``."""

    plugins: tuple[str, ...]
    failures: tuple[str, ...]
    windbg: bool


def plugin_modules(directory: Path) -> list[str]:
    """Names of the plugin files in our plugin directory, without suffix."""
    return sorted(path.stem for path in directory.glob("*.py") if not path.name.startswith("__"))


def _script_directories() -> list[str]:
    """Where pip puts the commands of this interpreter's environment."""
    return [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]


def find_vol() -> Path | None:
    """The ``vol`` that a shell starts, or, where ``PATH`` has none, the one of this interpreter's environment."""
    executable = shutil.which("vol") or shutil.which("vol", path=os.pathsep.join(_script_directories()))
    return Path(executable) if executable else None


def run_host(vol: Path, timeout: float = 120) -> HostRun:
    """Run ``vol --help``, which loads every plugin. Raises :class:`InstallationError` when it fails."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    try:
        finished = subprocess.run(
            [str(vol), "--help"],
            env=environment,
            cwd=vol.parent,  # not where a directory named volatility3 might shadow the installed one
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallationError(f"{vol}: cannot be run: {error}") from error
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise InstallationError(f"{vol} --help: exit status {finished.returncode}: {last}")
    return parse_help(finished.stdout)


def parse_help(text: str) -> HostRun:
    """Read the help text of ``vol``: the plugin list, the renderers, and the closing note on plugins that failed."""
    renderers = re.search(r"Determines how to render the output\s+\(([^)]*)\)", text)
    failed = re.search(r"The following plugins could not be loaded[^:]*:(.*)\Z", text, re.DOTALL)
    return HostRun(
        plugins=tuple(sorted(set(re.findall(rf"^ {{1,8}}({NAME}\.[\w.]+)(?=\s|$)", text, re.MULTILINE)))),
        failures=tuple(
            name for name in re.split(r"[\s,]+", failed.group(1) if failed else "") if f".plugins.{NAME}." in name
        ),
        windbg=renderers is not None and "windbg" in re.split(r"[\s,]+", renderers.group(1)),
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _check_package() -> Check:
    """How the package came here: by pip, by an editable install, or not at all."""
    running = Path(__file__).resolve().parent
    distribution = installed_distribution()
    if distribution is None:
        statement = f"version {__version__} in {running.parent} is not installed: pip install {running.parent}"
        return Check("package", False, statement)
    source = editable_source(distribution)
    if source is not None:
        return Check("package", True, f"version {distribution.version}, editable install of {source}")
    statement = f"version {distribution.version} in {distribution.locate_file('')}"
    if not _same(Path(str(distribution.locate_file(running.name))), running):
        statement += f" (this command runs from {running.parent})"
    return Check("package", True, statement)


def _check_host(places: Places) -> Check:
    statement = f"volatility3 {places.host_version} in {places.host}"
    if _version(places.host_version) < OLDEST_HOST:
        return Check("host", False, f"{statement}: {'.'.join(map(str, OLDEST_HOST))} or newer is needed")
    return Check("host", True, statement)


def _check_copies(places: Places, kind: Kind) -> Iterator[Check]:
    """Directories and links of our name that the host meets and that are not this installation.

    They fail the check where the host meets them first: it imports a plugin of one name only once.
    """
    ours_met = False
    for directory in searched_by_host(places, kind):
        path = directory / NAME
        if _same(path, places.ours[kind.directory]):
            ours_met = True
        if not _present(path) or _same(path, places.ours[kind.directory]):
            continue
        passed = None if ours_met else False
        if not path.exists():
            yield Check("copies", passed, f"{path} is a link to {os.readlink(path)}, which does not exist: remove it")
        elif path.is_symlink():
            yield Check("copies", passed, f"{path} is a link to another installation, {os.readlink(path)}: remove it")
        else:
            yield Check("copies", passed, f"{path} is another copy of the package: remove it")


def _check_symbols(places: Places) -> Check:
    directory = visible(places, SYMBOLS)
    if directory is None:
        return Check("symbols", False, f"vol does not find {places.ours[SYMBOLS.directory]}: {LINK}")
    tables = sorted(path.name for path in directory.iterdir() if path.suffix in {".json", ".xz", ".jsonl"})
    if not tables:
        return Check("symbols", False, f"{directory} holds no tables: reinstall {DISTRIBUTION}")
    return Check("symbols", True, f"{directory}: {', '.join(tables)}")


def _check_plugins(places: Places, vol: Path, run: HostRun) -> Iterator[Check]:
    for module in run.failures:
        yield Check("plugins", False, f"{module} does not load: `vol -vv --help` shows why")
    loaded = {name.split(".")[1] for name in run.plugins if name.count(".") > 1}
    missing = [module for module in plugin_modules(places.ours[PLUGINS.directory]) if module not in loaded]
    if not run.plugins:
        yield Check("plugins", False, f"{vol} finds none: {LINK}")
    elif missing:
        yield Check("plugins", False, f"{vol} does not find {', '.join(f'{NAME}.{name}' for name in missing)}")
    else:
        yield Check("plugins", True, ", ".join(name.rpartition(".")[0] for name in run.plugins))


def _check_vol(places: Places) -> Iterator[Check]:
    """Run the ``vol`` that a shell would start: it is the judge of what it finds."""
    vol = find_vol()
    if vol is None:
        yield Check("vol", False, "no such command on PATH or beside this interpreter: pip install volatility3")
        return
    ours = any(_same(vol.resolve().parent, Path(path)) for path in _script_directories())
    note = f"; of another environment than {sys.executable} (with pipx: pipx inject volatility3 {DISTRIBUTION})"
    yield Check("vol", True if ours else None, f"{vol}{'' if ours else note}")
    try:
        run = run_host(vol)
    except InstallationError as error:
        yield Check("plugins", False, str(error))
        return
    yield from _check_plugins(places, vol, run)
    if run.windbg:
        yield Check("renderer", True, "vol knows -r windbg")
    elif _version(places.host_version) < RENDERERS_OF_PLUGINS:
        yield Check("renderer", None, "vol before 2.28 does not take renderers from plugins: use `kdump vol -r windbg`")
    else:
        yield Check("renderer", None, "vol does not know -r windbg")


def _check_libraries() -> Iterator[Check]:
    for name, purpose in REQUIRED_LIBRARIES.items():
        there = importlib.util.find_spec(name) is not None
        yield Check("library", there, f"{name} {'is there' if there else 'is missing'}: {purpose}")
    for name, purpose in OPTIONAL_LIBRARIES.items():
        there = importlib.util.find_spec(name) is not None
        yield Check("library", None, f"{name} (optional) {'is there' if there else 'is not there'}: {purpose}")


def examine() -> list[Check]:
    """Every check of ``doctor``, in the order in which one depends on another."""
    try:
        places = find_places()
        checks = [_check_host(places), _check_package()]
        for kind in KINDS:
            checks += _check_copies(places, kind)
        checks += _check_vol(places)
        checks.append(_check_symbols(places))
    except InstallationError as error:
        return [Check("host", False, str(error))]
    return [*checks, *_check_libraries()]
