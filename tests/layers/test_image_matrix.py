"""The same made machine in every container: equal rows of every plugin of ours, and of the host's own.

A row differs only where it says what the file itself holds: its name, type and size, tagged data, where a fact is from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdump_sample.memory_images import write_image
from tests.fuzz.test_kernel_structures import NAMES, OPTIONS, OWN_TABLE, SCENES, run_with
from tests.layers import host_matrix
from tests.layers.test_host_matrix import LARGE_PAGE, MEMMAP
from tests.layers.test_images import ALL, HAS_SNAPPY, KINDS, one_table
from tests.output import rows_of
from volatility3_kdump.plugin import PluginFailure
from volatility3_kdump.symbols import isf

__all__ = ["one_table"]

Image = Callable[..., Path]
Rows = list[tuple[int, dict[str, Any]]]

#: What dumps hold beside pages (tagged data), and what the file itself is.
OF_THE_FILE = {
    "analyze": {"Machine"},
    "info": {"Dump", "Header", "Fact", "Pages", "Tagged data", "Machine"},
}
#: What is in tagged data alone, and what is said where there is none.
IN_TAGGED_DATA = {"smbios": "no SMBIOS tables"}
#: Cells that say where something is from, and one that dumps have either as the variable's address or its value.
ABOUT_SOURCES = {"bugcheck": ("Source",), "info": ("Notes",)}
EITHER_WAY = {"PfnDataBase"}
#: The host has no layer for kdump-compressed images: only plugins that open the file by themselves read them.
#: Of a range in AVML it reads as many packed bytes as the range has unpacked: too few for pages that do not shrink.
OF_THE_HOST = [kind for kind in KINDS if kind not in ("avml", "kdump")]
#: Of the host's plugins: those that name layers or the file, or read the header of crash dumps.
HOST_ABOUT_LAYERS = {"windows.info.Info", "windows.crashinfo.Crashinfo", "windows.statistics.Statistics"}


def rows(name: str, options: dict[str, Any], path: Path) -> Rows:
    return comparable(name, rows_of(run_with(name, options, path)))


def comparable(name: str, rows: Rows) -> Rows:
    """The rows of a plugin without what is about the file rather than the machine."""
    left_out = OF_THE_FILE.get(name, set())
    kept = [
        (level, {key: value for key, value in row.items() if key not in ABOUT_SOURCES.get(name, ())})
        for level, row in rows
        if row.get("Topic") not in left_out and row.get("Field") not in EITHER_WAY
    ]
    # What the kernel recorded is compared with the header of a dump, and stands for it in an image.
    return [row for row in kept if row[1].get("Item") != "Recorded by the kernel"]


@pytest.fixture(scope="module")
def of_dump(image: Image) -> Callable[[str], list[Rows]]:
    """The rows of a plugin on the crash dump, for each of its choices of options."""
    kept: dict[str, list[Rows]] = {}

    def make(name: str) -> list[Rows]:
        if name not in kept:
            path = image("dump", scene=SCENES.get(name, "myfault"))
            kept[name] = [rows(name, options, path) for options in OPTIONS.get(name, [{}])]
        return kept[name]

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in OWN_TABLE])
def test_every_plugin_of_ours(name: str, kind: str, image: Image, of_dump: Callable[[str], list[Rows]]) -> None:
    path = image(kind, scene=SCENES.get(name, "myfault"))
    if name in IN_TAGGED_DATA:
        with pytest.raises(PluginFailure, match=IN_TAGGED_DATA[name]):
            rows(name, {}, path)
        return
    for options, expected in zip(OPTIONS.get(name, [{}]), of_dump(name), strict=True):
        assert rows(name, options, path) == expected, options


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(OWN_TABLE))
def test_plugins_with_other_types(name: str, some_kernels: Callable[[str], list[Path]], tmp_path: Path) -> None:
    """The plugins whose types the shipped symbol table lacks, on a machine of a kernel whose own table has them."""
    (kernel, *_) = some_kernels(name)
    layouts, told = isf.load_table_file(kernel), {}
    for kind in ("dump", *(kind for kind in KINDS if kind != "avml" or HAS_SNAPPY)):
        path = tmp_path / f"made.{kind}"
        write_image(path, kind, layouts, SCENES[name], False)
        several = [{"isf-file": str(kernel), **options} for options in OPTIONS.get(name, [{}])]
        told[kind] = repr([rows(name, options, path) for options in several]).replace(path.name, "FILE")
    assert told["dump"] != repr([[]])
    assert {kind: shown for kind, shown in told.items() if shown != told["dump"]} == {}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ALL)
def test_rules_match_the_same_in_every_container(kind: str, image: Image, tmp_path: Path) -> None:
    """``kdump.yara`` has no place in the list of plugins that need no option."""
    pytest.importorskip("yara_x")
    rules = tmp_path / "rules.yar"
    rules.write_text('rule tag { strings: $a = "notmyfault64" $b = "notmyfault64" wide condition: any of them }')
    options = {"rules-file": str(rules)}
    expected = rows("yara", options, image("dump"))
    assert expected and rows("yara", options, image(kind)) == expected


@pytest.fixture(scope="module")
def run_all(one_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Any]]:
    """``run_all(path)``: what the host's plugins give on the layers that it stacks itself."""
    import volatility3.symbols
    from volatility3.framework import constants

    strings = tmp_path_factory.mktemp("strings") / "strings.txt"
    strings.write_text("4096:one\n4833947664:two\n33554432:three\n")
    options = {**host_matrix.OPTIONS, "windows.strings.Strings": {"strings_file": strings.as_uri()}}

    def run(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = host_matrix.opened(path, stock=False)
            return {name: host_matrix.run(first, name, options.get(name, {})) for name in host_matrix.names()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volatility3.symbols, "__path__", [str(one_table), *volatility3.symbols.__path__])
        patch.setattr(constants, "OFFLINE", True)
        yield run


@pytest.fixture(scope="module")
def host_on_dump(image: Image, run_all: Callable[[Path], Any]) -> Any:
    return run_all(image("dump", scene="user-mode"))


@pytest.mark.newest_host
@pytest.mark.thorough
@pytest.mark.xdist_group("image_matrix")
@pytest.mark.parametrize("kind", OF_THE_HOST)
def test_every_plugin_of_the_host(kind: str, image: Image, run_all: Callable[[Path], Any], host_on_dump: Any) -> None:
    """As ``vol -f IMAGE windows.*``: by the host's own layers and scans, beside the dump of the same machine."""
    outcomes = run_all(image(kind, scene="user-mode"))
    assert outcomes.keys() == host_on_dump.keys() and len(outcomes) > 100
    ours, theirs = (
        {(int(row[0]), row[1]) for _, row in found[MEMMAP].rows if int(row[0]) not in LARGE_PAGE}
        for found in (outcomes, host_on_dump)
    )
    # A page that the dump lacks is zeros in a raw image.
    assert theirs <= ours and (kind == "raw" or ours == theirs)
    different = {
        name: (outcome.error, host_on_dump[name].error, len(outcome.rows), len(host_on_dump[name].rows))
        for name, outcome in outcomes.items()
        if name not in HOST_ABOUT_LAYERS | {MEMMAP}
        and ((outcome.error is None) != (host_on_dump[name].error is None) or outcome.rows != host_on_dump[name].rows)
    }
    assert different == {}
    listing = {name for name, outcome in outcomes.items() if outcome.rows}
    # Only what the scene holds is listed: a third of the plugins.
    assert {f"windows.{name}" for name in ("pslist.PsList", "modules.Modules", "threads.Threads")} <= listing
    assert len(listing) > 30
