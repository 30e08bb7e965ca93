"""PDB files: their identity, and the names of procedures, public symbols and import thunks by RVA.

A PDB belongs to an image if the GUID of its PDB information stream and the age of its DBI stream are those of the
image's RSDS record. (The age of the information stream grows when a tool rewrites the file, so symbol stores go by the
other.) Layouts: "The PDB File Format" of LLVM's documentation; ``cvinfo.h`` and ``dbi.h`` of Microsoft's
published sources.
"""

from __future__ import annotations

import bisect
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.stores.paths import SearchPath, safe_file_name
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.msf import CorruptPdb, MsfFile
from volatility3_kdump.symbols.pdb.undecorate import undecorate
from volatility3_kdump.symbols.rust_names import rust_name

_INFORMATION_STREAM, _TYPE_STREAM, _DEBUG_STREAM = 1, 2, 3
#: Signature, version, age, streams of global, public and all symbols, sizes of the parts that follow, flags, machine.
_DBI = struct.Struct("<iII6H8iHH4x")
_DBI_SIGNATURE = -1
#: Positions in the list of debug streams at the end of the DBI stream.
_OMAP_FROM_SOURCE, _SECTIONS, _ORIGINAL_SECTIONS = 4, 5, 10
#: Of the flags.
_STRIPPED = 2
_NO_STREAM = 0xFFFF
_SECTION_HEADER = 40
_MODULE_HEADER = 64
_MOST_MODULES = 1 << 17
#: Machine of the DBI stream header (IMAGE_FILE_MACHINE_*) for which calling conventions decorate C names.
I386 = 0x14C
#: Symbol records whose names are kept, by kind: the rank, and where segment, offset and name stand in the record.
_PROCEDURE, _PUBLIC, _THUNK = 0, 1, 2
_PUB32 = 0x110E
#: S_GDATA32, S_LDATA32: variables with their types, in PDB files that were not stripped of them.
_VARIABLES = frozenset({0x110D, 0x110C})
_IN_MODULES = {
    0x110F: (_PROCEDURE, 32, 39),  # S_LPROC32
    0x1110: (_PROCEDURE, 32, 39),  # S_GPROC32
    0x1146: (_PROCEDURE, 32, 39),  # S_LPROC32_ID
    0x1147: (_PROCEDURE, 32, 39),  # S_GPROC32_ID
    0x1155: (_PROCEDURE, 32, 39),  # S_LPROC32_DPC
    0x1156: (_PROCEDURE, 32, 39),  # S_LPROC32_DPC_ID
    0x1102: (_THUNK, 16, 25),  # S_THUNK32
}
_MOST_SYMBOLS = 4_000_000
_MOST_LINE_BYTES = 1 << 29
_NAMES_SIGNATURE = 0xEFFEEFFE
_RECORD = struct.Struct("<HH")
_PLACE = struct.Struct("<IH")


class PdbRefused(KdumpError):
    """A PDB file of another build, or one that cannot be read; the text says which."""


@dataclass(frozen=True)
class PdbSymbols:
    """The named addresses of one PDB: ``symbols`` holds (RVA, name) in ascending order, the best name first.

    ``private`` says that the file was not stripped of what no other module can name.
    """

    path: Path
    symbols: tuple[tuple[int, str], ...]
    private: bool = False


