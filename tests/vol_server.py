"""``vol`` many times without importing the host and its plugins each time: a process that forks for each command line.

The child is what ``vol`` is once it has imported what it always imports: it runs the host's own ``main`` and ends as
the interpreter ends. Requests come over a Unix socket, with the files for stdout and stderr; :class:`VolServer` is the
other end. Where the system has no ``fork``, :meth:`VolServer.possible` says so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_LONGEST_REQUEST = 1 << 16

#: Seconds of processor time that command lines have taken and that the system does not count for this process yet: it
#: does so when a server ends.
uncounted = [0.0]


class VolServer:
    """Runs ``vol`` with plugins of a directory. ``environment`` is that of every run."""

    def __init__(self, plugins: Path, environment: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), str(plugins)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._answers = self._ours.makefile("r")
        self._uncounted = 0.0

    @staticmethod
    def possible() -> bool:
        return hasattr(os, "fork") and hasattr(socket, "send_fds")

    def run(self, arguments: Sequence[str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run(["vol", ...], capture_output=True, text=True)``."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = json.dumps({"arguments": list(arguments), "cwd": str(cwd)}).encode()
            assert len(request) < _LONGEST_REQUEST
            socket.send_fds(self._ours, [request], [out.fileno(), err.fileno()])
            self._ours.settimeout(timeout)
            child = int(self._answers.readline())
            try:
                status, seconds = self._answers.readline().split()
            except TimeoutError as error:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                self._ours.settimeout(None)
                self._answers = self._ours.makefile("r")
                self._answers.readline()
                raise subprocess.TimeoutExpired(["vol", *arguments], timeout) from error
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode().replace("\r\n", "\n").replace("\r", "\n"))
        self._count(float(seconds))
        return subprocess.CompletedProcess(["vol", *arguments], int(status), *texts)

    def _count(self, seconds: float) -> None:
        self._uncounted += seconds
        uncounted[0] += seconds

    def close(self) -> None:
        self._answers.close()
        self._ours.close()
        self._process.wait()
        self._count(-self._uncounted)


def serve(connection: socket.socket) -> bool:
    """Fork for each request. True in a child, which has its output and its arguments; False at the end."""
    while True:
        request, files, _, _ = socket.recv_fds(connection, _LONGEST_REQUEST, 2)
        if not request:
            return False
        child = os.fork()
        if child == 0:
            connection.close()
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
                os.close(file)
            asked = json.loads(request)
            os.chdir(asked["cwd"])
            sys.argv = ["vol", *asked["arguments"]]
            return True
        for file in files:
            os.close(file)
        connection.sendall(b"%d\n" % child)
        _, status, usage = os.wait4(child, 0)
        seconds = usage.ru_utime + usage.ru_stime
        connection.sendall(f"{os.waitstatus_to_exitcode(status)} {seconds}\n".encode())


def prepare() -> None:
    """Do once what every run would do: read the table of the kernel that most dumps are of, import what shows it."""
    import gc
    import gettext

    from volatility3 import framework, schemas
    from volatility3.framework import layers

    from volatility3_kdump import views
    from volatility3_kdump.symbols.isf import load_table_file
    from volatility3_kdump.tables import kernel_table_path

    # The host's layers for storage in clouds bring hundreds of modules, where those are installed.
    framework.import_files(layers, True)
    load_table_file(kernel_table_path())
    for module in pkgutil.iter_modules(views.__path__):
        importlib.import_module(f"{views.__name__}.{module.name}")
    # Where jsonschema is installed, the host holds each symbol table that it reads against a schema, for ten seconds.
    schemas.valid = lambda *_, **__: True
    # argparse looks for a translation of each of its words in six hundred places.
    gettext.find = functools.lru_cache(gettext.find)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    # The program's name is what the host's messages begin with; arguments of its own it has none as yet.
    asked_on, own_plugins = int(sys.argv[1]), sys.argv[2]
    sys.argv = ["vol"]
    sys.path.pop(0)  # of the tests: the host has no such thing
    from volatility3 import cli, framework, plugins

    plugins.__path__.insert(0, own_plugins)
    framework.import_files(plugins, True)
    prepare()
    if serve(socket.socket(fileno=asked_on)):
        cli.main()
