"""Counting page-frame entries by columns, against reading each of them by itself."""

from __future__ import annotations

import functools
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.conftest import kernel_tables
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.windows.memory import page_frames
from volatility3_kdump.windows.memory.page_frames import FrameLayout, SelfMap, _Counting

BASE = 0xFFFFBD0000000000
STRETCHES = [(0xFFFF800000000000, False), (0xFFFF918000000000, True), (0xFFFF91A000000000, False)]
HALF = 1 << 47
FIELDS = (
    *("PteAddress", "OriginalPte.u.Long", "u2.ShareCount", "u3.ReferenceCount", "u3.e1.PageLocation"),
    *("u3.e1.Modified", "u4.PteFrame", "u4.PrototypePte", "u2.DeleteBit", "VaType", "u3.e1.KernelStack"),
    "u4.AweAllocation",
)


@functools.lru_cache(maxsize=2)
def kernel(path: Path) -> Layouts:
    return load_table_file(path)


def entry(nt: Layouts, values: dict[str, int]) -> bytes:
    """An _MMPFN with some of its fields set, where the kernel has them."""
    data = 0
    for path in FIELDS:
        field = nt.find("_MMPFN", path)
        if field is None:
            continue
        bits = field.bits or field.size * 8
        data |= (values.get(path, 0) & (1 << bits) - 1) << (field.offset * 8 + field.bit)
    return data.to_bytes(nt.size_of("_MMPFN"), "little")


def value(nt: Layouts, data: bytes, path: str) -> int:
    field = nt.find("_MMPFN", path)
    if field is None:
        return 0
    unit = int.from_bytes(data[field.offset : field.offset + field.size], "little")
    return unit >> field.bit & (1 << (field.bits or field.size * 8)) - 1


def owner(nt: Layouts, data: bytes) -> tuple[int, int]:
    """Whose page it is, by the definitions."""
    original = value(nt, data, "OriginalPte.u.Long")
    if value(nt, data, "u4.PrototypePte"):
        return (page_frames.SUBSECTION, original >> 16) if original >> 10 & 1 else (page_frames.PAGING_FILE, 0)
    if value(nt, data, "u4.AweAllocation"):
        return page_frames.AWE, 0
    relative = value(nt, data, "PteAddress") - BASE
    frame = value(nt, data, "u4.PteFrame") & (1 << 40) - 1
    if not 0 <= relative < 1 << 39:
        return page_frames.OTHER, 0
    index, address = relative // 8, relative // 8 * 4096
    if address < HALF:
        return page_frames.PRIVATE, frame
    low = BASE & (1 << 48) - 1
    if low <= address < low + (1 << 39):
        if index == (low >> 39) * (1 + (1 << 9) + (1 << 18) + (1 << 27)):
            return page_frames.USER_TABLE, frame << 9 | index & 0x1FF
        levels = 0
        while low <= address < low + (1 << 39) and levels < 5:
            address, levels = (address - low) // 8 * 4096, levels + 1
        if address < HALF:
            return page_frames.USER_TABLE, frame << 9 | index & 0x1FF
        return page_frames.SYSTEM_TABLE, index
    if value(nt, data, "u3.e1.KernelStack"):
        return page_frames.KERNEL_STACK, 0
    at = sum(address >= start & (1 << 48) - 1 for start, _ in STRETCHES) - 1
    if nt.has("_MMPFN", "VaType") and not STRETCHES[at][1]:
        return page_frames.VA_TYPE, value(nt, data, "VaType")
    return page_frames.SYSTEM, at


def reference(nt: Layouts, entries: list[bytes]) -> page_frames.Tally:
    locations, cached, dangling = [0] * 8, 0, [0, 0]
    owners: Counter[tuple[int, int, int]] = Counter()
    for data in entries:
        location, references = value(nt, data, "u3.e1.PageLocation"), value(nt, data, "u3.ReferenceCount")
        has_file = value(nt, data, "OriginalPte.u.Long") >> 10 & 1
        if nt.has("_MMPFN", "u2.DeleteBit"):
            deleted = value(nt, data, "u2.DeleteBit")
        else:
            deleted = value(nt, data, "PteAddress") & 1
        if deleted and location in (6, 7):
            dangling[has_file] += 1
        if location == 6 and not references:
            cached += 1
            continue
        locations[location] += 1
        if location in (0, 1, 5):
            continue
        flags = {6: 0, 2: 1, 3: 2, 4: 2}.get(location, 2 if value(nt, data, "u3.e1.Modified") else 3)
        if location == 6 and value(nt, data, "u2.ShareCount") > 1:
            flags |= 4
        if references > (1 if location == 6 else 0):
            flags |= 8
        if location == 4:
            flags |= 16  # not to be written
        owners[(*owner(nt, data), flags)] += 1
    return page_frames.Tally(locations, cached, dangling[0], dangling[1], 0, dict(owners))


