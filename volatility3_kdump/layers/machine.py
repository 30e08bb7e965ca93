"""Finds Windows in a memory image: page tables, the kernel's image, and what the shared data page says.

The registers of the container come first: CR3 is where the page tables are, and the handlers of the interrupt
descriptor table lie in the kernel, so that nothing is searched for. Without registers the block by which Windows starts
further processors has both, in the lowest megabyte. Then page tables that map themselves are searched for, and the
host's scan comes last. Of a 32-bit Windows the page tables are found in the same way, and the kernel by its image; its
registers are those of the container, as far as a 32-bit system uses them.

Containers hold no system registers of ARM64, so that its page tables are those that map themselves and lead to a kernel
for ARM64. Its processors are known by x18, where Windows has the KPCR, whose Self points at itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.captures import Capture
from volatility3_kdump.cpu.state import CR3_TABLE, ProcessorState
from volatility3_kdump.dump import BytesSource, CrashDump, Fact, MachineFacts, no_facts, parse_header
from volatility3_kdump.errors import NotACrashDump
from volatility3_kdump.images.pe import PeImage, code_view, parse_headers
from volatility3_kdump.layers.image import KdumpImageLayer
from volatility3_kdump.layers.reading import memory_of
from volatility3_kdump.layers.self_maps import self_maps
from volatility3_kdump.layers.translation import (
    KdumpArm64Layer,
    KdumpIntel32eLayer,
    KdumpIntel57Layer,
    KdumpIntelLayer,
    KdumpIntelPAELayer,
    KdumpTranslation,
)
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.symbols.shared_data import SharedData, read_shared_data

if TYPE_CHECKING:
    from volatility3_kdump.memory import Memory
    from volatility3_kdump.progress import Progress

_PAGE = 0x1000
#: The kernel's PDB in all its builds; what another image is called is no kernel.
_KERNEL_NAMES = frozenset({"ntkrnlmp.pdb", "ntoskrnl.pdb", "ntkrnlpa.pdb", "ntkrpamp.pdb"})
#: Kernel images have some 16 MB; an address within one is so far from its base at most.
_LARGEST_KERNEL = 32 << 20
#: Windows loads its kernel into the 512 GB of this entry of the top table.
_KERNEL_REGION = 0xFFFFF80000000000, 1 << 39
_KERNEL_HALF = 0xFFFF800000000000
#: The kernel's half of a 32-bit Windows.
_NARROW_REGION = 0xFFFFFFFF80000000, 1 << 31
_NARROW = 4
_X64, _X86, _ARM64 = 0x8664, 0x14C, 0xAA64
#: KPCR.Self of ARM64.
_SELF_IN_REGION = 0x18
#: KPCR.SelfPcr of x86, behind NT_TIB.
_NARROW_SELF_IN_REGION = 0x1C
#: Interrupt gates that are looked at: divide error, breakpoint, page fault, of which one is the kernel's own anywhere.
_VECTORS = (0, 3, 14)
_GATE, _NARROW_GATE = 16, 8
_LA57 = 1 << 12
#: PROCESSOR_START_BLOCK of x64: a near jump and a completion flag begin it; the address in the kernel where long mode
#: goes on, and CR3.
_START_BLOCK, _START_MASK = 0x00000001000600E9, 0xFFFFFFFFFFFF00FF
_LONG_MODE_TARGET, _START_CR3 = 0x70, 0xA0
_LOW_MEMORY = 0x100000


class _Root(NamedTuple):
    """A top page table that may be Windows': its address, how it is known, and an address in the kernel's image.

    ``architecture`` is that of the processors where the container holds some.
    """

    address: int
    source: str
    hint: int | None = None
    five_levels: bool = False
    state: ProcessorState | None = None
    architecture: str | None = None


class Found(NamedTuple):
    """What was found: the image with the facts of its machine, the virtual layer, problems one line each."""

    dump: CrashDump
    layer: KdumpTranslation
    problems: list[str]


class _Windows(NamedTuple):
    """A Windows that page tables lead to; ``root`` has the address as its mode takes it."""

    root: _Root
    layer: KdumpTranslation
    memory: Memory
    shared: SharedData
    base: int
    base_source: str


def find_windows(
    physical: KdumpImageLayer,
    capture: Capture,
    config_path: str,
    progress: Progress | None,
    kernel: int | None = None,
) -> Found:
    """The Windows that runs in a machine whose memory is in an image.

    ``kernel`` is the base of the one that is wanted, where there are several. The layer is not added to the context.
    Raises :class:`NotACrashDump` where there is none.
    """
    given = list(_given_roots(physical, capture))
    search = _Search(physical, config_path, kernel)
    windows = search.first(given)
    if windows is None:
        windows = search.first(_self_mapped_roots(physical, capture, progress))
    if windows is None and _architecture(capture) != "arm64":
        windows = search.first(_scanned_roots(physical, progress))
    if windows is None and kernel is not None and search.others:
        bases = ", ".join(f"{base:#x}" for base in search.others)
        raise NotACrashDump(f"{capture.container}: no Windows kernel at {kernel:#x} in it; there is one at {bases}")
    if windows is None:
        told = "".join(f"; {warning}" for warning in capture.pages.warnings[:1])
        raise NotACrashDump(f"{_why_none(physical, capture, given)}{told}")
    states, why, problems = _fitting_states(physical, config_path, capture, windows)
    dump = dataclasses.replace(
        physical.dump, header=_facts(capture, windows, states), processors=states, why_no_registers=why
    )
    physical.know(dump)
    windows.layer.refresh()
    count = windows.shared.active_processors
    if states and count and count != len(states):
        problems.append(
            f"the {capture.container} holds the registers of {len(states)} processor{'s' * (len(states) != 1)}, and "
            f"Windows has {count} "
            "(KUSER_SHARED_DATA)"
        )
    return Found(dump, windows.layer, problems)


def _why_none(physical: KdumpImageLayer, capture: Capture, given: list[_Root]) -> str:
    tables = ", ".join(f"{root.address:#x}" for root in given if root.state is not None)
    begin = f"{capture.container}: no Windows kernel in it"
    if tables and all(physical.page_tables.read(root.address, 8) is None for root in given):
        return (
            f"{begin}: the page tables of its processors (CR3 {tables[:80]}) are not in it, and a scan led to no "
            "others: pages are missing"
        )
    if tables:
        return (
            f"{begin}: neither the page tables of its processors (CR3 {tables[:80]}) nor a scan for others led to one: "
            "another operating system, or Windows early in its start"
        )
    if _architecture(capture) == "arm64":
        return (
            f"{begin}: no page table of ARM64 that maps itself led to one: another operating system, or Windows early "
            "in its start"
        )
    if capture.processors:
        return f"{begin}: no processor had paging on: the machine was stopped before an operating system ran"
    return (
        f"{begin}: no page tables of Windows on x64, x86 or ARM64 were found: another operating system, or no memory "
        "image at all"
    )


# page tables ----------------------------------------------------------------------------------------------------------


def _given_roots(physical: KdumpImageLayer, capture: Capture) -> Iterator[_Root]:
    """The page tables that are named somewhere."""
    for state in capture.processors:
        if state.page_tables is not None:
            levels = bool(state.control.get(4, 0) & _LA57)
            yield _Root(state.page_tables, f"CR3 of the {state.source}", None, levels, state)
    if capture.header is not None:
        directory = parse_header(BytesSource(capture.header)).directory_table_base or 0
        if directory & CR3_TABLE:
            yield _Root(directory & CR3_TABLE, "crash-dump header that the guest left with its hypervisor")
    for page in range(_PAGE, _LOW_MEMORY, _PAGE):
        block = physical.page_tables.read(page, _START_CR3 + 8)
        if block is None or int.from_bytes(block[:8], "little") & _START_MASK != _START_BLOCK:
            continue
        target, directory = (int.from_bytes(block[at : at + 8], "little") for at in (_LONG_MODE_TARGET, _START_CR3))
        if directory & CR3_TABLE and target >= _KERNEL_HALF:
            yield _Root(directory & CR3_TABLE, f"block at {page:#x} that starts processors", target)


def _architecture(capture: Capture) -> str | None:
    """That of the processors in an image, ``None`` where it has none."""
    return next((state.architecture for state in capture.processors), None)


def _self_mapped_roots(physical: KdumpImageLayer, capture: Capture, progress: Progress | None) -> Iterator[_Root]:
    """The page tables that map themselves."""
    tables, architecture = physical.page_tables, _architecture(capture)
    for address in self_maps(tables.pages, tables.source, progress):
        yield _Root(address, "search for page tables that map themselves", architecture=architecture)


def _scanned_roots(physical: KdumpImageLayer, progress: Progress | None) -> Iterator[_Root]:
    """The page tables that the host's scan finds."""
    from volatility3.framework.automagic.windows import WindowsIntelStacker

    layer = WindowsIntelStacker.stack(physical.context, physical.name, progress)
    if layer is not None and layer.config["page_map_offset"]:
        yield _Root(layer.config["page_map_offset"] & CR3_TABLE, "host's scan for page tables")


