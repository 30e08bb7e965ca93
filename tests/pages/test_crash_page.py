"""The page of a crash: what it shows, that it is one well-formed file, and that names do it no harm."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.amounts import step
from tests.pages.hostile import NAME, unsafe
from tests.pages.markup import Page
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.cli import main
from volatility3_kdump.pages import facts, rendering
from volatility3_kdump.pages.crash import crash_page
from volatility3_kdump.target import Target
from volatility3_kdump.views.report import report

LARGEST = 300_000


def page_of(target: Target) -> str:
    return crash_page(target, analyze_crash(target))


@pytest.fixture(scope="module")
def waits(scene: Callable[..., Target]) -> str:
    return page_of(scene("waits"))


def test_the_page_says_what_the_analysis_says(waits: str, scene: Callable[..., Target]) -> None:
    document = report(scene("waits"), analyze_crash(scene("waits")))
    page = Page(waits)
    for sentence in document["summary"]:
        assert sentence in page.text
    for value in (document["verdict"]["bucket"], document["verdict"]["hash"], "myfault.sys", "Contoso Ltd"):
        assert value in page.text
    for frame in document["stack"]["frames"]:
        assert frame["call_site"] in page.text and frame["child_sp"] in page.text
    for name, value in document["failure"]["registers"].items():
        assert f"{name}{value}" in page.text
    assert "mov     eax,dword ptr [rbx] ds:ffffd802`4aaa8010=????????" in page.text
    blamed = [attributes for tag, attributes in page.elements if tag == "tr" and attributes.get("class") == "blamed"]
    assert len(blamed) == 3  # the frame, the process, the driver
    assert "frame 3 is held responsible" in page.text


def test_the_page_shows_waits_deadlocks_and_times(waits: str) -> None:
    text = Page(waits).text
    assert "Deadlock 1: deadlock.exe 2040.2044 → deadlock.exe 2040.2048 → deadlock.exe 2040.2044" in text
    assert "An arrow leads from who waits to who must act" in text
    assert "driver dump_storport.sys was unloaded" in text and "41.0 s before" in text
    assert "process notmyfault64.exe (7256) started" in text
    assert "missing from PsActiveProcessHead" in text
    assert "1.0 GB of 10.0 GB, peak 1.1 GB" in text


def test_the_page_is_one_file_that_asks_for_nothing(waits: str) -> None:
    page = Page(waits)
    assert len(waits.encode()) < LARGEST
    assert not page.names() & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "audio", "video"}
    assert not {name for name in page.attributes() if name.startswith("on")} | (
        page.attributes() & {"style", "src", "srcset", "xlink:href"}
    )
    targets = [value or "" for _, attributes in page.elements for name, value in attributes.items() if name == "href"]
    assert targets and all(target[0] == "#" and target[1:] in page.identities for target in targets)
    assert len(page.identities) == len(set(page.identities))
    assert page.tables == page.captions > 5
    assert not re.search(r"url\((?!#)|@import", waits)


def test_the_policy_allows_the_one_style_sheet_and_nothing_else(waits: str) -> None:
    policy = next(
        attributes["content"] or ""
        for tag, attributes in Page(waits).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    style = waits.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "unsafe" not in policy
    assert waits.index("Content-Security-Policy") < waits.index("<style>")


@pytest.mark.parametrize(
    "name",
    ["locks", "memory", "live-dump", "unloaded-driver", "hung-processor", "error-log", "acquitted-read", "manual"],
)
def test_pages_of_other_crashes(scene: Callable[..., Target], name: str) -> None:
    page = Page(page_of(scene(name)))
    assert page.tables == page.captions
    if name == "error-log":
        assert "reported" in page.text
    if name == "acquitted-read":
        assert "is where it showed" in page.text and "is held responsible" not in page.text
    if name == "memory":
        assert "351175 kernel stack PTE allocations have failed" in page.text


def test_pages_of_real_dumps(shared_data: Path) -> None:
    for path in sorted((shared_data / "dumps").glob("triage_*.dmp"))[:: step()]:
        target = volatility3_kdump.open(path)
        page = page_of(target)
        read = Page(page)
        assert len(page.encode()) < LARGEST, path
        assert not unsafe(page), path
        assert "A small memory dump holds the crash" in read.text
        for module in target.modules:
            assert module.image_name in read.text


def test_hostile_names_stay_text(sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    target = volatility3_kdump.open(sample(scene="waits"))
    target.name = NAME
    target.modules = [
        dataclasses.replace(module, name=NAME, image_name=NAME, path=NAME) if module.name != "nt" else module
        for module in target.modules
    ]
    target.unloaded_modules = [dataclasses.replace(module, name=NAME) for module in target.unloaded_modules]
    chains = facts.waits(target, facts.Absent(""))
    hostile = [dataclasses.replace(named, waiter=NAME, holder=NAME, object=NAME) for named in chains.waits]
    monkeypatch.setattr(chains, "waits", hostile)
    monkeypatch.setattr(facts, "waits", lambda target, processes: chains)
    listed = facts.listed_processes(target)
    for process in listed:
        process.process = dataclasses.replace(process.process, image_name=NAME, image_path=None)
    monkeypatch.setattr(facts, "listed_processes", lambda target: listed)
    target.problems.append(NAME)
    crash = analyze_crash(target)
    crash = dataclasses.replace(
        crash,
        notes=(NAME,),
        image_version=NAME,
        verdict=dataclasses.replace(crash.verdict, suspect=NAME, bucket=NAME, rule=NAME, symbol_name=NAME),
    )
    page = crash_page(target, crash)
    assert not unsafe(page)
    read, plain = Page(page), Page(page_of(volatility3_kdump.open(sample(scene="waits"))))
    assert read.names() == plain.names() and read.attributes() == plain.attributes()
    assert "<script>alert(1)</script>" in read.text and "{{ 7 * 7 }}" in read.text
    assert "\\u202e" in read.text and "\\x1b[31m" in read.text
    assert page.count("<script") == 0


@pytest.mark.parametrize("uptime", [1 << 62, -5, 0, None])
def test_an_uptime_that_cannot_be_is_no_boot(sample: Callable[..., Path], uptime: int | None) -> None:
    target = volatility3_kdump.open(sample())
    target.dump = dataclasses.replace(target.dump, header=dataclasses.replace(target.header, system_up_time=uptime))
    events = facts.events(target, facts.Absent(""))
    assert isinstance(events, list) and facts.BOOT not in {event.kind for event in events}


def test_too_many_threads_are_said_not_looked_at(plain: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "MOST_THREADS", 1)
    absent = facts.known(plain, lambda: facts.waits(plain, facts.listed_processes(plain)))
    assert isinstance(absent, facts.Absent) and "too many for a page" in absent.reason


def test_the_same_dump_gives_the_same_page(sample: Callable[..., Path]) -> None:
    assert page_of(volatility3_kdump.open(sample())) == page_of(volatility3_kdump.open(sample()))


@pytest.mark.thorough
def test_a_page_takes_little_beside_the_analysis(sample: Callable[..., Path], shared_data: Path) -> None:
    """At most half a second of processor time; the templates are compiled in it."""
    for path in (sample(scene="waits"), shared_data / "dumps" / "triage_arm64_22000.dmp"):
        taken = []
        for _ in range(3):
            target = volatility3_kdump.open(path)
            crash = analyze_crash(target)
            report(target, crash)
            rendering._environment.cache_clear()
            started = time.process_time()
            crash_page(target, crash)
            taken.append(time.process_time() - started)
        assert min(taken) < 0.5


# the command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page(
    sample: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(sample()), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
    assert "AV_myfault!unknown_function" in Page(out.read_text(encoding="utf-8")).text
    assert main(["report", str(sample()), "-o", str(out)]) == 0  # a page is written over


@pytest.mark.parametrize("dump", [b"", b"PAGEDU64" + bytes(100), b"no dump"])
def test_a_bad_dump_is_one_line_and_no_page(dump: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "bad.dmp", tmp_path / "page.html"
    path.write_bytes(dump)
    assert main(["report", str(path), "-o", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("kdump: ") and "bad.dmp" in error and error.count("\n") == 1
    assert not out.exists()


def test_no_dump_is_written_over(sample: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = sample().read_bytes()
    assert main(["report", str(sample()), "-o", str(sample())]) == 1
    assert "is no HTML page" in capsys.readouterr().err
    assert sample().read_bytes() == before


def test_a_page_that_cannot_be_written_is_one_line(
    sample: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "no" / "page.html", tmp_path):
        assert main(["report", str(sample()), "-o", str(out)]) == 1
        assert capsys.readouterr().err.startswith(f"kdump: -o {out}: cannot be written: ")


def test_without_the_extra_one_line_says_which(
    sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    rendering._environment.cache_clear()
    assert main(["report", str(sample()), "-o", str(tmp_path / "page.html")]) == 1
    assert "volatility3-kdump[report]" in capsys.readouterr().err
    rendering._environment.cache_clear()


def test_the_plugin_writes_the_same_page(
    sample: Callable[..., Path], run_vol: Callable[..., object], tmp_path: Path
) -> None:
    finished = run_vol("-q", "-f", sample(), "kdump.analyze", "--report-html", tmp_path / "page.html")
    assert finished.returncode == 0, finished.stderr  # type: ignore[attr-defined]
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of(volatility3_kdump.open(sample()))


def test_counters_of_a_small_dump(shared_data: Path) -> None:
    """It tells how far the commit limit may grow: the same counters as !vm."""
    gauges = {
        gauge.label: gauge
        for gauge in facts.memory(volatility3_kdump.open(shared_data / "dumps" / "triage_x64_26100_0x3b.dmp")).gauges
    }
    commit = gauges["Commit (of the most the limit may be)"]
    assert (commit.used, commit.total) == (0x1DAE56, 0xFFB8B1)


@pytest.mark.parametrize(
    ("manufacturer", "product", "name"),
    [
        ("To Be Filled By O.E.M.", "B550M-C", "B550M-C"),
        ("ASUS", "System Product Name", "ASUS, Maker, Board"),
        ("LENOVO", "20XX", "LENOVO, 20XX"),
        (None, None, "Maker, Board"),
    ],
)
def test_the_name_of_a_machine(manufacturer: str | None, product: str | None, name: str) -> None:
    machine = {"manufacturer": manufacturer, "product": product, "board": ["Maker", "Board"]}
    assert facts.machine_name(machine) == name
    assert facts.machine_name({"manufacturer": None, "product": None, "board": None}) == ""


def test_processes_that_are_but_an_address(shared_data: Path) -> None:
    """What other processors ran, of which a small dump has only the pointer."""
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041_0x9f.dmp")
    uses = facts.process_uses(analyze_crash(target), facts.listed_processes(target))
    assert uses[0].name == "EpicGamesLauncher.exe" and uses[0].crashed
    assert all(re.fullmatch(r"[0-9a-f]{16}, not in the dump", use.name) for use in uses[1:])
