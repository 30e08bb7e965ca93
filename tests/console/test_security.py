"""Security descriptors in the layout of a published listing, and sessions, at the prompt."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edited import edited
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target

#: A page of the sample's nonpaged pool.
PLACE = 0xFFFF91894D629000


def sid(*parts: int) -> bytes:
    return bytes((1, len(parts))) + (5).to_bytes(6, "big") + struct.pack(f"<{len(parts)}I", *parts)


def ace(kind: int, flags: int, mask: int, who: bytes) -> bytes:
    return struct.pack("<BBHI", kind, flags, 8 + len(who), mask) + who


def acl(*aces: bytes) -> bytes:
    body = b"".join(aces)
    return struct.pack("<BBHHH", 2, 0, 8 + len(body), len(aces), 0) + body


def self_relative(dacl: bytes) -> bytes:
    """[MS-DTYP] 2.4.6: the parts behind the head, by offsets."""
    owner, group = sid(32, 544), sid(18)
    head = struct.pack("<BBHIIII", 1, 0, 0x8004, 20, 20 + len(owner), 0, 20 + len(owner) + len(group))
    return head + owner + group + dacl


@pytest.fixture
def holding(sample: Callable[..., Path], session: Session, tmp_path: Path) -> Callable[[bytes], Session]:
    """A session over the sample with some bytes at :data:`PLACE`."""

    def make(data: bytes) -> Session:
        target: Target = edited(session.target, sample(), tmp_path / "changed.dmp", {PLACE: data}, offline=True)
        return session_on(target)

    return make


def test_a_descriptor(holding: Callable[[bytes], Session]) -> None:
    dacl = acl(ace(0, 0, 0x1F0003, sid(32, 544)), ace(1, 0x13, 0x2000D, sid(18)))
    lines = answer(holding(self_relative(dacl)), f"!sd {PLACE:x}")
    assert lines == [
        "->Revision: 0x1",
        "->Control : 0x8004",
        "            SE_DACL_PRESENT",
        "            SE_SELF_RELATIVE",
        "->Owner   : S-1-5-32-544",
        "->Group   : S-1-5-18",
        "->Dacl    :",
        "->Dacl    : ->AclRevision: 0x2",
        "->Dacl    : ->AclSize    : 0x34",
        "->Dacl    : ->AceCount   : 0x2",
        "->Dacl    : ->Ace[0]: ->AceType: ACCESS_ALLOWED_ACE_TYPE",
        "->Dacl    : ->Ace[0]: ->AceFlags: 0x0",
        "->Dacl    : ->Ace[0]: ->AceSize: 0x18",
        "->Dacl    : ->Ace[0]: ->Mask : 0x001f0003",
        "->Dacl    : ->Ace[0]: ->SID: S-1-5-32-544",
        "",
        "->Dacl    : ->Ace[1]: ->AceType: ACCESS_DENIED_ACE_TYPE",
        "->Dacl    : ->Ace[1]: ->AceFlags: 0x13",
        "->Dacl    : ->Ace[1]:             OBJECT_INHERIT_ACE",
        "->Dacl    : ->Ace[1]:             CONTAINER_INHERIT_ACE",
        "->Dacl    : ->Ace[1]:             INHERITED_ACE",
        "->Dacl    : ->Ace[1]: ->AceSize: 0x14",
        "->Dacl    : ->Ace[1]: ->Mask : 0x0002000d",
        "->Dacl    : ->Ace[1]: ->SID: S-1-5-18",
        "",
        "->Sacl    :  is NULL",
    ]


def test_an_absolute_descriptor(holding: Callable[[bytes], Session]) -> None:
    """Pointers in place of offsets."""
    owner = PLACE + 0x100
    data = struct.pack("<BBHIQQQQ", 1, 0, 0, 0, owner, 0, 0, 0).ljust(0x100, b"\0") + sid(19)
    other = holding(data)
    assert answer(other, f"!sd {PLACE:x}")[2:] == [
        "->Owner   : S-1-5-19",
        "->Group   :  is NULL",
        "->Dacl    :  is NULL",
        "->Sacl    :  is NULL",
    ]
    assert answer(other, f"!sid {owner:x}") == ["SID is: S-1-5-19"]


def test_damaged_lists(holding: Callable[[bytes], Session]) -> None:
    """An entry that reaches beyond its list, and one of no size, end the list."""
    whole = ace(0, 0, 1, sid(18))
    for length in (0x200, 0):
        broken = struct.pack("<BBHI", 0, 0, length, 1) + sid(18)
        lines = answer(holding(acl(whole, broken)), f"!acl {PLACE:x}")
        assert lines[-1] == f"NOTE: the list at {PLACE:x}: entry 1 claims {length:#x} bytes"
        assert sum("->AceType" in line for line in lines) == 1
    more = bytearray(acl(whole))
    more[4] = 9
    assert "entry 1 lies beyond" in answer(holding(bytes(more)), f"!acl {PLACE:x}")[-1]


def test_sessions(session: Session) -> None:
    lines = answer(session, "!session")
    assert lines[-1] == "Current Session 2"
    numbers = lines[1].removeprefix("Valid Sessions: ").split()
    assert lines[0] == f"Sessions on machine: {len(numbers)}"
    assert answer(session, "!sprocess 2 0") == answer(session, "!sprocess -1 0")
    assert "    Image: notmyfault64.exe" in answer(session, "!sprocess 2 0")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("!sd nt", "no security descriptor at"),
        ("!acl nt", "no ACL at"),
        ("!sid nt", "is none: revision"),
        ("!sd -q", "knows no option -q"),
        ("!acl -q", "knows no option -q"),
        ("!sid -q", "knows no option -q"),
        ("!session -q", "knows no option -q"),
        ("!sprocess -q", "knows no option -q"),
        ("!sd nt 8", "knows no flag 8"),
    ],
)
def test_what_is_refused(session: Session, line: str, error: str) -> None:
    (shown,) = answer(session, line)
    assert error in shown