class _Search:
    """The Windows to which page tables lead, each table once; ``others`` are the kernels that are not wanted."""

    def __init__(self, physical: KdumpImageLayer, config_path: str, kernel: int | None) -> None:
        self._physical, self._config_path, self._kernel = physical, config_path, kernel
        self._tried: set[int] = set()
        self.others: list[int] = []

    def first(self, roots: Iterable[_Root]) -> _Windows | None:
        for root in roots:
            if root.address in self._tried:
                continue
            self._tried.add(root.address)
            windows = _windows_of(self._physical, self._config_path, root)
            if windows is not None and self._kernel in (None, windows.base):
                return windows
            if windows is not None and windows.base not in self.others:
                self.others.append(windows.base)
        return None


def _windows_of(physical: KdumpImageLayer, config_path: str, root: _Root) -> _Windows | None:
    """The Windows that page tables lead to."""
    from volatility3.framework import interfaces

    join = interfaces.configuration.path_join
    modes: list[type[KdumpTranslation]] = [KdumpIntel32eLayer, KdumpIntel57Layer]
    modes = [*(modes[::-1] if root.five_levels else modes), KdumpIntelPAELayer, KdumpIntelLayer]
    if root.architecture == "arm64":
        modes = [KdumpArm64Layer]
    elif root.architecture is None and root.state is None:
        modes.insert(2, KdumpArm64Layer)
    directory = root.state.control.get(3, 0) if root.state is not None else root.address
    for layer_class in modes:
        narrow = layer_class in (KdumpIntelPAELayer, KdumpIntelLayer)
        address = directory & layer_class.mode.root if narrow else root.address
        name = physical.context.layers.free_layer_name("IntelLayer")
        # Layers are tried before any is added to the context: a path of its own keeps their configurations apart.
        path = join(config_path, f"{name}_{layer_class.__name__}_{root.address:x}")
        physical.context.config[join(path, "memory_layer")] = physical.name
        physical.context.config[join(path, "page_map_offset")] = address
        layer = layer_class(physical.context, config_path=path, name=name, metadata={"os": "Windows"})
        memory = memory_of(layer, 4 if narrow else 8)
        shared = read_shared_data(memory)
        if shared is None:
            continue
        kernels = _mapped_kernels(layer, memory, _NARROW_REGION) if narrow else _kernels(layer, memory, root)
        placed = next((kernel for kernel in kernels if _is_for(memory, kernel[0], layer)), None)
        if placed is not None:
            return _Windows(root._replace(address=address), layer, memory, shared, *placed)
    return None


