from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pefile
import pytest

import volatility3_kdump
from volatility3_kdump.images.image_files import ImageSet, Pieces
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import PeImage, Section
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import Memory
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.converted import table_from_pdb
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.names import AddressNames, Name
from volatility3_kdump.symbols.sources import SymbolSources, SymbolTable, isf_symbols

MakeMemory = Callable[..., "tuple[Memory, Pieces]"]
MakeModule = Callable[..., Module]
BASE = 0xFFFFF80412340000
CODE, DATA = 0x60000020, 0xC0000040
GUID = "C8C2329E0E9949E68B6F132BECA69E7E"  # of xcpt4.exe for x64, as its RSDS record has it


def module(name: str, base: int, size: int = 0x10000) -> Module:
    return Module(name, f"{name}.sys", None, base, size, 1, None)


def isf(symbols: dict[str, int], guid: str = GUID) -> dict[str, object]:
    return {
        "metadata": {"windows": {"pdb": {"GUID": guid, "age": 1, "database": "xcpt4.pdb", "machine_type": 0x8664}}},
        "base_types": {"pointer": {"size": 8, "signed": False, "kind": "int", "endian": "little"}},
        "user_types": {},
        "enums": {},
        "symbols": {name: {"address": address} for name, address in symbols.items()},
    }


def names_of(symbols: dict[str, int], *modules: Module) -> AddressNames:
    return AddressNames(modules or [module("x", BASE)], {BASE: Layouts(isf(symbols))})


def with_table(table: SymbolTable, *sections: Section) -> AddressNames:
    headers = PeImage(0x8664, 1, 0, 0x10000, 0, 0, sections, ())
    return AddressNames([module("x", BASE)], {}, lambda _: (table, "test"), lambda _: headers)


def test_nearest_lower_symbol_by_a_search_through_all(isf_path: Path) -> None:
    table = load_table_file(isf_path)
    kernel = module("nt", BASE, 0x2000000)
    names = AddressNames([kernel], {BASE: table})
    symbols = {name: table.symbol(name) or 0 for name in table.symbol_names()}
    starts = sorted({rva for rva in symbols.values() if rva})
    source = random.Random(11)
    addresses = [BASE + source.randrange(starts[0], starts[-1] + 0x1000) for _ in range(60)]
    addresses += [BASE + source.choice(starts) for _ in range(20)]
    for address in addresses:
        below = max(start for start in starts if start <= address - BASE)
        there = {name for name, rva in symbols.items() if rva == below and not name.startswith("??_C@")}
        found = names.lookup(address)
        assert found is not None
        if not there:
            assert found.symbol is not None and found.symbol.endswith("`string'")
            assert found == Name("nt", found.symbol, address - BASE - below, "isf")
            continue
        assert found.offset == address - BASE - below
        assert found.source == "isf"
        assert found.symbol in there or any(name.startswith("?") for name in there)
    assert names.lookup_many(addresses) == [names.lookup(address) for address in addresses]


def test_text_of_a_name() -> None:
    assert str(Name("nt", "KeBugCheckEx", 0, "isf")) == "nt!KeBugCheckEx"
    assert str(Name("nt", "KeBugCheckEx", 0x107)) == "nt!KeBugCheckEx+0x107"
    assert str(Name("amdppm", None, 0x334C)) == "amdppm+0x334c"
    assert str(Name("amdppm", None, 0)) == "amdppm+0x0"


def test_symbols_do_not_reach_out_of_their_module() -> None:
    names = names_of({"Last": 0xFFF0}, module("x", BASE), module("y", BASE + 0x10000), module("z", BASE + 0x30000))
    assert names.text(BASE + 0xFFFF) == "x!Last+0xf"
    assert names.text(BASE + 0x10000) == "y+0x0"
    assert names.lookup(BASE + 0x20000) is None
    assert names.lookup(BASE - 1) is None
    assert names.text(BASE + 0xFFEF) == "x+0xffef"
    assert names.module_of(BASE + 0x2FFFF) is None
    assert names.module_of(BASE + 0x3FFFF) == module("z", BASE + 0x30000)