class PdbFile:
    """An open PDB file; a context manager. Streams are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Read the container's directory, the PDB information and the header of the DBI stream.

        Raises ``OSError``, :class:`~volatility3_kdump.symbols.pdb.msf.CorruptPdb`.
        """
        self.path = path
        self._file = path.open("rb")
        try:
            self._msf = MsfFile(self._file)
            information = self._msf.read(_INFORMATION_STREAM, 28)
            head = self._msf.read(_DEBUG_STREAM, _DBI.size)
            if information is None or len(information) < 28:
                raise CorruptPdb("it has no PDB information stream")
            if head is None or len(head) < _DBI.size:
                raise CorruptPdb("it has no DBI stream")
            fields = _DBI.unpack(head)
            if fields[0] != _DBI_SIGNATURE:
                raise CorruptPdb(f"its DBI stream has the signature {fields[0]:#x}")
        except BaseException:
            self._file.close()
            raise
        self.guid: str = uuid.UUID(bytes_le=information[12:28]).hex.upper()
        self.age: int = fields[2]
        self.machine: int = fields[18]
        #: Whether private symbols were taken out of it (the linker's ``/PDBSTRIPPED``, or ``PDBCopy``).
        self.stripped = bool(fields[17] & _STRIPPED)
        self._symbol_stream: int = fields[7]
        #: Bytes of the list of modules, section contributions, section map, sources, type servers, MFC (an index, no
        #: part), debug streams, edit and continue.
        self._parts = fields[9:17]
        self._dbi: bytes | None = None

    def __enter__(self) -> PdbFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def pointer_size(self) -> int:
        return 4 if self.machine == I386 else 8

    def type_stream(self, most: int) -> bytes | None:
        """The TPI stream; ``None`` without one. Raises :class:`CorruptPdb` when it is larger than ``most`` bytes."""
        size = self._msf.size(_TYPE_STREAM)
        if size is not None and size > most:
            raise CorruptPdb(f"its types take {size:,} bytes, more than the {most:,} that are read")
        return self._msf.read(_TYPE_STREAM)

    def publics(self) -> Iterator[tuple[int, str]]:
        """(RVA, linker name) of the public symbols, in the order of the file."""
        address = self.addresses()
        for offset, segment, name in self._publics():
            rva = address(segment, offset)
            if rva:
                yield rva, name

    def named(self) -> Iterator[tuple[int, int, str]]:
        """(RVA, rank, name) of procedures, public symbols and thunks, the names as they stand in the file."""
        address = self.addresses()
        yield from self._procedures(address)
        for offset, segment, name in self._publics():
            rva = address(segment, offset)
            if rva:
                yield rva, _PUBLIC, name

    def procedures(self) -> Iterator[tuple[int, str]]:
        """(RVA, name) of procedures and thunks, in the order of the file; names are those of the source."""
        for rva, _, name in self._procedures(self.addresses()):
            yield rva, name

    def _procedures(self, address: Callable[[int, int], int | None]) -> Iterator[tuple[int, int, str]]:
        for rank, offset, segment, name in self._of_modules():
            rva = address(segment, offset)
            if rva:
                yield rva, rank, name

    def debug_data(self, index: int) -> bytes:
        """One of the debug streams that the DBI stream lists; empty without it. Raises :class:`CorruptPdb`."""
        return self._debug_stream(self._streams(self._part(6)), index)

    def addresses(self) -> Callable[[int, int], int | None]:
        """A function from segment and offset to RVA. Raises :class:`CorruptPdb` without section headers."""
        parts = self._parts
        streams = self._streams(self._part(6))
        original = self._section_addresses(streams, _ORIGINAL_SECTIONS)
        sections = original or self._section_addresses(streams, _SECTIONS)
        if not sections:
            raise CorruptPdb(
                f"holds no section headers ({parts[6]} bytes of debug streams), so no symbol has an address"
            )
        # The image was rearranged after linking: symbols have the addresses of the linker, this table the final ones.
        moved = self._debug_stream(streams, _OMAP_FROM_SOURCE) if original else b""
        count = len(moved) // 8
        pairs = sorted(zip(*[iter(struct.unpack(f"<{2 * count}I", moved[: 8 * count]))] * 2, strict=True))
        starts = [start for start, _ in pairs]

        def address(segment: int, offset: int) -> int | None:
            if not 0 < segment <= len(sections) or offset >= 1 << 31:
                return None
            rva: int = sections[segment - 1] + offset
            if not starts:
                return rva
            index = bisect.bisect_right(starts, rva) - 1
            if index < 0 or not pairs[index][1]:
                return None
            moved_to: int = pairs[index][1] + rva - pairs[index][0]
            return moved_to

        return address

    def _part(self, number: int) -> bytes:
        """One of the parts of the DBI stream, in the order of their sizes in the header."""
        if self._dbi is None:
            self._dbi = self._msf.read(_DEBUG_STREAM) or b""
        sizes = self._parts
        # In the file the list of debug streams comes last; an index stands among the sizes.
        before = {0: (), 6: (0, 1, 2, 3, 4, 7)}[number]
        start = _DBI.size + sum(sizes[part] for part in before)
        if any(size < 0 for size in (*sizes[:5], *sizes[6:])) or start + sizes[number] > len(self._dbi):
            raise CorruptPdb("the parts of its DBI stream do not fit the stream")
        return self._dbi[start : start + sizes[number]]

    def _streams(self, data: bytes) -> tuple[int, ...]:
        return struct.unpack(f"<{len(data) // 2}H", data[: len(data) & ~1])

    def _debug_stream(self, streams: tuple[int, ...], index: int) -> bytes:
        number = streams[index] if index < len(streams) else _NO_STREAM
        return b"" if number == _NO_STREAM else self._msf.read(number) or b""

    def _section_addresses(self, streams: tuple[int, ...], index: int) -> list[int]:
        data = self._debug_stream(streams, index)
        return [
            struct.unpack_from("<I", data, at + 12)[0]
            for at in range(0, len(data) - _SECTION_HEADER + 1, _SECTION_HEADER)
        ]

    def _modules(self) -> Iterator[tuple[int, int, int, int]]:
        """(stream, bytes of symbols, of C11 and of C13 line information) of each module that has a stream."""
        data = self._part(0)
        position = 0
        for _ in range(_MOST_MODULES):
            if position + _MODULE_HEADER > len(data):
                return
            stream, size, old, new = struct.unpack_from("<HIII", data, position + 34)
            if stream != _NO_STREAM:
                yield stream, size, old, new
            end = data.find(b"\0", position + _MODULE_HEADER)
            end = data.find(b"\0", end + 1) if end >= 0 else -1
            if end < 0:
                return
            position = end + 4 & ~3

    def _of_modules(self) -> Iterator[tuple[int, int, int, str]]:
        kinds = frozenset(_IN_MODULES)
        count = 0
        for stream, size, _, _ in self._modules():
            data = (self._msf.read(stream, size) or b"") if size > 4 else b""
            for kind, record in _records(data, 4, kinds):
                rank, place, name = _IN_MODULES[kind]
                if len(record) > name:
                    count += 1
                    if count > _MOST_SYMBOLS:
                        raise CorruptPdb(f"it names more than {_MOST_SYMBOLS:,} procedures")
                    offset, segment = _PLACE.unpack_from(record, place)
                    yield rank, offset, segment, _text(record, name)

    def line_information(self) -> Iterator[bytes]:
        """The C13 line information of each module that has some, behind its symbols."""
        total = 0
        for stream, symbols, old, new in self._modules():
            if not new:
                continue
            total += symbols + old + new
            if total > _MOST_LINE_BYTES:
                raise CorruptPdb(f"its line information takes more than {_MOST_LINE_BYTES:,} bytes")
            data = self._msf.read(stream, symbols + old + new) or b""
            yield data[symbols + old :]

    def name_table(self) -> bytes:
        """The strings of the stream ``/names``, which line information refers to by offset; empty without one."""
        data = self._msf.read(_INFORMATION_STREAM) or b""
        number = _named_stream(data[28:], b"/names") if len(data) > 28 else None
        table = (self._msf.read(number) or b"") if number is not None else b""
        if len(table) < 12:
            return b""
        signature, _, size = struct.unpack_from("<III", table)
        return table[12 : 12 + size] if signature == _NAMES_SIGNATURE else b""

    def _publics(self) -> Iterator[tuple[int, int, str]]:
        data = self._msf.read(self._symbol_stream) or b""
        count = 0
        for _, record in _records(data, 0, frozenset([_PUB32])):
            if len(record) > 14:
                count += 1
                if count > _MOST_SYMBOLS:
                    raise CorruptPdb(f"it holds more than {_MOST_SYMBOLS:,} public symbols")
                offset, segment = _PLACE.unpack_from(record, 8)
                yield offset, segment, _text(record, 14)

    def variables(self) -> Iterator[tuple[int, str, int]]:
        """(RVA, name, number of the type) of the variables that the file types; public PDB files have hardly any."""
        data = self._msf.read(self._symbol_stream) or b""
        address = self.addresses()
        count = 0
        for _, record in _records(data, 0, _VARIABLES):
            if len(record) > 14:
                count += 1
                if count > _MOST_SYMBOLS:
                    raise CorruptPdb(f"it holds more than {_MOST_SYMBOLS:,} variables")
                (index,) = struct.unpack_from("<I", record, 4)
                offset, segment = _PLACE.unpack_from(record, 8)
                rva = address(segment, offset)
                if rva:
                    yield rva, _text(record, 14), index


