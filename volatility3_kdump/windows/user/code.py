"""The code of processes: which module an address of user mode lies in, its name, and the unwind data there.

A DLL that several processes share is read once: what one of them lacks of it, another one may hold.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

from volatility3_kdump.cpu import amd64_unwind, arm64_unwind
from volatility3_kdump.cpu.x86_frames import FrameData
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.image_files import ModuleImage
from volatility3_kdump.images.modules import Module, debugger_name
from volatility3_kdump.images.pe import EXCEPTION, LOAD_CONFIG
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.lines import SourceLine
from volatility3_kdump.symbols.names import AddressNames, Name
from volatility3_kdump.symbols.sources import SymbolSources
from volatility3_kdump.windows.user.loader import UserModule, mapped_images, narrow_peb, user_modules
from volatility3_kdump.windows.user.spaces import UserSpace, user_space

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: How many processes' memory is tried for a page of a DLL.
_MOST_MEMORIES = 8
_MOST_REMEMBERED = 0x4000
#: No image is larger.
_LARGEST = 1 << 31
_ARM64, _X64 = 0xAA64, 0x8664
#: What ARM64 runs besides its own code; all but ARM32 by translation while it runs.
_FOREIGN = {_X64: "x64", 0x14C: "x86", 0x1C4: "ARM32"}
#: CHPEMetadataPointer of IMAGE_LOAD_CONFIG_DIRECTORY64 (winnt.h): images of ARM64EC are marked as x64 and have it.
_CHPE_AT, _ARM64EC = 0xC8, "ARM64EC"


class UserImage:
    """One module as the processes that have it at this base share it."""

    def __init__(self, target: Target, module: Module) -> None:
        self.module = module
        self._memories: list[Memory] = []
        memory = Memory(self._read, target.memory.pointer_size, self._why)
        problems: list[str] = []
        places = target.places
        self.image = ModuleImage(module, memory, places.image_path, problems)
        self._sources = sources = SymbolSources(
            lambda module: self.image, places.isf_directories, places.symbol_path, problems
        )
        self.names = AddressNames([module], {}, sources.find, lambda module: self.image.headers(), sources.lines)
        self._table: Any = None
        self._made = False
        self._arm64 = target.header.architecture == "arm64"

    def add(self, memory: Memory) -> None:
        """Another process that has the module."""
        if len(self._memories) < _MOST_MEMORIES:
            self._memories.append(memory)

    def _read(self, address: int, size: int) -> bytes | None:
        for memory in self._memories:
            data = memory.read(address, size)
            if data is not None:
                return data
        return None

    def _why(self, address: int) -> str:
        return self._memories[0].why_unreadable(address) if self._memories else "not in the dump"

    def frame_data(self, address: int) -> FrameData | None:
        """What its PDB says of the frame of 32-bit code; ``None`` without."""
        frames = self._sources.frames(self.module)
        return None if frames is None else frames.find(address - self.module.base)

    @property
    def table(self) -> Any:
        """Its function table; ``None`` where its headers are not to be had, or there is none."""
        if not self._made:
            self._made = True
            headers = self.image.headers()
            if headers is not None and headers.directories:
                located = headers.directory(EXCEPTION)
                if not self._arm64:
                    self._table = amd64_unwind.FunctionTable(self.image.read, located, self.module.size)
                elif headers.machine == _ARM64:
                    self._table = arm64_unwind.FunctionTable(self.image.read, located, self.module.size)
        return self._table

    @property
    def foreign(self) -> str | None:
        """Of an ARM64 machine what else the module is made for: ``x64``, ``ARM64EC``, ``x86``, ``ARM32``.

        ``None`` for code of ARM64, and where its headers are not to be had.
        """
        headers = self.image.headers()
        if not self._arm64 or headers is None or headers.machine == _ARM64:
            return None
        config = headers.directory(LOAD_CONFIG) if headers.machine == _X64 else None
        if config is not None:
            size, pointer = self.image.read(config[0], 4), self.image.read(config[0] + _CHPE_AT, 8)
            if size and int.from_bytes(size, "little") >= _CHPE_AT + 8 and pointer and any(pointer):
                return _ARM64EC
        return _FOREIGN.get(headers.machine, f"machine {headers.machine:#x}")

    @property
    def why_foreign(self) -> str | None:
        """Why its code is not walked on an ARM64 machine; ``None`` where it is."""
        kind = self.foreign
        if kind is None:
            return None
        if kind == _ARM64EC:
            return "ARM64EC code, whose unwind data (in its CHPE metadata) is not read"
        translated = ", which is translated while it runs" if kind in ("x64", "x86") else ""
        return f"{kind} code{translated}: its frames are not walked"


class _Images:
    """The modules of all processes of a target, by what tells them apart."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._images: dict[tuple[object, ...], UserImage] = {}

    def of(self, module: UserModule, memory: Memory) -> UserImage:
        name = module.name or f"{module.base:x}"
        key = (module.base, module.size, module.timestamp, (module.path or name).lower())
        image = self._images.get(key)
        if image is None:
            short = debugger_name(name)
            if module.narrow and short.lower() == "ntdll":
                # There are two of them in a process.
                short = f"{short}_{module.base:x}"
            loaded = Module(short, name, module.path, module.base, module.size or 0, module.timestamp, None)
            image = self._images[key] = UserImage(self._target, loaded)
        image.add(memory)
        return image


