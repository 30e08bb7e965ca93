"""What every part of a made machine works with: memory, structures, kernel symbols, pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdump_sample.paging import AddressSpaces
from kdump_sample.physical import PhysicalMemory
from kdump_sample.pools import Pools
from kdump_sample.scene import Scene
from kdump_sample.structures import Structure, Structures, Value
from volatility3_kdump.layout import FieldPath, LayoutError, Layouts

#: MmPteBase before the self-map was randomised (Windows 10 1607).
_FIXED_PTE_BASE = 0xFFFFF68000000000


@dataclass(frozen=True)
class Era:
    """What a kernel version implies beyond its symbols: build, build lab, bytes of KDDEBUGGER_DATA64, version."""

    build: int
    lab: str
    kdbg_size: int = 0x380
    version: tuple[int, int] = (10, 0)


#: By the size of EPROCESS, which changes with almost every kernel generation.
_ERAS = {
    0x4F8: Era(7601, "7601.17514.amd64fre.win7sp1_rtm.101119-1850", 0x340, (6, 1)),
    0x700: Era(10240, "10240.16384.amd64fre.th1.150709-1700", 0x360),
    0x708: Era(10586, "10586.0.amd64fre.th2_release.151029-1700", 0x360),
    0x7C8: Era(14393, "14393.0.amd64fre.rs1_release.160715-1616", 0x368),
    0x7D0: Era(14393, "14393.2430.amd64fre.rs1_release_inmarket_aim.180806-1810", 0x368),
    0x850: Era(17134, "17134.1.amd64fre.rs4_release.180410-1804"),
    0x858: Era(17763, "17763.1.amd64fre.rs5_release.180914-1434"),
    0x880: Era(18362, "18362.1.amd64fre.19h1_release.190318-1202"),
    0xA40: Era(19041, "19041.1.amd64fre.vb_release.191206-1406"),
    0xB80: Era(22000, "22000.1.amd64fre.co_release.210604-1628"),
    0xBC0: Era(22621, "22621.1.amd64fre.ni_release.220506-1250"),
}


class Workspace:
    """Memory that is being filled for one scene and one kernel."""

    def __init__(self, scene: Scene, layouts: Layouts) -> None:
        if layouts.pointer_size != 8:
            raise LayoutError(f"{layouts.origin}: the sample needs the symbol table of an x64 kernel")
        size = layouts.size_of("_EPROCESS")
        self.scene = scene
        self.layouts = layouts
        #: The newest era that this kernel is not older than.
        self.era = _ERAS[max((first for first in _ERAS if first <= size), default=min(_ERAS))]
        self.pte_base = _FIXED_PTE_BASE if layouts.symbol("MmPteBase") is None else scene.pte_base
        self.physical = PhysicalMemory(dict(scene.physical_ranges), scene.memory)
        self.memory = AddressSpaces(self.physical, self.pte_base)
        self.structures = Structures(layouts, self.memory)
        self.pools = Pools(
            self.structures,
            self.symbol,
            {"paged": scene.paged_pool, "nonpaged": scene.nonpaged_pool},
            len(scene.processors),
            scene.pools,
        )

    def symbol(self, name: str) -> int | None:
        """The address of a kernel symbol; ``None`` where the kernel has none of that name."""
        rva = self.layouts.symbol(name)
        return None if rva is None else self.scene.kernel_base + rva

    def required(self, name: str) -> int:
        """As :meth:`symbol`; raises :class:`~volatility3_kdump.layout.LayoutError` where there is none."""
        address = self.symbol(name)
        if address is None:
            raise LayoutError(f"{self.layouts.origin}: no symbol {name}, which the sample needs")
        return address

    def variable(self, name: str, value: Value, size: int = 8) -> None:
        """Store a kernel variable, where the kernel has it: integers of ``size`` bytes, bytes, or ASCII text."""
        address = self.symbol(name)
        if address is None:
            return
        if isinstance(value, int):
            value = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
        elif isinstance(value, str):
            value = value.encode("ascii") + b"\0"
        elif not isinstance(value, bytes):
            value = b"".join(element.to_bytes(size, "little") for element in value)
        self.memory.write(address, value)

    def pool(self, kind: str, size: int, tag: str = "None") -> int:
        """The address of a new block of ``paged`` or ``nonpaged`` pool, 16-byte aligned, behind its header."""
        return self.pools.allocate(kind, size, tag)

    def structure(self, type_name: str, address: int, values: Mapping[FieldPath, Value] | None = None) -> Structure:
        """A structure at an address with some of its fields filled in."""
        made = self.structures.at(type_name, address)
        made.fill(values or {})
        return made

    def zeroed(self, type_name: str, address: int) -> None:
        """Make all of a structure's memory present."""
        self.memory.write(address, bytes(self.structures.size(type_name)))

    def empty_list(self, address: int | None) -> None:
        """Make a list head that points at itself."""
        if address is not None:
            self.structures.link(address, ())
