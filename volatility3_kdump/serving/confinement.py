"""What the process of a dump may touch: it reads dumps, symbols and itself, writes caches only, and has so much memory.

Two walls. Commands that open, write or run files are refused by name, with a sentence. Behind them stands a hook of the
interpreter (``sys.addaudithook``), which cannot be taken away again: files outside of the named folders are not opened,
whoever asks, and nothing is written, renamed, removed or run outside of the caches. It confines our own code, not
machine code that a fault in a native library might let in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from volatility3_kdump.console.commands import find
from volatility3_kdump.console.script import split
from volatility3_kdump.console.syntax import Kind
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.serving.folders import is_within
from volatility3_kdump.stores.servers import MICROSOFT

#: Commands that have to do with files, other dumps, or the end of the session.
_REFUSED = {
    **dict.fromkeys((".logopen", ".logappend", ".logclose"), "it writes files"),
    **dict.fromkeys((".writemem", ".dump", ".dumpcab", "!kdump.report"), "it writes files"),
    **dict.fromkeys((".opendump", "||"), "the tool open_dump opens dumps"),
    **dict.fromkeys((".shell", ".create", ".attach"), "it runs programs"),
    **dict.fromkeys((".scriptload", ".scriptrun", ".load", ".readmem"), "it takes files"),
    **dict.fromkeys(("$<", "$><", "$$<", "$$><", "$$>a<"), "it takes a file of commands"),
    **dict.fromkeys(("q", "qq", "qd"), "the tool close_dump ends the session"),
}
#: ``$<FILE`` and its kin run files of commands.
_SCRIPT = re.compile(r"\s*\$\$?>?(a)?<")
#: Options of programs that read files or the environment.
_READING = re.compile(r"\s*(as\s+/[ef]\b|\.foreach\b[^({]*/f\b)", re.IGNORECASE)
_PATHS = (".sympath", ".exepath", ".symfix", ".srcpath", ".imgpath")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Parts of the system that libraries read: time zones, certificates, names of hosts, what the process itself is.
_SYSTEM = (
    *("/dev/null", "/dev/urandom", "/dev/random", "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/sys/fs/cgroup"),
    *("/usr/share/zoneinfo", "/usr/share/ca-certificates", "/usr/lib/ssl", "/usr/local/share/ca-certificates"),
    *("/etc/ssl", "/etc/pki", "/etc/localtime", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"),
    *("/etc/gai.conf", "/etc/host.conf", "/etc/mime.types"),
)
#: Events of the interpreter that change files, with the arguments that are paths.
_CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), (0, 1)),
    **dict.fromkeys(("os.setxattr", "os.removexattr"), (0,)),
}
_LISTS = ("os.listdir", "os.scandir")
_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.startfile/2", "pty.spawn")


# commands -------------------------------------------------------------------------------------------------------------


class Refused(KdumpError):
    """Something that is not done for a client."""


def refuse(line: str, allowed: Sequence[str]) -> None:
    """Raise :class:`Refused` for a line with a command that a client may not give.

    ``allowed`` are the folders and servers that a path of symbols or images may name. What stands in blocks and aliases
    is asked again when it runs (``Session.guard``).
    """
    if any(_SCRIPT.match(part) for part in line.split(";")):
        raise Refused("files of commands are not run here: give the commands themselves")
    for command_line in split(line):
        if _READING.match(command_line):
            raise Refused("files and the environment are not read by commands here")
        names = {command_line.split(maxsplit=1)[0].lower()}
        try:
            entry, arguments = find(command_line)
        except KdumpError:
            pass  # no command: the prompt says so
        else:
            names |= {name.lower() for name in entry.names} | {arguments.name.lower()}
            if any(argument.kind is Kind.FILE for argument in entry.syntax.arguments) and not names & set(_REFUSED):
                raise Refused(f"{arguments.name} is not available here: it takes a file")
            if any(name.rstrip("+") in _PATHS for name in names):
                _refuse_path(arguments.name, arguments.text, allowed)
        typed = command_line.split(maxsplit=1)[0].lower()
        # The name that was typed stands first: a command has several.
        for name in sorted(names & set(_REFUSED), key=lambda name: (name != typed, name)):
            raise Refused(f"{name} is not available here: {_REFUSED[name]}")


def _refuse_path(name: str, text: str, allowed: Sequence[str]) -> None:
    """Raise :class:`Refused` for a path with a place that is none of the allowed ones."""
    for element in re.split(r"[;*]", text.lstrip("+ ")):
        place = element.strip().strip('"')
        if not place or place.lower() in ("srv", "symsrv", "cache", "symsrv.dll"):
            continue
        if "://" in place:
            if place.rstrip("/").lower() not in {
                MICROSOFT.rstrip("/").lower(),
                *(source.lower() for source in allowed),
            }:
                raise Refused(f"{name} may not name the server {place}: kdump mcp -y PATH names servers")
        elif not is_within(place, [source for source in allowed if "://" not in source]):
            raise Refused(f"{name} may not name {place}: it is outside of the folders of --root and of the cache")


# files ----------------------------------------------------------------------------------------------------------------


def confine(readable: Iterable[str], writable: Iterable[str], executable: str, offline: bool) -> None:
    """From now on this process opens files in these folders only, and writes in the ``writable`` ones only.

    It starts no program but ``executable``, this Python, which the native decoders of archives run in.
    """
    writes = [os.path.realpath(place) for place in writable]
    reads = [os.path.realpath(place) for place in (*readable, *_SYSTEM)] + writes
    devices = {os.path.realpath(os.devnull)}

    def check(path: Any, folders: list[str], what: str) -> None:
        if path is None or isinstance(path, int):
            return
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
        if not is_within(name, folders):
            raise PermissionError(errno.EACCES, f"outside of the folders that may be {what} here", name)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writing = bool((flags or 0) & _WRITING) or any(letter in (mode or "") for letter in "wax+")
            check(path, [*writes, *devices] if writing else reads, "written" if writing else "read")
        elif event in _LISTS:
            check(arguments[0], reads, "read")
        elif event in _CHANGES:
            for number in _CHANGES[event]:
                check(arguments[number], writes, "written")
        elif event == "subprocess.Popen":
            if os.path.realpath(os.fsdecode(arguments[0])) != os.path.realpath(executable):
                raise PermissionError(errno.EACCES, "no program is run here", os.fsdecode(arguments[0]))
        elif event in _PROGRAMS:
            raise PermissionError(errno.EACCES, "no program is run here")
        elif event in ("socket.connect", "socket.bind") and offline:
            raise PermissionError(errno.EACCES, "no server is asked here")

    sys.addaudithook(hook)


def limit_memory(size: int) -> None:
    """Let this process have at most so many bytes of memory of its own, where the system can see to it (Linux).

    Not of address space: files that are mapped for reading, dumps among them, cost none.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
