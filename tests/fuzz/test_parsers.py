"""Every parser of untrusted bytes by itself, one run each."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import re
import struct
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from tests.archives import cabinets, packing
from tests.batch.executors import Here
from tests.expressions.test_grammar import Fake
from tests.fuzz.mutation import mutate, mutate_document, mutate_text
from tests.fuzz.running import Runner, fit_for_a_terminal
from tests.symbols.pdb.test_types import stored
from tests.symbols.test_manifest import manifest_of
from tests.windows.machine.test_whea import BASE as RECORD_AT
from tests.windows.machine.test_whea import MEMORY_SECTION, memory_of, record
from volatility3_kdump import batch
from volatility3_kdump.archives.cache import MemberCache
from volatility3_kdump.archives.containers import open_container
from volatility3_kdump.batch import LineFile
from volatility3_kdump.cpu import amd64_unwind, arm64_unwind, x86_frames
from volatility3_kdump.dump import BytesSource, TaggedBlob
from volatility3_kdump.dump.smbios import TAG, machine_information
from volatility3_kdump.dump.tagged import tagged_blobs
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import evaluate, parse_range
from volatility3_kdump.images import pe
from volatility3_kdump.images.exports import read_exports
from volatility3_kdump.images.version_resource import image_version
from volatility3_kdump.layout import Layouts
from volatility3_kdump.stores.paths import SearchPath, safe_file_name
from volatility3_kdump.symbols import manifest
from volatility3_kdump.symbols.pdb.frames import frame_table
from volatility3_kdump.symbols.pdb.lines import PdbLines
from volatility3_kdump.symbols.pdb.names import PdbFile
from volatility3_kdump.symbols.pdb.types import document_of
from volatility3_kdump.symbols.pdb.undecorate import undecorate
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.windows.machine import whea

Sample = Callable[..., Path]
Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Subject:
    """A parser: what it can read, what reads it, and how many damaged inputs a short run gives it.

    ``originals`` is given the maker of samples, ``feed`` the bytes and a directory of its own.
    """

    originals: Callable[[Sample], Sequence[bytes]]
    feed: Callable[[bytes, Path], Any]
    damage: Damage = mutate
    at_least: int = 200


def near(*sizes: int) -> Damage:
    """Damage mostly in front parts of these sizes."""
    return lambda data, generator: mutate(data, generator, sizes)


def texts(alphabet: str) -> Damage:
    """Damage of a text whose characters have a meaning."""

    def damage(data: bytes, generator: random.Random) -> bytes:
        text = data.decode("utf-8", "surrogatepass")
        return mutate_text(text, generator, alphabet).encode("utf-8", "surrogatepass")

    return damage


def document(data: bytes, generator: random.Random) -> bytes:
    """Damage of a JSON document that stays one."""
    return json.dumps(mutate_document(json.loads(data), generator)).encode()


def lines(data: bytes, generator: random.Random) -> bytes:
    """Damage of a file with a JSON document in each line: of one line, or of its bytes."""
    if generator.random() < 0.2:
        return mutate(data, generator)
    parts = data.splitlines()
    chosen = generator.randrange(len(parts))
    parts[chosen] = document(parts[chosen], generator)
    return b"\n".join(parts) + b"\n"


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


# dumps ---------------------------------------------------------------------------------------------------------------


def tagged_data(sample: Sample) -> list[bytes]:
    blobs = [(uuid.UUID(int=number), bytes([number]) * 30, number, 3) for number in range(1, 6)]
    return [packing.tagged(blobs, size) for size in (0x20, 0x28)]


def read_tagged(data: bytes, directory: Path) -> list[TaggedBlob]:
    source = BytesSource(data)
    blobs, _ = tagged_blobs(source, 0)
    assert all(blob.offset + blob.size <= len(data) for blob in blobs)
    return blobs


def smbios(sample: Sample) -> list[bytes]:
    def structure(kind: int, body: bytes, *strings: bytes) -> bytes:
        return bytes([kind, 4 + len(body), 0, 0]) + body + b"\0".join(strings) + b"\0\0"

    tables = structure(0, bytes([1, 2, 0, 0, 3] + [0] * 9), b"Vendor", b"1.0", b"10/07/2021")
    tables += structure(1, bytes([1, 2, 3, 4]) + bytes(range(16)) + bytes([6, 1, 2]), b"Maker", b"Product", b"3", b"4")
    tables += structure(4, bytes(22)) + structure(127, b"")
    return [struct.pack("<BBBBI", 0, 3, 1, 0, len(tables)) + tables]


def read_smbios(data: bytes, directory: Path) -> Any:
    blob = TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)
    return machine_information(BytesSource(data), [blob])


def error_records(sample: Sample) -> list[bytes]:
    kinds = (whea.PROCESSOR_GENERIC, whea.PROCESSOR_X64, whea.MACHINE_CHECK, whea.PCI_EXPRESS, whea.PLATFORM_MEMORY)
    return [record(MEMORY_SECTION, bytes(80)), *(record(uuid.UUID(kind), bytes(range(250))) for kind in kinds)]


def read_error_record(data: bytes, directory: Path) -> whea.ErrorRecord:
    return whea.read_error_record(memory_of(data), RECORD_AT)


# images --------------------------------------------------------------------------------------------------------------


def images(sample: Sample) -> list[bytes]:
    """Drivers of the demonstration as they are mapped, what is not in the dump as zeros."""
    target = volatility3_kdump.open(sample(1))
    modules = [module for module in target.modules if module.name.lower() in ("myfault", "win32k", "hal")]
    assert len(modules) == 3

    def mapped(base: int, size: int) -> bytes:
        pages = (target.memory.read(base + offset, 0x1000) or bytes(0x1000) for offset in range(0, size, 0x1000))
        return b"".join(pages)

    return [mapped(module.base, min(module.size, 0x20000)) for module in modules]


def over(data: bytes) -> Callable[[int, int], bytes | None]:
    return lambda rva, size: data[rva : rva + size] if rva >= 0 and rva + size <= len(data) else None


def read_image(data: bytes, directory: Path) -> pe.PeImage | None:
    read = over(data)
    image = pe.parse_headers(read)
    if image is not None:
        pe.code_view(read, image)
        pe.debug_entries(read, image)
        pe.reproducible(read, image)
        read_exports(read, image)
        image_version(read, image)
    return image


def with_functions(sample: Sample) -> list[bytes]:
    """The images that have an exception directory."""
    headers = ((data, pe.parse_headers(over(data))) for data in images(sample))
    return [data for data, image in headers if image is not None and image.directory(pe.EXCEPTION) is not None]


def unwind_amd64(data: bytes, directory: Path) -> amd64_unwind.Unwound | None:
    """Steps from addresses all over the image, on a stack of addresses in it."""
    read_rva = over(data)
    image = pe.parse_headers(read_rva)
    directory_of = image.directory(pe.EXCEPTION) if image is not None else None
    if directory_of is None:
        return None
    base, stack = 0xFFFFF80000000000, 0xFFFFC00000000000
    words = struct.pack("<512Q", *(base + (0x1000 + 0x39 * number) % len(data) for number in range(512)))
    read = over(words)
    table = amd64_unwind.FunctionTable(read_rva, directory_of, len(data))
    unwound = None
    for rva in range(0x1000, min(len(data), 0x4000), 0x1C7):
        registers = amd64_unwind.Registers([stack + 0x100] * 16, base + rva)
        for _ in range(8):
            unwound = amd64_unwind.unwind(registers, table, base, lambda at, size: read(at - stack, size))
            if unwound.registers is None:
                break
            registers = unwound.registers
    return unwound


def arm64_tables(sample: Sample) -> list[bytes]:
    """Functions of packed words, and of records with codes, in an image of two pages."""
    packed = b"".join(struct.pack("<II", 0x400 + 0x40 * number, 0x01200041 + (number << 13)) for number in range(16))
    codes = bytes.fromhex("e1e481c4e3e3e4e4")
    unpacked = struct.pack("<I", 0x1000) + struct.pack("<I", 0x10 | len(codes) // 4 << 27 | 1 << 21) + codes
    whole = packed + struct.pack("<II", 0x900, 0x200) + unpacked.rjust(0x200 - 0x88 + len(unpacked), b"\0")
    return [whole.ljust(0x1000, b"\0")]


def unwind_arm64(data: bytes, directory: Path) -> Any:
    table = arm64_unwind.FunctionTable(over(data), (0, 0x88), 0x1000)
    stack = over(bytes(range(256)) * 4)
    unwound = None
    for rva in range(0x400, 0xA00, 0x24):
        registers = arm64_unwind.Registers([0x1000] * 31, 0x1000, rva)
        unwound = arm64_unwind.unwind(registers, table, 0, lambda at, size: stack(at - 0x1000, size), call_site=True)
    return unwound


# symbols -------------------------------------------------------------------------------------------------------------


def pdbs(sample: Sample) -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        names = ("driver_like.pdb", "kernel_like.pdb", "kernel_like32.pdb")
        return [stored(name, Path(directory)).read_bytes() for name in names]


def read_pdb(data: bytes, directory: Path) -> None:
    path = directory / "x.pdb"
    path.write_bytes(data)
    with PdbFile(path) as opened:
        for _, _, name in opened.named():
            undecorate(name, opened.pointer_size)
        json.dumps(document_of(opened, "x.pdb"))
        source_lines = PdbLines(opened)
        for rva in range(0x1000, 0x3000, 0x40):
            source_lines.line_of(rva)
        frames = frame_table(opened)
        for rva in range(0x1000, 0x1200, 0x10):
            entry = frames.find(rva)
            if entry is not None:
                # Whatever the program is, it ends, with registers or with a reason.
                x86_frames.step(entry, dict.fromkeys(x86_frames.REGISTERS, rva), lambda at, size: bytes(size), bool)


DECORATED = (
    "?f@@YAHH@Z",
    "??0exception@std@@QEAA@AEBV01@@Z",
    "??$make@V?$vector@HV?$allocator@H@std@@@std@@@ns@@YA?AV?$vector@HV?$allocator@H@std@@@std@@XZ",
    "??_7Thing@@6BBase@@@",
    "?method@?$Template@PEAU_KTHREAD@@$0BA@@@UEAAPEAXP6AXPEAX@Z@Z",
    "?Static@?1??Function@@9@9",
    "?Release@?$Owner@URequest@toy@@$1?Forget@2@YAXPEAU12@@Z@toy@@QEAAKXZ",
)


def tables(sample: Sample) -> list[bytes]:
    """A kernel's table cut down to a few types and symbols, so that most damage meets something that is read."""
    whole = json.loads(lzma.decompress(kernel_table_path().read_bytes()))
    wanted = ["_UNICODE_STRING", "_DISPATCHER_HEADER", "_LARGE_INTEGER", "_EX_FAST_REF"]
    types: dict[str, Any] = {}
    while wanted:
        name = wanted.pop()
        if name in whole["user_types"] and name not in types:
            types[name] = whole["user_types"][name]
            wanted += re.findall(r'"kind": "(?:struct|union)", "name": "([^"]+)"', json.dumps(types[name]))
    whole["user_types"] = types
    whole["enums"] = dict(list(whole["enums"].items())[:6])
    whole["symbols"] = dict(list(whole["symbols"].items())[:40])
    return [json.dumps(whole).encode()]


