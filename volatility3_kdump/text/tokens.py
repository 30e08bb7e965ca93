"""Access tokens in the words of KD's ``!token``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.processes.threads import IMPERSONATION_LEVELS
from volatility3_kdump.windows.processes.tokens import Privilege, Sid, Sids, Token

#: SE_GROUP_* of the Windows SDK's winnt.h, in the order that KD names them in.
_ATTRIBUTES = (
    (0x1, "Mandatory"),
    (0x2, "Default"),
    (0x4, "Enabled"),
    (0x8, "Owner"),
    (0x10, "DenyOnly"),
    (0x20, "GroupIntegrity"),
    (0x40, "GroupIntegrityEnabled"),
    (0x20000000, "GroupResource"),
    (0xC0000000, "LogonId"),
)
#: SE_*_PRIVILEGE of the WDK's wdm.h, from 2 on.
_PRIVILEGES = (
    *("CreateToken", "AssignPrimaryToken", "LockMemory", "IncreaseQuota", "MachineAccount", "Tcb", "Security"),
    *("TakeOwnership", "LoadDriver", "SystemProfile", "Systemtime", "ProfileSingleProcess", "IncreaseBasePriority"),
    *("CreatePagefile", "CreatePermanent", "Backup", "Restore", "Shutdown", "Debug", "Audit", "SystemEnvironment"),
    *("ChangeNotify", "RemoteShutdown", "Undock", "SyncAgent", "EnableDelegation", "ManageVolume", "Impersonate"),
    *("CreateGlobal", "TrustedCredManAccess", "Relabel", "IncreaseWorkingSet", "TimeZone", "CreateSymbolicLink"),
    "DelegateSessionUserImpersonate",
)
_FIRST_PRIVILEGE = 2
_INTEGRITY_AUTHORITY = "S-1-16-"
#: SECURITY_MANDATORY_*_RID of winnt.h.
_INTEGRITY = {
    0: "Untrusted",
    0x1000: "Low",
    0x2000: "Medium",
    0x2100: "Medium Plus",
    0x3000: "High",
    0x4000: "System",
    0x5000: "Protected Process",
}
_PRIMARY, _IMPERSONATION = 1, 2
_KINDS = {_PRIMARY: "Primary", _IMPERSONATION: "Impersonation"}
_UNKNOWN = "?"


def privilege_name(luid: int) -> str:
    """``SeDebugPrivilege``; for a LUID without a name, ``Unknown Privilege``."""
    index = luid - _FIRST_PRIVILEGE
    return f"Se{_PRIVILEGES[index]}Privilege" if 0 <= index < len(_PRIVILEGES) else "Unknown Privilege"


def attributes_text(attributes: int | None) -> str:
    """``Mandatory Default Enabled``; bits without a name as a number."""
    if attributes is None:
        return _UNKNOWN
    names, rest = [], attributes
    for mask, name in _ATTRIBUTES:
        if attributes & mask == mask:
            names.append(name)
            rest &= ~mask
    return " ".join([*names, f"0x{rest:x}"] if rest else names)


def token_lines(token: Token, size: int = 8) -> Iterator[str]:
    """What ``!token`` shows of a token; ``size`` is that of a pointer."""
    yield f"_TOKEN 0x{pointer(token.address, size, tick=False)}"
    if not token.is_known_type:
        yield "NOTE: the type of this object is not in the dump: whether it is a token is not known"
    if token.absence is not None:
        yield f"NOTE: fields of the token are not in the dump (?): {token.absence}"
    yield f"TS Session ID: {_hex(token.session)}"
    yield f"User: {_first(token.groups)}"
    yield "User Groups:"
    yield from _group_lines(token.groups, 1)
    yield f"Primary Group: {_sid(token.primary_group)}"
    yield f"Integrity level: {_integrity(token.integrity)}"
    yield "Privs:"
    if token.privileges is None:
        yield " not in the dump"
    for privilege in token.privileges or ():
        yield _privilege_line(privilege)
    level = _UNKNOWN if token.level is None else _level(token.level)
    kind = _UNKNOWN if token.kind is None else _KINDS.get(token.kind, f"{token.kind}")
    in_use = {None: "?", True: "Token in use", False: "Token not in use"}[token.in_use]
    yield f"Authentication ID:         {_pair(token.authentication)}"
    # Only of an impersonation token does the level mean anything.
    yield f"Impersonation Level:       {level if token.kind != _PRIMARY else 'not of a primary token'}"
    yield f"TokenType:                 {kind}"
    source = _UNKNOWN if token.source is None else token.source
    yield f"Source: {source:<18} TokenFlags: {_hex(token.flags)} ( {in_use} )"
    yield f"Token ID: {_luid(token.identifier):<16} ParentToken ID: {_luid(token.parent)}"
    yield f"Modified ID:               {_pair(token.modified)}"
    yield from _array_lines("RestrictedSid", "RestrictedSids", token.restricted, size)
    yield f"OriginatingLogonSession: {_luid(token.originating)}"
    if token.capabilities is not None:
        yield f"PackageSid: {_sid(token.package)}"
        yield from _array_lines("Capability", "Capabilities", token.capabilities, size)


def _array_lines(singular: str, plural: str, sids: Sids, size: int) -> Iterator[str]:
    count = _UNKNOWN if sids.count is None else str(sids.count)
    where = _UNKNOWN if sids.address is None else f"0x{pointer(sids.address, size, tick=False)}"
    yield f"{singular}Count: {count:<10} {plural}: {where}"
    yield from _group_lines(sids, 0)


def _group_lines(sids: Sids, start: int) -> Iterator[str]:
    if sids.problem is not None:
        yield f" [{sids.problem}]"
    for number, sid in enumerate(sids.items[start:]):
        yield f" {number:02} {_sid(sid)}"
        yield f"    Attributes - {attributes_text(sid.attributes)}".rstrip()


def _privilege_line(privilege: Privilege) -> str:
    states = (("Enabled", privilege.enabled), ("Default", privilege.by_default))
    shown = [f"{name}?" if value is None else name for name, value in states if value is not False]
    number = privilege.luid
    return f" {number:02} 0x{number:09x} {privilege_name(number):<33} Attributes - {' '.join(shown)}".rstrip()


def _first(sids: Sids) -> str:
    if sids.items:
        return _sid(sids.items[0])
    return f"[{sids.problem}]" if sids.problem is not None else "(none)"


def _sid(sid: Sid | None) -> str:
    if sid is None:
        return "(null)"
    return sid.text if sid.text is not None else f"[{sid.problem}]"


def _integrity(sid: Sid | None) -> str:
    if sid is None or sid.text is None or not sid.text.startswith(_INTEGRITY_AUTHORITY):
        return _sid(sid)
    name = _INTEGRITY.get(int(sid.text.rsplit("-", 1)[1]))
    return sid.text if name is None else f"{sid.text} ({name})"


def _level(level: int) -> str:
    return IMPERSONATION_LEVELS[level] if 0 <= level < len(IMPERSONATION_LEVELS) else str(level)


def _hex(value: int | None) -> str:
    return _UNKNOWN if value is None else f"0x{value:x}"


def _luid(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:x}"


def _pair(value: int | None) -> str:
    return _UNKNOWN if value is None else f"({value >> 32:x},{value & 0xFFFFFFFF:x})"
