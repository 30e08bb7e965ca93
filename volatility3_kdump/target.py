"""Target: one opened crash dump, as everything above the layers sees it.

A target bundles the dump file, the virtual memory that its layers give, the kernel's symbols if they are at hand, and
the values that many views share: modules, processors, the crashing thread. Everything is read when first asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

from volatility3_kdump.archives.archive import shown
from volatility3_kdump.cpu.calls import follows_call
from volatility3_kdump.cpu.context import Context, parse_context
from volatility3_kdump.dump import (
    PAGE_SIZE,
    PHYSICAL_TYPES,
    CrashDump,
    DumpHeader,
    DumpType,
    Segment,
    open_dump,
    parse_header,
)
from volatility3_kdump.errors import KdumpError, KernelNotFound
from volatility3_kdump.images import modules as nt_modules
from volatility3_kdump.images.image_files import ImageSet
from volatility3_kdump.images.modules import Module, UnloadedModule
from volatility3_kdump.images.pe import PeImage
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.memory import Memory
from volatility3_kdump.progress import Progress
from volatility3_kdump.stores.paths import IMAGE_PATH_VARIABLE, SYMBOL_PATH_VARIABLE, PathText, SearchPath
from volatility3_kdump.stores.servers import KNOWN_HOSTS, Servers
from volatility3_kdump.symbols.converted import table_from_pdb
from volatility3_kdump.symbols.generations import generation_offset
from volatility3_kdump.symbols.isf import how_to_get, load_kernel_table, load_table_file
from volatility3_kdump.symbols.kdbg import DebuggerData, decode_debugger_data, read_debugger_data
from volatility3_kdump.symbols.kernel import Kernel, PdbIdentity, find_kernel
from volatility3_kdump.symbols.names import AddressNames, Name
from volatility3_kdump.symbols.sources import SymbolSources, SymbolTable
from volatility3_kdump.symbols.types import TypeTable

if TYPE_CHECKING:
    from volatility3.framework import interfaces

    from volatility3_kdump.archives.containers import Extracted

T = TypeVar("T")

ISF_DIRECTORY_VARIABLE = "KDUMP_ISF_DIR"


class Target:
    """One opened dump. Create it with :meth:`open`, :meth:`from_context` or :func:`volatility3_kdump.open`.

    ``context`` is the Volatility context that holds the layers; ``layer_name`` names the virtual layer, ``None`` where
    the dump gives no virtual memory; ``physical_layer_name`` is ``None`` for small memory dumps.
    """

    def __init__(
        self,
        name: str,
        dump: CrashDump,
        context: interfaces.context.ContextInterface,
        layer_name: str | None,
        physical_layer_name: str | None,
        isf_directories: Sequence[Path] = (),
        isf_file: Path | None = None,
        symbol_path: SearchPath | None = None,
        image_path: SearchPath | None = None,
    ) -> None:
        self.name = name
        self.dump = dump
        self.context = context
        self.layer_name = layer_name
        self.physical_layer_name = physical_layer_name
        self._isf_directories = list(isf_directories)
        self._isf_file = isf_file
        self._symbol_path = SearchPath() if symbol_path is None else symbol_path
        self._image_path = SearchPath() if image_path is None else image_path
        self._type_tables: dict[int, TypeTable | None] = {}
        #: The container that the dump was taken out of, ``None`` for a plain file.
        self.container: Extracted | None = None
        self._made: dict[Callable[[Target], Any], Any] = {}
        #: What was found wrong while reading, one line each; views append to it.
        self.problems: list[str] = [*self._symbol_path.complaints, *self._image_path.complaints]

    def once(self, make: Callable[[Target], T]) -> T:
        """What ``make`` gives for this target; made when it is first asked for, and kept as long as the target.

        So those who read a structure keep what others read of it as well. ``make`` is a function or class, not a
        closure: it is the key.
        """
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made

    # opening ----------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        isf_directories: Sequence[str | os.PathLike[str]] = (),
        isf_file: str | os.PathLike[str] | None = None,
        symbol_path: PathText | Sequence[PathText] | None = None,
        image_path: PathText | Sequence[PathText] | None = None,
        member: str | None = None,
        progress: Progress | None = None,
        offline: bool | None = None,
    ) -> Target:
        """Open a dump file for a script.

        ``isf_directories`` are searched for symbol tables before the host's directories; ``isf_file`` names the
        kernel's table itself. ``symbol_path`` and ``image_path`` are where PDB files and image files are looked for, in
        the grammar of :mod:`volatility3_kdump.stores.paths`; by default those of the debugger's environment variables
        ``_NT_SYMBOL_PATH`` and ``_NT_EXECUTABLE_IMAGE_PATH``. Symbol servers that they name are asked unless
        ``offline`` is true; by default, the environment variable ``KDUMP_OFFLINE`` and the host's ``--offline`` decide.
        Of an archive, the dump inside is opened; ``member`` is
        its name or number where several are, and ``progress`` is told the percentage and what is done while it is
        extracted. Raises a :class:`~volatility3_kdump.errors.KdumpError`.
        """
        from volatility3.framework import contexts

        location = Path(path).absolute().as_uri()
        return cls.from_context(
            contexts.Context(),
            "kdump",
            location,
            isf_directories,
            isf_file,
            symbol_path,
            image_path,
            member,
            progress,
            offline,
        )

    @classmethod
    def from_context(
        cls,
        context: interfaces.context.ContextInterface,
        config_path: str,
        location: str,
        isf_directories: Sequence[str | os.PathLike[str]] = (),
        isf_file: str | os.PathLike[str] | None = None,
        symbol_path: PathText | Sequence[PathText] | None = None,
        image_path: PathText | Sequence[PathText] | None = None,
        member: str | None = None,
        progress: Progress | None = None,
        offline: bool | None = None,
    ) -> Target:
        """Build the layers for a file URL in a context, and the target over them.

        The URL's fragment may name the member of an archive. The other parameters are those of :meth:`open`. Raises a
        :class:`~volatility3_kdump.errors.KdumpError` whose text starts with the file's name.
        """
        name = _display_name(location)
        directories = [Path(directory) for directory in isf_directories]
        if os.environ.get(ISF_DIRECTORY_VARIABLE):
            directories += [Path(part) for part in os.environ[ISF_DIRECTORY_VARIABLE].split(os.pathsep) if part]
        # Shared by both paths: a host that does not answer one of them need not be asked for the other.
        servers = Servers(offline=offline or None, progress=progress, hosts=KNOWN_HOSTS)
        construct = functools.partial(
            cls,
            isf_directories=directories,
            isf_file=Path(isf_file) if isf_file else None,
            symbol_path=_search_path(symbol_path, "symbol path", SYMBOL_PATH_VARIABLE, servers),
            image_path=_search_path(image_path, "image path", IMAGE_PATH_VARIABLE, servers),
        )
        try:
            _refuse_unopenable(location)
            from volatility3_kdump.layers.container import extract

            extracted = extract(location, member, progress)
            try:
                target = cls._build(context, config_path, location, name, construct, extracted)
            except KdumpError as error:
                if extracted is None:
                    raise
                raise type(error)(f"{shown(extracted.member.name)} inside: {error}") from error
        except KdumpError as error:
            raise type(error)(f"{name}: {error}") from error
        target._add_container(extracted, progress)
        return target

    @classmethod
    def _build(
        cls,
        context: interfaces.context.ContextInterface,
        config_path: str,
        location: str,
        name: str,
        construct: Callable[[str, CrashDump, Any, str | None, str | None], Target],
        extracted: Extracted | None,
    ) -> Target:
        from volatility3.framework import interfaces
        from volatility3.framework.layers import physical

        from volatility3_kdump.layers.container import member_layer
        from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer, source_of
        from volatility3_kdump.layers.translation import build_virtual_layer
        from volatility3_kdump.layers.triage import KdumpTriageLayer

        join = interfaces.configuration.path_join
        file_path = join(config_path, "dump_file")
        if extracted is not None:
            file_layer = member_layer(context, file_path, location, extracted)
        else:
            context.config[join(file_path, "location")] = location
            file_layer = physical.FileLayer(context, file_path, context.layers.free_layer_name("FileLayer"))
        source = source_of(file_layer)
        header = parse_header(source)
        if header.dump_type != DumpType.TRIAGE and header.dump_type not in PHYSICAL_TYPES:
            open_dump(source)
        context.add_layer(file_layer)
        layer_path = join(config_path, "dump_layer")
        context.config[join(layer_path, "base_layer")] = file_layer.name
        if header.dump_type == DumpType.TRIAGE:
            triage = _layer(KdumpTriageLayer, context, layer_path)
            return construct(name, triage.dump, context, triage.name, None)
        crash = _layer(KdumpCrash64Layer if header.bits == 64 else KdumpCrash32Layer, context, layer_path)
        virtual = build_virtual_layer(context, crash.name, join(config_path, "virtual_layer"))
        target = construct(name, crash.dump, context, virtual.name if virtual else None, crash.name)
        if virtual is not None:
            context.add_layer(virtual)
        else:
            target.problems.append(_why_no_translation(target))
        return target

    def _add_container(self, extracted: Extracted | None, progress: Progress | None) -> None:
        """Note the container that the dump came from, and use the paging files in it."""
        from volatility3_kdump.layers.container import add_swap_layers

        self.container = extracted
        if extracted is not None:
            self.problems += extracted.warnings
            if self.layer_name is not None:
                self.problems += add_swap_layers(self.context, self.context.layers[self.layer_name], progress)

    # the file ---------------------------------------------------------------------------------------------------

    @property
    def dump_file(self) -> str:
        """The dump file's own name, without directories: inside a container, that of the member."""
        if self.container is None:
            return self.name
        return self.container.member.name.replace("\\", "/").rpartition("/")[2] or self.name

    @property
    def header(self) -> DumpHeader:
        return self.dump.header

    @property
    def warnings(self) -> list[str]:
        """Everything that is wrong with the dump as far as it was looked at, one line each."""
        return [*self.dump.warnings, *self.problems]

    # memory -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def memory(self) -> Memory:
        """The virtual memory of the process that crashed, kernel half included."""
        if self.layer_name is None:
            return Memory(
                lambda address, size: None, self.header.pointer_size, lambda address: "no address translation"
            )
        from volatility3_kdump.layers.kernel import ranges_of, reader_of

        layer = self.context.layers[self.layer_name]
        return Memory(reader_of(layer), self.header.pointer_size, self._why_unreadable, ranges_of(layer))

    def _why_unreadable(self, address: int) -> str:
        if self.physical_layer_name is None:
            return "not captured in this small memory dump"
        from volatility3.framework import exceptions
        from volatility3.framework.layers import intel

        layer = self.context.layers[self.layer_name or ""]
        assert isinstance(layer, intel.Intel)
        try:
            physical, _, _ = layer._translate(address & layer.address_mask)
        except exceptions.SwappedInvalidAddressException:
            return "paged out"
        except exceptions.InvalidAddressException:
            return "not mapped, or its page table is not in the dump"
        return f"page {physical >> 12:x} is not in the dump file"

    @functools.cached_property
    def physical_memory(self) -> Memory:
        """The machine's physical memory, by physical address; empty for small memory dumps."""
        if self.physical_layer_name is None:
            return Memory(
                lambda address, size: None, self.header.pointer_size, lambda address: "a small memory dump has none"
            )
        from volatility3_kdump.layers.kernel import physical_reader_of

        return Memory(
            physical_reader_of(self.context.layers[self.physical_layer_name]),
            self.header.pointer_size,
            lambda address: f"page {address >> 12:x} is not in the dump file",
        )

    def is_kernel_address(self, address: int) -> bool:
        """Whether an address lies in the kernel's half of the address space."""
        return address >= self.kernel_start

    @property
    def kernel_start(self) -> int:
        """Where the kernel's half of the address space begins (sign-extended)."""
        return 0xFFFF_8000_0000_0000 if self.header.bits == 64 else 0xFFFF_FFFF_8000_0000

    @property
    def triage_copies(self) -> dict[str, Segment]:
        """Structures that a small memory dump copied (``prcb``, ``process``, ``thread``) and where they belong."""
        if self.physical_layer_name is not None or self.layer_name is None:
            return {}
        from volatility3_kdump.layers.triage import KdumpTriageLayer

        layer = self.context.layers[self.layer_name]
        return layer.blobs if isinstance(layer, KdumpTriageLayer) else {}

    # kernel and symbols -----------------------------------------------------------------------------------------

    @functools.cached_property
    def debugger(self) -> DebuggerData | None:
        """KDDEBUGGER_DATA64, decoded where need be; ``None`` when it is not in the dump or cannot be decoded."""
        return self._plain_debugger or self._decoded_debugger()

    @functools.cached_property
    def _plain_debugger(self) -> DebuggerData | None:
        if self.dump.triage is not None:
            from volatility3_kdump.layers.triage import triage_debugger_data

            return triage_debugger_data(self.dump)
        return read_debugger_data(self.memory.read, self.header.kd_debugger_data_block)

    def _decoded_debugger(self) -> DebuggerData | None:
        """The block of a kernel that keeps it encoded: the keys are variables that symbols locate."""
        address = self.header.kd_debugger_data_block or self.symbol("KdDebuggerDataBlock")
        flag = self.symbol("KdpDataBlockEncoded")
        keys = [self.memory.unsigned(at, 8) for at in (self.symbol("KiWaitNever"), self.symbol("KiWaitAlways")) if at]
        if address is None or flag is None or len(keys) != 2 or keys[0] is None or keys[1] is None:
            return None
        return decode_debugger_data(self.memory.read, address, keys[0], keys[1], flag)

    @functools.cached_property
    def kernel(self) -> Kernel | None:
        """The kernel's base and identity, ``None`` when nothing in the dump gives them."""
        if self.layer_name is None:
            return None
        found = find_kernel(self.dump, self.memory.read, self._plain_debugger)
        if found is None:
            self.problems.append("no kernel found: neither KDDEBUGGER_DATA64 nor the loaded module list is in the dump")
        elif found.identity is None and self.dump.triage is not None and self.modules:
            # A small memory dump does not hold the RSDS record; an image file on the image path does.
            identity = self._symbol_sources.identity_of(self.modules[0])
            if identity is not None and self.modules[0].base == found.base:
                found = dataclasses.replace(found, identity=identity, candidates=())
        return found

    @functools.cached_property
    def nt(self) -> Layouts | None:
        """The kernel's types and symbols, ``None`` when no table is at hand; :attr:`symbol_status` says why."""
        return self._symbols[0]

    @property
    def symbol_status(self) -> str:
        """Where the kernel's symbols come from, or what is missing and how to get it."""
        return self._symbols[1]

    @functools.cached_property
    def _symbols(self) -> tuple[Layouts | None, str]:
        kernel = self.kernel
        if self._isf_file is not None:
            try:
                table = load_table_file(self._isf_file)
            except LayoutError as error:
                return None, str(error)
            return table, f"{table.origin} (named by the user)"
        if kernel is None:
            because = f": {self.dump.warnings[0]}" if self.dump.warnings else ""
            return None, f"no kernel was found in the dump{because}"
        if kernel.identity is None:
            return None, _unidentified(kernel)
        identity = kernel.identity
        try:
            found = load_kernel_table(
                identity,
                self._isf_directories,
                lambda: table_from_pdb(identity, self._symbol_path, self.problems),
            )
        except LayoutError as error:
            return None, str(error)
        if found is None:
            return None, how_to_get(kernel.identity)
        return found, found.origin

    def pdb_of(self, module: Module) -> PdbIdentity | None:
        """The identity of a module's PDB, from its image, or the kernel's however it is known; ``None`` if unknown."""
        if self.kernel is not None and self.kernel.base == module.base:
            return self.kernel.identity
        return self._symbol_sources.identity_of(module)

    def types_of(self, module: Module) -> TypeTable | None:
        """The types of a module from an ISF table or its PDB; ``None`` when neither is at hand."""
        if self.kernel is not None and self.kernel.base == module.base:
            return None if self.nt is None else TypeTable(self.nt)
        if module.base not in self._type_tables:
            found = self._symbol_sources.types(module)
            self._type_tables[module.base] = None if found is None else TypeTable(found)
        return self._type_tables[module.base]

    def require_kernel(self) -> Kernel:
        """The kernel. Raises :class:`KernelNotFound` with the reason when there is none."""
        if self.kernel is None:
            reason = self.problems[-1] if self.problems else "no kernel was found in the dump"
            raise KernelNotFound(f"{self.name}: {reason}")
        return self.kernel

    def symbol(self, name: str) -> int | None:
        """Virtual address of a kernel symbol, ``None`` without symbols."""
        rva = self.nt.symbol(name) if self.nt is not None else None
        return None if rva is None or self.kernel is None else self.kernel.base + rva

    def variable(self, symbol: str, debugger_field: str | None = None) -> int | None:
        """Virtual address of a kernel variable, from the symbols or from KDDEBUGGER_DATA64."""
        address = self.symbol(symbol)
        if address is None and debugger_field is not None and self.debugger is not None:
            address = self.debugger[debugger_field]
        return address

    def offset(
        self, type_name: str, path: str, debugger_field: str | None, generation: str | None = None
    ) -> int | None:
        """Offset of a structure field: from the symbols, else from KDDEBUGGER_DATA64, else by structure sizes.

        ``debugger_field`` names the field of KDDEBUGGER_DATA64 that holds the offset; ``generation`` the key of the
        shipped table of structure generations. ``None`` when none of them knows it.
        """
        if self.nt is not None and self.nt.has_type(type_name):
            field = self.nt.find(type_name, path)
            return None if field is None else field.offset
        if self.debugger is None:
            return None
        if debugger_field is not None:
            return self.debugger[debugger_field]
        if generation is not None:
            return generation_offset(self.debugger["SizeEProcess"], self.debugger["SizeEThread"], generation)
        return None

    # shared values ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def modules(self) -> list[Module]:
        """Loaded kernel modules in load order; the first is the kernel."""
        if self.dump.triage is not None:
            return nt_modules.modules_of_triage(self.dump.triage)
        head = self.header.ps_loaded_module_list or self.variable("PsLoadedModuleList", "PsLoadedModuleList")
        found, problems = nt_modules.loaded_modules(self.memory, head, self.nt)
        self.problems.extend(problems)
        return found

    @functools.cached_property
    def unloaded_modules(self) -> list[UnloadedModule]:
        """Modules that were unloaded before the crash, most recent first."""
        if self.dump.triage is not None:
            return nt_modules.unloaded_of_triage(self.dump.triage)
        return nt_modules.unloaded_modules(
            self.memory,
            self.variable("MmUnloadedDrivers", "MmUnloadedDrivers"),
            self.variable("MmLastUnloadedDriver", "MmLastUnloadedDriver"),
        )

    @functools.cached_property
    def images(self) -> ImageSet:
        """The images of the modules: what memory holds of them, completed from files on the image path."""
        return ImageSet(self.memory, self._image_path, self.problems)

    @functools.cached_property
    def _symbol_sources(self) -> SymbolSources:
        return SymbolSources(self.images.image_of, self._isf_directories, self._symbol_path, self.problems)

    @functools.cached_property
    def names(self) -> AddressNames:
        """Names for addresses in kernel modules."""
        tables = {self.kernel.base: self.nt} if self.kernel is not None and self.nt is not None else {}
        return AddressNames(self.modules, tables, self._find_symbols, self.image_of)

    def _find_symbols(self, module: Module) -> tuple[SymbolTable | None, str]:
        identity: PdbIdentity | None = None
        if self.kernel is not None and self.kernel.base == module.base:
            identity = self.kernel.identity
        return self._symbol_sources.find(module, identity)

    def name_of(self, address: int) -> str | None:
        """``module!symbol+offset`` or ``module+offset``; ``None`` outside every module."""
        return self.names.text(address)

    def lookup(self, address: int) -> Name | None:
        """The parts of an address's name."""
        return self.names.lookup(address)

    def symbol_status_of(self, module: Module) -> str:
        """The state of a module's symbols as ``lm`` has it; nothing is searched for it.

        ``isf``, ``pdb symbols``, ``export symbols``, ``no symbols``, or ``deferred`` as long as no address in the
        module was looked up. :meth:`names`.``reason_of`` names the file, or says why there are none.
        """
        return self.names.status_of(module)

    def image_of(self, module: Module) -> PeImage | None:
        """The PE headers of a module, from memory or an image file; ``None`` when they are not to be had."""
        return self.images.image_of(module).headers()

    def may_be_code(self, module: Module, address: int) -> bool:
        """Whether an address in a module can be code: its section is executable, or the headers are not in the dump."""
        image = self.image_of(module)
        if image is None or not image.sections:
            return address >= module.base + PAGE_SIZE
        section = image.section_of(address - module.base)
        return section is not None and section.executable

    def follows_call(self, address: int) -> bool | None:
        """Whether a call instruction ends at an address; ``None`` when its code is not in the dump."""
        return follows_call(self.memory.read, address, self.header.architecture)

    @functools.cached_property
    def header_context(self) -> Context | None:
        """The registers in the dump header, ``None`` when they were never set."""
        return parse_context(self.header.context_record, self.header.architecture, "dump header")


