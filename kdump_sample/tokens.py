"""The access tokens of a made machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdump_sample.structures import Structures
from volatility3_kdump.layout import Layouts

#: SE_GROUP_*: mandatory, enabled by default, enabled; owner; integrity, enabled; the SID of a logon.
USUAL, OWNER, INTEGRITY, LOGON = 0x7, 0x8, 0x60, 0xC0000007

_PRIMARY = 1
_SID_ENTRY = 16


@dataclass(frozen=True)
class Identity:
    """Whose rights a token gives. ``groups`` are SIDs with attributes, the user first and the integrity level last.

    ``privileges`` are LUIDs by ``enabled`` and ``by default``; ``primary`` is the number of the primary group.
    """

    groups: tuple[tuple[str, int], ...]
    session: int
    privileges: Mapping[int, tuple[bool, bool]] = field(default_factory=dict)
    logon: int = 0x3E7
    source: str = "User32"
    identifier: int = 0x6B1D1
    primary: int = 1
    flags: int = 0x2000


def write_token(structures: Structures, layouts: Layouts, address: int, identity: Identity) -> None:
    """Lay out a token: its arrays and SIDs lie in the variable part at its end."""
    memory = structures.memory
    sids = [_sid(sid) for sid, _ in identity.groups]
    start = address + layouts.offset("_TOKEN", "VariablePart")
    places = []
    position = start + _SID_ENTRY * len(sids)
    for sid in sids:
        places.append(position)
        position += len(sid)
    memory.write(address, bytes(position - address))
    entries = zip(places, (attributes for _, attributes in identity.groups), strict=True)
    table = b"".join(place.to_bytes(8, "little") + bits.to_bytes(8, "little") for place, bits in entries)
    memory.write(start, table + b"".join(sids))
    present = sum(1 << number for number in identity.privileges)
    enabled = sum(1 << number for number, (now, _) in identity.privileges.items() if now)
    by_default = sum(1 << number for number, (_, first) in identity.privileges.items() if first)
    structures.at("_TOKEN", address).fill(
        {
            "TokenSource.SourceName": identity.source,
            "TokenId": identity.identifier,
            "AuthenticationId": identity.logon,
            "ParentTokenId": 0,
            "ModifiedId": identity.identifier + 4,
            "Privileges.Present": present,
            "Privileges.Enabled": enabled,
            "Privileges.EnabledByDefault": by_default,
            "SessionId": identity.session,
            "UserAndGroupCount": len(sids),
            "VariableLength": position - start,
            "UserAndGroups": start,
            "PrimaryGroup": places[identity.primary],
            "TokenType": _PRIMARY,
            "TokenFlags": identity.flags,
            "TokenInUse": 1,
            "IntegrityLevelIndex": len(sids) - 1,
            "OriginatingLogonSession": 0x3E7,
        }
    )


def _sid(text: str) -> bytes:
    authority, *parts = map(int, text.split("-")[2:])
    authorities = b"".join(part.to_bytes(4, "little") for part in parts)
    return bytes((1, len(parts))) + authority.to_bytes(6, "big") + authorities
