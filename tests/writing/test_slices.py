"""Slices: what was read of a dump gives the same on its slice; what is secret is not in it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.output import rows_of
from tests.prompt import answer, session_over
from volatility3_kdump.cli import main
from volatility3_kdump.cli.slice import PURPOSES
from volatility3_kdump.console.session import Session
from volatility3_kdump.dump import PAGE_SIZE, Extent, extents
from volatility3_kdump.dump.slices import packed_fragments, parse_fragments
from volatility3_kdump.layers.reading import physical_memory_of
from volatility3_kdump.windows.processes.crossview import OWNERS, cross_view
from volatility3_kdump.writing import plan, write
from volatility3_kdump.writing.planned import PlannedSource

Sample = Callable[..., Path]


def answers(path: Path, commands: tuple[str, ...]) -> dict[str, list[str]]:
    session = session_over(path)
    return {line: [text.replace(path.name, "FILE") for text in answer(session, line)] for line in commands}


def sliced(source: Path, out: Path, *options: str) -> int:
    return main(["slice", str(source), "-o", str(out), "--symbol-path", "", *options])


@pytest.mark.parametrize(
    ("scene", "purpose", "dump_type"),
    [
        ("myfault", "analyze", 1),
        pytest.param("myfault", "analyze", 6, marks=pytest.mark.thorough),
        pytest.param("locks", "hang", 6, marks=pytest.mark.thorough),
        pytest.param("waits", "hang", 5, marks=pytest.mark.thorough),
        pytest.param("hung-processor", "all-stacks", 1, marks=pytest.mark.thorough),
        pytest.param("blocked-power-irp", "analyze", 9, marks=pytest.mark.thorough),
    ],
)
def test_commands_give_the_same(scene: str, purpose: str, dump_type: int, sample: Sample, tmp_path: Path) -> None:
    source, out = sample(dump_type, scene=scene), tmp_path / "slice.dmp"
    assert sliced(source, out, "--for", purpose) == 0
    assert out.stat().st_size < 0.8 * source.stat().st_size
    whole, part = answers(source, PURPOSES[purpose]), answers(out, PURPOSES[purpose])
    if dump_type not in (5, 6):
        # The banner of a slice is that of a kernel dump.
        assert whole.pop("vertarget") and part.pop("vertarget")
    assert part == whole


def test_what_nobody_read_is_said_to_be_outside(sample: Sample, tmp_path: Path) -> None:
    source, out = sample(1), tmp_path / "slice.dmp"
    assert sliced(source, out, "-c", "r; lm") == 0
    whole = answers(source, ("!process 0 7",))["!process 0 7"]
    session = Session()
    dump = session.open(str(out))
    part = answer(session, "!process 0 7")
    assert part != whole and "PROCESS" in "".join(whole)
    note = dump.target.dump.slice
    assert note is not None and note.of == source.name and note.commands == ("r; lm",)
    assert "which is a slice: nobody read it when the slice was made" in dump.target.memory.why_unreadable(
        next(address for address in _unread(source, out))
    )


def _unread(source: Path, out: Path) -> list[int]:
    """Addresses of the kernel that the dump holds and the slice does not."""
    one, other = volatility3_kdump.open(source), volatility3_kdump.open(out)
    base = one.modules[0].base
    places = [base + at for at in range(0, one.modules[0].size, PAGE_SIZE)]
    unread = [at for at in places if one.memory.read(at, 1) is not None and other.memory.read(at, 1) is None]
    assert unread
    return unread


@pytest.mark.parametrize("command", ["!process 0 0", "!analyze -v; !process 0 0"])
def test_hidden_processes_are_seen_without_the_pages_of_threads(command: str, sample: Sample, tmp_path: Path) -> None:
    """The fragments of a slice, and of a slice of it, show what the pages of the threads would."""
    source, out, again = sample(6, scene="waits"), tmp_path / "slice.dmp", tmp_path / "again.dmp"
    assert sliced(source, out, "-c", command) == 0
    assert sliced(out, again, "-c", command) == 0
    whole = volatility3_kdump.open(source)
    expected = cross_view(whole)
    assert expected is not None and OWNERS in expected.views
    for path in (out, again):
        part = volatility3_kdump.open(path)
        assert cross_view(part) == expected
        fragments, pages = part.dump.fragments, part.dump.pages
        assert pages is not None and fragments
        for address, data in fragments.items():
            assert pages.offset_of(address >> 12) is None
            physical = physical_memory_of(whole.context.layers[whole.physical_layer_name or ""], 8)
            assert physical.read(address, len(data)) == data
        assert answers(path, (command,)) == answers(source, (command,))


def test_damaged_fragments_are_none() -> None:
    whole = {0x1000: b"\x06", 0x2F20: b"12345678"}
    packed = packed_fragments(whole)
    assert parse_fragments(packed) == whole and parse_fragments(b"") == {}
    assert all(parse_fragments(packed[:cut]) == {} for cut in (1, 9, 12, len(packed) - 1))
    assert parse_fragments(packed_fragments({0x1FFF: b"12"})) == {}
    assert parse_fragments(bytes(10)) == {}


def test_rows_say_that_it_is_a_slice(sample: Sample, tmp_path: Path) -> None:
    from volatility3_kdump.views.info import info_grid

    out = tmp_path / "slice.dmp"
    assert sliced(sample(6), out) == 0
    shown = {row["Field"]: row for _, row in rows_of(info_grid(volatility3_kdump.open(out)))}
    assert shown["Slice of"]["Text"] == sample(6).name
    assert re.search(r"\d+ of 352 pages, read by: vertarget; .*not scrubbed", str(shown["Slice of"]["Notes"]))


def test_another_reader_opens_it(sample: Sample, tmp_path: Path) -> None:
    kdmp_parser = pytest.importorskip("kdmp_parser")
    source, out = sample(6), tmp_path / "slice.dmp"
    assert sliced(source, out) == 0
    parser = kdmp_parser.KernelDumpParser(out)
    target = volatility3_kdump.open(source)
    kept = volatility3_kdump.open(out).dump.pages
    assert kept is not None and target.dump.pages is not None
    assert len(parser.pages) == kept.present < target.dump.pages.present
    for stretch in extents(kept, 0, (kept.highest or 0) + 1):
        for pfn in range(stretch.pfn, stretch.pfn + stretch.count):
            offset = target.dump.pages.offset_of(pfn)
            assert offset is not None
            assert bytes(parser.read_physical_page(pfn << 12)) == target.dump.source.read(offset, PAGE_SIZE)


# scrubbing ------------------------------------------------------------------------------------------------------------

SECRET = r"\??\C:\Users\grace.hopper\Workbench\plan for tuesday.docx"


@pytest.fixture
def with_secret(sample: Sample, tmp_path: Path) -> tuple[Path, int]:
    """A dump with a path across two pages of the kernel's addresses that lie apart in the file, and its address."""
    source = sample(1)
    target = volatility3_kdump.open(source)
    assert target.dump.pages is not None and target.layer_name is not None
    layer = target.context.layers[target.layer_name]
    text = SECRET.encode("utf-16-le")
    data = bytearray(source.read_bytes())
    for module in target.modules:
        for page in range(module.base, module.base + module.size - PAGE_SIZE, PAGE_SIZE):
            at = page + PAGE_SIZE - 40
            if target.memory.read(at, len(text)) != bytes(len(text)):
                continue
            for index, byte in enumerate(text):
                physical, _, _ = layer._translate(at + index & layer.address_mask)
                offset = target.dump.pages.offset_of(physical >> 12)
                assert offset is not None
                data[offset + (physical & 0xFFF)] = byte
            path = tmp_path / "secret.dmp"
            path.write_bytes(data)
            return path, at
    raise AssertionError("no zeros across two pages of a module")


