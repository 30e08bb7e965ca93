"""The physical layer over a memory image of any container."""

from __future__ import annotations

from volatility3.framework import exceptions, interfaces
from volatility3.framework.layers import segmented

from volatility3_kdump.dump import CrashDump, Source
from volatility3_kdump.layers.paged_memory import PagedMemory


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


class KdumpUnpackedLayer(interfaces.layers.DataLayerInterface):
    """The bytes that a compressed image is unpacked to, as the layers above address them."""

    def __init__(
        self, context: interfaces.context.ContextInterface, config_path: str, name: str, source: Source
    ) -> None:
        super().__init__(context=context, config_path=config_path, name=name)
        self.source = source

    @property
    def minimum_address(self) -> int:
        return 0

    @property
    def maximum_address(self) -> int:
        return self.source.size - 1

    def is_valid(self, offset: int, length: int = 1) -> bool:
        return offset >= 0 and offset + max(length, 1) <= self.source.size

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        data = self.source.read(offset, length)
        if len(data) < length:
            if not pad:
                raise exceptions.InvalidAddressException(self.name, offset + len(data), "Behind the end of the image")
            data += bytes(length - len(data))
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Images are not to be changed."""
        raise NotImplementedError("a memory image cannot be written to")

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return []