def test_return_addresses_belong_to_the_call_before_them() -> None:
    names = names_of({"Calls": 0x1000, "Next": 0x1040}, module("x", BASE), module("y", BASE + 0x10000))
    assert names.lookup_return(BASE + 0x1040) == Name("x", "Calls", 0x40, "isf")
    assert names.lookup(BASE + 0x1040) == Name("x", "Next", 0, "isf")
    assert names.lookup_return(BASE + 0x1041) == Name("x", "Next", 1, "isf")
    assert names.lookup_return(BASE + 0x800) == Name("x", None, 0x800)
    assert names.lookup_return(BASE) == Name("x", None, 0)
    assert names.lookup_return(BASE + 0x20000) == Name("y", None, 0x10000)
    assert names.lookup_return(BASE - 8) is None


def test_literals_and_sections_bound_what_a_symbol_names() -> None:
    names = names_of({"Function": 0x1000, "??_C@_0BA@literal": 0x1100, "Shared": 0x1200, "??_C@_0BB@other": 0x1200})
    assert names.text(BASE + 0x10FF) == "x!Function+0xff"
    assert names.text(BASE + 0x1110) == "x!`string'+0x10"
    assert names.text(BASE + 0x1204) == "x!Shared+0x4"
    sections = (Section(".data", 0x1000, 0x800, DATA), Section("PAGE", 0x2000, 0x1000, CODE))
    table = SymbolTable("pdb", "x.pdb", [(0x1010, "Variable"), (0x2080, "Function")])
    names = with_table(table, *sections)
    assert names.text(BASE + 0x1FFF) == "x!Variable+0xfef"
    assert names.text(BASE + 0x2000) == "x+0x2000"  # code, which a variable does not name
    assert names.text(BASE + 0x2081) == "x!Function+0x1"


def test_names_that_are_not_known_end_the_one_before() -> None:
    names = with_table(SymbolTable("exports", "export table", [(0x1000, "Known")], [0x1100], False))
    assert names.lookup(BASE + 0x10FF) == Name("x", "Known", 0xFF, "exports")
    assert names.lookup(BASE + 0x1100) == Name("x", None, 0x1100)


def test_the_first_name_of_an_address_is_shown_and_c_names_come_first() -> None:
    names = names_of(
        {"Zeta": 0x1000, "Alpha": 0x1000, "?Free@SC_ENV@@SAXPEAX@Z": 0x1000, "?Only@SC_ENV@@SAXXZ": 0x2000}
    )
    assert names.text(BASE + 0x1000) == "x!Alpha"
    assert names.text(BASE + 0x2001) == "x!SC_ENV::Only+0x1"


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    modules = [module("a", BASE), module("b", BASE + 0x8000), module("c", BASE + 0x30000)]  # the first two overlap
    names = names_of({"One": 0x1000, "Two": 0x9000}, *modules)
    source = random.Random(2)
    addresses = [BASE + source.randrange(-0x1000, 0x50000) for _ in range(3000)]
    addresses += [BASE + edge for edge in (0, 0x7FFF, 0x8000, 0xFFFF, 0x17FFF, 0x18000)] + [0, 2**64 - 1]
    addresses += addresses[:500]
    assert names.lookup_many(addresses) == [names.lookup(address) for address in addresses]
    assert names.lookup_many(addresses[:100]) == [names.lookup(address) for address in addresses[:100]]
    assert names.lookup_many([]) == []
    assert names.lookup_many(addresses[:9] * 100) == [names.lookup(address) for address in addresses[:9] * 100]
    assert AddressNames([], {}).lookup_many([1, 2] * 500) == [None] * 1000


