"""Target: one opened crash dump, as everything above the layers sees it.

A target bundles the dump file, the virtual memory that its layers give, the kernel's symbols if they are at hand, and
the values that many views share: modules, processors, the crashing thread. Everything is read when first asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from volatility3_kdump.cpu.context import Context, parse_context
from volatility3_kdump.dump import DumpHeader, MachineFacts, Segment
from volatility3_kdump.images import modules as nt_modules
from volatility3_kdump.images.image_files import ImageSet
from volatility3_kdump.images.modules import Module, UnloadedModule
from volatility3_kdump.layers.opening import Opened, open_layers, open_source
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import Memory, no_memory
from volatility3_kdump.notebook import html_table
from volatility3_kdump.options import Options
from volatility3_kdump.symbols import kernel_table, siblings
from volatility3_kdump.symbols.converted import table_from_pdb
from volatility3_kdump.symbols.entry_forms import entry_forms
from volatility3_kdump.symbols.isf import load_kernel_table
from volatility3_kdump.symbols.kdbg import DebuggerData, read_debugger_data, read_encoded_data
from volatility3_kdump.symbols.kernel import Kernel, debugger_without_keys, find_kernel
from volatility3_kdump.symbols.machine_facts import machine_facts
from volatility3_kdump.symbols.names import AddressNames
from volatility3_kdump.symbols.objects import TypedObject, Types
from volatility3_kdump.symbols.places import Places, places_of
from volatility3_kdump.symbols.sources import SymbolSources, identity_in
from volatility3_kdump.symbols.types import TypeTable

if TYPE_CHECKING:
    from volatility3.framework import interfaces

    from volatility3_kdump.cpu.paging import EntryForms
    from volatility3_kdump.dump import Source

T = TypeVar("T")
_KERNEL_START_32, _KERNEL_START_64 = 0xFFFF_FFFF_8000_0000, 0xFFFF_8000_0000_0000


class Target:
    """One opened dump. Create it with :meth:`open`, :meth:`from_context` or :func:`volatility3_kdump.open`.

    ``context`` is the Volatility context that holds the layers; ``layer_name`` names the virtual layer, ``None`` where
    the dump gives no virtual memory; ``physical_layer_name`` is ``None`` for small memory dumps; ``container`` is what
    the dump was taken out of, ``None`` for a plain file.
    """

    def __init__(self, opened: Opened, places: Places) -> None:
        self.name = opened.name
        self.dump = opened.dump
        self.context = opened.context
        self.layer_name = opened.layer_name
        self.physical_layer_name = opened.physical_layer_name
        self.container = opened.container
        self.places = places
        self._of_image = isinstance(opened.dump.header, MachineFacts)
        self._made: dict[Callable[[Target], Any], Any] = {}
        #: What was found wrong while reading, one line each; views append to it.
        self.problems: list[str] = [*places.complaints, *opened.problems]
        if opened.physical_layer_name is not None:
            opened.context.layers[opened.physical_layer_name].page_tables.learn = self._entry_forms

    def once(self, make: Callable[[Target], T]) -> T:
        """What ``make`` gives for this target; made when it is first asked for, and kept as long as the target.

        ``make`` is the key: a function or class, not a closure.
        """
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made

    @classmethod
    def open(cls, path: str | os.PathLike[str], options: Options | None = None) -> Target:
        """Open a dump file, or the dump in an archive. Raises a :class:`~volatility3_kdump.errors.KdumpError`."""
        from volatility3.framework import contexts

        return cls.from_context(contexts.Context(), "kdump", Path(path).absolute().as_uri(), options)

    @classmethod
    def over_source(cls, name: str, source: Source, options: Options | None = None) -> Target:
        """A target over the bytes of a crash dump that is no file, under a name for messages.

        Raises a :class:`~volatility3_kdump.errors.KdumpError` whose text starts with the name.
        """
        from volatility3.framework import contexts

        return cls(open_source(contexts.Context(), "kdump", name, source), places_of(options or Options()))

    @classmethod
    def from_context(
        cls,
        context: interfaces.context.ContextInterface,
        config_path: str,
        location: str,
        options: Options | None = None,
    ) -> Target:
        """Build the layers for a file URL in a context, and the target over them.

        The URL's fragment may name the member of an archive. Raises a
        :class:`~volatility3_kdump.errors.KdumpError` whose text starts with the file's name.
        """
        options = options or Options()
        places = places_of(options)
        return cls(open_layers(context, config_path, location, options), places)

    @property
    def dump_file(self) -> str:
        """The dump file's own name, without directories: inside a container, that of the member."""
        if self.container is None:
            return self.name
        return self.container.member.name.replace("\\", "/").rpartition("/")[2] or self.name

    @property
    def header(self) -> DumpHeader:
        """What the dump's header says; of a memory image, what is known of the machine in its place."""
        return self.machine_facts if self._of_image else self.dump.header

    @functools.cached_property
    def machine_facts(self) -> MachineFacts:
        """What is known of the machine of a memory image; only of one."""
        assert isinstance(self.dump.header, MachineFacts)
        return machine_facts(self.dump, self.dump.header, self.kernel, self.memory, self.symbol, self._unaided_debugger)

    @property
    def warnings(self) -> list[str]:
        """Everything that is wrong with the dump as far as it was looked at, one line each."""
        return [*self.dump.warnings, *self.problems]

    @functools.cached_property
    def memory(self) -> Memory:
        """The virtual memory of the process that crashed, kernel half included."""
        if self.layer_name is None:
            return no_memory(self.dump.header.pointer_size, "no address translation")
        from volatility3_kdump.layers.reading import memory_of

        return memory_of(self.context.layers[self.layer_name], self.dump.header.pointer_size)

    def _entry_forms(self) -> EntryForms | None:
        """What the kernel's symbols say of page table entries, ``None`` as long as none are loaded."""
        if "kernel_table" not in vars(self) or self.nt is None or self.kernel is None:
            return None
        return entry_forms(self.nt, self.kernel.base if self.has_names else None, self.memory.read)

    @functools.cached_property
    def physical_memory(self) -> Memory:
        """The machine's physical memory, by physical address; empty for small memory dumps."""
        if self.physical_layer_name is None:
            return no_memory(self.header.pointer_size, "a small memory dump has none")
        from volatility3_kdump.layers.reading import physical_memory_of

        return physical_memory_of(self.context.layers[self.physical_layer_name], self.header.pointer_size)

    def is_kernel_address(self, address: int) -> bool:
        """Whether an address lies in the kernel's half of the address space."""
        if self.kernel_start == _KERNEL_START_32:
            # Registers hold it as it is, structures sign-extended.
            return (address & 0xFFFFFFFF) >= 0x80000000
        return address >= self.kernel_start

    @functools.cached_property
    def kernel_start(self) -> int:
        """Where the kernel's half of the address space begins (sign-extended)."""
        return _KERNEL_START_64 if self.header.bits == 64 else _KERNEL_START_32

    @property
    def triage_copies(self) -> dict[str, Segment]:
        """Structures that a small memory dump copied (``prcb``, ``process``, ``thread``) and where they belong."""
        if self.physical_layer_name is not None or self.layer_name is None:
            return {}
        from volatility3_kdump.layers.triage import copies_in

        return copies_in(self.context.layers[self.layer_name])

    # kernel and symbols -----------------------------------------------------------------------------------------

    @functools.cached_property
    def debugger(self) -> DebuggerData | None:
        """KDDEBUGGER_DATA64, decoded where need be; ``None`` when it is not in the dump or cannot be decoded."""
        address = self.header.kd_debugger_data_block
        return (
            self._plain_debugger
            or read_debugger_data(self.memory.read, address)
            or read_encoded_data(self.memory.read, address, self.symbol)
            or self._unaided_debugger
        )

    @functools.cached_property
    def _plain_debugger(self) -> DebuggerData | None:
        if self.dump.triage is not None:
            from volatility3_kdump.layers.triage import triage_debugger_data

            return triage_debugger_data(self.dump)
        return read_debugger_data(self.memory.read, self.dump.header.kd_debugger_data_block)

    @functools.cached_property
    def _unaided_debugger(self) -> DebuggerData | None:
        """The block as far as it can be had without symbols."""
        return self._plain_debugger or debugger_without_keys(self.dump, self.kernel, self.memory.read)

    @functools.cached_property
    def kernel(self) -> Kernel | None:
        """The kernel's base and identity, ``None`` when nothing in the dump gives them."""
        if self.layer_name is None:
            return None
        kernel = find_kernel(self.dump, self.memory.read, self._plain_debugger, self.memory.ranges)
        if kernel is None:
            self.problems.append("no kernel found: neither KDDEBUGGER_DATA64 nor the loaded module list is in the dump")
        elif kernel.identity is None and self.dump.triage is not None and self.modules:
            # A small memory dump does not hold the RSDS record; an image file on the image path does.
            identity = identity_in(self.images.image_of(self.modules[0]))
            if identity is not None and self.modules[0].base == kernel.base:
                kernel = dataclasses.replace(kernel, identity=identity, candidates=())
        return kernel

    @functools.cached_property
    def kernel_table(self) -> kernel_table.KernelTable:
        """The kernel's types and symbols, or the types of a sibling, or why there are none."""
        return kernel_table.choose(
            self.dump,
            self.kernel,
            self._unaided_debugger,
            self.places.isf_file,
            self._table_of_kernel,
            lambda types: siblings.misfit_of_copies(types, self.memory.read, self.triage_copies),
            self.problems,
        )

    def _table_of_kernel(self) -> Layouts | None:
        """The table of the kernel's identity, from ISF directories or a PDB on the symbol path."""
        identity = self.kernel.identity if self.kernel is not None else None
        if identity is None:
            return None
        places = self.places
        convert = functools.partial(table_from_pdb, identity, places.symbol_path, self.problems)
        return load_kernel_table(identity, places.isf_directories, convert)

    @property
    def nt(self) -> Layouts | None:
        """The kernel's types and symbols, or types alone; ``None`` when none are at hand.

        :attr:`symbol_status` says whose they are, or why there are none.
        """
        return self.kernel_table.layouts

    @property
    def symbol_status(self) -> str:
        """Where the kernel's symbols come from, or what is missing and how to get it."""
        return self.kernel_table.status

    @property
    def symbol_remedy(self) -> str:
        """Which file would give the kernel's names, and what gets it; empty where they are there."""
        return self.kernel_table.remedy

    @property
    def has_names(self) -> bool:
        """Whether the kernel's own symbols name its addresses: not with types of a sibling."""
        return self.kernel_table.named

    def types_of(self, module: Module) -> TypeTable | None:
        """The types of a module from an ISF table or its PDB; ``None`` when neither is at hand."""
        if self.kernel is not None and self.kernel.base == module.base:
            return None if self.nt is None else TypeTable(self.nt)
        return self.symbol_sources.types(module)

    @functools.cached_property
    def types(self) -> Types:
        """Types and variables of all modules by name."""
        return Types(self.memory, lambda: self.modules, self.types_of, self.names.address_of)

    def object(self, type_name: str, address: int) -> TypedObject:
        """Memory as a type, ``object("nt!_EPROCESS", address)``. Raises :class:`KdumpError` for a type not known."""
        return self.types.object(type_name, address)

    def symbol_object(self, name: str, type_name: str | None = None) -> TypedObject:
        """A variable as its type. Raises :class:`KdumpError` where its place or its type is not known."""
        return self.types.symbol_object(name, type_name)

    def _repr_html_(self) -> str:
        return html_table(("Dump", self.name), [("Crash", self.header.brief()), ("Symbols", self.symbol_status)])

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

    @functools.cached_property
    def modules(self) -> list[Module]:
        """Loaded kernel modules in load order; the first is the kernel."""
        if self.dump.triage is not None:
            return nt_modules.modules_of_triage(self.dump.triage)
        head = self.header.ps_loaded_module_list or self.variable("PsLoadedModuleList", "PsLoadedModuleList")
        modules, problems = nt_modules.loaded_modules(self.memory, head, self.nt)
        self.problems.extend(problems)
        return modules

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
        return ImageSet(self.memory, self.places.image_path, self.problems)

    @functools.cached_property
    def symbol_sources(self) -> SymbolSources:
        """Finds the symbols and types of modules, and the identities of their PDBs."""
        return SymbolSources(
            self.images.image_of, self.places.isf_directories, self.places.symbol_path, self.problems, self.kernel
        )

    @functools.cached_property
    def names(self) -> AddressNames:
        """Names for addresses in kernel modules."""
        nt = self.nt if self.has_names else None
        tables = {self.kernel.base: nt} if self.kernel is not None and nt is not None else {}
        sources = self.symbol_sources
        headers, width = self.images.headers_of, self.header.pointer_size
        return AddressNames(self.modules, tables, sources.find, headers, sources.lines, width)

    def name_of(self, address: int) -> str | None:
        """``module!symbol+offset`` or ``module+offset``; ``None`` outside every module."""
        return self.names.text(address)

    @functools.cached_property
    def header_context(self) -> Context | None:
        """The registers in the dump header, ``None`` when they were never set."""
        header = self.header
        return parse_context(
            header.context_record, header.architecture, header.source_of("context_record") or "dump header"
        )