def test_a_secret_across_pages_is_blanked(
    with_secret: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, at = with_secret
    command = f"du {at:x}"
    kept, out = tmp_path / "kept.dmp", tmp_path / "scrubbed.dmp"
    assert sliced(source, kept, "-c", command) == 0
    assert "grace.hopper" in " ".join(answers(kept, (command,))[command]).replace('"', "").replace(" ", "") or (
        "grace" in " ".join(answers(kept, (command,))[command])
    )
    capsys.readouterr()
    assert sliced(source, out, "-c", command, "--scrub") == 0
    report = capsys.readouterr().out
    assert "paths: 1 blanked" in report and re.search(r"user pages: \d+ left out", report)
    for word in ("grace", "hopper", "Workbench", "plan", "tuesday"):
        assert word.encode("utf-16-le") not in out.read_bytes()
    target = volatility3_kdump.open(out)
    shown = target.memory.read(at, 2 * len(SECRET))
    assert shown is not None
    assert shown.decode("utf-16-le") == re.sub(r"(?<=Users\\).*", _crossed, SECRET)
    note = target.dump.slice
    assert note is not None and "paths" in note.scrubbed


def _crossed(match: re.Match[str]) -> str:
    return re.sub(r"[^\\]", "x", match[0])


def test_user_pages_are_left_out(sample: Sample, tmp_path: Path) -> None:
    source, out = sample(1), tmp_path / "slice.dmp"
    command = "!process 0 1"
    assert sliced(source, out, "-c", "!process 0 7; .process /p; !analyze -v", "--scrub") == 0
    lines = answers(out, (command,))[command]
    assert not any("CommandLine" in line for line in lines)
    assert any("PROCESS" in line for line in lines)


def test_the_verdict_of_a_scrubbed_slice_is_the_same(sample: Sample, tmp_path: Path) -> None:
    source, out = sample(6), tmp_path / "slice.dmp"
    assert sliced(source, out, "--scrub") == 0
    assert answers(out, ("!analyze -v",)) == answers(source, ("!analyze -v",))


@pytest.mark.parametrize("dump_type", [4, 6])
def test_rules_refuse(dump_type: int, sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, out = tmp_path / "rules.yar", tmp_path / "slice.dmp"
    rules.write_text('rule company { strings: $a = "myfault.sys" wide ascii nocase condition: $a }')
    assert sliced(sample(dump_type), out, "--refuse", str(rules)) == 1
    error = capsys.readouterr().err
    assert "the rule company of" in error and "nothing is written" in error and not out.exists()
    rules.write_text('rule company { strings: $a = "nobody has this" condition: $a }')
    assert sliced(sample(dump_type), out, "--refuse", str(rules)) == 0


def test_a_small_dump_is_copied(sample: Sample, tmp_path: Path) -> None:
    source, out = sample(4), tmp_path / "slice.dmp"
    assert sliced(source, out) == 0 and out.read_bytes() == source.read_bytes()
    scrubbed = tmp_path / "scrubbed.dmp"
    assert sliced(source, scrubbed, "--scrub") == 0
    assert scrubbed.stat().st_size == source.stat().st_size
    assert answers(scrubbed, ("!analyze -v",)) == answers(source, ("!analyze -v",))


@pytest.mark.thorough
def test_real_small_dumps_keep_their_verdict(shared_data: Path, tmp_path: Path) -> None:
    dumps = sorted((shared_data / "dumps").glob("triage*.dmp"))
    if not dumps:
        pytest.skip("no real dumps")
    for source in dumps:
        out = tmp_path / source.name
        assert sliced(source, out, "--scrub") == 0
        whole, part = (
            [line for line in answers(path, ("!analyze -v",))["!analyze -v"] if "PROCESS_NAME" not in line]
            for path in (source, out)
        )
        assert part == whole, source.name


def test_files_are_not_overwritten(sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "slice.dmp"
    out.write_bytes(b"mine")
    for dump_type in (4, 6):
        assert sliced(sample(dump_type), out, "-c", "r") == 1
        assert "is there already: --force replaces it" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert sliced(sample(6), out, "-c", "r", "--force") == 0 and out.stat().st_size > 100


def pages_of(path: Path) -> list[Extent]:
    pages = volatility3_kdump.open(path).dump.pages
    assert pages is not None
    return list(extents(pages, 0, (pages.highest or 0) + 1))


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("elf", "lm; !process 0 0; !locks; k"),
        pytest.param("raw", "lm; !process 0 7; !running -it", marks=pytest.mark.thorough),
        pytest.param("kdump", "!analyze -hang; !vm", marks=pytest.mark.thorough),
    ],
)
def test_a_slice_of_an_image(kind: str, commands: str, image: Callable[..., Path], tmp_path: Path) -> None:
    """It answers as the image, and as a slice of the dump that is made of the image does."""
    source, whole = image(kind), tmp_path / "whole.dmp"
    one, other = tmp_path / "one.dmp", tmp_path / "other.dmp"
    assert sliced(source, one, "-c", commands) == 0
    assert main(["dump", str(source), str(whole), "--type", "5", "--symbol-path", ""]) == 0
    assert sliced(whole, other, "-c", commands) == 0
    assert one.stat().st_size < 0.8 * whole.stat().st_size
    lines = tuple(commands.split("; "))
    assert answers(one, lines) == answers(other, lines) == answers(source, lines)
    assert pages_of(one) == pages_of(other)


@pytest.mark.thorough
@pytest.mark.parametrize("dump_type", [1, 5, 6])
def test_a_planned_dump_has_the_bytes_of_the_written_one(dump_type: int, sample: Sample, tmp_path: Path) -> None:
    target, out = volatility3_kdump.open(sample(dump_type)), tmp_path / "written.dmp"
    planned = plan(target, dump_type)
    write(planned, out)
    source, data = PlannedSource(planned), out.read_bytes()
    assert source.size == len(data)
    choose = random.Random(7)
    for _ in range(300):
        offset, length = choose.randrange(len(data)), choose.choice((1, 16, 0x1000, 0x12345))
        assert source.read(offset, length) == data[offset : offset + length]


def test_a_dump_that_changes_while_it_is_sliced(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut while the commands run: one line, and nothing is left behind."""
    from volatility3_kdump.cli import slice as slice_command

    source, out = tmp_path / "changing.dmp", tmp_path / "slice.dmp"
    source.write_bytes(sample(6).read_bytes())
    read = slice_command._read

    def cut(*arguments: object) -> object:
        target = read(*arguments)  # type: ignore[arg-type]
        with source.open("r+b") as stream:
            stream.truncate(0x8000)
        return target

    monkeypatch.setattr(slice_command, "_read", cut)
    assert sliced(source, out, "-c", "lm; k") == 1
    assert "cannot be read" in capsys.readouterr().err and not out.exists()
