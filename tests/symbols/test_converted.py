"""A kernel's and a driver's symbols from their PDBs alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from tests.symbols.pdb.made_pdb import kernel_pdb
from volatility3_kdump import isf_document
from volatility3_kdump.archives.cache import default_directory
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.stores.stores import default_store, prepare
from volatility3_kdump.symbols.converted import directory, table_from_pdb
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.names import store_key
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.machine.version import build_lab
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread

XCPT4 = PdbIdentity("xcpt4.pdb", "C8C2329E0E9949E68B6F132BECA69E7E", 1, "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.delenv("KDUMP_ISF_DIR", raising=False)
    monkeypatch.delenv("_NT_SYMBOL_PATH", raising=False)


@pytest.fixture(scope="module")
def isf(isf_paths: list[Path]) -> Path:
    """The smallest of the kernel tables: Windows 7."""
    return min(isf_paths, key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def store(isf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A symbol store that holds the kernel's PDB."""
    table = json.loads(lzma.decompress(isf.read_bytes()))
    known = table["metadata"]["windows"]["pdb"]
    identity = PdbIdentity("ntkrnlmp.pdb", known["GUID"], known["age"], "test")
    root = tmp_path_factory.mktemp("store")
    place = root / "ntkrnlmp.pdb" / store_key(identity) / "ntkrnlmp.pdb"
    place.parent.mkdir(parents=True)
    place.write_bytes(kernel_pdb(table))
    return root


def values(target: Any) -> dict[str, Any]:
    """What takes types, symbols and enumerations to find out."""
    assert target.nt is not None
    return {
        "modules": [module.name for module in target.modules],
        "crash": (crash_process(target).image_name, crash_thread(target).address),
        "thread": crash_thread(target),
        "processors": len(processors(target)),
        "build": build_lab(target),
        "name": target.name_of(target.header_context.ip),
        "size": target.nt.size_of("_EPROCESS"),
        "wait": target.nt.enum("_KWAIT_REASON"),
    }


def test_the_kernel_from_its_pdb_alone(isf: Path, store: Path, sample: Callable[..., Path]) -> None:
    dump = sample(6, isf)
    expected = values(volatility3_kdump.open(dump, isf_file=isf, symbol_path=""))
    bare = volatility3_kdump.open(dump, symbol_path="")
    assert not bare.has_names and "ntkrnlmp.pdb" in bare.symbol_status and "--symbol-path" in bare.symbol_remedy

    target = volatility3_kdump.open(dump, symbol_path=f"srv*{store}")
    assert values(target) == expected
    assert target.symbol_status.endswith("ntkrnlmp.pdb") and target.symbol_status.startswith(str(store))
    kernel = target.modules[0]
    assert target.names.status_of(kernel) == "pdb symbols"

    # Converted once: from now on the PDB is not needed.
    again = volatility3_kdump.open(dump, symbol_path="")
    assert values(again) == expected
    assert again.symbol_status.startswith(str(directory() / "windows" / "ntkrnlmp.pdb"))
    assert again.warnings == target.warnings


def test_an_isf_table_of_the_users_comes_first(isf: Path, store: Path, sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample(6, isf), [isf.parents[2]], symbol_path=f"srv*{store}")
    assert target.symbol_status == str(isf)
    assert not directory().exists()


def test_damage_in_the_cache_is_made_good(xcpt4: Path) -> None:
    path = SearchPath([xcpt4.parent])
    problems: list[str] = []
    first = table_from_pdb(XCPT4, path, problems)
    assert first is not None and first.size_of("_EXCEPTION_POINTERS") == 16
    (kept,) = directory().rglob("*.json.gz")
    assert kept == directory() / "windows" / "xcpt4.pdb" / f"{XCPT4.identifier}.json.gz"
    for damage in (b"", b"not gzip", kept.read_bytes()[:-50]):
        kept.write_bytes(damage)
        again = table_from_pdb(XCPT4, path, problems)
        assert again is not None and again.origin == first.origin
        cached = table_from_pdb(XCPT4, SearchPath(), problems)
        assert cached is not None and cached.origin == str(kept)
        assert cached.types == first.types
    assert problems == []
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name, f"{kept.name}.sha256"]


