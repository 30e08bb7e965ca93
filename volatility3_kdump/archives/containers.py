"""Dumps inside archives and compressed files: CAB, zip, gzip, xz, bzip2, 7-Zip.

The kind is told by the first bytes. Of the members, the dump is chosen by what it holds, and streamed into the
cache (:mod:`volatility3_kdump.archives.cache`) in pieces, so that neither the container nor the dump is ever in
memory. Decoders need what the format needs: 32 KiB for CAB and deflate, the dictionary that the container's writer
chose for xz and 7z.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from volatility3_kdump.archives import cabinet
from volatility3_kdump.archives.archive import CHUNK, Archive, Member, shown
from volatility3_kdump.archives.cache import MemberCache
from volatility3_kdump.archives.cache_files import identify, key_of
from volatility3_kdump.archives.compressed import Bzip2, CompressedFile, Gzip, Xz
from volatility3_kdump.archives.seven_zip import SevenZip
from volatility3_kdump.archives.zip_archive import Zip
from volatility3_kdump.dump.header import parse_header
from volatility3_kdump.dump.source import BytesSource
from volatility3_kdump.errors import (
    CorruptContainer,
    KdumpError,
    MemberNotChosen,
    NotACrashDump,
    UnsupportedContainer,
)
from volatility3_kdump.files import open_file
from volatility3_kdump.progress import Progress

#: A member that unpacks to more than this many times its bytes is refused, beyond :data:`RATIO_FREE`. Deflate gives at
#: most 1,032:1; the memory of a machine that does nothing gives 100:1.
MOST_RATIO = 1000
RATIO_FREE = 1 << 30

_DUMP_SUFFIXES = (".dmp", ".mdmp", ".hdmp", ".kdmp")
_HEADER_SIZE = 0x2000
_SMALLEST_DUMP = 0x1000
#: Without a member of a dump's name, so many of the largest ones are looked at.
_MOST_LOOKED_AT = 32
_MOST_NAMED = 8
_MANIFEST = "cabmanifest.xml"
_MOST_MANIFEST = 1 << 20
_MOST_PAGING_FILES = 16

_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_XZ_MAGIC = b"\xfd7zXZ\x00"
_SEVEN_ZIP_MAGIC = b"7z\xbc\xaf\x27\x1c"
_MAGIC_SIZE = 8


@dataclass(frozen=True)
class Extracted:
    """A dump that was taken out of a container.

    ``path`` is the dump in the cache; ``member`` what it is in the container, ``members`` everything in there.
    ``paging_files`` are the members that the container's manifest names as paging files, in its order; ``None`` stands
    for one that is not there. ``warnings`` say what could not be read, one line each.
    """

    container: Path
    kind: str
    path: Path
    member: Member
    members: tuple[Member, ...]
    paging_files: tuple[Member | None, ...] = ()
    warnings: tuple[str, ...] = ()


# kinds ----------------------------------------------------------------------------------------------------------------


def recognise(head: bytes) -> str | None:
    """What container a file is by its first 8 bytes: ``cab``, ``zip``, ``gz``, ``xz``, ``bz2``, ``7z``, or ``None``."""
    if head.startswith(cabinet.MAGIC):
        return "cab"
    if head.startswith(_ZIP_MAGICS):
        return "zip"
    if head.startswith(b"\x1f\x8b\x08"):
        return "gz"
    if head.startswith(_XZ_MAGIC):
        return "xz"
    if head.startswith(b"BZh") and head[3:4].isdigit():
        return "bz2"
    if head.startswith(_SEVEN_ZIP_MAGIC):
        return "7z"
    return None


def is_container(path: Path) -> bool:
    """Whether a file begins as a container does. Raises ``OSError``."""
    with open_file(path) as file:
        return recognise(file.read(_MAGIC_SIZE)) is not None


def open_archive(path: Path, file: BinaryIO, scratch: Path) -> Archive | None:
    """The container that an open file is, ``None`` for other files.

    ``scratch`` is where a decoder may put what it must have in a file. Raises a
    :class:`~volatility3_kdump.errors.KdumpError`.
    """
    file.seek(0)
    kind = recognise(file.read(_MAGIC_SIZE))
    if kind == "cab":
        return cabinet.Cabinet(file, scratch)
    if kind == "zip":
        return Zip(file, path)
    if kind == "7z":
        return SevenZip(file, path)
    classes: dict[str | None, type[CompressedFile]] = {"gz": Gzip, "xz": Xz, "bz2": Bzip2}
    return classes[kind](file, path) if kind in classes else None


# choosing -------------------------------------------------------------------------------------------------------------


def _named(archive: Archive, wanted: str) -> Member:
    """The member that a user means: by its name, by the last part of its name, or by its number."""
    last = wanted.replace("\\", "/").rpartition("/")[2].lower()
    for matches in (
        [member for member in archive.members if member.name == wanted],
        [member for member in archive.members if member.name.lower() == wanted.lower()],
        [member for member in archive.members if _base_name(member) == last],
        [member for member in archive.members if str(member.number) == wanted.lstrip("#")],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise MemberNotChosen(
                f"several members are named {shown(wanted)}: name one by its number: {_list(matches)}"
            )
    raise MemberNotChosen(f"no member is named {shown(wanted)}; {archive.kind} with {_list(archive.members)}")


def _base_name(member: Member) -> str:
    return member.name.replace("\\", "/").rpartition("/")[2].lower()


def _list(members: tuple[Member, ...] | list[Member]) -> str:
    if not members:
        return "no files"
    texts = [
        f"{member.number}: {shown(member.name)}" + (f" ({member.size:,} bytes)" if member.size is not None else "")
        for member in members[:_MOST_NAMED]
    ]
    rest = len(members) - len(texts)
    return ", ".join(texts) + (f" and {rest} more" if rest else "")


def _candidates(archive: Archive) -> list[Member]:
    """What may be the dump: the members of a dump's name, else the largest ones."""
    large = [member for member in archive.members if member.size is None or member.size >= _SMALLEST_DUMP]
    named = [member for member in large if member.name.lower().endswith(_DUMP_SUFFIXES)]
    return named or _largest(large)