def test_many_addresses_of_a_32_bit_target_may_be_sign_extended_or_not() -> None:
    base = 0xFFFFFFFF82600000
    names = AddressNames([module("nt", base)], {base: Layouts(isf({"One": 0x1000}))}, pointer_size=4)
    extended = [base + 0x1000 + offset for offset in range(300)]
    assert names.lookup_many([address & 0xFFFFFFFF for address in extended]) == names.lookup_many(extended)
    assert names.lookup_many(extended)[7] == Name("nt", "One", 7, "isf")


def test_symbols_are_looked_for_when_first_needed_and_once() -> None:
    asked: list[str] = []

    def find(wanted: Module) -> tuple[SymbolTable | None, str]:
        asked.append(wanted.name)
        return None, "no image in this test"

    modules = [module("x", BASE), module("y", BASE + 0x10000)]
    names = AddressNames(modules, {BASE: Layouts(isf({"Only": 0x1000}))}, find)
    assert [names.status_of(each) for each in modules] == ["pdb symbols", "deferred"]
    assert names.reason_of(modules[1]) is None
    names.lookup(BASE)
    assert asked == []
    names.lookup(BASE + 0x10001)
    names.lookup_many([BASE + 0x10002])
    names.load(modules[1])
    assert asked == ["y"]
    assert names.status_of(modules[1]) == "no symbols"
    assert names.reason_of(modules[1]) == "no image in this test"
    assert names.status_of(module("unknown", 0x1000)) == "deferred"


def test_damaged_entries_of_a_symbol_table_are_left_out() -> None:
    document = isf({"Good": 0x1000})
    symbols = document["symbols"]
    assert isinstance(symbols, dict)
    symbols.update({"NoAddress": {}, "Text": {"address": "x"}, "Zero": {"address": 0}, "Nothing": {"address": None}})
    assert isf_symbols(Layouts(document)).symbols == [(0x1000, "Good")]


class Sources:
    """xcpt4.exe in memory, and symbols of it in directories of the test's choice."""

    def __init__(self, image: Path, memory: MakeMemory, module_of: MakeModule) -> None:
        self.pe = pefile.PE(str(image))
        self.module = module_of(image, BASE)
        held, pieces = memory({BASE: bytes(self.pe.get_memory_mapped_image())})
        self.problems: list[str] = []
        self.images = ImageSet(held, None, self.problems, pieces)

    def names(self, isf_directories: list[Path], symbol_path: list[Path]) -> AddressNames:
        sources = SymbolSources(self.images.image_of, isf_directories, SearchPath(symbol_path), self.problems)
        return AddressNames([self.module], {}, sources.find, lambda module: self.images.image_of(module).headers())


@pytest.fixture
def sources(xcpt4: Path, memory: MakeMemory, module_of: MakeModule) -> Sources:
    return Sources(xcpt4, memory, module_of)


def write_isf(directory: Path, guid: str = GUID, below: str = "xcpt4.pdb") -> Path:
    path = directory / below / f"{GUID}-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(isf({"FromIsf": 0x1000}, guid)))
    return path


@pytest.mark.parametrize("below", ["xcpt4.pdb", "windows/xcpt4.pdb"])
def test_tables_of_any_module_come_before_its_pdb(sources: Sources, xcpt4: Path, tmp_path: Path, below: str) -> None:
    path = write_isf(tmp_path, below=below)
    names = sources.names([tmp_path], [xcpt4.parent])
    assert names.lookup(BASE + 0x1010) == Name("xcpt4", "FromIsf", 0x10, "isf")
    assert names.status_of(sources.module) == "pdb symbols"
    assert names.reason_of(sources.module) == str(path)
    assert sources.problems == []


