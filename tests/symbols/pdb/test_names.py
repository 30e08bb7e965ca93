from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pefile
import pytest

from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.names import PdbFile, PdbRefused, find_pdb, load_pdb, store_key
from volatility3_kdump.symbols.pdb.undecorate import undecorate


def identity_of(image: Path) -> PdbIdentity:
    """The RSDS record of an image, by pefile."""
    pe = pefile.PE(str(image))
    entry = next(entry.entry for entry in pe.DIRECTORY_ENTRY_DEBUG if entry.struct.Type == 2)
    guid = struct.pack("<IHH", entry.Signature_Data1, entry.Signature_Data2, entry.Signature_Data3)
    guid += bytes([entry.Signature_Data4, entry.Signature_Data5]) + entry.Signature_Data6
    name = entry.PdbFileName.rstrip(b"\0").decode().rsplit("\\", 1)[-1]
    return PdbIdentity(name, uuid.UUID(bytes_le=guid).hex.upper(), entry.Age, "test")


@pytest.fixture
def pdb_path(xcpt4: Path) -> Path:
    return xcpt4.with_suffix(".pdb")


def test_symbols_equal_llvm(image_path: Path) -> None:
    tool = shutil.which("llvm-pdbutil")
    if tool is None:
        pytest.skip("llvm-pdbutil is not installed")
    pdb = image_path.with_suffix(".pdb")
    sections = [section.VirtualAddress for section in pefile.PE(str(image_path)).sections]
    shown = subprocess.run(
        [tool, "dump", "-publics", "-symbols", pdb], capture_output=True, text=True, check=True
    ).stdout
    record = re.compile(r"(S_PUB32|S_[GL]PROC32|S_THUNK32) \[size = \d+\] `(.*)`\n(?:.*\n)??.*addr = (\d+):(\d+)")
    expected, procedures, decorated = set(), set(), set()
    for kind, name, segment, offset in record.findall(shown):
        if 0 < int(segment) <= len(sections):
            rva = sections[int(segment) - 1] + int(offset)
            entry = (rva, undecorate(name, 8) if kind == "S_PUB32" else name)
            expected.add(entry)
            if kind in ("S_GPROC32", "S_LPROC32"):
                procedures.add(entry)
            elif name.startswith("?"):
                decorated.add(entry)
    # Of C++ names beside that of the procedure itself there are none.
    named = {rva for rva, _ in procedures}
    expected -= {entry for entry in decorated - procedures if entry[0] in named}
    assert len(expected) > 150
    found = load_pdb(pdb, identity_of(image_path))
    assert set(found.symbols) == expected
    assert [rva for rva, _ in found.symbols] == sorted(rva for rva, _ in found.symbols)


def test_names_equal_purepdb(image_path: Path) -> None:
    purepdb = pytest.importorskip("purepdb")
    path = image_path.with_suffix(".pdb")
    with purepdb.PDB.open(str(path)) as other:
        kinds = (other.module_procs(), other.public_symbols(), other.thunks())
        named = {(other.to_rva(s.segment, s.offset), rank, s.name) for rank, kind in enumerate(kinds) for s in kind}
    with PdbFile(path) as subject:
        # Constants have a section number behind the last one, and no address.
        assert set(subject.named()) == {entry for entry in named if entry[0]}


def test_some_known_symbols(xcpt4: Path, pdb_path: Path) -> None:
    pe = pefile.PE(str(xcpt4))
    symbols = load_pdb(pdb_path, identity_of(xcpt4)).symbols
    by_name = {name: rva for rva, name in symbols}
    # Two addresses that the image states itself.
    assert by_name["mainCRTStartup"] == pe.OPTIONAL_HEADER.AddressOfEntryPoint
    base = pe.OPTIONAL_HEADER.ImageBase
    assert by_name["_security_cookie"] == pe.DIRECTORY_ENTRY_LOAD_CONFIG.struct.SecurityCookie - base
    # A procedure has its name in the source, underscores and all, and comes before the public symbol of its address.
    at_check = [name for rva, name in symbols if rva == by_name["__security_check_cookie"]]
    assert at_check == ["__security_check_cookie", "_security_check_cookie"]