def _largest(members: list[Member]) -> list[Member]:
    return sorted(members, key=lambda member: -(member.size or 0))[:_MOST_LOOKED_AT]


def _choose(archive: Archive) -> Member:
    """The only kernel crash dump of a container. Raises :class:`MemberNotChosen` or :class:`NotACrashDump`."""
    candidates = _candidates(archive)
    if len(candidates) == 1 and not archive.quick_heads:
        return candidates[0]  # seen to be a dump or not when it is extracted
    heads = {member.number: archive.head(member, _HEADER_SIZE) for member in candidates}
    kernel = [member for member in candidates if _is_kernel_dump(heads[member.number])]
    if len(kernel) == 1:
        return kernel[0]
    if kernel:
        raise MemberNotChosen(
            f"{archive.kind} with {len(kernel)} crash dumps: choose one with --member: {_list(kernel)}"
        )
    user = [member for member in candidates if heads[member.number].startswith(b"MDMP")]
    if user:
        raise NotACrashDump(
            f"{archive.kind} without a kernel crash dump, but with user-mode minidumps (MDMP), which a user-mode tool "
            f"opens: {_list(user)}"
        )
    if len(candidates) == 1:
        _check_head(candidates[0], heads[candidates[0].number])
    raise NotACrashDump(f"{archive.kind} without a crash dump: it holds {_list(archive.members)}")


def _is_kernel_dump(head: bytes) -> bool:
    return head[:8] in (b"PAGEDU64", b"PAGEDUMP")


def _check_head(member: Member, head: bytes) -> None:
    """Raise what is wrong with a member that is no crash dump."""
    if head and not head.strip(b"\0"):
        raise NotACrashDump(
            f"{shown(member.name)} inside begins with {len(head):,} zeros: the disk never received the dump"
        )
    try:
        parse_header(BytesSource(head, member.name))
    except KdumpError as error:
        raise error.within(f"{shown(member.name)} inside") from error


# extracting -----------------------------------------------------------------------------------------------------------