def test_a_table_for_another_build_is_refused_and_the_pdb_used(sources: Sources, xcpt4: Path, tmp_path: Path) -> None:
    path = write_isf(tmp_path, "0" * 32)
    names = sources.names([tmp_path], [xcpt4.parent])
    entry = sources.pe.OPTIONAL_HEADER.AddressOfEntryPoint
    assert names.lookup(BASE + entry + 4) == Name("xcpt4", "mainCRTStartup", 4, "pdb")
    assert names.status_of(sources.module) == "private pdb symbols"
    assert names.reason_of(sources.module) == str(xcpt4.with_suffix(".pdb"))
    assert sources.problems == [f"{path}: holds the symbols of {'0' * 32}-1, not of {GUID}-1; refused"]


def test_a_stripped_pdb_has_public_symbols_only(sources: Sources, xcpt4: Path, tmp_path: Path) -> None:
    """The bit of the DBI stream's header, as LLVM reads it."""
    data = bytearray(xcpt4.with_suffix(".pdb").read_bytes())
    for header in re.finditer(re.escape(struct.pack("<iI", -1, 19990903)), bytes(data)):  # earlier ones are left over
        data[header.start() + 56] |= 2
    stripped = tmp_path / "xcpt4.pdb"
    stripped.write_bytes(data)
    if tool := shutil.which("llvm-pdbutil"):
        for path, told in ((stripped, "true"), (xcpt4.with_suffix(".pdb"), "false")):
            shown = subprocess.run([tool, "dump", "--summary", path], capture_output=True, text=True, check=True).stdout
            assert f"Is stripped: {told}" in shown
    names = sources.names([], [tmp_path])
    names.load(sources.module)
    assert names.status_of(sources.module) == "pdb symbols"


