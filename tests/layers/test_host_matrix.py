"""Every plugin of the host's for Windows, on every type of dump, with all pages and with those of the kernel alone.

What each must give is what it gives on the host's own layers over a full dump (type 1) of the same pages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdump_sample import containers, write_sample
from tests.layers import host_matrix
from tests.layers.host_matrix import OPTIONS, Outcome
from tests.layers.test_host import PHYSICAL, plain_table

__all__ = ["plain_table"]

Outcomes = dict[str, Outcome]

#: The quick part: lists, pool scans, page tables, user memory, physical memory, files.
QUICK = [
    "windows.bigpools.BigPools",
    "windows.cmdline.CmdLine",
    "windows.dlllist.DllList",
    "windows.kpcrs.KPCRs",
    "windows.mftscan.MFTScan",
    "windows.poolscanner.PoolScanner",
    "windows.pslist.PsList",
    "windows.vadinfo.VadInfo",
    "windows.vadyarascan.VadYaraScan",
    "windows.verinfo.VerInfo",
]
#: Rows that name layers or the file itself, or count pages of the user's half, which is System's on the host's layers
#: and that of the process that crashed on ours.
ABOUT_LAYERS = {"windows.info.Info", "windows.crashinfo.Crashinfo", "windows.statistics.Statistics"}
#: What these read is not in the made kernel, and they do not expect that: no layer can give them those pages.
END_AT_ABSENT_PAGES = {"windows.callbacks.Callbacks", "windows.ssdt.SSDT", "windows.virtmap.VirtMap"}
MEMMAP = "windows.memmap.Memmap"
#: A large page, of which one page of 4 KB is in the dump: the host's layer leaves it out.
LARGE_PAGE = range(0x918952600000, 0x918952800000)
LONGEST = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, bool], Path]:
    """``made(dump_type, kernel_only)``: a scene with user mode as such a dump, with those pages whatever the type."""
    directory = tmp_path_factory.mktemp("matrix")

    def write(dump_type: int, kernel_only: bool) -> Path:
        path = directory / f"{dump_type}-{kernel_only}.dmp"
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(containers, "KERNEL_ONLY", {*PHYSICAL} if kernel_only else set())
                write_sample(path, dump_type, scene="user-mode")
        return path

    return write


@pytest.fixture(scope="module")
def run_all(
    plain_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path, list[str], bool], Outcomes]]:
    """``run_all(path, names, stock)``: what plugins give on our layers, or with ``stock`` on the host's own."""
    import volatility3.symbols
    from volatility3.framework import constants

    strings = tmp_path_factory.mktemp("strings") / "strings.txt"
    strings.write_text("4096:one\n4833947664:two\n33554432:three\n")
    options = {**OPTIONS, "windows.strings.Strings": {"strings_file": strings.as_uri()}}

    def run(path: Path, names: list[str], stock: bool = False) -> Outcomes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = host_matrix.opened(path, stock)
            return {name: host_matrix.run(first, name, options.get(name, {})) for name in names}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volatility3.symbols, "__path__", [str(plain_table), *volatility3.symbols.__path__])
        patch.setattr(constants, "OFFLINE", True)
        yield run


def compare(ours: Outcomes, stock: Outcomes) -> None:
    assert ours.keys() == stock.keys() and ours
    for name, outcome in ours.items():
        assert outcome.seconds < LONGEST, name
        expected = stock[name]
        if name in END_AT_ABSENT_PAGES:
            assert outcome.error is not None and "InvalidAddressException" in outcome.error, name
            assert expected.error is not None, name
        else:
            assert (outcome.error, expected.error) == (None, None), name
        if name == MEMMAP:
            own, theirs = ([row[:3] for _, row in found.rows] for found in (outcome, expected))
            assert [row for row in own if int(row[0]) not in LARGE_PAGE] == theirs
            assert len(own) > len(theirs)
        elif name not in ABOUT_LAYERS:
            assert outcome.rows == expected.rows, name
        else:
            assert len(outcome.rows) == len(expected.rows), name


@pytest.mark.newest_host
@pytest.mark.parametrize("kernel_only", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_some_plugins_on_two_types(
    kernel_only: bool, made: Callable[[int, bool], Path], run_all: Callable[..., Outcomes]
) -> None:
    stock = run_all(made(1, kernel_only), QUICK, stock=True)
    assert sum(bool(outcome.rows) for outcome in stock.values()) >= 7
    for dump_type in (6, 9):
        compare(run_all(made(dump_type, kernel_only), QUICK), stock)


@pytest.fixture(scope="module")
def stock_rows() -> dict[bool, Outcomes]:
    """What all plugins give on the host's layers, by whether the pages are the kernel's alone; filled by the first."""
    return {}


@pytest.mark.newest_host
@pytest.mark.thorough
@pytest.mark.xdist_group("host_matrix")
@pytest.mark.parametrize("kernel_only", [False, True])
@pytest.mark.parametrize("dump_type", PHYSICAL)
def test_every_plugin_on_every_type(
    dump_type: int,
    kernel_only: bool,
    made: Callable[[int, bool], Path],
    run_all: Callable[..., Outcomes],
    stock_rows: dict[bool, Outcomes],
) -> None:
    names = host_matrix.names()
    assert len(names) > 100
    if kernel_only not in stock_rows:
        stock_rows[kernel_only] = run_all(made(1, kernel_only), names, stock=True)
    compare(run_all(made(dump_type, kernel_only), names), stock_rows[kernel_only])
