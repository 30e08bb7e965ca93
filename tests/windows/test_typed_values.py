"""Typed values, against the host's own objects at the same addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import objects

import volatility3_kdump
from tests.host import ADDRESS, host_kernel
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.windows import typed_values
from volatility3_kdump.windows.processes.crashed import crash_process, crash_processor, crash_thread
from volatility3_kdump.windows.typed_values import FieldValue, Options, TypedReader


def reader_of(target: Target) -> TypedReader:
    table = target.types_of(target.modules[0])
    assert table is not None
    return TypedReader(target, table)


def places(target: Target) -> dict[str, int]:
    processor = crash_processor(target)
    assert crash_process(target) is not None
    assert crash_thread(target) is not None
    assert processor is not None
    assert processor.prcb is not None
    return {
        "_EPROCESS": crash_process(target).address,
        "_ETHREAD": crash_thread(target).address,
        "_KPRCB": processor.prcb,
        "_KLDR_DATA_TABLE_ENTRY": target.modules[3].entry or 0,
        "_HANDLE_TABLE": target.memory.pointer(
            crash_process(target).address + target.nt.offset("_EPROCESS", "ObjectTable")
        )
        or 0,
    }


def agree(mine: FieldValue, theirs: Any, layer: Any) -> bool | None:
    """Whether two values are the same; ``None`` where there is nothing to compare."""
    address = int(theirs.vol.offset) & ADDRESS
    if mine.address is None or (mine.address & ADDRESS) != address:
        return False
    size = theirs.vol.size
    if not layer.is_valid(address, max(size, 1)):
        return None
    if isinstance(theirs, objects.Pointer):
        return mine.value is not None and int(mine.value) & ADDRESS == int(theirs) & ADDRESS
    if isinstance(theirs, (objects.Enumeration, objects.BitField, objects.Integer, objects.Float, objects.Char)):
        return mine.value == (theirs if isinstance(theirs, float) else int(theirs))
    if isinstance(theirs, objects.Array) and mine.first is not None and mine.type.count:
        return agree(mine.first, theirs[0], layer)
    if mine.links is not None:
        return tuple(link & ADDRESS for link in mine.links if link is not None) == (
            int(theirs.Flink) & ADDRESS,
            int(theirs.Blink) & ADDRESS,
        )
    return None


@pytest.mark.parametrize("kernel", (0, 4, 8, 12, 13))
def test_every_field_is_what_the_host_reads(sample, isf_paths: list[Path], kernel: int) -> None:
    table = isf_paths[kernel % len(isf_paths)]
    dump = sample(1, table)
    target = volatility3_kdump.open(dump, isf_file=table)
    host = host_kernel(dump, table)
    layer = host.context.layers[host.layer_name]
    reader = reader_of(target)
    compared = 0
    for name, address in places(target).items():
        if not address or not host.has_type(name):
            continue
        theirs = host.object(name, address & ADDRESS, absolute=True)
        found = {value.name: value for level, value in reader.walk(name, address, Options()) if level == 0}
        assert set(found) == set(theirs.vol.members)
        for field, value in found.items():
            member = getattr(theirs, field, None)
            if member is None or not hasattr(member, "vol"):
                continue
            same = agree(value, member, layer)
            assert same is not False, f"{name}.{field}: {value} is not {member!r}"
            compared += same is True
    assert compared > 500


@pytest.fixture(scope="module")
def target(sample) -> Target:
    return volatility3_kdump.open(sample())


def walked(target: Target, name: str, address: int | None = None, **options: Any) -> list[tuple[int, FieldValue]]:
    return list(reader_of(target).walk(name, address, Options(**options)))


def names(found: list[tuple[int, FieldValue]]) -> list[tuple[int, str]]:
    return [(level, value.name) for level, value in found]


def test_chosen_fields(target: Target) -> None:
    assert names(walked(target, "_CLIENT_ID")) == [(0, "UniqueProcess"), (0, "UniqueThread")]
    assert names(walked(target, "_EPROCESS", fields=("ImageFileName", "Pcb"))) == [(0, "Pcb"), (0, "ImageFileName")]
    assert names(walked(target, "_EPROCESS", fields=("Pcb.Header.Type",))) == [
        (0, "Pcb"),
        (1, "Header"),
        (2, "Type"),
    ]
    assert names(walked(target, "_ETHREAD", fields=("Cid.",))) == [
        (0, "Cid"),
        (1, "UniqueProcess"),
        (1, "UniqueThread"),
    ]
    assert names(walked(target, "_EPROCESS", fields=("Image*",))) == names(
        walked(target, "_EPROCESS", fields=("Image",), prefix=True)
    )
    with pytest.raises(KdumpError, match="Cannot find specified field members: _EPROCESS has no field Nothing"):
        walked(target, "_EPROCESS", fields=("Nothing",))
    assert walked(target, "_EPROCESS", fields=("Nothing*",)) == []
    with pytest.raises(KdumpError, match="no usable type _NOTHING"):
        walked(target, "_NOTHING")


def test_pointers_are_followed_by_name_and_by_depth(target: Target) -> None:
    assert crash_thread(target) is not None
    thread = crash_thread(target).address
    found = walked(target, "_KTHREAD", thread, fields=("Process.Header.Type",))
    assert names(found) == [(0, "Process"), (1, "Header"), (2, "Type")]
    assert found[0][1].value == found[1][1].address == crash_thread(target).process
    # Types without an address: a list entry leads to itself, and is not followed for ever.
    assert names(walked(target, "_LIST_ENTRY", depth=5)) == [(0, "Flink"), (0, "Blink")]
    modules = target.memory.pointer(target.symbol("PsLoadedModuleList"))
    found = walked(target, "_LIST_ENTRY", modules, depth=3)
    assert names(found[:4]) == [(0, "Flink"), (1, "Flink"), (2, "Flink"), (3, "Flink")]
    assert found[0][1].value == found[1][1].address == target.memory.pointer(modules)
    assert max(level for level, _ in found) == 3


def test_lists_of_structures_end(target: Target) -> None:
    """The circular list of processes is walked once; what points to itself ends at once."""
    reader = reader_of(target)
    nt = target.nt
    first = target.memory.pointer(target.symbol("PsInitialSystemProcess"))
    head = target.symbol("PsActiveProcessHead") - nt.offset("_EPROCESS", "ActiveProcessLinks")
    expected = [*target_processes(target), head]
    for path in ("ActiveProcessLinks", "ActiveProcessLinks.Flink", "ActiveProcessLinks.Blink"):
        assert sorted(reader.entries("_EPROCESS", first, path)) == sorted(expected)
    with pytest.raises(KdumpError, match="has no field Nothing"):
        list(reader.entries("_EPROCESS", first, "Nothing"))
    with pytest.raises(KdumpError, match="is no pointer to a next structure"):
        list(reader.entries("_EPROCESS", first, "ImageFileName"))
    assert list(reader.entries("_EPROCESS", 0x1234, "ActiveProcessLinks")) == [0x1234]


def target_processes(target: Target) -> list[int]:
    from volatility3_kdump.windows.processes.process_lists import process_addresses

    return process_addresses(target)


def test_what_is_absent_has_no_value(target: Target) -> None:
    for _, value in walked(target, "_EPROCESS", 0x1000, depth=2):
        assert value.value is None
        assert value.text is None
        assert value.symbol is None
        assert value.first is None or value.first.value is None
        assert value.links in (None, (None, None))
    # At the end of memory addresses wrap instead of growing.
    for _, value in walked(target, "_EPROCESS", 0xFFFFFFFFFFFFFFF0):
        assert value.address is not None
        assert value.address < 1 << 64


def test_the_number_of_fields_is_bounded(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_values, "MOST_FIELDS", 1000)
    with pytest.raises(KdumpError, match="more than 1000 fields"):
        walked(target, "_KPRCB", None, depth=16, elements=4096, blocks=True)