def read_table(data: bytes, directory: Path) -> Layouts:
    table = Layouts.parse(data, "table.json")
    for name in table.types.user_types:
        table.size_of(name)
        for field in table.field_names(name):
            table.find(name, field)
    for name in table.symbol_names():
        table.symbol(name)
        table.extent(name)
    for name in table.types.enums:
        table.enum(name)
    table.nearest(0x1000)
    return table


PATHS = (
    "C:\\symbols;srv*C:\\cache*https://msdl.microsoft.com/download/symbols",
    "cache*/tmp/kdump-fuzz;symsrv*symsrv.dll*/a*http://127.0.0.1/b",
    "/usr/share/none;srv*;srv**https://h/x;\\\\server\\share",
)


def read_path(data: bytes, directory: Path) -> SearchPath:
    path = SearchPath.parse(decoded(data), "symbol path")
    assert all(fit_for_a_terminal(complaint) for complaint in path.complaints)
    return path


def read_name(data: bytes, directory: Path) -> str | None:
    name = safe_file_name(decoded(data))
    assert name is None or (not {"/", "\\", "\0"} & set(name) and name not in (".", ".."))
    return name


def manifests(sample: Sample) -> list[bytes]:
    return ["\n".join(manifest_of(volatility3_kdump.open(sample(dump_type)))).encode() for dump_type in (4, 6)]


