"""Plugins, ours and the host's, on dumps inside archives."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import contexts

import volatility3_kdump
from tests.amounts import only
from tests.archives import cabinets, packing
from tests.layers import paging
from tests.output import parsed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layers.present import present_memory, signed
from volatility3_kdump.target import Target

Sample = Callable[..., Path]
RunVol = Callable[..., subprocess.CompletedProcess[str]]


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def cab(*members: tuple[str, bytes]) -> bytes:
    return cabinets.cabinet(members).pack()


MAKERS: dict[str, Callable[[bytes], bytes]] = {
    "crash.cab": lambda dump: cab(("readme.txt", b"hello"), ("MEMORY.DMP", dump)),
    "crash.zip": lambda dump: zipped(("x/MEMORY.DMP", dump), ("y.txt", b"hello")),
    "MEMORY.DMP.gz": gzip.compress,
    "MEMORY.DMP.xz": lzma.compress,
    # What it is called does not matter.
    "crash.dmp": lambda dump: cab(("MEMORY.DMP", dump)),
}


def rows(finished: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert finished.returncode == 0, finished.stderr
    found: list[dict[str, Any]] = parsed(finished.stdout)
    return found


@pytest.fixture(scope="module")
def plain(sample: Sample, run_plugin: RunVol) -> list[dict[str, Any]]:
    return rows(run_plugin("-q", "-r", "json", "-f", sample(), "kdump.info"))


@pytest.mark.parametrize("name", MAKERS)
def test_our_plugins_say_the_same_as_on_the_plain_dump(
    name: str, plain: list[dict[str, Any]], sample: Sample, run_plugin: RunVol, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(MAKERS[name](sample().read_bytes()))
    inside = rows(run_plugin("-q", "-r", "json", "-f", path, "kdump.info"))
    own = {("Dump", "File"): name, ("Dump", "Member"): "MEMORY.DMP"}
    for row in inside:
        place = row["Topic"], row["Field"]
        if place in own:
            assert row["Text"].endswith(own[place])
    left_out = [("Dump", "File"), ("Dump", "Container"), ("Dump", "Member")]
    assert [row for row in inside if (row["Topic"], row["Field"]) not in left_out] == [
        row for row in plain if (row["Topic"], row["Field"]) not in left_out
    ]
    assert not list(tmp_path.iterdir())[1:]


def test_the_analysis_names_the_file_inside(sample: Sample, tmp_path: Path) -> None:
    from volatility3_kdump.views.analyze import analyze_grid

    path = tmp_path / "crash.cab"
    path.write_bytes(MAKERS["crash.cab"](sample().read_bytes()))
    lines = list(analyze_grid(volatility3_kdump.open(path)).kd_lines())
    assert "FILE_IN_CAB:  MEMORY.DMP" in lines


def test_one_of_several_dumps_is_named(sample: Sample, run_plugin: RunVol, tmp_path: Path) -> None:
    path = tmp_path / "two.cab"
    path.write_bytes(cab(("small.dmp", sample(4).read_bytes()), ("MEMORY.DMP", sample(6).read_bytes())))
    finished = run_plugin("-q", "-f", path, "kdump.info")
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line]
    assert re.fullmatch(
        r"kdump: two\.cab: a CAB archive with 2 crash dumps: choose one with --member: "
        r"1: small\.dmp \([\d,]+ bytes\), 2: MEMORY\.DMP \([\d,]+ bytes\)",
        line,
    )
    for location, options, kind in (
        (path, ("--member", "small.dmp"), 4),
        (path, ("--member", "1"), 4),
        (f"{path.as_uri()}#memory.dmp", (), 6),
    ):
        found = rows(run_plugin("-q", "-r", "json", "-f", location, "kdump.info", *options))
        assert [row["Value"] for row in found if (row["Topic"], row["Field"]) == ("Dump", "Type")] == [kind]


@pytest.mark.parametrize(
    "data, words",
    [
        (lambda dump: cab(("m.dmp", dump))[:-99], r"crash\.cab: the CAB archive ends at offset .* it is truncated"),
        (lambda dump: cab(), r"crash\.cab: a CAB archive without a crash dump: it holds no files"),
        (lambda dump: zipped(("../../x\x1b.txt", b"hello" * 999)), r"crash\.cab: \.\./\.\./x.*inside: no crash dump"),
        (lambda dump: zipped(("m.dmp", dump[:0x3000])), r"crash\.cab: m\.dmp inside: .*0x3000"),
        (lambda dump: b"7z\xbc\xaf\x27\x1c" + bytes(99), r"crash\.cab: .*7-Zip archive"),
    ],
    ids=["cut", "empty", "no dump", "cut dump", "7z"],
)
def test_what_cannot_be_opened_is_one_line(
    data: Callable[[bytes], bytes], words: str, sample: Sample, run_plugin: RunVol, tmp_path: Path
) -> None:
    path = tmp_path / "crash.cab"
    path.write_bytes(data(sample().read_bytes()))
    finished = run_plugin("-q", "-f", path, "kdump.analyze")
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line]
    assert re.match("kdump: " + words, line), line
    assert line.isprintable() and "Traceback" not in finished.stdout


def test_progress_is_shown(sample: Sample, run_vol: RunVol, tmp_path: Path) -> None:
    path = tmp_path / "shown.cab"
    path.write_bytes(cab(("MEMORY.DMP", sample().read_bytes()), ("other", b"")))
    finished = run_vol("-f", path, "kdump.bugcheck")
    assert "Extracting MEMORY.DMP from shown.cab" in finished.stderr


# the host's plugins ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def host_symbols(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A symbol directory with the table of the sample's kernel alone."""
    directory = tmp_path_factory.mktemp("symbols")
    name = Path("windows", "ntkrnlmp.pdb", "1B4A6F5E0766C552C90710C8ACC0295C-1.json.xz")
    (directory / name).parent.mkdir(parents=True)
    (directory / name).write_bytes((shared_data / "isf" / name).read_bytes())
    return directory


