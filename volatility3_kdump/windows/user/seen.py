"""A target as one process sees it: with the memory and the modules of its user mode beside the kernel's.

What belongs to the machine as a whole (processors, pool, stacks of any thread) stays the target's own: ``once`` is
shared. What depends on the address space is the process's: memory, modules, images, names and types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.image_files import ImageSet, ModuleImage
from volatility3_kdump.images.modules import Module
from volatility3_kdump.symbols.joined_names import JoinedNames
from volatility3_kdump.symbols.objects import Types
from volatility3_kdump.symbols.sources import SymbolSources
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.user.code import UserCode, user_code
from volatility3_kdump.windows.user.spaces import user_space

T = TypeVar("T")
_NARROW_END = 1 << 32


class _Images(ImageSet):
    """The images of the kernel's modules and of a process's."""

    def __init__(self, target: Target, code: UserCode) -> None:
        super().__init__(code.space.memory, target.places.image_path, target.problems)
        self._kernel = target.images
        self._user = {image.module.base: image.image for image in code.images}

    def image_of(self, module: Module) -> ModuleImage:
        return self._user.get(module.base) or self._kernel.image_of(module)


class SeenTarget(Target):
    """A target as a process sees it; ``code`` is the code of its user mode."""

    def __init__(self, target: Target, code: UserCode) -> None:
        # What was read so far is shared, and what both need is read by the target.
        kernel_names = target.names
        _ = target.header, target.kernel, target.debugger
        vars(self).update(vars(target))
        self._whole = target
        self.code = code
        users = code.images
        self.memory = code.space.memory
        self.modules = [*target.modules, *(image.module for image in users)]
        self.images = _Images(target, code)
        self.names = JoinedNames([kernel_names, *(image.names for image in users)], target.memory.pointer_size)
        places = self.places
        self.symbol_sources = SymbolSources(
            self.images.image_of, places.isf_directories, places.symbol_path, self.problems, self.kernel
        )
        self.types = Types(self.memory, lambda: self.modules, self.types_of, self.names.address_of)

    def once(self, make: Callable[[Target], T]) -> T:
        return self._whole.once(make)


class _Views:
    """The views of a target, by EPROCESS: the target itself for a process whose user mode is not in the dump."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._views: dict[int, Target] = {}

    def of(self, process: int) -> Target:
        view = self._views.get(process)
        if view is None:
            view = self._views[process] = self._made(process)
        return view

    def _made(self, process: int) -> Target:
        target = self._target
        try:
            peb = read_process(target, process).peb
            # Dumps of the kernel alone: nothing more is asked of them.
            if not peb or user_space(target, process).memory.read(peb, 1) is None:
                return target
        except KdumpError:
            return target
        code = user_code(target, process)
        return target if isinstance(code, str) else SeenTarget(target, code)


def seen_by(target: Target, process: int | None) -> Target:
    """The target as the process at an EPROCESS sees it; the target itself where that adds nothing."""
    return target if process is None or target.nt is None else target.once(_Views).of(process)


def architecture_at(target: Target, address: int) -> str:
    """The architecture of the code at an address: 64-bit Windows runs 32-bit programs too.

    What a 32-bit program makes outside of its modules is its own.
    """
    if isinstance(target, SeenTarget) and target.code.wow64 and address < _NARROW_END:
        if target.code.is_narrow(address) or target.code.image_of(address) is None:
            return "x86"
    return target.header.architecture