def _search_path(path: PathText | Sequence[PathText] | None, name: str, variable: str, servers: Servers) -> SearchPath:
    """The path that the user gives; else that of the environment, without complaints: it is meant for the debugger."""
    if path is not None:
        return SearchPath.parse(path, name, servers)
    return SearchPath.parse(os.environ.get(variable), name, servers).quiet()


def _display_name(location: str) -> str:
    parsed = urlparse(location)
    path = url2pathname(parsed.path) if parsed.scheme == "file" else location
    return Path(path).name or path


def _refuse_unopenable(location: str) -> None:
    """Raise a :class:`KdumpError` for a local file that the host would only trip over."""
    parsed = urlparse(location)
    if parsed.scheme != "file":
        return
    path = Path(url2pathname(parsed.path))
    if path.is_dir():
        raise KdumpError("is a directory, not a dump file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise KdumpError(f"cannot be opened: {error.strerror or error}") from error
    if path.stat().st_size == 0:
        open_dump(path)


def _layer(layer_class: type[Any], context: interfaces.context.ContextInterface, config_path: str) -> Any:
    """Construct a layer and add it to the context. Raises the :class:`KdumpError` that keeps it from opening."""
    from volatility3.framework import exceptions

    try:
        layer = layer_class(context, config_path, context.layers.free_layer_name(layer_class.__name__))
    except exceptions.LayerException as error:
        if isinstance(error.__cause__, KdumpError):
            raise error.__cause__ from error
        raise
    context.add_layer(layer)
    return layer


def _why_no_translation(target: Target) -> str:
    header = target.header
    if header.architecture not in ("x64", "x86"):
        return f"no address translation for {header.architecture}: only the header and the tagged data can be shown"
    if header.directory_table_base is None:
        return "DirectoryTableBase in the dump header was never set: no address can be translated"
    frame = header.directory_table_base >> 12 & 0xFFFFFFFFFF
    pages = target.dump.pages
    if pages is not None and pages.offset_of(frame) is None:
        return (
            f"the page table that DirectoryTableBase {header.directory_table_base:#x} names (page frame {frame:#x}) is "
            "not in the dump: no address can be translated"
        )
    return (
        f"the page tables at DirectoryTableBase {header.directory_table_base:#x} lead neither to the kernel's lists "
        "nor to the shared data page: no address can be translated"
    )


def _unidentified(kernel: Kernel) -> str:
    if kernel.candidates:
        return "the kernel is one of " + ", ".join(kernel.candidates) + ": name its symbol table with --isf-file"
    return (
        "the dump does not hold the kernel's RSDS record and its variables fit no kernel of the index: "
        "name the symbol table with --isf-file if you know which kernel it is"
    )
