"""``kdump.yara``: hits, compared with the host's scan of the same layers, and whose memory they are."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from tests.amounts import step
from tests.edited import edited
from tests.output import number, parsed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.yara_rules import YARA_PYTHON, YARA_X, load_rules
from volatility3_kdump.findings.yara_scan import scan
from volatility3_kdump.findings.yara_search import Scope
from volatility3_kdump.layers.present import SIGN, present_memory
from volatility3_kdump.target import Target
from volatility3_kdump.views.yara import yara_grid
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.threads import stack_limits

#: What the made machines and real dumps have plenty of. No condition needs two strings: those meet in one chunk of ours
#: where the host scans every physical stretch by itself.
RULES = """
rule text { strings: $dos = "This program" $name = "ntoskrnl" nocase $wide = "Windows" wide condition: any of them }
rule code { strings: $prologue = { 48 83 EC ?? } $name = /[A-Z][a-z]{3,12}Thread/ condition: any of them }
rule image { strings: $mz = "MZ" condition: $mz }
"""
MARK = b"kdump-test-mark"

Hits = set[tuple[int, str, str]]
Run = Callable[..., Any]


@pytest.fixture(params=[YARA_X, YARA_PYTHON])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the libraries, which the host then uses as well."""
    name: str = request.param
    module = pytest.importorskip("yara_x" if name == YARA_X else "yara")
    host = pytest.importorskip("volatility3.plugins.yarascan")
    monkeypatch.setattr(host, "USE_YARA_X", name == YARA_X)
    monkeypatch.setattr(host, "yara_x" if name == YARA_X else "yara", module, raising=False)
    return name


def of_host(target: Target, library: str) -> Hits:
    """The hits of the host's scanner in the kernel's half."""
    host = importlib.import_module("volatility3.plugins.yarascan")
    compiled = host.yara_x.compile(RULES) if library == YARA_X else host.yara.compile(source=RULES)
    layer = target.context.layers[target.layer_name]
    found = layer.scan(context=target.context, scanner=host.YaraScanner(rules=compiled))
    half = (layer.address_mask + 1) >> 1
    return {(address, rule.rpartition(".")[2], name) for address, rule, name, _ in found if address & half}


def of_ours(target: Target, library: str) -> Hits:
    layer = target.context.layers[target.layer_name]
    memory = present_memory(layer, -SIGN, 0)
    assert memory is not None
    found = list(scan(memory, [(-SIGN, 0)], load_rules(RULES, library=library)))
    hits = {(hit.address & layer.address_mask, hit.rule.name, hit.string) for hit in found}
    assert len(hits) == len(found)
    return hits


@pytest.mark.newest_host
@pytest.mark.parametrize(
    "dump_type", [1, 6, *(pytest.param(rest, marks=pytest.mark.thorough) for rest in (2, 5, 8, 9, 10))]
)
def test_the_hosts_hits_on_every_type_of_dump(sample: Callable[..., Path], dump_type: int, library: str) -> None:
    target = volatility3_kdump.open(sample(dump_type))
    ours = of_ours(target, library)
    assert len({name for _, _, name in ours}) == 5
    assert ours == of_host(target, library)