class UserCode:
    """The code of one process."""

    def __init__(self, space: UserSpace) -> None:
        self.space = space
        listing = user_modules(space)
        self.problems = listing.problems
        self._complete = bool(listing.problems)
        self._images: list[UserImage] = []
        self._bases: list[int] = []
        self._set(list(listing.modules))
        self._places: dict[int, UserImage | None] = {}
        self._names: dict[tuple[int, bool], Name | None] = {}
        #: Whether the process runs 32-bit code on 64-bit Windows.
        self.wow64 = narrow_peb(space) is not None

    def _set(self, modules: list[UserModule]) -> None:
        images = self.space.target.once(_Images)
        # The program of a 32-bit process is in both lists; the one that the 32-bit loader has comes last.
        by_base = {module.base: module for module in modules if module.size and module.size <= _LARGEST}
        self._modules = [by_base[base] for base in sorted(by_base)]
        self._images = [images.of(module, self.space.memory) for module in self._modules]
        self._bases = [module.base for module in self._modules]

    @property
    def images(self) -> tuple[UserImage, ...]:
        """The modules that are known so far, by address."""
        return tuple(self._images)

    @property
    def has_modules(self) -> bool:
        """Whether anything is known of what is loaded."""
        return bool(self._modules)

    def image_of(self, address: int) -> UserImage | None:
        """The module that an address lies in; ``None`` outside of all."""
        try:
            return self._places[address]
        except KeyError:
            image = self._find(address)
            if image is None and not self._complete:
                # What the loader does not list, the VADs may know.
                self._complete = True
                bases = set(self._bases)
                self._set([*self._modules, *(new for new in mapped_images(self.space) if new.base not in bases)])
                self._places.clear()
                image = self._find(address)
            if len(self._places) >= _MOST_REMEMBERED:
                self._places.clear()
            self._places[address] = image
            return image

    @property
    def foreign(self) -> tuple[str, ...]:
        """What modules of an ARM64 process are made for besides ARM64, as far as their headers are to be had."""
        return tuple(sorted({image.foreign for image in self._images if image.foreign is not None}))

    def frame_data(self, address: int) -> FrameData | None:
        """What the PDB of its module says of the frame of 32-bit code; ``None`` without."""
        image = self.image_of(address)
        return None if image is None else image.frame_data(address)

    def is_narrow(self, address: int) -> bool:
        """Whether an address lies in a module of the 32-bit loader."""
        index = bisect.bisect_right(self._bases, address) - 1
        return index >= 0 and address < self._modules[index].end and self._modules[index].narrow

    def _find(self, address: int) -> UserImage | None:
        index = bisect.bisect_right(self._bases, address) - 1
        if index < 0 or address >= self._modules[index].end:
            return None
        return self._images[index]

    def name_at(self, address: int, call_site: bool) -> Name | None:
        """The name of an address; a return address is looked up as the call before it."""
        key = (address, call_site)
        try:
            return self._names[key]
        except KeyError:
            image = self.image_of(address)
            name = None
            if image is not None:
                name = image.names.lookup_return(address) if call_site else image.names.lookup(address)
            if len(self._names) >= _MOST_REMEMBERED:
                self._names.clear()
            self._names[key] = name
            return name

    def line_at(self, address: int, call_site: bool) -> SourceLine | None:
        """The source line of an address; of a return address that of the call."""
        image = self.image_of(address)
        return None if image is None else image.names.line_of(address, call_site)


class _Codes:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._codes: dict[int, UserCode | str] = {}

    def of(self, process: int) -> UserCode | str:
        """The code of a process, or why there is none."""
        code = self._codes.get(process)
        if code is None:
            try:
                space = user_space(self._target, process)
                code = UserCode(space) if _holds(space) else "its user mode is not in the dump"
                if isinstance(code, UserCode) and not code.has_modules:
                    code = "no modules are known of its user mode"
            except KdumpError as error:
                code = str(error)
            self._codes[process] = code
        return code


def _holds(space: UserSpace) -> bool:
    """Whether the dump holds anything of the user mode of a process: dumps of the kernel leave it out as a whole."""
    peb = space.process.peb
    if peb and space.memory.read(peb, 1) is not None:
        return True
    ranges = next(space.memory.present(0, space.end), None)
    return ranges is not None


def user_code(target: Target, process: int) -> UserCode | str:
    """The code of the process at an EPROCESS, or in words why it cannot be read."""
    return target.once(_Codes).of(process)