def read_manifest(data: bytes, directory: Path) -> list[manifest.Entry]:
    return list(manifest.read(data.decode("utf-8", "replace").split("\n")))


# what users write ----------------------------------------------------------------------------------------------------

EXPRESSIONS = (
    "nt!X+0n10*4",
    "poi(@rax+8)&ff",
    "(1+2)*~3 >>> 4",
    "low(qwo(10))",
    "`x.c:12`",
    "@@c++(1)",
    "0y1011 mod 3",
)


def read_expression(data: bytes, directory: Path) -> tuple[int, Any]:
    text = decoded(data)
    return evaluate(text, Fake()), parse_range(text, Fake())


def archives(sample: Sample) -> list[bytes]:
    """Every kind that is read in this process; others have a process of their own, which is slow to start."""
    dump = packing.full([(1, 4)], 64)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MEMORY.DMP", dump)
        archive.writestr("readme.txt", b"text")
    members = [("a.txt", b"hello"), ("MEMORY.DMP", bytes(dump))]
    packed = [cabinets.cabinet(members, pack).pack() for pack in (cabinets.stored, cabinets.mszip)]
    return [stream.getvalue(), *packed, gzip.compress(dump), lzma.compress(dump), bz2.compress(dump)]


def read_archive(data: bytes, directory: Path) -> Any:
    path = directory / "archive"
    path.write_bytes(data)
    cache = MemberCache(directory / "cache")
    extracted = open_container(path, cache=cache)
    if extracted is not None:
        assert extracted.path.parent.parent == directory / "cache"
        extracted.path.unlink()
    return extracted


