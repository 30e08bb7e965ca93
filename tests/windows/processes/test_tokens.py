"""Access tokens: against the host's objects for every kernel layout, and tokens that are damaged."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import volatility3.framework
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.host import ADDRESS, host_kernel
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.tokens import attributes_text, privilege_name, token_lines
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.tokens import Token, read_token

NOTEPAD, NOTMYFAULT, SYSTEM = 0xFFFF9189527E9080, 0xFFFF91895301A080, 0xFFFF91894C27A040
TOKEN = 0xFFFFD8024A63A060


@pytest.fixture(scope="module")
def target(sample: Callable[..., Path]) -> Target:
    return volatility3_kdump.open(sample(1, None, "user-mode"))


@pytest.fixture
def session(sample: Callable[..., Path], target: Target) -> Session:
    return session_on(target)


def token_of(target: Target, process: int) -> Token:
    address = read_process(target, process).token
    assert address is not None
    return read_token(target, address)


def test_the_host_finds_the_same(isf_path: Path, sample: Callable[..., Path]) -> None:
    path = sample(1, isf_path, "user-mode")
    target = volatility3_kdump.open(path, isf_file=isf_path)
    module = host_kernel(path, isf_path)
    for process, groups, privileges in ((SYSTEM, 4, 35), (NOTEPAD, 10, 4), (NOTMYFAULT, 10, 7)):
        theirs = module.object("_EPROCESS", offset=process & ADDRESS, absolute=True).Token.dereference().cast("_TOKEN")
        ours = token_of(target, process)
        assert ours.address & ADDRESS == int(theirs.vol.offset)
        assert [sid.text for sid in ours.groups.items] == list(theirs.get_sids())
        assert len(ours.groups.items) == groups
        array = theirs.UserAndGroups.dereference().cast(
            "array", count=groups, subtype=module.get_type("_SID_AND_ATTRIBUTES")
        )
        assert [sid.attributes for sid in ours.groups.items] == [int(entry.Attributes) for entry in array]
        assert ours.privileges is not None and len(ours.privileges) == privileges
        assert [(found.luid, True, found.enabled, found.by_default) for found in ours.privileges] == [
            row for row in theirs.privileges() if row[1]
        ]
        assert ours.source == theirs.TokenSource.SourceName.cast("string", max_length=8)
        for ours_value, name in (
            (ours.identifier, "TokenId"),
            (ours.authentication, "AuthenticationId"),
            (ours.modified, "ModifiedId"),
            (ours.originating, "OriginatingLogonSession"),
        ):
            luid = theirs.member(name)
            assert ours_value == int(luid.HighPart) << 32 | int(luid.LowPart)
        assert (ours.session, ours.kind, ours.flags, int(ours.in_use or 0)) == (
            int(theirs.SessionId),
            int(theirs.TokenType),
            int(theirs.TokenFlags),
            int(theirs.TokenInUse),
        )
        assert ours.integrity == ours.groups.items[int(theirs.IntegrityLevelIndex)]
        assert ours.primary_group is not None
        assert ours.primary_group.text == ours.groups.items[1].text


def test_names_of_privileges_are_the_hosts() -> None:
    plugins = Path(volatility3.framework.__file__).parent / "plugins" / "windows"
    table = json.loads((plugins / "sids_and_privileges.json").read_text())
    known = {int(number): entry[0] for number, entry in table["privileges"].items()}
    assert {number: privilege_name(number) for number in range(2, 37)} == known
    assert privilege_name(1) == privilege_name(37) == "Unknown Privilege"


def test_the_command(session: Session) -> None:
    shown = answer(session, "!token")
    assert shown[:8] == [
        "Thread is not impersonating. Using process token...",
        "_EPROCESS 0xffff91895301a080, _TOKEN 0xffffd8024a63a060",
        "_TOKEN 0xffffd8024a63a060",
        "TS Session ID: 0x2",
        "User: S-1-5-21-1004336348-1177238915-682003330-1001",
        "User Groups:",
        " 00 S-1-5-21-1004336348-1177238915-682003330-513",
        "    Attributes - Mandatory Default Enabled",
    ]
    assert "    Attributes - Mandatory Default Enabled Owner" in shown
    assert "    Attributes - Mandatory Default Enabled LogonId" in shown
    assert "Primary Group: S-1-5-21-1004336348-1177238915-682003330-513" in shown
    assert "Integrity level: S-1-16-12288 (High)" in shown
    assert " 20 0x000000014 SeDebugPrivilege                  Attributes - Enabled" in shown
    assert " 23 0x000000017 SeChangeNotifyPrivilege           Attributes - Enabled Default" in shown
    assert " 34 0x000000022 SeTimeZonePrivilege               Attributes -" in shown
    assert shown[shown.index("Authentication ID:         (0,1d7c5)") :] == [
        "Authentication ID:         (0,1d7c5)",
        "Impersonation Level:       not of a primary token",
        "TokenType:                 Primary",
        "Source: User32             TokenFlags: 0x2000 ( Token in use )",
        "Token ID: 7a310            ParentToken ID: 0",
        "Modified ID:               (0,7a314)",
        "RestrictedSidCount: 0          RestrictedSids: 0x0000000000000000",
        "OriginatingLogonSession: 3e7",
        "PackageSid: (null)",
        "CapabilityCount: 0          Capabilities: 0x0000000000000000",
    ]
    assert answer(session, f"!token {TOKEN:x}") == shown[2:]
    of_notepad = answer(session, f".process {NOTEPAD:x};!token")
    assert of_notepad[1] == f"_EPROCESS 0x{NOTEPAD:x}, _TOKEN 0xffffd8024a19c770"
    assert "    Attributes - DenyOnly" in of_notepad
    assert "Integrity level: S-1-16-8192 (Medium)" in of_notepad


def test_what_is_no_token(session: Session, target: Target) -> None:
    assert answer(session, f"!token {NOTEPAD:x}") == [
        f"{target.name}: {NOTEPAD:x} is no token, but an object of the type Process"
    ]
    assert answer(session, "!token 1000") == [f"{target.name}: 1000 is no token: it is not an address of the kernel"]
    assert answer(session, "!token 1 2")[0].startswith("!token knows no argument 2")


def test_an_impersonating_thread(session: Session, target: Target) -> None:
    assert target.nt is not None
    thread = session.current.thread
    assert thread is not None
    nt = target.nt
    field = nt.field("_ETHREAD", "ActiveImpersonationInfo")
    flags = (target.memory.unsigned(thread + field.offset, field.size) or 0) | 1 << field.bit
    changes = {
        thread + field.offset: flags.to_bytes(field.size, "little"),
        thread + nt.offset("_ETHREAD", "ClientSecurity.ImpersonationToken"): struct.pack("<Q", 0xFFFFD8024A19C770 | 2),
    }
    changed = patched(target, changes)
    session.dumps[0] = OpenDump(session.dumps[0].path, changed)
    shown = answer(session, "!token")
    assert shown[:2] == [f"Thread {thread:x} is impersonating: its token", "_TOKEN 0xffffd8024a19c770"]


def test_parts_that_are_absent(target: Target) -> None:
    assert target.nt is not None
    offset = target.nt.offset
    whole = read_token(target, TOKEN)
    assert whole.groups.address is not None
    sid = target.memory.pointer(whole.groups.address)
    assert sid is not None
    changes = {
        TOKEN + offset("_TOKEN", "IntegrityLevelIndex"): struct.pack("<I", 10),
        TOKEN + offset("_TOKEN", "PrimaryGroup"): struct.pack("<Q", 0x1000),
        sid: b"\x02\x01",
    }
    shown = list(token_lines(read_token(patched(target, changes), TOKEN)))
    assert f"User: [the SID at {sid:x} is none: revision 2, 1 sub-authorities]" in shown
    assert "Integrity level: [IntegrityLevelIndex is 10, and there is no such group]" in shown
    assert "Primary Group: [the SID at 1000 is not in the kernel]" in shown
    none = {
        TOKEN + offset("_TOKEN", "IntegrityLevelIndex"): b"\xff" * 4,
        TOKEN + offset("_TOKEN", "UserAndGroupCount"): struct.pack("<I", 4097),
    }
    shown = list(token_lines(read_token(patched(target, none), TOKEN)))
    assert "Integrity level: (null)" in shown
    assert "User: [4097 SIDs: impossible]" in shown
    with pytest.raises(KdumpError, match="the token ffffd8024a63a060 is not in the dump: "):
        read_token(patched(target, absent=[TOKEN, TOKEN + 0x1000]), TOKEN)


def test_a_token_that_is_not_in_the_dump(plain: Target) -> None:
    with pytest.raises(KdumpError, match="the token ffffd8024a63a060 is not in the dump: "):
        read_token(plain, TOKEN)


def test_a_real_small_memory_dump(shared_data: Path) -> None:
    """The fixed part of the System process's token, from behind its first bytes; SIDs are not in the dump."""
    small = volatility3_kdump.open(
        shared_data / "dumps" / "triage_x64_19041_0x1a.dmp", isf_directories=[shared_data / "isf"]
    )
    token = token_of(small, 0xFFFFBD0EC54DF080)
    assert (token.authentication, token.identifier, token.session, token.kind) == (0x3E7, 0x3EB, 0, 1)
    assert token.privileges is not None
    assert {7, 20, 23, 29} <= {found.luid for found in token.privileges if found.enabled and found.by_default}
    assert (token.source, token.is_known_type) == (None, False)
    shown = list(token_lines(token))
    assert "NOTE: fields of the token are not in the dump (?): not captured in this small memory dump" in shown
    assert "PackageSid: [the token is in the dump only in part]" in shown
    assert shown[-1] == " [the token is in the dump only in part]"
    assert all("not in the dump" in (sid.problem or "") for sid in token.groups.items)


@pytest.mark.parametrize(
    ("value", "text"),
    (
        (0x7, "Mandatory Default Enabled"),
        (0xF, "Mandatory Default Enabled Owner"),
        (0x10, "DenyOnly"),
        (0x60, "GroupIntegrity GroupIntegrityEnabled"),
        (0xC0000007, "Mandatory Default Enabled LogonId"),
        (0x107, "Mandatory Default Enabled 0x100"),
        (0, ""),
        (None, "?"),
    ),
)
def test_attributes(value: int | None, text: str) -> None:
    assert attributes_text(value) == text


@settings(max_examples=part(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 0x5F0), content=st.binary(min_size=1, max_size=64))
def test_whatever_the_token_holds(target: Target, start: int, content: bytes) -> None:
    """A token with any bytes changed is shown, with no more SIDs than it counts."""
    token = read_token(patched(target, {TOKEN + start: content}), TOKEN)
    assert len(token.groups.items) in (0, token.groups.count)
    assert next(iter(token_lines(token))) == "_TOKEN 0xffffd8024a63a060"
    assert all("\n" not in line for line in token_lines(token))