def _named_stream(data: bytes, name: bytes) -> int | None:
    """The number of a stream by its name: a buffer of names and a hash table from offsets in it to numbers."""
    try:
        (size,) = struct.unpack_from("<I", data)
        names, position = data[4 : 4 + size], 4 + size
        (count, _, length) = struct.unpack_from("<III", data, position)
        position += 12 + 4 * length
        (length,) = struct.unpack_from("<I", data, position)
        position += 4 + 4 * length
        for at in range(position, min(position + 8 * count, len(data) - 7), 8):
            start, number = struct.unpack_from("<II", data, at)
            if names[start : names.find(b"\0", start)] == name:
                return int(number)
    except struct.error:
        pass
    return None


def _records(data: bytes, position: int, kinds: frozenset[int]) -> Iterator[tuple[int, bytes]]:
    """(kind, record with its head) of the CodeView symbol records of those kinds."""
    unpack = _RECORD.unpack_from
    last = len(data) - 4
    while position <= last:
        length, kind = unpack(data, position)
        if length < 2:
            return
        if kind in kinds:
            yield kind, data[position : position + length + 2]
        position += length + 2


def _text(record: bytes, start: int) -> str:
    end = record.find(b"\0", start)
    return record[start : end if end >= 0 else len(record)].decode("utf-8", "replace")


