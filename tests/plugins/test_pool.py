"""``kdump.pool``: KD's text, the rows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from tests.output import parsed
from tests.patched import patched
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.pool import big_grid, block_grid, usage_grid
from volatility3_kdump.views.table import Hexadecimal

Sample = Callable[..., Path]
BIG, POOL_PAGE = 0xFFFF91894D612000, 0xFFFF91894EF70000

TAGS = """\
rem of our own
MyFa - myfault.sys - NotMyFault's buffers
Ob?? - nt!ob       - Object manager
"""


@pytest.fixture(scope="module")
def machine(sample: Sample) -> Target:
    return volatility3_kdump.open(sample())


def rows(grid: Any) -> list[dict[str, Any]]:
    """The rows of a grid by column; the host's marks of absence are ``None``, hexadecimal cells are numbers."""
    from volatility3.framework import interfaces

    found: list[dict[str, Any]] = []
    names = [column.name for column in grid.columns]

    def visit(node: Any, _: Any) -> None:
        values = (None if isinstance(value, interfaces.renderers.BaseAbsentValue) else value for value in node.values)
        numbers = (int(value) if isinstance(value, Hexadecimal) else value for value in values)
        found.append(dict(zip(names, numbers, strict=True)))

    grid.populate(visit, None)
    return found


# !poolused ------------------------------------------------------------------------------------------------------------


def test_use_in_the_words_of_the_debugger(sample: Sample, run_plugin, tmp_path: Path) -> None:
    tags = tmp_path / "pooltag.txt"
    tags.write_text(TAGS)
    done = run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.pool", "--pooltag-file", tags)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[:6] == [
        " Sorting by NonPaged Pool Consumed",
        "",
        "               NonPaged                  Paged",
        " Tag     Allocs         Used     Allocs         Used",
        "",
        " EtwB      1312    103170048          6       196608\tUNKNOWN pooltag 'EtwB', please update pooltag.txt",
    ]
    assert (
        " Leak     20508     52431936          0            0\tUNKNOWN pooltag 'Leak', please update pooltag.txt; "
        "candidates by code: myfault (1)"
    ) in shown
    assert (
        " MyFa         1        20480          0            0\tNotMyFault's buffers , Binary: myfault.sys; "
        "candidates by code: myfault (1)"
    ) in shown
    assert any(line.startswith(" ObNm ") and line.endswith("\tObject manager , Binary: nt!ob") for line in shown)
    total = next(line for line in shown if line.startswith("TOTAL"))
    assert len(total) == len(shown[5].split("\t")[0])
    assert any(line.startswith("nonpaged pool by nt!MiState.Pools.AllocatedNonPagedPool: 250814464") for line in shown)


def test_order_and_choice_of_tags(machine: Target) -> None:
    def used(order: str, pattern: str | None = None) -> list[str]:
        return [row["Tag"] for row in rows(usage_grid(machine, order, pattern)) if row["Kind"] == "tag"]

    by_tag = used("tag")
    assert by_tag == sorted(by_tag) and len(by_tag) > 15
    assert used("paged")[:3] == ["MmSt", "NtfF", "FMfn"]
    assert used("nonpaged")[:2] == ["EtwB", "Leak"]
    assert used("tag", "Ob*") == ["ObDi", "ObNm", "ObjT", "Obtb"]
    assert used("tag", "Irp") == [] and used("tag", "Irp?") == ["Irp "]
    with pytest.raises(KdumpError, match="no order of tags is called size: use nonpaged, paged, tag"):
        usage_grid(machine, "size")


def test_rows_of_tags_and_counters(machine: Target) -> None:
    table = rows(usage_grid(machine, tag="EtwB"))
    first, total, *others = table
    assert [row["Kind"] for row in table] == ["tag", "total", "counter", "counter", "warning"]
    assert {name: first[name] for name in ("Tag", "Key", "NonPagedAllocs", "NonPagedFrees", "NonPagedInUse")} == {
        "Tag": "EtwB",
        "Key": 0x42777445,
        "NonPagedAllocs": 1428,
        "NonPagedFrees": 116,
        "NonPagedInUse": 1312,
    }
    assert (first["Binary"], first["Description"], first["Candidates"]) == (None, None, None)
    everything = [row for row in rows(usage_grid(machine)) if row["Kind"] == "tag"]
    for name in ("NonPagedBytes", "PagedBytes", "NonPagedAllocs", "PagedInUse"):
        assert total[name] == sum(row[name] for row in everything)
    assert others[0]["NonPagedBytes"] >= total["NonPagedBytes"] and others[0]["PagedBytes"] is None
    assert others[1]["PagedBytes"] >= total["PagedBytes"]