@pytest.mark.parametrize("name", only(["crash.cab"], ["crash.cab", "MEMORY.DMP.xz"]))
def test_host_plugins_read_the_dump_inside(
    name: str, sample: Sample, run_vol: RunVol, host_symbols: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(MAKERS[name](sample().read_bytes()))
    options = ("-q", "-s", host_symbols, "-r", "json")
    expected = rows(run_vol(*options, "-f", sample(), "windows.modules"))
    assert "myfault.sys" in [row["Name"] for row in expected]
    assert rows(run_vol(*options, "-f", path, "windows.modules")) == expected


def test_host_plugins_take_the_member_of_the_location(
    sample: Sample, run_vol: RunVol, host_symbols: Path, tmp_path: Path
) -> None:
    path = tmp_path / "two.zip"
    path.write_bytes(zipped(("a.dmp", sample(6).read_bytes()), ("b.dmp", sample(1).read_bytes())))
    options = ("-q", "-s", host_symbols, "-r", "json")
    finished = run_vol(*options, "-f", path, "windows.crashinfo")
    assert finished.returncode != 0
    assert re.search(r"kdump: two\.zip: .*2 crash dumps.*-f file://\S+two\.zip#NAME", finished.stderr)
    for member, kind in (("a.dmp", "Unknown"), ("b.dmp", "Full Dump")):
        (row,) = rows(run_vol(*options, "-f", f"{path.as_uri()}#{member}", "windows.crashinfo"))
        assert row["DumpType"].startswith(kind)


def test_other_containers_are_left_to_the_host(tmp_path: Path) -> None:
    from volatility3.framework.layers import physical

    from volatility3_kdump.layers.container import KdumpContainerStacker

    for number, content in enumerate((b"plain" * 99, gzip.compress(b"no dump" * 999), zipped(("x", b"y" * 5000)))):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(content)
        context = contexts.Context()
        context.config["file.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "file", "file"))
        assert KdumpContainerStacker.stack(context, "file") is None


# paging files ---------------------------------------------------------------------------------------------------------

ADDRESS = 0xFFFFF80055500000


def paged_out() -> bytes:
    """A kernel of a few pages, one of whose page table entries names page 3 of paging file 1.

    MMPTE_SOFTWARE of x64 since build 17763: Valid 0, Protection 5 to 9, PageFileLow 12 to 15, PageFileHigh from 32.
    """
    tables = paging.Tables("x64", 0x40, 0x41)
    for pfn, address in zip((0x30, 0x31, 0x32), (*paging.HEADS[8], paging.SHARED_DATA[8]), strict=True):
        tables.map(address & ~0xFFF, pfn)
    tables.map(ADDRESS, 0, flags=3 << 32 | 4 << 5 | 1 << 12)
    memory = {**paging.kernel_pages(8), **{pfn: bytes(table) for pfn, table in tables.memory.items()}}
    values = {
        "DirectoryTableBase": 0x40 << 12,
        "PsLoadedModuleList": paging.HEADS[8][0],
        "PsActiveProcessHead": paging.HEADS[8][1],
    }
    return bytes(packing.full(packing.runs_of(memory), 64, memory, **values))


MANIFEST = (
    b"<WatsonPageFileManifest><Pagefiles>"
    b'<Pagefile Name="pagefile.sys"/><Pagefile Name="d.sys"/><Pagefile Name="gone.sys"/>'
    b"</Pagefiles></WatsonPageFileManifest>"
)


def test_paging_files_of_the_manifest_complete_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "crash.cab"
    page = struct.pack("<1024I", *range(1024))
    members = (("m.dmp", paged_out()), ("pagefile.sys", bytes(0x5000)), ("d.sys", bytes(0x3000) + page + bytes(0x1000)))
    path.write_bytes(cab(*members))
    target = volatility3_kdump.open(path)
    assert target.memory.read(ADDRESS, 16) is None
    assert target.memory.why_unreadable(ADDRESS) == "paged out"
    path.write_bytes(cab(*members, ("Cabmanifest.xml", MANIFEST)))
    target = volatility3_kdump.open(path)
    assert target.memory.read(ADDRESS + 0x10, 16) == page[0x10:0x20]
    assert "paging file 2 of the archive's manifest is not in the archive" in target.warnings
    assert present_page(target) == [(signed(ADDRESS), page)]
    # What lies behind the end of the paging file is not there.
    path.write_bytes(cab(members[0], members[1], ("d.sys", bytes(0x2800)), ("Cabmanifest.xml", MANIFEST)))
    target = volatility3_kdump.open(path)
    assert target.memory.read(ADDRESS, 16) is None
    assert present_page(target) == []


def present_page(target: Target) -> list[tuple[int, bytes]]:
    """What a scan of all memory sees of the page that is paged out."""
    memory = present_memory(target.context.layers[target.layer_name])
    assert memory is not None
    return [(run.address, memory.read(*run)) for run in memory.runs(signed(ADDRESS), signed(ADDRESS) + 0x1000)]


def test_the_host_gets_the_paging_files_as_well(tmp_path: Path) -> None:
    from volatility3.framework import automagic, interfaces
    from volatility3.framework.configuration import requirements

    class Reads(interfaces.plugins.PluginInterface):  # type: ignore[misc]
        _required_framework_version = (2, 0, 0)
        __module__ = "volatility3.plugins.windows.reads"

        @classmethod
        def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
            return [requirements.TranslationLayerRequirement(name="primary", architectures=["Intel64"])]

        def run(self) -> None: ...

    page = struct.pack("<1024I", *range(1024))
    path = tmp_path / "crash.cab"
    path.write_bytes(
        cab(
            ("m.dmp", paged_out()),
            ("pagefile.sys", bytes(99)),
            ("d.sys", bytes(0x3000) + page),
            ("Cabmanifest.xml", MANIFEST),
        )
    )
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = path.as_uri()
    from volatility3.framework import plugins

    chosen = automagic.choose_automagic(automagic.available(context), Reads)
    plugin = plugins.construct_plugin(context, chosen, Reads, "plugins", None, None)
    layer = plugin.context.layers[plugin.config["primary"]]
    for offset, size in ((0, 16), (0x124, 16), (0xFFC, 4), (0, 0x1000)):
        assert layer.read((ADDRESS & layer.address_mask) + offset, size) == page[offset : offset + size]


def test_the_library_names_container_and_member(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    path.write_bytes(zipped(("a.dmp", sample(6).read_bytes()), ("b.dmp", sample(1).read_bytes())))
    with pytest.raises(KdumpError, match=r"^two\.zip: a zip archive with 2 crash dumps"):
        volatility3_kdump.open(path)
    target = volatility3_kdump.open(path, member="b.dmp")
    assert target.header.dump_type == 1 and target.container is not None
    assert (target.name, target.dump_file) == ("two.zip", "b.dmp")