def store_key(identity: PdbIdentity) -> str:
    """The directory of a PDB in a symbol store: GUID and age, in hexadecimal."""
    return f"{identity.guid}{identity.age:x}"


def open_pdb(path: Path, identity: PdbIdentity) -> PdbFile:
    """Open a PDB file. Raises :class:`PdbRefused` when it does not have that identity or cannot be read."""
    try:
        pdb = PdbFile(path)
    except (OSError, CorruptPdb) as error:
        raise _unreadable(path, error) from error
    if (pdb.guid, pdb.age) != (identity.guid, identity.age):
        with pdb:
            raise PdbRefused(
                f"{path}: GUID {pdb.guid} and age {pdb.age} are not the image's {identity.guid} and {identity.age}; "
                "refused"
            )
    return pdb


def check_pdb(path: Path, identity: PdbIdentity) -> None:
    """Raise :class:`PdbRefused` unless a file is the PDB of that identity, as far as it says itself."""
    with open_pdb(path, identity):
        pass


def find_pdb_file(path: SearchPath, identity: PdbIdentity, problems: list[str]) -> Iterator[Path]:
    """The PDB files on a symbol path that belong to an image, in the order of the path.

    A line about each file that had to be refused, and each place that could not be searched, is appended to
    ``problems``.
    """
    name = safe_file_name(identity.pdb_name)
    if name is None:
        return

    def check(file: Path) -> None:
        check_pdb(file, identity)

    yield from path.matching(name, store_key(identity), check, problems)


def find_pdb(path: SearchPath, identity: PdbIdentity, problems: list[str]) -> PdbSymbols | None:
    """The symbols of the first PDB on a symbol path that belongs to an image.

    ``problems`` is as for :func:`find_pdb_file`.
    """
    for pdb in find_pdb_file(path, identity, problems):
        try:
            return load_pdb(pdb, identity)
        except PdbRefused as refusal:
            problems.append(str(refusal))
    return None


def load_pdb(path: Path, identity: PdbIdentity) -> PdbSymbols:
    """The symbols of a PDB file. Raises :class:`PdbRefused` when it does not have that identity or cannot be read."""
    try:
        with open_pdb(path, identity) as pdb:
            return PdbSymbols(path, _symbols(pdb), not pdb.stripped)
    except (OSError, CorruptPdb) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> PdbRefused:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return PdbRefused(f"{path}: cannot be read as a PDB: {reason}; refused")


def _symbols(pdb: PdbFile) -> tuple[tuple[int, str], ...]:
    """The best name of an address first.

    Procedures are public symbols as well, in PDB files that name both: decorated names beside theirs say nothing more.
    """
    best: dict[tuple[int, str], tuple[int, bool]] = {}
    procedures = set()
    for rva, rank, name in pdb.named():
        rust = rust_name(name) if rank == _PUBLIC else None
        shown = name if rank != _PUBLIC else rust or undecorate(name, pdb.pointer_size)
        if shown and shown.isprintable():
            if rank == _PROCEDURE:
                procedures.add(rva)
            key, candidate = (rva, shown), (rank, rank == _PUBLIC and (name.startswith("?") or rust is not None))
            best[key] = min(best.get(key, candidate), candidate)
    named = sorted(
        (rva, rank, name.startswith("?"), decorated, name) for (rva, name), (rank, decorated) in best.items()
    )
    return tuple((rva, name) for rva, _, _, decorated, name in named if not decorated or rva not in procedures)