# the kernel -----------------------------------------------------------------------------------------------------------


def _kernels(layer: KdumpTranslation, memory: Memory, root: _Root) -> Iterator[tuple[int, str]]:
    """Where the kernel's image lies and how that is known."""
    if root.state is not None:
        yield from _by_registers(memory, root.state)
    if root.hint is not None:
        base = _image_around(memory, root.hint)
        if base is not None:
            yield base, f"image around the address in the {root.source}"
    yield from _mapped_kernels(layer, memory, _KERNEL_REGION)


def _mapped_kernels(layer: KdumpTranslation, memory: Memory, region: tuple[int, int]) -> Iterator[tuple[int, str]]:
    """Images of the kernel's name in a part of the address space."""
    start, size = region
    mask = layer.address_mask
    for address, length, *_ in layer.mapping(start & mask, size, ignore_errors=True):
        for page in range(address, address + length, _PAGE):
            extended = page | start
            if memory.read(extended, 2) == b"MZ" and _is_kernel(memory, extended):
                yield extended, "image of the kernel's name among the mapped pages"


def _by_registers(memory: Memory, state: ProcessorState) -> Iterator[tuple[int, str]]:
    for vector in _VECTORS:
        handler = _handler(memory, state, vector)
        base = _image_around(memory, handler) if handler is not None else None
        if base is not None:
            yield base, f"image around the handler of interrupt {vector} in the {state.source}"
    ip = state.registers.get("rip", 0)
    base = _image_around(memory, ip)
    if base is not None:
        yield base, f"image around RIP in the {state.source}"


