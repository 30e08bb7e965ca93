"""What a scene has in its pools besides what it is made of, and what is usual."""

from __future__ import annotations

from dataclasses import dataclass

PAGED, NONPAGED = "paged", "nonpaged"


@dataclass(frozen=True)
class TagHistory:
    """What a tag has used besides the blocks that the made machine holds: allocations, frees and bytes still in use."""

    tag: str
    nonpaged: tuple[int, int, int] = (0, 0, 0)
    paged: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class BigBlock:
    """A big allocation of a scene; nothing but its first bytes is in memory. ``freed`` ones leave their entry."""

    kind: str
    size: int
    tag: str
    executable: bool = False
    freed: bool = False


@dataclass(frozen=True)
class Slots:
    """Blocks of one size: ``used`` has a bit for each that is in use. Segment heaps keep them in an LFH subsegment."""

    kind: str
    size: int
    tag: str
    used: int
    count: int


@dataclass(frozen=True)
class PoolScene:
    """What a scene has in its pools besides what it is made of."""

    history: tuple[TagHistory, ...] = ()
    big: tuple[BigBlock, ...] = ()
    slots: tuple[Slots, ...] = ()


#: The pools of the demonstration machine, some hours after it was started.
USUAL = PoolScene(
    history=(
        TagHistory("EtwB", (1428, 116, 0x626_4000), (6, 0, 0x30000)),
        TagHistory("Cont", (412, 9, 0x2C5_1000)),
        TagHistory("FMfn", paged=(951_236, 930_007, 0x94_6A40)),
        TagHistory("Irp ", (3_912_504_118, 3_912_503_660, 0x3_6A00)),
        TagHistory("Leak", (20_480, 0, 0x320_0000)),
        TagHistory("MmSt", paged=(88_412, 61_077, 0xD3B_0F60)),
        TagHistory("NtfF", paged=(72_001, 44_820, 0x130_CE20)),
        TagHistory("Thre", (61_800, 60_212, 0x27_E180)),
    ),
    big=(
        BigBlock(NONPAGED, 0x5000, "MyFa"),
        BigBlock(NONPAGED, 0x12000, "Cont", executable=True),
        BigBlock(PAGED, 0x23400, "CM16"),
        BigBlock(PAGED, 0x900000, "MmSt"),
        BigBlock(PAGED, 0x8000, "Gone", freed=True),
    ),
    slots=(
        Slots(NONPAGED, 0x70, "Leak", 0x5_F0F3_FFFF, 40),
        Slots(PAGED, 0xC0, "FMfn", 0xFF_FFFD, 24),
    ),
)
