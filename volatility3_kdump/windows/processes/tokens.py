"""Access tokens: whose rights a process or thread has.

Sources are TOKEN with the layout of the kernel's symbols, the SID_AND_ATTRIBUTES and SIDs that it points to, and the
masks of SEP_TOKEN_PRIVILEGES, a bit for each privilege. SIDs are laid out as [MS-DTYP] 2.4.2 has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import StructReader
from volatility3_kdump.windows.processes.namespace import object_type
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Far more groups than a token can have, and the sub-authorities of a SID (SID_MAX_SUB_AUTHORITIES).
_MOST_SIDS, _MOST_SUB_AUTHORITIES = 4096, 15
_SID_REVISION, _SID_HEAD = 1, 8
#: From here on the authority of a SID is written in hexadecimal.
_LARGE_AUTHORITY = 1 << 32
_PRIVILEGES = 64
_NO_INDEX = 0xFFFFFFFF
_PART = "the token is in the dump only in part"


@dataclass(frozen=True)
class Sid:
    """A SID as text, ``S-1-5-18``, or why there is none (``problem``); ``attributes`` are SE_GROUP_*, where it has."""

    text: str | None
    attributes: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Sids:
    """An array of SIDs: its address, how many the token counts, and those that were read, or why none were."""

    address: int | None
    count: int | None
    items: tuple[Sid, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Privilege:
    """A privilege that a token has: its LUID, and whether it is enabled and was from the beginning."""

    luid: int
    enabled: bool | None
    by_default: bool | None


@dataclass(frozen=True)
class Token:
    """A token. Identifiers are LUIDs of 64 bits; ``None`` is what the dump does not hold or the kernel does not keep.

    ``groups`` begins with the user. ``kind`` is TOKEN_TYPE, ``level`` SECURITY_IMPERSONATION_LEVEL. ``integrity`` is
    the group that IntegrityLevelIndex names, ``None`` for none. ``privileges`` is ``None`` where the mask is absent.
    ``is_known_type`` is False where the dump does not hold what says that the object is a token;
    ``absence`` is why fields of the token itself are not in the dump, ``None`` where they all are.
    """

    address: int
    session: int | None
    groups: Sids
    restricted: Sids
    capabilities: Sids | None
    primary_group: Sid | None
    integrity: Sid | None
    privileges: tuple[Privilege, ...] | None
    authentication: int | None
    kind: int | None
    level: int | None
    source: str | None
    flags: int | None
    in_use: bool | None
    identifier: int | None
    parent: int | None
    modified: int | None
    originating: int | None
    package: Sid | None
    is_known_type: bool
    absence: str | None


_FIELDS = {
    "source": "TokenSource.SourceName",
    "identifier": "TokenId",
    "authentication": "AuthenticationId",
    "parent": "ParentTokenId",
    "modified": "ModifiedId",
    "present": "Privileges.Present",
    "enabled": "Privileges.Enabled",
    "by_default": "Privileges.EnabledByDefault",
    "session": "SessionId",
    "group_count": "UserAndGroupCount",
    "groups": "UserAndGroups",
    "restricted_count": "RestrictedSidCount",
    "restricted": "RestrictedSids",
    "primary_group": "PrimaryGroup",
    "kind": "TokenType",
    "level": "ImpersonationLevel",
    "flags": "TokenFlags",
    "in_use": "TokenInUse",
    "integrity": "IntegrityLevelIndex",
    "originating": "OriginatingLogonSession",
    # Windows 8
    "package": "Package",
    "capability_count": "CapabilityCount",
    "capabilities": "Capabilities",
}


def read_token(target: Target, address: int) -> Token:
    """The token at an address.

    Raises :class:`SymbolsNotFound` without the kernel's symbols, and :class:`KdumpError` where the dump holds no token
    there: nothing at all, or an object of another type.
    """
    nt = require_symbols(target, "tokens", "_TOKEN.UserAndGroups")
    if not target.is_kernel_address(address):
        raise KdumpError(f"{target.name}: {address:x} is no token: it is not an address of the kernel")
    reader = nt.reader("_TOKEN", **_FIELDS)
    row: Any = read_row(target.memory, reader, address)
    if row is None:
        raise KdumpError(f"{target.name}: the token {address:x} is not in the dump: {_why(target, address)}")
    type_name = object_type(target, address)
    if type_name not in ("Token", None):
        raise KdumpError(f"{target.name}: {address:x} is no token, but an object of the type {type_name}")
    groups = _sids(target, row.groups, row.group_count)
    has_capabilities = nt.has("_TOKEN", "Capabilities")
    return Token(
        address,
        row.session,
        groups,
        _sids(target, row.restricted, row.restricted_count),
        _sids(target, row.capabilities, row.capability_count) if has_capabilities else None,
        _named(target, row.primary_group),
        _integrity(groups, row.integrity),
        _privileges(row),
        _luid(row.authentication),
        row.kind,
        row.level,
        None if row.source is None else row.source.split(b"\0", 1)[0].decode("latin-1"),
        row.flags,
        None if row.in_use is None else bool(row.in_use),
        _luid(row.identifier),
        _luid(row.parent),
        _luid(row.modified),
        _luid(row.originating),
        _named(target, row.package) if nt.has("_TOKEN", "Package") else None,
        type_name is not None,
        _absence(target, reader, row, address),
    )


def read_sid(target: Target, address: int, attributes: int | None = None) -> Sid:
    """The SID at an address."""

    def absent(why: str) -> Sid:
        return Sid(None, attributes, f"the SID at {address:x} {why}")

    if not target.is_kernel_address(address):
        return absent("is not in the kernel")
    head = target.memory.read(address, _SID_HEAD)
    if head is None:
        return absent(f"is not in the dump: {_why(target, address)}")
    count = head[1]
    if head[0] != _SID_REVISION or count > _MOST_SUB_AUTHORITIES:
        return absent(f"is none: revision {head[0]}, {count} sub-authorities")
    data = target.memory.read(address + _SID_HEAD, 4 * count) if count else b""
    if data is None:
        return absent(f"is in the dump only in part: {_why(target, address + _SID_HEAD + 4 * count - 1)}")
    authority = int.from_bytes(head[2:8], "big")
    shown = str(authority) if authority < _LARGE_AUTHORITY else f"0x{authority:012x}"
    parts = [str(int.from_bytes(data[at : at + 4], "little")) for at in range(0, len(data), 4)]
    return Sid("-".join([f"S-{_SID_REVISION}", shown, *parts]), attributes)


def _named(target: Target, address: int | None) -> Sid | None:
    """The SID that a field points to, ``None`` where that is 0."""
    if address is None:
        return Sid(None, problem=_PART)
    return read_sid(target, address) if address else None


def _absence(target: Target, reader: StructReader, row: Any, address: int) -> str | None:
    for name, value in row._asdict().items():
        field = reader.fields[name]
        if value is None and field is not None:
            return _why(target, address + field.offset)
    return None


def _sids(target: Target, address: int | None, count: int | None) -> Sids:
    if count is None or address is None:
        return Sids(address, count, problem=_PART)
    if count == 0:
        return Sids(address, 0)
    if count > _MOST_SIDS:
        return Sids(address, count, problem=f"{count} SIDs: impossible")
    if not target.is_kernel_address(address):
        return Sids(address, count, problem=f"their array at {address:x} is not in the kernel")
    # SID_AND_ATTRIBUTES (winnt.h): a pointer and 32 bits, aligned like a pointer
    step = target.memory.pointer_size
    sids = []
    for place in range(address, address + count * 2 * step, 2 * step):
        sid, attributes = target.memory.pointer(place), target.memory.unsigned(place + step, 4)
        if sid is None:
            sids.append(Sid(None, attributes, f"the entry at {place:x} is not in the dump: {_why(target, place)}"))
        else:
            sids.append(read_sid(target, sid, attributes))
    return Sids(address, count, tuple(sids))


def _integrity(groups: Sids, index: int | None) -> Sid | None:
    if index is None:
        return Sid(None, problem=_PART)
    if index & _NO_INDEX == _NO_INDEX:
        return None
    if index >= len(groups.items):
        return Sid(None, problem=f"IntegrityLevelIndex is {index}, and there is no such group")
    return groups.items[index]


def _privileges(row: Any) -> tuple[Privilege, ...] | None:
    if row.present is None:
        return None
    return tuple(
        Privilege(
            number,
            None if row.enabled is None else bool(row.enabled >> number & 1),
            None if row.by_default is None else bool(row.by_default >> number & 1),
        )
        for number in range(_PRIVILEGES)
        if row.present >> number & 1
    )


def _luid(data: bytes | None) -> int | None:
    return None if data is None else int.from_bytes(data, "little")


def _why(target: Target, address: int) -> str:
    return target.memory.why_unreadable(address)