def _handler(memory: Memory, state: ProcessorState, vector: int) -> int | None:
    """The address that an interrupt gate leads to (Intel SDM volume 3, IDT gate descriptors)."""
    narrow = memory.pointer_size == _NARROW
    size = _NARROW_GATE if narrow else _GATE
    gate = memory.read(state.idt_base + size * vector, size) if state.idt_base else None
    if gate is None or not gate[5] & 0x80:
        return None
    low, high = int.from_bytes(gate[:2], "little"), int.from_bytes(gate[6:8], "little")
    if narrow:
        return sign_extended(low | high << 16, _NARROW)
    return low | high << 16 | int.from_bytes(gate[8:12], "little") << 32


def _image_around(memory: Memory, address: int) -> int | None:
    """The base of the kernel whose image holds an address."""
    if address < _KERNEL_HALF:
        return None
    top = address & ~(_PAGE - 1)
    for base in range(top, top - _LARGEST_KERNEL, -_PAGE):
        if memory.read(base, 2) == b"MZ":
            image = _headers(memory, base)
            if image is None:
                continue
            return base if address < base + image.size_of_image and _is_kernel(memory, base) else None
    return None


def _extent(windows: _Windows) -> range:
    """The addresses of the kernel's image."""
    image = _headers(windows.memory, windows.base)
    return range(windows.base, windows.base + (image.size_of_image if image is not None else 0))


def _is_for(memory: Memory, base: int, layer: KdumpTranslation) -> bool:
    """Whether an image is of the architecture of page tables: those of x64 may look like those of ARM64."""
    image = _headers(memory, base)
    return image is not None and (image.machine == _ARM64) == isinstance(layer, KdumpArm64Layer)


def _headers(memory: Memory, base: int) -> PeImage | None:
    return parse_headers(lambda rva, size: memory.read(base + rva, size))


def _is_kernel(memory: Memory, base: int) -> bool:
    image = _headers(memory, base)
    record = code_view(lambda rva, size: memory.read(base + rva, size), image) if image is not None else None
    return record is not None and record.pdb_name.lower() in _KERNEL_NAMES


# facts ----------------------------------------------------------------------------------------------------------------