class _Session:
    """An opened container with the cache."""

    def __init__(
        self, path: Path, file: BinaryIO, archive: Archive, cache: MemberCache, progress: Progress | None
    ) -> None:
        self.path = path
        self.archive = archive
        self.cache = cache
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._progress = progress
        self._reported = 0.0
        self._digest: str | None = None
        self._identity = identify(file)

    def _report(self, share: float, text: str) -> None:
        """Say how far it is, at most a few times a second."""
        now = time.monotonic()
        if self._progress is not None and now - self._reported > 0.2:
            self._reported = now
            self._progress(min(100.0, 100 * share), text)

    def digest(self) -> str:
        """The hash of the whole container."""
        if self._digest is None:
            activity = f"Reading {shown(self.path.name, 40)}"
            self._digest = self.cache.digest(self._file, lambda done: self._report(done / max(1, self._size), activity))
        return self._digest

    def extract(self, member: Member, is_dump: bool = True) -> Path:
        """A member as a file in the cache. Raises a :class:`~volatility3_kdump.errors.KdumpError`."""
        key = key_of(self.digest(), str(member.number))
        cached = self.cache.find(key)
        if cached is not None:
            return cached
        if member.size is not None:
            _refuse_bomb(member, member.size)

        def stream(start: int, before: bytes) -> Iterator[bytes]:
            yield from self._watched(member, start, before, is_dump)
            if identify(self._file) != self._identity:
                raise KdumpError("the file changes while it is read: copy it first")

        return self.cache.store(key, member.size, stream, lambda length: self.archive.resume_point(member, length))

    def _watched(self, member: Member, start: int, before: bytes, is_dump: bool) -> Iterator[bytes]:
        """The stream of a member, seen to be a dump, within its bounds, and reported."""
        given = start
        head = b"" if start == 0 and is_dump else None
        activity = f"Extracting {shown(member.name, 40)} from {shown(self.path.name, 40)}"
        for data in self.archive.stream(member, start, before):
            given += len(data)
            if head is not None:
                head += data[: _HEADER_SIZE - len(head)]
                if len(head) >= _HEADER_SIZE:
                    _check_head(member, head)
                    head = None
            if member.size is None:
                _refuse_bomb(member, given)
            elif given > member.size:
                raise CorruptContainer(
                    f"{shown(member.name)} is larger than the {member.size:,} bytes that it should be"
                )
            yield data
            share = given / member.size if member.size else self._file.tell() / max(1, self._size)
            self._report(share, f"{activity}: {given >> 20:,} MiB")
        if head is not None:
            _check_head(member, head)
        if member.size is not None and given != member.size:
            raise CorruptContainer(
                f"{shown(member.name)} ends after {given:,} of the {member.size:,} bytes it should be"
            )
        if self._progress is not None:
            self._progress(100.0, activity)


def _refuse_bomb(member: Member, size: int) -> None:
    """Raise for what unpacks to more than any dump would."""
    if size > RATIO_FREE and size > MOST_RATIO * max(1, member.packed):
        raise UnsupportedContainer(
            f"{shown(member.name)} unpacks from at most {member.packed:,} to {size:,} bytes or more, which is beyond "
            f"{MOST_RATIO:,} to 1: it looks like a decompression bomb; extract it yourself if you trust it"
        )


@contextlib.contextmanager
def _session(path: Path, progress: Progress | None, cache: MemberCache | None) -> Iterator[_Session | None]:
    with open_file(path, CHUNK) as file:
        if recognise(file.read(_MAGIC_SIZE)) is None:
            yield None
            return
        cache = cache or MemberCache()
        archive = open_archive(path, file, cache.scratch)
        assert archive is not None
        try:
            yield _Session(path, file, archive, cache, progress)
        except OSError as error:
            raise KdumpError(f"cannot be read: {error.strerror or error}") from error


def open_container(
    path: Path, member: str | None = None, progress: Progress | None = None, cache: MemberCache | None = None
) -> Extracted | None:
    """Take the dump out of a container; ``None`` for a file that is none.

    ``member`` names the dump by its name, by the last part of its name or by its number; without it, the container must
    hold exactly one kernel crash dump. Raises a :class:`~volatility3_kdump.errors.KdumpError`.
    """
    with _session(path, progress, cache) as session:
        if session is None:
            if member is not None:
                raise MemberNotChosen(f"the file is no archive, so there is no member {shown(member)} in it")
            return None
        archive = session.archive
        chosen = _named(archive, member) if member is not None else _remembered_choice(session)
        extracted = session.extract(chosen)
        paging_files: tuple[Member | None, ...] = ()
        warnings: tuple[str, ...] = ()
        try:
            paging_files = _paging_files(session)
        except KdumpError as error:
            warnings = (f"the manifest of the archive cannot be read, so paging files are left out: {error}",)
        return Extracted(path, archive.kind, extracted, chosen, archive.members, paging_files, warnings)


