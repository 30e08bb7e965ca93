"""KUSER_SHARED_DATA: the page that every process sees, with version, product and clock.

Its offsets are the same from Windows 7 to 11, so no symbols are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from volatility3_kdump import tables
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import Memory

ADDRESS_64 = 0xFFFFF78000000000
ADDRESS_32 = 0xFFFFFFFFFFDF0000


@dataclass(frozen=True)
class SharedData:
    """Values of the shared data page. Times are in 100 ns; ``time_zone_bias`` is UTC minus local time.

    ``None`` where the value is torn (its two high parts differ) or this Windows does not have it.
    """

    system_root: str
    build_number: int | None
    major_version: int
    minor_version: int
    product_type: int | None
    suite_mask: int
    system_time: int | None
    interrupt_time: int | None
    time_zone_bias: int | None
    tick_count: int | None
    active_processors: int


def read_shared_data(memory: Memory) -> SharedData | None:
    """The shared data page, ``None`` when it is not in the dump or holds no plausible version."""
    layouts = tables.structures()
    reader = layouts.reader(
        "_KUSER_SHARED_DATA",
        interrupt="InterruptTime",
        system="SystemTime",
        bias="TimeZoneBias",
        root="NtSystemRoot",
        build="NtBuildNumber",
        product="NtProductType",
        product_valid="ProductTypeIsValid",
        major="NtMajorVersion",
        minor="NtMinorVersion",
        suite="SuiteMask",
        ticks="TickCount",
        processors="ActiveProcessorCount",
    )
    address = ADDRESS_64 if memory.pointer_size == 8 else ADDRESS_32
    data = memory.read(address, reader.size)
    if data is None:
        return None
    row = reader.unpack(data)
    if row.major not in (5, 6, 10):
        return None
    return SharedData(
        system_root=row.root.decode("utf-16-le", "replace").split("\0", 1)[0],
        build_number=(row.build & 0xFFFF) or None,
        major_version=row.major,
        minor_version=row.minor,
        product_type=row.product if row.product_valid else None,
        suite_mask=row.suite,
        system_time=_system_time(row.system),
        interrupt_time=_system_time(row.interrupt),
        time_zone_bias=_system_time(row.bias),
        tick_count=_system_time(row.ticks),
        active_processors=row.processors,
    )


def _system_time(data: bytes) -> int | None:
    """A KSYSTEM_TIME: valid when both copies of its high part agree."""
    low = int.from_bytes(data[0:4], "little")
    high1 = int.from_bytes(data[4:8], "little", signed=True)
    high2 = int.from_bytes(data[8:12], "little", signed=True)
    return high1 << 32 | low if high1 == high2 else None


@dataclass(frozen=True)
class SharedPage:
    """What ``!kuser`` shows of the page: ``ntddk.h`` has these fields in every version. ``None`` is torn or absent.

    ``ticks`` times ``multiplier`` divided by 2^24 are milliseconds.
    """

    address: int
    multiplier: int | None
    ticks: int | None
    time_zone: int | None
    image_low: int | None
    image_high: int | None
    crypto_exponent: int | None
    system_root: str | None


def read_shared_page(memory: Memory, layouts: Layouts) -> SharedPage | None:
    """The page's fields by ``layouts``, which have its type; ``None`` where it is not in the dump."""
    address = ADDRESS_64 if memory.pointer_size == 8 else ADDRESS_32
    reader = layouts.reader(
        "_KUSER_SHARED_DATA",
        multiplier="TickCountMultiplier",
        ticks="TickCountQuad",
        zone="TimeZoneId",
        image_low="ImageNumberLow",
        image_high="ImageNumberHigh",
        crypto="CryptoExponent",
        root="NtSystemRoot",
    )
    data = memory.read(address, reader.size)
    if data is None:
        return None
    row = reader.unpack(data)
    root = None if row.root is None else row.root.decode("utf-16-le", "replace").split("\0", 1)[0]
    return SharedPage(address, row.multiplier, row.ticks, row.zone, row.image_low, row.image_high, row.crypto, root)
