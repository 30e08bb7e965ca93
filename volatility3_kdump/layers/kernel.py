"""Finds the kernel for the host's plugins from the dump header, ahead of the host's scans."""

from __future__ import annotations

import functools
import logging

from volatility3.framework import constants, interfaces
from volatility3.framework.automagic import pdbscan

from volatility3_kdump.cpu.paging import EntryForms, default_forms
from volatility3_kdump.layers.paged_memory import PagedMemory
from volatility3_kdump.layers.paging import paged
from volatility3_kdump.layers.reading import ranges_of, reader_of
from volatility3_kdump.memory import ReadMemory
from volatility3_kdump.symbols.entry_forms import entry_forms
from volatility3_kdump.symbols.isf import load_kernel_table, relative_names
from volatility3_kdump.symbols.kdbg import read_debugger_data
from volatility3_kdump.symbols.kernel import Kernel, PdbIdentity, find_kernel

vollog = logging.getLogger(__name__)

#: Bytes of an entry, but for x86 without PAE, where there is nothing that symbols could tell.
_ENTRY_SIZE = 8


def _entry_forms(identity: PdbIdentity, kernel: Kernel, build: int | None, arm64: bool, read: ReadMemory) -> EntryForms:
    """What the kernel's symbols say of page table entries, else its build; read when an entry first needs it."""
    table = load_kernel_table(identity)
    forms = entry_forms(table, kernel.base, read) if table is not None else None
    return forms or default_forms(build, _ENTRY_SIZE, arm64)


class KdumpKernelFinder(pdbscan.KernelPDBScanner):
    """Takes the kernel's base and PDB identity from the dump's own lists; falls through to the host where they fail."""

    priority = 29
    exclusion_list = ["linux", "mac"]

    def determine_valid_kernel(
        self,
        context: interfaces.context.ContextInterface,
        potential_layers: list[str],
        progress_callback: constants.ProgressCallback = None,
    ) -> pdbscan.ValidKernelType | None:
        for name in potential_layers:
            layer = paged(context.layers.get(name, None))
            if layer is None:
                continue
            physical = context.layers.get(layer.config["memory_layer"], None)
            if not isinstance(physical, PagedMemory):
                continue
            read = reader_of(layer)
            debugger = read_debugger_data(read, physical.dump.header.kd_debugger_data_block)
            kernel = find_kernel(physical.dump, read, debugger, ranges_of(layer))
            if kernel is None or kernel.identity is None:
                continue
            if not relative_names(kernel.identity):
                # The host makes paths of the name, and of what it names it writes and removes files.
                vollog.warning(
                    f"The dump's kernel names {kernel.identity.pdb_name[:80]!a}, which is no PDB file's name"
                )
                continue
            vollog.debug(f"Kernel {kernel.identity.isf_name} at {kernel.base:#x}, by {kernel.base_known_by}")
            physical.page_tables.learn = functools.partial(
                _entry_forms,
                kernel.identity,
                kernel,
                physical.page_tables.build,
                physical.dump.header.architecture == "arm64",
                read,
            )
            return (
                name,
                kernel.base & layer.address_mask,
                {
                    "GUID": kernel.identity.guid,
                    "age": kernel.identity.age,
                    "pdb_name": kernel.identity.pdb_name,
                    "mz_offset": kernel.base & layer.address_mask,
                },
            )
        return None