def test_only_what_the_user_alone_can_write_is_not_validated_again(
    xcpt4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SearchPath([xcpt4.parent])
    assert table_from_pdb(XCPT4, path, []) is not None
    (kept,) = directory().rglob("*.json.gz")
    note = kept.with_name(f"{kept.name}.sha256")
    document = json.loads(gzip.decompress(kept.read_bytes()))
    document["user_types"]["_EXCEPTION_POINTERS"]["size"] = -1
    wrong = gzip.compress(json.dumps(document).encode())

    # Another table than the one that was validated is validated, refused and made anew.
    kept.write_bytes(wrong)
    made = table_from_pdb(XCPT4, path, [])
    assert made is not None and made.size_of("_EXCEPTION_POINTERS") == 16 and kept.read_bytes() != wrong
    assert note.read_text() == hashlib.sha256(kept.read_bytes()).hexdigest()

    # So is one whose digest fits, where others could have written both.
    kept.write_bytes(wrong)
    note.write_text(hashlib.sha256(wrong).hexdigest())
    kept.parent.chmod(0o777)
    assert table_from_pdb(XCPT4, SearchPath(), []) is None
    kept.parent.chmod(0o700)
    note.unlink()
    assert table_from_pdb(XCPT4, SearchPath(), []) is None

    kept.unlink()
    assert table_from_pdb(XCPT4, path, []) is not None

    def refused(document: Any) -> None:
        raise AssertionError("validated again")

    monkeypatch.setattr(isf_document, "validate", refused)
    cached = table_from_pdb(XCPT4, SearchPath(), [])
    assert cached is not None and cached.origin == str(kept)


def test_another_build_is_not_converted(xcpt4: Path, tmp_path: Path) -> None:
    shutil.copy(xcpt4.with_name("nested_collided.pdb"), tmp_path / "xcpt4.pdb")
    problems: list[str] = []
    assert table_from_pdb(XCPT4, SearchPath([tmp_path]), problems) is None
    assert len(problems) == 1 and problems[0].endswith("are not the image's " + f"{XCPT4.guid} and 1; refused")


def test_a_pdb_with_damaged_types_is_refused_and_the_next_is_taken(xcpt4: Path, tmp_path: Path) -> None:
    # Every list of fields that starts with a member; the linker left older copies in the file.
    data = xcpt4.with_suffix(".pdb").read_bytes().replace(b"\x03\x12\x0d\x15", b"\x03\x12\x99\x15")
    (tmp_path / "xcpt4.pdb").write_bytes(data)
    problems: list[str] = []
    found = table_from_pdb(XCPT4, SearchPath([tmp_path, xcpt4.parent]), problems)
    assert found is not None and found.origin == str(xcpt4.with_suffix(".pdb"))
    assert problems == [
        f"{tmp_path / 'xcpt4.pdb'}: cannot be read as a PDB: a list of fields holds the unknown kind 0x1599; refused"
    ]


@pytest.mark.skipif(os.name == "nt", reason="another message there")
def test_a_cache_that_cannot_be_written_costs_only_time(xcpt4: Path) -> None:
    default_directory().parent.mkdir(parents=True)
    default_directory().write_text("no directory")
    problems: list[str] = []
    assert table_from_pdb(XCPT4, SearchPath([xcpt4.parent]), problems) is not None
    assert problems == [f"{directory()}: the converted xcpt4.pdb cannot be kept: Not a directory"]


def test_types_of_a_driver(
    sample: Callable[..., Path], isf: Path, store: Path, monkeypatch: pytest.MonkeyPatch, xcpt4: Path
) -> None:
    target = volatility3_kdump.open(sample(6, isf), symbol_path=[f"srv*{store}", xcpt4.parent])
    kernel, driver = target.modules[0], target.modules[-1]
    table = target.types_of(kernel)
    assert table is not None and table.describe("_EPROCESS") is not None
    assert target.types_of(driver) is None
    other = volatility3_kdump.open(sample(6, isf), symbol_path=[f"srv*{store}", xcpt4.parent])
    monkeypatch.setattr(other.symbol_sources, "identity_of", lambda module: XCPT4)
    found = other.types_of(driver)
    assert found is not None and found.describe("_EXCEPTION_POINTERS") is not None
    assert other.types_of(driver) is found


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_tables_of_a_cache_that_others_may_write_are_not_believed(xcpt4: Path) -> None:
    search = SearchPath([xcpt4.parent])
    old = os.umask(0o002)
    try:
        first = table_from_pdb(XCPT4, search, [])
        prepare(default_store())
    finally:
        os.umask(old)
    assert first is not None
    assert {stat.S_IMODE(path.stat().st_mode) for path in [default_directory(), *default_directory().rglob("*/")]} == {
        0o700
    }
    (kept,) = directory().rglob("*.json.gz")
    planted = gzip.decompress(kept.read_bytes()).replace(b'"size":', b'"size":1', 1)
    kept.write_bytes(gzip.compress(planted, mtime=0))
    assert table_from_pdb(XCPT4, SearchPath([]), []) is not None
    default_directory().chmod(0o777)
    assert table_from_pdb(XCPT4, SearchPath([]), []) is None
    problems: list[str] = []
    anew = table_from_pdb(XCPT4, search, problems)
    assert anew is not None and kept.read_bytes() == gzip.compress(planted, mtime=0)
    (problem,) = problems
    assert problem.startswith(f"the converted xcpt4.pdb is not kept: the cache {default_directory()} may be written by")
