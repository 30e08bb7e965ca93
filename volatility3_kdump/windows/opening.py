"""Targets as every door opens them: with what a crash dump's header settles settled for memory images too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from volatility3_kdump.options import Options
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import settle

if TYPE_CHECKING:
    from volatility3.framework import interfaces


def open_target(path: str | os.PathLike[str], options: Options | None = None) -> Target:
    """Open a dump or a memory image. Raises a :class:`~volatility3_kdump.errors.KdumpError`."""
    return settle(Target.open(path, options))


def target_in(
    context: interfaces.context.ContextInterface, config_path: str, location: str, options: Options | None = None
) -> Target:
    """As :func:`open_target`, for a file URL in a context of the host's."""
    return settle(Target.from_context(context, config_path, location, options))