def _remembered_choice(session: _Session) -> Member:
    """As :func:`_choose`, asked once for each container where looking into its members is slow."""
    archive = session.archive
    if archive.quick_heads or len(_candidates(archive)) < 2:
        return _choose(archive)
    key = key_of(session.digest(), "choice")
    number = session.cache.recall(key)
    member_chosen = next((member for member in archive.members if str(member.number) == number), None)
    if member_chosen is None:
        member_chosen = _choose(archive)
        session.cache.note(key, str(member_chosen.number))
    return member_chosen


def extract_member(path: Path, number: int, progress: Progress | None = None, cache: MemberCache | None = None) -> Path:
    """Any member of a container, by its number, as a file in the cache. Raises :class:`KdumpError`."""
    with _session(path, progress, cache) as session:
        if session is None or not 0 < number <= len(session.archive.members):
            raise MemberNotChosen(f"there is no member {number}")
        return session.extract(session.archive.members[number - 1], is_dump=False)


def list_members(path: Path, cache: MemberCache | None = None) -> tuple[Member, ...] | None:
    """What is inside a container; ``None`` for a file that is none. Raises :class:`KdumpError`."""
    with _session(path, None, cache) as session:
        return None if session is None else session.archive.members


def dump_members(path: Path, cache: MemberCache | None = None) -> tuple[Member, ...] | None:
    """The kernel crash dumps in a container, in its order; ``None`` for a file that is none.

    A member that may be a dump and does not decompress is among them, so that whoever extracts it learns why. Raises
    :class:`~volatility3_kdump.errors.KdumpError` for a container that cannot be listed.
    """

    def may_be_dump(archive: Archive, member: Member) -> bool:
        try:
            return _is_kernel_dump(archive.head(member, _HEADER_SIZE))
        except KdumpError:
            return True

    with _session(path, None, cache) as session:
        if session is None:
            return None
        candidates = _candidates(session.archive)
        dumps = [member for member in candidates if may_be_dump(session.archive, member)]
        return tuple(sorted(dumps, key=lambda member: member.number))


def digest_of(path: Path, cache: MemberCache | None = None) -> str:
    """The SHA-256 of a container, from the cache where that knows it. Raises :class:`KdumpError`."""
    try:
        with open_file(path, CHUNK) as file:
            return (cache or MemberCache()).digest(file)
    except OSError as error:
        raise KdumpError(f"cannot be read: {error.strerror or error}") from error


def _paging_files(session: _Session) -> tuple[Member | None, ...]:
    """The members that ``Cabmanifest.xml`` of a CAB names: WatsonPageFileManifest/Pagefiles/Pagefile@Name.

    Source: the debugger's documentation of dump files in CAB archives. The order is taken for that of the system.
    """
    archive = session.archive
    manifest = next((member for member in archive.members if _base_name(member) == _MANIFEST), None)
    if not isinstance(archive, cabinet.Cabinet) or manifest is None or (manifest.size or 0) > _MOST_MANIFEST:
        return ()
    path = session.extract(manifest, is_dump=False)
    names = _pagefile_names(path.read_bytes())
    members = {_base_name(member): member for member in reversed(archive.members)}
    return tuple(members.get(name.replace("\\", "/").rpartition("/")[2].lower()) for name in names[:_MOST_PAGING_FILES])


def _pagefile_names(document: bytes) -> list[str]:
    from xml.etree import ElementTree

    # A manifest declares nothing; entities that multiply are what declarations would be good for.
    if b"<!" in document.replace(b"<!--", b"").replace(b"\0", b""):
        return []
    try:
        root = ElementTree.fromstring(document)
    except (ElementTree.ParseError, ValueError, LookupError):
        return []

    def local(tag: str) -> str:
        return tag.rpartition("}")[2].lower()

    names = []
    for element in root.iter():
        if local(element.tag) == "pagefiles":
            names += [child.get("Name") or "" for child in element if local(child.tag) == "pagefile"]
    return [name for name in names if name]