def counted(nt: Layouts, data: bytes) -> page_frames.Tally:
    counting = _Counting(FrameLayout.of(nt), SelfMap(BASE), STRETCHES)
    counting.add(data)
    return counting.result()


def pte(address: int, levels: int = 0) -> int:
    for _ in range(levels + 1):
        address = BASE + (address >> 12 & (1 << 36) - 1) * 8
    return address


PTES = st.one_of(
    st.builds(pte, st.integers(0, HALF - 1), st.integers(0, 4)),
    st.builds(pte, st.integers(-HALF, -1), st.integers(0, 4)),
    st.builds(pte, st.integers(0xFFFF918000000000, 0xFFFF91C000000000)),
    st.builds(lambda address: pte(address) | 1, st.integers(0, HALF - 1)),
    st.integers(0, (1 << 64) - 1),
    st.just(0),
)
VALUES = st.fixed_dictionaries(
    {
        "PteAddress": PTES,
        "OriginalPte.u.Long": st.one_of(
            st.integers(0, (1 << 64) - 1), st.sampled_from((0x80, 0xFFFF918012345678 << 16 & (1 << 64) - 1 | 0x4A0))
        ),
        "u2.ShareCount": st.sampled_from((0, 1, 2, 1 << 61)),
        "u3.ReferenceCount": st.sampled_from((0, 1, 2, 0xFFFF)),
        "u3.e1.PageLocation": st.integers(0, 7),
        "u3.e1.Modified": st.integers(0, 1),
        "u4.PteFrame": st.sampled_from((0, 0x1F4, 0x1234567, (1 << 36) - 1, (1 << 52) - 1)),
        "u4.PrototypePte": st.sampled_from((0, 0, 1)),
        "u2.DeleteBit": st.integers(0, 1),
        "VaType": st.integers(0, 15),
        "u3.e1.KernelStack": st.sampled_from((0, 0, 0, 1)),
        "u4.AweAllocation": st.sampled_from((0, 0, 0, 1)),
    }
)

KERNELS = [path for path in kernel_tables() if path.name[:4] in ("339E", "06A5", "03A0", "6654")]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name[:8])
@settings(max_examples=part(60), deadline=None)
@given(entries=st.lists(VALUES, max_size=12))
def test_columns_say_what_single_entries_say(path: Path, entries: list[dict[str, int]]) -> None:
    nt = kernel(path)
    made = [entry(nt, values) for values in entries]
    assert counted(nt, b"".join(made)) == reference(nt, made)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name[:8])
def test_any_bytes_at_all(path: Path) -> None:
    """More entries than are worked on at once, of which many are the same."""
    nt = kernel(path)
    stride = nt.size_of("_MMPFN")
    data = random.Random(7).randbytes(stride * 3000)
    made = [data[start : start + stride] for start in range(0, len(data), stride)]
    once = reference(nt, made)
    found = counted(nt, data * 8)
    assert found.locations == [8 * pages for pages in once.locations]
    assert found.owners == {key: 8 * pages for key, pages in once.owners.items()}
    assert (found.cached, found.dangling) == (8 * once.cached, 8 * once.dangling)


def test_keys_are_merged(isf_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_frames, "_KEYS", 100)
    monkeypatch.setattr(page_frames, "_IN_CACHE", 64)
    nt = kernel(isf_paths[0])
    stride = nt.size_of("_MMPFN")
    data = random.Random(8).randbytes(stride * 500) * 3
    made = [data[start : start + stride] for start in range(0, len(data), stride)]
    assert counted(nt, data) == reference(nt, made)


def test_every_kernel_has_the_fields(isf_path: Path) -> None:
    nt = load_table_file(isf_path)
    layout = FrameLayout.of(nt)
    assert layout.stride == 48
    assert (layout.deleted is None) == (layout.va_type is not None and not nt.has_type("_MI_PARTITION"))


def test_entries_of_32_bit_kernels_are_refused() -> None:
    document = {
        "base_types": {"pointer": {"size": 4, "kind": "int", "signed": False, "endian": "little"}},
        "user_types": {"_MMPFN": {"kind": "struct", "size": 28, "fields": {}}},
    }
    with pytest.raises(LayoutError, match="entries of 28 bytes"):
        FrameLayout.of(Layouts(document))


def test_the_entry_of_the_top_table() -> None:
    """The self-map's own entry, as it follows from the index: the same one at every level."""
    index = BASE >> 39 & 0x1FF
    assert page_frames.top_entry(SelfMap(BASE)) // 8 == index * (1 + (1 << 9) + (1 << 18) + (1 << 27))