def test_json_and_verbose_text(sample: Sample, run_plugin) -> None:
    done = run_plugin("-q", "-f", sample(), "-r", "json", "kdump.pool", "--tag", "Leak")
    assert done.returncode == 0, done.stderr
    assert parsed(done.stdout)[0]["Candidates"] == "myfault (1)"
    done = run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.pool", "--verbose", "--sort", "tag", "--tag", "EtwB")
    shown = done.stdout.splitlines()
    assert shown[0] == " Sorting by Tag"
    assert shown[3].split() == ["Tag", *["Allocs", "Frees", "Diff", "Used"] * 2]
    assert shown[5].split() == ["EtwB", "1428", "116", "1312", "103170048", "6", "0", "6", "196608"]
    total = next(line for line in shown if line.startswith("TOTAL"))
    # counts that have wrapped take all of their ten columns
    assert total.split()[0] == "TOTAL" and len(total) == len(shown[5]) == len(shown[3])


def test_a_disagreement_is_said(machine: Target) -> None:
    state = machine.symbol("MiState")
    assert state is not None and machine.nt is not None
    where = state + machine.nt.offset("_MI_SYSTEM_INFORMATION", "Pools.AllocatedNonPagedPool")
    grid = usage_grid(patched(machine, {where: (100).to_bytes(8, "little")}))
    said = [line for line in grid.kd_lines() if line.startswith("NOTE: disagreement")]
    assert len(said) == 1 and said[0].endswith("by nt!MiState.Pools.AllocatedNonPagedPool has only 409600")
    assert any(row["Kind"] == "warning" and "has only 409600" in (row["Notes"] or "") for row in rows(grid))


@pytest.mark.parametrize(
    "pages, shown, note",
    [
        (1, "4096 bytes of allocated pages, the tags do not add up", "has only 4096"),
        (0, None, "nt!MiState.Pools.AllocatedNonPagedPool is 0"),
    ],
)
def test_a_counter_that_cannot_be_right(machine: Target, pages: int, shown: str | None, note: str) -> None:
    assert machine.nt is not None
    field = machine.nt.offset("_MI_SYSTEM_INFORMATION", "Pools.AllocatedNonPagedPool")
    where = (machine.symbol("MiState") or 0) + field
    said = list(usage_grid(patched(machine, {where: pages.to_bytes(8, "little")})).kd_lines())
    found = [line.partition(": ")[2] for line in said if line.startswith("nonpaged pool by nt!MiState")]
    assert found == ([] if shown is None else [shown])
    assert any(line.startswith("NOTE: ") and note in line for line in said)


def test_a_sum_of_some_tables_is_not_the_total(machine: Target) -> None:
    size = machine.symbol("PoolTrackTableSize")
    assert size is not None
    grid = usage_grid(patched(machine, {size: (1 << 40).to_bytes(8, "little")}))
    said = list(grid.kd_lines())
    assert sum(line.endswith("\tof the rows that could be read") for line in said) == 1
    assert any(line.endswith("how many of them have a tag is not known") for line in said)
    assert not any("% of them have a tag" in line for line in said)
    assert next(row for row in rows(grid) if row["Kind"] == "total")["Notes"] == "not all of the tables could be read"


def test_less_than_nothing_is_said(machine: Target) -> None:
    table = machine.memory.pointer(machine.symbol("PoolTrackTable") or 0)
    assert table is not None
    grid = usage_grid(patched(machine, {}, [table]))
    table_rows = rows(grid)
    assert any(row["Kind"] == "tag" and "less than nothing" in (row["Notes"] or "") for row in table_rows)
    assert next(row for row in table_rows if row["Kind"] == "total")["Notes"] == "not all of the tables could be read"


# big pages ------------------------------------------------------------------------------------------------------------


def test_big_pages(machine: Target) -> None:
    grid = big_grid(machine, free=True)
    shown = list(grid.kd_lines())
    assert shown[0].split() == ["Address", "Size", "Tag", "Type", "State"]
    assert " ffff91894d612000         5000 MyFa nonpaged NX  Allocated\tcandidates by code: myfault (1)" in shown
    gone = [line for line in shown if " Gone " in line]
    assert len(gone) == 1 and gone[0].endswith("Free")
    table = rows(grid)
    assert {(row["Tag"], row["State"]) for row in table if row["Size"] == 0x8000} == {("Gone", "free")}
    used = [row for row in rows(big_grid(machine)) if row["Address"] is not None]
    assert all(row["State"] == "allocated" for row in used) and len(used) == len(table) - 1
    assert [row["Tag"] for row in rows(big_grid(machine, tag="C*")) if row["Tag"]] == ["Cont", "CM16"]
    assert any(line.startswith(f"TOTAL: {len(used)} big pages in use, 0x") for line in shown)


def test_no_table_is_an_error(machine: Target) -> None:
    size = machine.symbol("PoolBigPageTableSize")
    assert size is not None
    with pytest.raises(KdumpError, match="big pages are not known: nt!PoolBigPageTable is impossible"):
        big_grid(patched(machine, {size: b"\xff" * 8}))


# !pool ----------------------------------------------------------------------------------------------------------------