def results(sample: Sample) -> list[bytes]:
    """The lines of a batch of two dumps, one of them analysed."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "zeros.dmp").write_bytes(bytes(0x3000))
        found = list(batch.batch([sample(4), Path(directory)], executor=Here(), jobs=1))
    assert [line["error"] is None for line in found] == [True, False]
    return [b"".join(json.dumps(line).encode() + b"\n" for line in found)]


def read_results(data: bytes, directory: Path) -> list[Any]:
    path = directory / "lines"
    path.write_bytes(data)
    file = LineFile(path, resume=True)
    try:
        return list(file.read(lambda line: True))
    finally:
        file.close()


SUBJECTS = {
    "tagged data": Subject(tagged_data, read_tagged),
    "smbios": Subject(smbios, read_smbios),
    "error records": Subject(error_records, read_error_record),
    "images": Subject(images, read_image, near(0x40, 0x200, 0x400), 100),
    "unwinding amd64": Subject(with_functions, unwind_amd64, near(0x400), 10),
    "unwinding arm64": Subject(arm64_tables, unwind_arm64, near(0x90, 0x220), 30),
    "pdb": Subject(pdbs, read_pdb, near(0x40, 0x400, 0x2000), 25),
    "decorated names": Subject(
        lambda sample: [name.encode() for name in DECORATED],
        lambda data, directory: undecorate(decoded(data), 8),
        texts("?@$_0123456789ABCXYZPQRVU"),
    ),
    "symbol tables": Subject(tables, read_table, document, 100),
    "symbol paths": Subject(
        lambda sample: [path.encode() for path in PATHS], read_path, texts("*;:/\\srvcahe[]@%#?"), 150
    ),
    "file names": Subject(
        lambda sample: [b"ntkrnlmp.pdb", "\u4e2d\u6587.pdb".encode(), b"CON"], read_name, texts('./\\:*?"<>| \x00a')
    ),
    "manifests": Subject(manifests, read_manifest, lines, 100),
    "expressions": Subject(
        lambda sample: [text.encode() for text in EXPRESSIONS], read_expression, texts("()+-*/%&|^~<>=`@!$.0xnyf ")
    ),
    "archives": Subject(archives, read_archive, near(0x20, 0x80, 0x200), 120),
    "results": Subject(results, read_results, lines, 60),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_originals_are_read(name: str, sample: Sample, tmp_path: Path) -> None:
    for original in SUBJECTS[name].originals(sample):
        try:
            assert SUBJECTS[name].feed(original, tmp_path) is not None or name in ("pdb", "file names")
        except KdumpError:
            # Expressions and names that are refused are worth damaging as well.
            assert name in ("expressions",)


@pytest.mark.parametrize("name", SUBJECTS)
def test_damaged(name: str, sample: Sample, fuzz: Runner, tmp_path: Path) -> None:
    subject = SUBJECTS[name]
    originals = list(subject.originals(sample))
    fuzz.run(name, originals, subject.damage, lambda data: subject.feed(data, tmp_path), subject.at_least)
