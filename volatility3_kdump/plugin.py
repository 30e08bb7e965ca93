"""What the suite's plugins share: their options, opening the dump, and errors in one line."""

from __future__ import annotations

import abc
import sys
from typing import Any

from volatility3.framework import interfaces
from volatility3.framework.configuration import requirements

import volatility3_kdump.layers
import volatility3_kdump.renderers  # noqa: F401 - registers the renderer with the host
from volatility3_kdump.errors import KdumpError, ReadLimit
from volatility3_kdump.escape import printable, show_every_character
from volatility3_kdump.options import Options, kernel_base
from volatility3_kdump.target import Target
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.windows.opening import target_in

_LOCATION = "automagic.LayerStacker.single_location"


def list_option(name: str, description: str, element_type: type = str) -> requirements.ListRequirement:
    """An option that takes any number of values and is an empty list where it is not given."""
    return requirements.ListRequirement(
        name=name, element_type=element_type, description=description, optional=True, default=[]
    )


class PluginFailure(Exception, SystemExit):
    """A plugin cannot go on: an ordinary exception for a program that drives it, one line and status 1 on a terminal.

    The command line of the host turns its own exceptions into several lines that ask for a bug report.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message


class _HiddenHere:
    """True for the class that has it, false for its subclasses: keeps a base out of the host's list of plugins.

    The host's own decorator for this does not hide anything.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, instance: object, owner: type) -> bool:
        return owner is self._owner


def _escaping(progress: Any) -> Any:
    """The host's progress, made fit for a terminal: what is done is told by names of the dump, and printed as it is."""
    return progress and (lambda percent, what: progress(percent, what and printable(what)))


def _failure(error: Exception) -> PluginFailure:
    if sys.stderr.isatty():
        # The host's progress stands on the line, which ends with a carriage return only.
        sys.stderr.write(f"\r{' ' * 79}\r")
    return PluginFailure(f"kdump: {printable(str(error))}")


class KdumpPlugin(interfaces.plugins.PluginInterface):  # type: ignore[misc]
    """Base of the plugins. Subclasses say what they show in :meth:`grid`."""

    _required_framework_version = (2, 0, 0)
    _version = (1, 0, 0)
    hidden = _HiddenHere()

    #: Whether the plugin can run without a dump.
    needs_dump = True

    def __init__(self, context: Any, config_path: str, progress_callback: Any = None) -> None:
        super().__init__(context, config_path, _escaping(progress_callback))
        # The host saves a plugin's configuration before it runs: the dump has to be in it by then.
        location = self.context.config.get(_LOCATION, None)
        if location:
            self.config["dump"] = location

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        # No layer requirement: the host would scan for layers that a crash dump names, and report a bad file as an
        # unsatisfied requirement. The plugin builds its layers from the location itself.
        return [
            requirements.URIRequirement(
                name="dump", description="The crash dump, when it is not given with -f", optional=True
            ),
            list_option("isf-dir", "Directories searched for symbol tables before the host's own"),
            requirements.StringRequirement(
                name="isf-file", description="The kernel's symbol table itself (ISF, .json or .json.xz)", optional=True
            ),
            list_option(
                "symbol-path",
                "Where PDB and image files are, as KD's -y; by default _NT_SYMBOL_PATH, else srv*; '' is nowhere",
            ),
            list_option("image-path", "Where image files are, as KD's -i; by default _NT_EXECUTABLE_IMAGE_PATH"),
            requirements.BooleanRequirement(
                name="offline",
                description="Ask no symbol server, whatever the paths say (also: KDUMP_OFFLINE=1)",
                optional=True,
                default=False,
            ),
            requirements.StringRequirement(
                name="member",
                description="The dump inside an archive (CAB, zip, 7z): its name or number; by default the only one",
                optional=True,
            ),
            requirements.StringRequirement(
                name="kernel-base",
                description="Address of the kernel to show, of a memory image that holds several",
                optional=True,
            ),
            *cls.options(),
        ]

    @classmethod
    def options(cls) -> list[interfaces.configuration.RequirementInterface]:
        """The plugin's own options."""
        return []

    def run(self) -> KdumpGrid:
        """Open the dump and build the grid. Raises :class:`PluginFailure`."""
        # The renderers of the host write names as they are.
        show_every_character(sys.stdout)
        try:
            target = self._open() if self.needs_dump else None
            if target is not None:
                target.memory.budget.begin()
            grid = self.grid(target)
        except (KdumpError, ReadLimit) as error:
            raise _failure(error) from error
        grid.failure = _failure
        return grid

    @abc.abstractmethod
    def grid(self, target: Target | None) -> KdumpGrid:
        """The plugin's table and KD text."""

    def _open(self) -> Target:
        location = self.config.get("dump", None)
        if not location:
            raise KdumpError("no dump given: use -f FILE")
        return target_in(
            self.context,
            interfaces.configuration.path_join(self.config_path, "target"),
            location,
            Options(
                self.config.get("isf-dir", None) or (),
                self.config.get("isf-file", None),
                self.config.get("symbol-path", None) or None,
                self.config.get("image-path", None) or None,
                self.config.get("member", None),
                bool(self.config.get("offline", None)) or None,
                self._progress_callback,
                self._kernel(),
            ),
        )

    def _kernel(self) -> int | None:
        text = self.config.get("kernel-base", None)
        try:
            return kernel_base(text) if text else None
        except ValueError as error:
            raise KdumpError(f"--kernel-base: {error}") from error

    def option(self, name: str) -> Any:
        """The value of one of the plugin's options."""
        return self.config.get(name, None)