@pytest.mark.parametrize("stripped", [False, True])
def test_a_table_made_of_a_pdb_says_what_that_had(
    sources: Sources, xcpt4: Path, tmp_path: Path, stripped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KD's word for a converted kernel; functions that only their own module can name are there or not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = bytearray(xcpt4.with_suffix(".pdb").read_bytes())
    for header in re.finditer(re.escape(struct.pack("<iI", -1, 19990903)), bytes(data)):
        data[header.start() + 56] |= 2 * stripped
    (tmp_path / "xcpt4.pdb").write_bytes(data)
    identity = PdbIdentity("xcpt4.pdb", GUID, 1, "test")
    made = table_from_pdb(identity, SearchPath([tmp_path]), [])
    kept = table_from_pdb(identity, SearchPath(), [])
    assert made is not None and kept is not None and kept.origin.endswith(".json.gz")
    for table in (made, kept):
        names = AddressNames([sources.module], {BASE: table})
        assert names.status_of(sources.module) == ("pdb symbols" if stripped else "private pdb symbols")
        # A static function of the C run-time, S_LPROC32 at 0001:3150 to LLVM, between publics that others can name.
        name = str(names.lookup(BASE + 0x4150))
        assert (name == "xcpt4!__scrt_common_main_seh") is not stripped


def test_every_function_of_unwind_data_is_named_by_its_own_symbol(sources: Sources, xcpt4: Path) -> None:
    """.pdata and the PDB are two lists of the same functions, written by the linker."""
    names = sources.names([], [xcpt4.parent])
    functions = [
        (entry.struct.BeginAddress, entry.struct.EndAddress)
        for entry in sources.pe.DIRECTORY_ENTRY_EXCEPTION
        if not entry.unwindinfo.Flags & 4  # chained entries are parts of another function
    ]
    assert len(functions) > 100
    exact = 0
    for start, end in functions:
        first, last = names.lookup(BASE + start), names.lookup(BASE + end - 1)
        assert first is not None and last is not None and first.symbol
        exact += first.offset == 0 and last.symbol == first.symbol and last.offset == end - 1 - start
        returned = names.lookup_return(BASE + end)
        assert returned is not None and returned.symbol == last.symbol and returned.offset == last.offset + 1
    # Separate entries of one function's parts, and labels inside of hand-written ones.
    assert exact > 0.95 * len(functions)


def test_exports_are_the_last_resort(
    shared_data: Path, memory: MakeMemory, module_of: MakeModule, tmp_path: Path
) -> None:
    image = shared_data / "pe" / "seh" / "x64" / "xframe_eh_dll.dll"
    if not image.is_file():
        pytest.skip(f"no {image}")
    subject = Sources(image, memory, module_of)
    names = subject.names([], [tmp_path])
    exports = {symbol.name.decode(): symbol.address for symbol in subject.pe.DIRECTORY_ENTRY_EXPORT.symbols}
    for name, rva in exports.items():
        assert names.lookup(BASE + rva + 2) == Name("xframe_eh_dll", name, 2, "exports")
    assert names.status_of(subject.module) == "export symbols"
    reason = names.reason_of(subject.module)
    assert reason is not None and reason.startswith("export table; neither xframe_eh_dll.pdb/4192FD51")
    data = next(section for section in subject.pe.sections if section.Name.startswith(b".rdata"))
    assert names.lookup(BASE + data.VirtualAddress) == Name("xframe_eh_dll", None, data.VirtualAddress)


def test_no_symbols_and_the_reason(sources: Sources, tmp_path: Path) -> None:
    names = sources.names([], [tmp_path])
    assert names.lookup(BASE + 0x1010) == Name("xcpt4", None, 0x1010)
    assert names.status_of(sources.module) == "no symbols"
    assert names.reason_of(sources.module) == (
        f"neither xcpt4.pdb/{GUID}-1.json.xz nor xcpt4.pdb of that build was found"
    )


def test_names_in_a_real_dump_through_image_file_and_pdb(
    shared_data: Path, xcpt4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up image with the identity of a driver leads to its PDB, though the dump holds neither."""
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    if not dump.is_file():
        pytest.skip(f"no {dump}")
    monkeypatch.setenv("KDUMP_OFFLINE", "1")
    bare = volatility3_kdump.open(dump, symbol_path="", image_path="")
    driver = next(module for module in bare.modules if module.image_name.lower() == "disk.sys")
    assert bare.names.status_of(driver) == "deferred"
    assert bare.name_of(driver.base + 0x1234) == "disk+0x1234"
    assert bare.names.status_of(driver) == "no symbols"
    assert bare.names.reason_of(driver) == "the RSDS record of its image is not in the dump"

    data = bytearray(xcpt4.read_bytes())
    start = struct.unpack_from("<I", data, 0x3C)[0]
    assert driver.timestamp is not None
    struct.pack_into("<I", data, start + 8, driver.timestamp)
    struct.pack_into("<I", data, start + 0x18 + 0x38, driver.size)
    (tmp_path / "disk.sys").write_bytes(data)
    target = volatility3_kdump.open(
        dump, symbol_path=f"srv*{xcpt4.parent}*https://example.invalid", image_path=tmp_path
    )
    entry = pefile.PE(str(xcpt4)).OPTIONAL_HEADER.AddressOfEntryPoint
    assert target.name_of(driver.base + entry + 4) == "disk!mainCRTStartup+0x4"
    assert target.names.lookup(driver.base + entry) == Name("disk", "mainCRTStartup", 0, "pdb")
    assert target.names.status_of(driver) == "private pdb symbols"
    assert target.warnings == []

    wrong = tmp_path / "wrong"
    wrong.mkdir()
    shutil.copy(xcpt4.parent / "nested_collided.pdb", wrong / "xcpt4.pdb")
    refused = volatility3_kdump.open(dump, symbol_path=[wrong], image_path=[tmp_path])
    assert refused.name_of(driver.base + entry) == f"disk+{entry:#x}"
    assert refused.names.status_of(driver) == "no symbols"
    assert [line for line in refused.warnings if "refused" in line] == [
        f"{wrong / 'xcpt4.pdb'}: GUID C0612E0E06364D5B956711A9C95291C8 and age 1 are not the image's "
        f"{GUID} and 1; refused"
    ]


def test_the_environment_gives_the_debuggers_paths(
    shared_data: Path, xcpt4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    if not dump.is_file():
        pytest.skip(f"no {dump}")
    monkeypatch.setenv("_NT_SYMBOL_PATH", f"srv*{xcpt4.parent}*https://example.invalid;{tmp_path / 'absent'}")
    target = volatility3_kdump.open(dump)
    assert target.places.symbol_path.directories == (xcpt4.parent,)
    assert target.warnings == []  # what the debugger may use is no fault of the user
    assert volatility3_kdump.open(dump, symbol_path=[]).places.symbol_path.directories == ()


def kernel_file(timestamp: int, size: int, debug: int) -> bytes:
    """An image of one read-only section, with a debug directory where the kernel in the dump has its own."""
    header = bytearray(0x400)
    header[:2] = b"MZ"
    struct.pack_into("<I", header, 0x3C, 0x80)
    struct.pack_into("<4sHHIIIHH", header, 0x80, b"PE\0\0", 0x8664, 1, timestamp, 0, 0, 0xF0, 0x22)
    struct.pack_into("<H", header, 0x98, 0x20B)
    struct.pack_into("<QII", header, 0x98 + 0x18, 0x140000000, 0x1000, 0x200)
    struct.pack_into("<II", header, 0x98 + 0x38, size, 0x400)
    struct.pack_into("<I", header, 0x98 + 0x6C, 16)
    stored = debug + 0x200 - 0x1000
    struct.pack_into("<8sIIII", header, 0x98 + 0xF0, b".rdata", size - 0x1000, 0x1000, stored, 0x400)
    struct.pack_into("<I", header, 0x98 + 0xF0 + 36, 0x40000040)
    section = bytearray(stored)
    record = b"RSDS" + uuid.UUID(GUID).bytes_le + struct.pack("<I", 2) + b"C:\\nt\\ntkrnlmp.pdb\0"
    struct.pack_into("<IIII", section, debug - 0x1000 + 12, 2, len(record), debug + 0x100, 0)
    section[debug - 0x1000 + 0x100 : debug - 0x1000 + 0x100 + len(record)] = record
    return bytes(header + section)


def test_an_image_file_identifies_the_kernel_that_the_dump_does_not(shared_data: Path, tmp_path: Path) -> None:
    dump = shared_data / "dumps" / "triage_x64_17763.dmp"
    if not dump.is_file():
        pytest.skip(f"no {dump}")
    bare = volatility3_kdump.open(dump, image_path="")
    assert bare.kernel is not None and bare.kernel.identity is None
    kernel = bare.modules[0]
    headers = bare.images.headers_of(kernel)
    assert kernel.timestamp is not None and headers is not None
    debug = headers.directory(6)
    assert debug is not None and bare.memory.read(kernel.base + debug[0], 28) is None
    (tmp_path / "ntkrnlmp.exe").write_bytes(kernel_file(kernel.timestamp, kernel.size, debug[0]))
    target = volatility3_kdump.open(dump, image_path=tmp_path)
    assert target.kernel is not None and target.kernel.identity is not None
    assert target.kernel.identity.isf_name == f"ntkrnlmp.pdb/{GUID}-2"
    assert f"ntkrnlmp.pdb/{GUID}-2.json.xz" in target.symbol_status


def test_options_of_the_plugins(
    shared_data: Path, run_plugin: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    if not dump.is_file():
        pytest.skip(f"no {dump}")
    absent = [tmp_path / "images", tmp_path / "symbols"]
    options = itertools.chain(*zip(["--image-path", "--symbol-path"], map(str, absent), strict=True))
    finished = run_plugin("-q", "-f", dump, "kdump.info", *options)
    shown = finished.stdout
    assert f"image path: {absent[0]} is not a directory, ignored" in shown
    assert f"symbol path: {absent[1]} is not a directory, ignored" in shown