def test_found_in_directories_and_stores(xcpt4: Path, pdb_path: Path, tmp_path: Path) -> None:
    identity = identity_of(xcpt4)
    assert store_key(identity) == "C8C2329E0E9949E68B6F132BECA69E7E1"
    problems: list[str] = []
    plain = find_pdb(SearchPath([pdb_path.parent]), identity, problems)
    assert plain is not None and plain.path == pdb_path
    place = tmp_path / "XCPT4.PDB" / "c8c2329e0e9949e68b6f132beca69e7e1"
    place.mkdir(parents=True)
    shutil.copy(pdb_path, place / "xcpt4.pdb")
    stored = find_pdb(SearchPath([tmp_path]), identity, problems)
    assert stored is not None and stored.path == place / "xcpt4.pdb" and stored.symbols == plain.symbols
    # A directory above the file will do, whatever it is.
    below = find_pdb(SearchPath([tmp_path / "XCPT4.PDB"]), identity, problems)
    assert below is not None and below.path == stored.path
    assert find_pdb(SearchPath([tmp_path / "absent"]), identity, problems) is None
    assert problems == []


@pytest.mark.parametrize(("guid", "age"), [("0" * 32, 1), (None, 2)], ids=["guid", "age"])
def test_another_build_is_refused_and_said(guid: str | None, age: int, xcpt4: Path, pdb_path: Path) -> None:
    own = identity_of(xcpt4)
    wanted = PdbIdentity(own.pdb_name, guid or own.guid, age, "test")
    problems: list[str] = []
    assert find_pdb(SearchPath([pdb_path.parent]), wanted, problems) is None
    assert problems == [
        f"{pdb_path}: GUID {own.guid} and age {own.age} are not the image's {wanted.guid} and {wanted.age}; refused"
    ]


def test_the_age_that_counts_is_that_of_the_symbols(xcpt4: Path, pdb_path: Path, tmp_path: Path) -> None:
    own = identity_of(xcpt4)
    data = pdb_path.read_bytes()
    information = data.index(uuid.UUID(own.guid).bytes_le) - 4  # age precedes the GUID
    # Signature, version and age of the DBI stream; the linker left an older copy of it in the file.
    stream = struct.pack("<iI", -1, 19990903)
    path = tmp_path / "xcpt4.pdb"
    path.write_bytes(data[:information] + struct.pack("<I", 9) + data[information + 4 :])
    assert len(load_pdb(path, own).symbols) > 200
    path.write_bytes(data.replace(stream + struct.pack("<I", 1), stream + struct.pack("<I", 9)))
    with pytest.raises(PdbRefused, match="age 9 are not"):
        load_pdb(path, own)
    assert len(load_pdb(path, PdbIdentity(own.pdb_name, own.guid, 9, "test")).symbols) > 200


def test_a_refused_file_does_not_end_the_search(xcpt4: Path, pdb_path: Path, tmp_path: Path) -> None:
    (tmp_path / "xcpt4.pdb").write_bytes(b"not a PDB at all")
    problems: list[str] = []
    found = find_pdb(SearchPath([tmp_path, pdb_path.parent]), identity_of(xcpt4), problems)
    assert found is not None and found.path == pdb_path
    assert len(problems) == 1 and problems[0].startswith(f"{tmp_path / 'xcpt4.pdb'}: cannot be read as a PDB: ")


def test_damaged_files_are_refused_and_nothing_else(xcpt4: Path, pdb_path: Path, tmp_path: Path) -> None:
    identity = identity_of(xcpt4)
    data = pdb_path.read_bytes()
    source = random.Random(5)
    refused = 0
    for number in range(25):
        changed = bytearray(data[: source.choice([len(data), source.randrange(0x1000, len(data))])])
        for _ in range(40):
            offset = source.randrange(len(changed))
            changed[offset : offset + 4] = source.randbytes(4)[: len(changed) - offset]
        path = tmp_path / f"{number}.pdb"
        path.write_bytes(changed)
        try:
            assert all(rva > 0 and name.isprintable() for rva, name in load_pdb(path, identity).symbols)
        except PdbRefused:
            refused += 1
    assert refused


@pytest.mark.parametrize("name", ["..", "../xcpt4.pdb/../..", "", "a:b.pdb", "\0.pdb"])
def test_names_from_the_dump_never_leave_the_path(name: str, pdb_path: Path, tmp_path: Path) -> None:
    shutil.copy(pdb_path, tmp_path / "xcpt4.pdb")
    inside = tmp_path / "inside"
    inside.mkdir()
    problems: list[str] = []
    assert find_pdb(SearchPath([inside]), PdbIdentity(name, "0" * 32, 1, "test"), problems) is None
    assert problems == []
