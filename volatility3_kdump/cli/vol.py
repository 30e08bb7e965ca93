"""``kdump vol``: the host's own command line with all of ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from volatility3_kdump.cli.command import Command


def _spare_symbol_cache() -> None:
    """Keep the host from indexing every symbol table of its directories before one of our plugins runs.

    That takes 0.15 s for each table that is new to its cache, and our plugins find tables by name. In this process of
    ours only; plugins of the host get its cache as ever.
    """
    from volatility3.framework import automagic
    from volatility3.framework.automagic.symbol_cache import SymbolCacheMagic

    choose = automagic.choose_automagic

    def chosen(automagics: list[Any], plugin: type[Any]) -> list[Any]:
        magics: list[Any] = choose(automagics, plugin)
        if plugin.__module__.startswith("volatility3.plugins.kdump."):
            magics = [magic for magic in magics if not isinstance(magic, SymbolCacheMagic)]
        return magics

    automagic.choose_automagic = chosen


def run_vol(arguments: Sequence[str]) -> int:
    """``kdump vol``: the host's own command line, on our plugins even where nothing is installed or linked.

    Hosts before 2.28 list their renderers before they import plugins, so ours are imported first.
    """
    from volatility3_kdump import installation

    places = installation.find_places()
    sys.argv = ["vol", *arguments]  # the host takes its name from there when it is imported
    from volatility3 import cli
    from volatility3.framework import constants

    import volatility3_kdump.renderers  # noqa: F401

    # Not through the settings, which an explicit -p or -s would override.
    for kind, directories in (
        (installation.PLUGINS, constants.PLUGINS_PATH),
        (installation.SYMBOLS, constants.SYMBOL_BASEPATHS),
    ):
        parent = str(places.ours[kind.directory].parent)
        if parent not in directories:
            directories.insert(0, parent)
    _spare_symbol_cache()
    try:
        cli.main()
    except SystemExit as stopped:
        if stopped.code is None or isinstance(stopped.code, int):
            return stopped.code or 0
        raise
    return 0


def run(arguments: argparse.Namespace) -> int:
    """``kdump vol`` without anything that follows; options go to :func:`run_vol` as they are."""
    return run_vol(())


COMMAND = Command("vol", "run `vol` with the arguments that follow, with our plugins and renderers loaded", run)