def _fitting_states(
    physical: KdumpImageLayer, config_path: str, capture: Capture, windows: _Windows
) -> tuple[tuple[ProcessorState, ...], str, list[str]]:
    """The processors that run the Windows that was found, why none does, and what was left out."""
    if not capture.processors:
        return (), capture.why_no_registers, []
    narrow = windows.memory.pointer_size == _NARROW
    if isinstance(windows.layer, KdumpArm64Layer):
        return _fitting_arm64(capture, windows)
    fitting, problems = [], []
    kernel = _extent(windows)
    for state in capture.processors:
        handlers = [_handler(windows.memory, state, vector) for vector in _VECTORS]
        state = state.narrowed() if narrow else state
        ip = sign_extended(state.context.ip or 0, windows.memory.pointer_size)
        in_kernel = any(handler in kernel for handler in handlers if handler is not None)
        trusted = _has_region(windows.memory, state) if narrow else state.gs_base is not None
        if in_kernel or (state.idt_base is None and trusted):
            fitting.append(state)
            continue
        other = None
        if state.page_tables is not None and state.page_tables != windows.root.address:
            other = _windows_of(physical, config_path, _Root(state.page_tables, "", None, False, state))
        if other is not None and other.base == windows.base:
            fitting.append(state)
        elif other is not None:
            problems.append(
                f"processor {state.number} ran another Windows kernel, at {other.base:#x} with the page tables at "
                f"{state.page_tables:#x}: one is a guest in the other (--kernel {other.base:#x} shows this one)"
            )
        elif ip in kernel:
            fitting.append(state)
        else:
            problems.append(
                f"the registers of processor {state.number} do not fit this memory: its interrupt table leads into no "
                "kernel; they are not used"
            )
    if fitting:
        return tuple(fitting), "", problems
    why = f"the registers in the {capture.container} are of another machine or moment than its memory"
    return (), why, [f"{why}: no interrupt table of its {len(capture.processors)} processors leads to the kernel"]


def _fitting_arm64(capture: Capture, windows: _Windows) -> tuple[tuple[ProcessorState, ...], str, list[str]]:
    """As :func:`_fitting_states`, of ARM64. Nothing can be said of processors in user mode: they go with the others."""
    kernel_mode = [state for state in capture.processors if not state.in_user_mode]
    fitting = [state.number for state in kernel_mode if _has_region(windows.memory, state)]
    if not fitting:
        why = f"no processor's x18 in the {capture.container} leads to its KPCR: the registers are of another machine"
        return (), why, [why]
    wrong = [state.number for state in kernel_mode if state.number not in fitting]
    problems = [
        f"the registers of processor {number} do not fit this memory: its x18 leads to no KPCR; they are not used"
        for number in wrong
    ]
    return tuple(state for state in capture.processors if state.number not in wrong), "", problems


def _has_region(memory: Memory, state: ProcessorState) -> bool:
    """Whether a processor in the kernel has its KPCR where Windows keeps it."""
    place = _NARROW_SELF_IN_REGION if memory.pointer_size == _NARROW else _SELF_IN_REGION
    region = sign_extended(state.platform_register or 0, memory.pointer_size)
    return region >= _KERNEL_HALF and memory.pointer(region + place) == region


def _facts(capture: Capture, windows: _Windows, states: tuple[ProcessorState, ...]) -> MachineFacts:
    shared, page = windows.shared, "KUSER_SHARED_DATA"
    narrow = windows.memory.pointer_size == _NARROW
    wide = _ARM64 if isinstance(windows.layer, KdumpArm64Layer) else _X64
    facts = {
        "machine_type": Fact(_X86 if narrow else wide, "page tables"),
        "pae_enabled": Fact(isinstance(windows.layer, KdumpIntelPAELayer) if narrow else None, "page tables"),
        "directory_table_base": Fact(windows.root.address, windows.root.source),
        "kernel_base": Fact(windows.base, windows.base_source),
        "build_number": Fact(shared.build_number, page),
        "system_time": Fact(shared.system_time, page),
        "system_up_time": Fact(shared.interrupt_time, page),
        "product_type": Fact(shared.product_type, page),
        "suite_mask": Fact(shared.suite_mask, page),
        "number_processors": Fact(shared.active_processors or len(states) or None, page),
    }
    empty = no_facts(capture.container)
    return (dataclasses.replace(empty, bits=32) if narrow else empty).completed(facts)