def test_the_block_of_an_address(sample: Sample, run_plugin, tmp_path: Path) -> None:
    tags = tmp_path / "pooltag.txt"
    tags.write_text(TAGS)
    done = run_plugin(
        *("-q", "-f", sample(), "-r", "windbg", "kdump.pool", "--address", "ffff9189`4d613abc"), "--pooltag-file", tags
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [
        "Pool page ffff91894d613abc region is Nonpaged pool",
        "*ffff91894d612000 : large page allocation, tag is MyFa, size is 0x5000 bytes",
        "\t\tPooltag MyFa : NotMyFault's buffers, Binary : myfault.sys",
        "\t\tcandidates by code: myfault (1)",
    ]


def test_a_page_of_the_classic_pool(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, None, "pool-overrun"))
    grid = block_grid(target, POOL_PAGE + 0x1D0)
    assert list(grid.kd_lines())[:9] == [
        "Pool page ffff91894ef701d0 region is Nonpaged pool",
        " ffff91894ef70000 size:  100 previous size:    0  (Allocated)  Ntfx",
        " ffff91894ef70100 size:   c0 previous size:  100  (Allocated)  FMsl",
        "*ffff91894ef701c0 size:   70 previous size:   c0  (Allocated) *MyfB",
        "\t\tOwning component : Unknown (update pooltag.txt)",
        "\t\tcandidates by code: myfault (1)",
        "\t\tnonpaged pool, known by the pool headers of its page",
        "\t\tNOTE: the header behind it is damaged: it may have been written beyond its end",
        "NOTE: the pool header at 0xffff91894ef70230 is damaged: it says that the block before it has 0x410 bytes, "
        "which has 0x70",
    ]
    table = rows(grid)
    assert [(row["Here"], row["Tag"], row["State"]) for row in table[:3]] == [
        (False, "Ntfx", "allocated"),
        (False, "FMsl", "allocated"),
        (True, "MyfB", "allocated"),
    ]
    assert (table[2]["PreviousSize"], table[2]["DataAddress"], table[2]["Region"]) == (
        0xC0,
        POOL_PAGE + 0x1D0,
        "nonpaged pool",
    )


def test_protected_and_free_blocks(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, None, "pool-overrun"))
    page = bytearray(target.memory.read(POOL_PAGE, 0x1000) or b"")
    page[7] |= 0x80
    page[0x103] = 0
    shown = list(block_grid(patched(target, {POOL_PAGE: bytes(page)}), POOL_PAGE + 0x110).kd_lines())
    assert shown[1] == " ffff91894ef70000 size:  100 previous size:    0  (Allocated)  Ntfx (Protected)"
    assert shown[2] == "*ffff91894ef70100 size:   c0 previous size:  100  (Free)      *FMsl"


def test_a_block_of_the_segment_heap(machine: Target) -> None:
    entry = machine.memory.pointer(machine.symbol("PsLoadedModuleList") or 0)
    assert entry is not None
    grid = block_grid(machine, entry + 0x30)
    marked = [line for line in grid.kd_lines() if line.startswith("*")]
    assert len(marked) == 1 and "previous size:    -  (Allocated) *MmLd" in marked[0]
    row = next(row for row in rows(grid) if row["Here"])
    assert (row["DataAddress"], row["Pool"], row["PreviousSize"]) == (entry, "nonpaged NX", None)
    assert "VS subsegment" in row["KnownBy"]


@pytest.mark.parametrize(
    ("address", "words"),
    [(0x1000, "it is not a kernel address"), (0xFFFFF80060DA1981, "it lies in the image of myfault.sys")],
)
def test_addresses_outside(machine: Target, address: int, words: str) -> None:
    grid = block_grid(machine, address)
    assert f"{address:016x} is in no known block: {words}" in list(grid.kd_lines())
    row = rows(grid)[0]
    assert (row["Here"], row["Address"], row["Notes"], row["Size"]) == (True, address, words, None)


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--address", "nonsense!"), "is not an address"),
        (("--address", "0", "--big"), "choose one of --address ADDRESS and --big"),
        (("--free",), "--free needs --big"),
        (("--pooltag-file", "/nowhere/pooltag.txt"), "the pool tag file cannot be opened"),
    ],
)
def test_bad_options(sample: Sample, run_plugin, arguments: tuple[str, ...], words: str) -> None:
    done = run_plugin("-q", "-f", sample(), "kdump.pool", *arguments)
    assert done.returncode == 1
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_small_memory_dumps_say_what_they_lack(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(4))
    with pytest.raises(KdumpError, match="the use of pool is not in small memory dumps"):
        usage_grid(target)
    with pytest.raises(KdumpError, match="the table of big pages is not in small memory dumps"):
        big_grid(target)
    shown = list(block_grid(target, BIG).kd_lines())
    assert shown[0] == "Pool page ffff91894d612000 region is Unknown"
    assert "not captured in this small memory dump" in shown[1]


def test_real_small_memory_dumps(shared_data: Path) -> None:
    for name in ("triage_x64_19041.dmp", "triage_arm64_22000.dmp", "triage_x64_9600.dmp"):
        target = volatility3_kdump.open(shared_data / "dumps" / name)
        with pytest.raises(KdumpError, match="small memory dumps"):
            usage_grid(target)
        assert "is in no known block" in list(block_grid(target, BIG).kd_lines())[1]
