"""The physical layer over a memory image of any container."""

from __future__ import annotations

from volatility3.framework import interfaces
from volatility3.framework.layers import segmented

from volatility3_kdump.dump import CrashDump, Source
from volatility3_kdump.layers.paged_memory import PagedMemory
from volatility3_kdump.layers.plain import SourceLayer


class KdumpImageLayer(PagedMemory, segmented.SegmentedLayer):
    """Physical memory of a memory image: its pages are those of the container, everything else is absent."""

    def __init__(
        self, context: interfaces.context.ContextInterface, config_path: str, name: str, dump: CrashDump
    ) -> None:
        self.over(dump)
        super().__init__(context, config_path, name)

    def know(self, dump: CrashDump) -> None:
        """Take what was found out of the machine, whose pages are the same."""
        self.over(dump)


class KdumpUnpackedLayer(SourceLayer):
    """The bytes that a compressed image is unpacked to, as the layers above address them."""

    what = "a memory image"

    def __init__(
        self, context: interfaces.context.ContextInterface, config_path: str, name: str, source: Source
    ) -> None:
        super().__init__(context=context, config_path=config_path, name=name)
        self.source = source

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return []
