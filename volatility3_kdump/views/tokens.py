"""Rows of ``kdump.token``: user, groups and privileges of an access token."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.target import Target
from volatility3_kdump.text.tokens import attributes_text, privilege_name, token_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, HEX, TEXT, Column, table
from volatility3_kdump.windows.processes.threads import IMPERSONATION_LEVELS
from volatility3_kdump.windows.processes.tokens import Privilege, Sid, Sids, Token

_PRIMARY = 1


def _kind(token: Token) -> str | None:
    if token.kind is None:
        return None
    return {1: "Primary", 2: "Impersonation"}.get(token.kind, str(token.kind))


def _level(token: Token) -> object:
    if token.kind == _PRIMARY:
        return BLANK
    has_name = token.level is not None and 0 <= token.level < len(IMPERSONATION_LEVELS)
    return IMPERSONATION_LEVELS[token.level or 0] if has_name else token.level and str(token.level)


def _sid(sid: Sid | None) -> object:
    return BLANK if sid is None else sid.text


def _notes(token: Token) -> list[str]:
    untyped = "the type of this object is not in the dump: whether it is a token is not known"
    absent = "" if token.absence is None else f"fields of the token are not in the dump: {token.absence}"
    return ["" if token.is_known_type else untyped, absent]


TOKENS = table(
    "kdump.token",
    keys.TOKEN({Token: lambda token: token.address}),
    keys.KIND(
        {Token: lambda token: "token", Privilege: lambda privilege: "privilege"},
        "`token`; below it `user`, `group`, `privilege`, `restricted`, `capability`",
    ),
    keys.NAME(
        {Sid: lambda sid: sid.text, Privilege: lambda privilege: privilege_name(privilege.luid)},
        "the SID, or the privilege",
    ),
    Column("Attributes", TEXT, "SE_GROUP_... of a group", {Sid: lambda sid: attributes_text(sid.attributes)}),
    Column("Enabled", FLAG, "whether the privilege is enabled", {Privilege: lambda privilege: privilege.enabled}),
    Column("Default", FLAG, "whether it is by default", {Privilege: lambda privilege: privilege.by_default}),
    Column("TokenType", TEXT, "`Primary`, `Impersonation`", {Token: _kind}),
    Column("ImpersonationLevel", TEXT, "of an impersonation token", {Token: _level}),
    Column("PrimaryGroup", TEXT, "its SID", {Token: lambda token: _sid(token.primary_group)}),
    Column("Integrity", TEXT, "SID of the integrity level", {Token: lambda token: _sid(token.integrity)}),
    Column("PackageSid", TEXT, "of a packaged application", {Token: lambda token: _sid(token.package)}),
    Column("TokenSession", HEX, "TS session id", {Token: lambda token: token.session}),
    Column("TokenSource", TEXT, "TOKEN_SOURCE", {Token: lambda token: token.source}),
    Column("TokenFlags", HEX, "TokenFlags", {Token: lambda token: token.flags}),
    Column("InUse", FLAG, "TokenInUse", {Token: lambda token: token.in_use}),
    Column("AuthenticationId", HEX, "LUID of the logon session", {Token: lambda token: token.authentication}),
    Column("TokenId", HEX, "LUID of the token", {Token: lambda token: token.identifier}),
    Column("ParentTokenId", HEX, "LUID of the token that it was made from", {Token: lambda token: token.parent}),
    Column("ModifiedId", HEX, "LUID, changes with the token", {Token: lambda token: token.modified}),
    Column("OriginatingLogonSession", HEX, "LUID", {Token: lambda token: token.originating}),
    keys.NOTES({Token: _notes, Sid: lambda sid: [sid.problem or ""]}),
)


def token_rows(token: Token) -> Iterator[Row]:
    """A row for the token, and below it its user, groups, privileges, restricted SIDs and capabilities."""
    yield TOKENS.row(0, token)
    for number, sid in enumerate(token.groups.items):
        yield TOKENS.row(1, sid, Kind="group" if number else "user")
    yield from _problem(token.groups, "group")
    for privilege in token.privileges or ():
        yield TOKENS.row(1, privilege)
    if token.privileges is None:
        yield TOKENS.row(1, Kind="privilege", Name=None, Notes=["not in the dump"])
    for sids, kind in ((token.restricted, "restricted"), (token.capabilities, "capability")):
        if sids is not None:
            for sid in sids.items:
                yield TOKENS.row(1, sid, Kind=kind)
            yield from _problem(sids, kind)


def _problem(sids: Sids, kind: str) -> Iterator[Row]:
    if sids.problem is not None:
        yield TOKENS.row(1, Kind=kind, Name=None, Notes=[sids.problem])


def token_grid(target: Target, token: Token) -> KdumpGrid:
    """One token."""
    return TOKENS.grid(token_rows(token), lambda: token_lines(token, target.memory.pointer_size))
