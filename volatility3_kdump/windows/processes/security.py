"""Security descriptors and access control lists (winnt.h), wherever they lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import Unreadable
from volatility3_kdump.windows.processes.tokens import Sid, read_sid

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_SELF_RELATIVE = 0x8000
_ACE_HEADER = 4
#: The types of ACE whose SID follows the mask at once: allowed, denied, audit, alarm, label and their kin.
_PLAIN_TYPES = {0, 1, 2, 3, 9, 10, 13, 14, 17, 18, 19, 20, 21}


@dataclass(frozen=True)
class Ace:
    """An access control entry. ``mask`` and ``sid`` are ``None`` for the types that have a structure of their own."""

    kind: int
    flags: int
    size: int
    mask: int | None
    sid: Sid | None


@dataclass(frozen=True)
class Acl:
    """An access control list; ``problem`` says why its entries end early."""

    address: int
    revision: int
    size: int
    count: int
    aces: tuple[Ace, ...]
    problem: str | None


@dataclass(frozen=True)
class Descriptor:
    """A security descriptor; owner, group and lists are ``None`` where it has none."""

    address: int
    revision: int
    control: int
    owner: Sid | None
    group: Sid | None
    dacl: Acl | None
    sacl: Acl | None


def read_acl(target: Target, address: int) -> Acl:
    """The ACL at an address. Raises :class:`Unreadable` where there is none."""
    memory = target.memory
    head = memory.read(address, 8)
    if head is None:
        raise Unreadable.at(address, "ACL", memory.why_unreadable(address))
    revision, _, size, count, _ = struct.unpack("<BBHHH", head)
    if revision not in (1, 2, 3, 4) or size < 8:
        raise Unreadable(f"no ACL at {address:#x}: revision {revision}, {size} bytes")
    data = memory.read(address, size)
    if data is None:
        return Acl(address, revision, size, count, (), "its entries are not in the dump")
    aces: list[Ace] = []
    position = 8
    for index in range(count):
        if position + _ACE_HEADER > size:
            return Acl(address, revision, size, count, tuple(aces), f"entry {index} lies beyond its {size:#x} bytes")
        kind, flags, length = struct.unpack_from("<BBH", data, position)
        if length < _ACE_HEADER or position + length > size:
            return Acl(address, revision, size, count, tuple(aces), f"entry {index} claims {length:#x} bytes")
        mask: int | None = None
        sid: Sid | None = None
        if kind in _PLAIN_TYPES and length >= 8:
            mask = struct.unpack_from("<I", data, position + 4)[0]
            sid = read_sid(target, address + position + 8)
        aces.append(Ace(kind, flags, length, mask, sid))
        position += length
    return Acl(address, revision, size, count, tuple(aces), None)


def read_descriptor(target: Target, address: int) -> Descriptor:
    """The security descriptor at an address, in either form. Raises :class:`Unreadable` where there is none."""
    memory = target.memory
    head = memory.read(address, 4)
    if head is None:
        raise Unreadable.at(address, "SECURITY_DESCRIPTOR", memory.why_unreadable(address))
    revision, _, control = struct.unpack("<BBH", head)
    if revision != 1:
        raise Unreadable(f"no security descriptor at {address:#x}: its revision is {revision}, not 1")
    places: list[int | None] = []
    for index in range(4):
        if control & _SELF_RELATIVE:
            offset = memory.unsigned(address + 4 + 4 * index, 4)
            places.append(address + offset if offset else offset)
        else:
            places.append(memory.pointer(address + memory.pointer_size * (1 + index)))
    owner, group, sacl, dacl = places
    return Descriptor(
        address,
        revision,
        control,
        read_sid(target, owner) if owner else None,
        read_sid(target, group) if group else None,
        read_acl(target, dacl) if dacl else None,
        read_acl(target, sacl) if sacl else None,
    )