@pytest.mark.newest_host
@pytest.mark.thorough
def test_the_hosts_hits_on_other_kernels(sample: Callable[..., Path], isf_paths: list[Path], library: str) -> None:
    for path in (isf_paths[0], isf_paths[len(isf_paths) // 2], isf_paths[-1]):
        target = volatility3_kdump.open(sample(6, path), isf_file=path)
        ours = of_ours(target, library)
        assert ours
        assert ours == of_host(target, library)


@pytest.mark.newest_host
def test_the_hosts_hits_in_small_memory_dumps(shared_data: Path, library: str) -> None:
    for path in sorted((shared_data / "dumps").glob("triage_*.dmp"))[:: step()]:
        target = volatility3_kdump.open(path)
        ours, theirs = of_ours(target, library), of_host(target, library)
        assert ours
        # The host ends a stretch where a piece of the file does; ours goes on into the piece that abuts.
        assert theirs <= ours
        layer = target.context.layers[target.layer_name]
        for address, _, _ in ours - theirs:
            assert any(address < segment.address + segment.size <= address + 32 for segment in layer.segments)


@pytest.mark.newest_host
def test_the_hosts_own_command(sample: Callable[..., Path], run_vol: Run) -> None:
    def rows(*arguments: str) -> list[dict[str, Any]]:
        finished = run_vol("-q", "-f", sample(), "-r", "json", *arguments)
        assert finished.returncode == 0, finished.stderr
        table: list[dict[str, Any]] = parsed(finished.stdout)
        return table

    theirs = rows("yarascan.YaraScan", "--yara-string", "This program cannot")
    ours = rows("kdump.yara", "--rules", '"This program cannot"')
    assert {(row["Offset"], row["Rule"].rpartition(".")[2], row["Component"]) for row in theirs} == {
        (row["Address"] & 0xFFFFFFFFFFFF, row["Rule"], row["String"]) for row in ours
    }
    assert len(ours) > 5
    assert {row["OwnerKind"] for row in ours} == {"driver"}
    (own,) = (row for row in ours if row["Owner"] == "myfault.sys")
    assert own["OwnerAddress"] + own["OwnerOffset"] == own["Address"]
    assert bytes.fromhex(own["Bytes"]) == b"This program cannot"
    assert (own["Length"], own["Namespace"], own["RuleTags"], own["Meta"]) == (19, "default", None, None)


# owners -------------------------------------------------------------------------------------------------------------


def rows_of(target: Target, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    grid = yara_grid(target, *arguments, **options)
    names = [column.name for column in grid.columns]
    return [dict(zip(names, map(number, values), strict=True)) for _, values in grid._generator]


def _apart(target: Target) -> int:
    """The address of a page of pool whose predecessor is there too, but lies elsewhere in physical memory."""
    layer = target.context.layers[target.layer_name]
    start = 0xFFFF91894D600000
    pieces = list(layer.mapping(start & layer.address_mask, 0x100000, ignore_errors=True))
    for (first, size, physical, *_), (second, _, other, *_) in itertools.pairwise(pieces):
        if first + size == second and physical + size != other:
            address: int = start + second - (start & layer.address_mask)
            return address
    raise AssertionError("no such page")


@pytest.fixture(scope="module")
def marked(sample: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Target, dict[str, int]]:
    """A dump with a mark in memory of many owners, and where."""
    source = sample(6, None, "pool-overrun")
    target = volatility3_kdump.open(source)
    driver = next(module for module in target.modules if module.name == "myfault")
    image = target.images.headers_of(driver)
    assert image is not None
    data = next(section for section in image.sections if section.name == ".rdata")
    thread = next(
        thread
        for process in process_addresses(target)
        if read_process(target, process).name == "explorer.exe"
        for thread in thread_addresses(target, process)
    )
    limits = stack_limits(target, thread)
    assert limits is not None
    prcb = processors(target)[1].prcb
    assert prcb is not None
    places = {
        "driver": driver.base + data.address + 0x100,
        "stack": limits[1] - 0x40,
        "processor": prcb + 0x2000,
        "pool": 0xFFFF91894EF70000 + 0x20,
        "straddling": _apart(target) - 7,
    }
    path = tmp_path_factory.mktemp("marked") / "marked.dmp"
    return edited(target, source, path, dict.fromkeys(places.values(), MARK)), places


def test_every_hit_names_its_owner(marked: tuple[Target, dict[str, int]]) -> None:
    target, places = marked
    found = {int(row["Address"]): row for row in rows_of(target, f'"{MARK.decode()}"')}
    assert sorted(found) == sorted(places.values())
    driver, stack, processor, pool = (found[places[name]] for name in ("driver", "stack", "processor", "pool"))
    assert (driver["OwnerKind"], driver["Owner"], driver["Section"]) == ("driver", "myfault.sys", ".rdata+0x100")
    assert driver["Symbol"].startswith("myfault")
    assert driver["OwnerAddress"] + driver["OwnerOffset"] == places["driver"]
    assert stack["OwnerKind"] == "kernel stack"
    assert "(explorer.exe " in stack["Owner"]
    assert stack["Detail"].startswith("0x40 bytes below its base ")
    assert (processor["OwnerKind"], processor["Owner"]) == ("processor", "KPRCB of processor 1")
    assert processor["OwnerOffset"] == 0x2000
    assert pool["OwnerKind"].endswith("pool")
    assert pool["OwnerAddress"] <= places["pool"] < pool["OwnerAddress"] + 0x1000
    assert len(pool["Owner"]) == 4


def test_a_match_across_pages_that_lie_apart_in_the_dump(marked: tuple[Target, dict[str, int]]) -> None:
    target, places = marked
    start, end = places["straddling"], places["straddling"] + len(MARK)
    for limits, expected in (((start, end), [start]), ((start + 1, end), []), ((start, end - 1), [])):
        rows = rows_of(target, f'"{MARK.decode()}"', scope=Scope(limits=limits))
        assert [row["Address"] for row in rows] == expected


@pytest.mark.parametrize(
    "scope, names",
    [
        (Scope(modules=()), {"driver"}),
        (Scope(modules=("myf*",)), {"driver"}),
        (Scope(modules=("nt", "tcpip")), set()),
        (Scope(stacks=True), {"stack"}),
        (Scope(pool=True), {"pool", "straddling"}),
        (Scope(modules=("myfault",), stacks=True), {"driver", "stack"}),
        (Scope(limits=(0xFFFF800000000000, 0xFFFFF00000000000)), {"stack", "processor", "pool", "straddling"}),
        (Scope(pool=True, limits=(0xFFFF91894E000000, 0xFFFFFFFFFFFFFFFF)), {"pool"}),
    ],
)
def test_what_is_scanned(marked: tuple[Target, dict[str, int]], scope: Scope, names: set[str]) -> None:
    target, places = marked
    found = {int(row["Address"]) for row in rows_of(target, f'"{MARK.decode()}"', scope=scope)}
    assert found == {places[name] for name in names}


def test_user_pages_of_a_process(sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample(1))
    process = next(
        found
        for found in (read_process(target, address) for address in process_addresses(target))
        if found.name == "notmyfault64.exe"
    )
    assert process.pid is not None
    rows = rows_of(target, '"notmyfault64" wide nocase', scope=Scope(pid=process.pid))
    assert rows
    assert all(row["Address"] < 1 << 47 for row in rows)
    assert {row["Owner"] for row in rows} == {f"notmyfault64.exe ({process.pid})"}
    first = int(rows[0]["Address"])
    limited = rows_of(target, '"notmyfault64" wide nocase', scope=Scope(pid=process.pid, limits=(first, first + 24)))
    assert [row["Address"] for row in limited] == [first]
    with pytest.raises(KdumpError, match=r"no user page of System \(4\) is in the dump"):
        yara_grid(target, '"MZ"', scope=Scope(pid=4))
    with pytest.raises(KdumpError, match="does not go with"):
        yara_grid(target, '"MZ"', scope=Scope(pid=process.pid, pool=True))


def test_a_number_of_hits(marked: tuple[Target, dict[str, int]]) -> None:
    target, places = marked
    rule = f'"{MARK.decode()}"'
    rows = rows_of(target, rule, most=2)
    assert [row["OwnerKind"] for row in rows][2:] == ["note"]
    assert rows[2]["Notes"] == "stopped after 2 hits: there are more"
    assert [row["OwnerKind"] for row in rows_of(target, rule, most=len(places))].count("note") == 0
    assert list(yara_grid(target, rule, most=1).kd_lines())[-2:] == [
        "1 hit of 1 rule.",
        "NOTE: stopped after 1 hit: there are more",
    ]


def test_the_debuggers_words(marked: tuple[Target, dict[str, int]]) -> None:
    target, places = marked
    text = 'rule found : one two { strings: $mark = "kdump-test-mark" condition: $mark }'
    lines = list(yara_grid(target, text, scope=Scope(modules=("myfault",))).kd_lines())
    base = next(module.base for module in target.modules if module.name == "myfault")
    offset = places["driver"] - base
    assert lines[0].startswith("YARA scan of 24.0 KB that the dump holds (yara")
    assert lines[2].startswith(
        f"found:$mark [one two]  driver myfault.sys fffff800`{base & 0xFFFFFFFF:08x}+{offset:#x} (.rdata+0x100) myfault"
    )
    assert lines[3] == (
        f"fffff800`{places['driver'] & 0xFFFFFFFF:08x}  "
        "6b 64 75 6d 70 2d 74 65-73 74 2d 6d 61 72 6b     kdump-test-mark"
    )
    assert lines[-1] == "1 hit of 1 rule."
    assert list(yara_grid(target, '"not there"').kd_lines())[-1] == "No hits."


# the command --------------------------------------------------------------------------------------------------------


def test_options(sample: Callable[..., Path], run_plugin: Run, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yar"
    rules.write_text('rule dos { meta: author = "me" strings: $a = "This program" condition: $a }')

    def owners(*options: str) -> list[str]:
        finished = run_plugin("-q", "-f", sample(), "-r", "json", "kdump.yara", "--rules-file", rules, *options)
        assert finished.returncode == 0, finished.stderr
        table = parsed(finished.stdout)
        assert {row["Meta"] for row in table} <= {"author=me"}
        return [row["Owner"] for row in table]

    everything = owners("--modules")
    assert "myfault.sys" in everything
    assert len(everything) > 3
    assert owners("--driver", "myf*", "--modules", "win32k", "--stacks", "--pool") == ["win32k.sys", "myfault.sys"]
    assert owners("--range", "myfault", "myfault+1000") == ["myfault.sys"]


@pytest.mark.parametrize(
    "options, words",
    [
        ((), "give rules in one way: --rules TEXT, --rules-file FILE or --compiled-file FILE"),
        (("--rules", "rule a {"), "--rules: line"),
        (("--rules", '"a"', "--range", "10"), "--range takes two addresses"),
    ],
)
def test_errors_are_one_line(
    sample: Callable[..., Path], run_plugin: Run, options: tuple[str, ...], words: str
) -> None:
    finished = run_plugin("-q", "-f", sample(), "kdump.yara", *options)
    assert finished.returncode == 1
    assert words in finished.stderr
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "scope, words",
    [
        (Scope(modules=("nosuch", "other")), "no module is named nosuch or other"),
        (Scope(pid=0x7777), r"no process has the id 30583 \(0x7777\)"),
        (Scope(limits=(0x20, 0x10)), "--range begins at 0x20 and ends at 0x10"),
        (Scope(limits=(0x10000, 0x20000)), "no byte of the range is in the dump"),
        (Scope(stacks=True, limits=(0xFFFFF80000000000, 0xFFFFF80000001000)), "or of what was chosen in it"),
    ],
)
def test_nothing_to_scan(marked: tuple[Target, dict[str, int]], scope: Scope, words: str) -> None:
    with pytest.raises(KdumpError, match=words):
        yara_grid(marked[0], '"a"', scope=scope)


@pytest.mark.parametrize("most", [0, -1])
def test_the_number_of_hits_is_a_number(marked: tuple[Target, dict[str, int]], most: int) -> None:
    with pytest.raises(KdumpError, match=f"--limit is {most}"):
        yara_grid(marked[0], '"a"', most=most)


def test_small_memory_dumps_are_scanned_too(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    rows = rows_of(target, '"This program cannot"')
    assert {row["OwnerKind"] for row in rows} == {"driver"}
    assert {row["Owner"] for row in rows} <= {module.image_name for module in target.modules}
    assert all(row["OwnerOffset"] < 0x1000 for row in rows)
    rows = rows_of(target, "{ 00 F8 FF FF }", scope=Scope(stacks=True))
    assert {row["OwnerKind"] for row in rows} == {"kernel stack"}
    for scope, words in (
        (Scope(pid=4), "are not in the dump"),
        (Scope(pool=True), "nothing in the dump says where the pools are"),
        (Scope(modules=("nosuch",)), "no module is named nosuch"),
    ):
        with pytest.raises(KdumpError, match=words):
            yara_grid(target, '"MZ"', scope=scope)


def test_a_dump_without_translation_is_refused(shared_data: Path, sample: Callable[..., Path], tmp_path: Path) -> None:
    data = bytearray(sample().read_bytes())
    data[0x10:0x18] = bytes(8)
    path = tmp_path / "no-root.dmp"
    path.write_bytes(data)
    with pytest.raises(KdumpError, match=r"nothing to scan: .*no address can be translated"):
        yara_grid(volatility3_kdump.open(path), '"MZ"')
