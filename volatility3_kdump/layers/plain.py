"""The bytes of a source as a layer."""

from __future__ import annotations

from typing import ClassVar

from volatility3.framework import exceptions, interfaces

from volatility3_kdump.dump.source import Source


class SourceLayer(interfaces.layers.DataLayerInterface):
    """Reads ``source``, which is not to be changed; ``what`` it is stands in errors."""

    source: Source
    what: ClassVar[str]

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
                raise exceptions.InvalidAddressException(
                    self.name, offset + len(data), f"Behind the end of {self.what}"
                )
            data += bytes(length - len(data))
        return data

    def write(self, offset: int, data: bytes) -> None:
        """What was captured is not to be changed."""
        raise NotImplementedError(f"{self.what} cannot be written to")
