"""``vol`` for one of our plugins in the process of the tests.

It runs the host's own command line: its parser, its configuration, its renderers, its exit. Left out is what takes it
half a second each time and changes nothing for a plugin of ours: importing all plugins again, a parser for each, and
the automagics, which find layers and symbols for plugins that ask the host for them. :mod:`tests.vol_server` runs all
of it, and does so instead of this with ``--thorough``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import volatility3.plugins
import volatility3.symbols
from volatility3 import cli, framework
from volatility3.framework import automagic, constants


class VolHere:
    """Runs ``vol`` with our plugins in this process. ``environment`` is that of every run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        framework.import_files(volatility3.plugins, True)
        self._plugins = framework.list_plugins()

    def run(self, arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run(["vol", ...], capture_output=True, text=True)``."""
        (asked,) = [argument for argument in arguments if argument.startswith("kdump.")]
        listed = {name: plugin for name, plugin in self._plugins.items() if name.startswith(f"{asked}.")}
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        with (
            _as_it_was(err),
            mock.patch.dict(os.environ, self._environment, clear=True),
            mock.patch.object(sys, "argv", ["vol", *arguments]),
            mock.patch.object(framework, "import_files", lambda *_: []),
            mock.patch.object(framework, "list_plugins", lambda: listed),
            mock.patch.object(automagic, "available", lambda _: []),
            _directory(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = _status_of(cli.main)
        return subprocess.CompletedProcess(["vol", *arguments], status, *map(_text, (out, err)))


def _status_of(main: Any) -> int:
    """What the interpreter ends with, and prints, where ``main`` ends it."""
    try:
        main()
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or 0
        sys.stderr.write(f"{exit_.code}\n")
        return 1
    return 0


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _as_it_was(err: TextIO) -> Iterator[None]:
    """Take back what a run of the host leaves in the process; what it logs goes to its own stderr only."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.handlers.clear()
    stream = cli.console.setStream(err)
    with (
        # The host takes the name from the program that imports it.
        mock.patch.object(cli.CommandLine, "CLI_NAME", "vol"),
        mock.patch.object(volatility3.plugins, "__path__", volatility3.plugins.__path__),
        mock.patch.object(volatility3.symbols, "__path__", volatility3.symbols.__path__),
        mock.patch.multiple(
            constants, **{name: getattr(constants, name) for name in ("CACHE_PATH", "OFFLINE", "PARALLELISM")}
        ),
    ):
        try:
            yield
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers
            if stream is not None:
                cli.console.setStream(stream)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read().replace("\r\n", "\n").replace("\r", "\n")
