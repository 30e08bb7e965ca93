"""What a command of ``kdump`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that has none."""


@dataclass(frozen=True)
class Command:
    """A command: its name, the line that ``kdump -h`` has for it, what carries it out, what declares its options.

    ``run`` returns the exit status, or raises a :class:`~volatility3_kdump.errors.KdumpError` of one line.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = no_arguments

    def add_to(self, parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Declare it to argparse; ``run`` of the result is what carries it out."""
        parser = parsers.add_parser(self.name, help=self.help)
        self.add_arguments(parser)
        parser.set_defaults(run=self.run)
