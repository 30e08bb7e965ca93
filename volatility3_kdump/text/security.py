"""Security descriptors in the words of KD's ``!sd``, ``!acl`` and ``!sid``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.windows.processes.security import Acl, Descriptor
from volatility3_kdump.windows.processes.tokens import Sid

_CONTROL = {
    0x1: "SE_OWNER_DEFAULTED",
    0x2: "SE_GROUP_DEFAULTED",
    0x4: "SE_DACL_PRESENT",
    0x8: "SE_DACL_DEFAULTED",
    0x10: "SE_SACL_PRESENT",
    0x20: "SE_SACL_DEFAULTED",
    0x100: "SE_DACL_AUTO_INHERIT_REQ",
    0x200: "SE_SACL_AUTO_INHERIT_REQ",
    0x400: "SE_DACL_AUTO_INHERITED",
    0x800: "SE_SACL_AUTO_INHERITED",
    0x1000: "SE_DACL_PROTECTED",
    0x2000: "SE_SACL_PROTECTED",
    0x4000: "SE_RM_CONTROL_VALID",
    0x8000: "SE_SELF_RELATIVE",
}
_TYPES = {
    0: "ACCESS_ALLOWED_ACE_TYPE",
    1: "ACCESS_DENIED_ACE_TYPE",
    2: "SYSTEM_AUDIT_ACE_TYPE",
    3: "SYSTEM_ALARM_ACE_TYPE",
    4: "ACCESS_ALLOWED_COMPOUND_ACE_TYPE",
    5: "ACCESS_ALLOWED_OBJECT_ACE_TYPE",
    6: "ACCESS_DENIED_OBJECT_ACE_TYPE",
    9: "ACCESS_ALLOWED_CALLBACK_ACE_TYPE",
    10: "ACCESS_DENIED_CALLBACK_ACE_TYPE",
    17: "SYSTEM_MANDATORY_LABEL_ACE_TYPE",
    18: "SYSTEM_RESOURCE_ATTRIBUTE_ACE_TYPE",
    19: "SYSTEM_SCOPED_POLICY_ID_ACE_TYPE",
    20: "SYSTEM_PROCESS_TRUST_LABEL_ACE_TYPE",
}
#: Bits of AceFlags in winnt.h.
_FLAGS = {
    0x1: "OBJECT_INHERIT_ACE",
    0x2: "CONTAINER_INHERIT_ACE",
    0x4: "NO_PROPAGATE_INHERIT_ACE",
    0x8: "INHERIT_ONLY_ACE",
    0x10: "INHERITED_ACE",
}


def _sid(sid: Sid | None) -> str:
    if sid is None:
        return " is NULL"
    return sid.text or f"({sid.problem})"


def acl_lines(acl: Acl, prefix: str = "ACL is:") -> Iterator[str]:
    """``!acl``."""
    yield prefix
    yield f"{prefix} ->AclRevision: {acl.revision:#x}"
    yield f"{prefix} ->AclSize    : {acl.size:#x}"
    yield f"{prefix} ->AceCount   : {acl.count:#x}"
    for index, ace in enumerate(acl.aces):
        entry = f"{prefix} ->Ace[{index}]:"
        yield f"{entry} ->AceType: {_TYPES.get(ace.kind, f'{ace.kind:#x}')}"
        yield f"{entry} ->AceFlags: {ace.flags:#x}"
        yield from (f"{entry}             {name}" for bit, name in _FLAGS.items() if ace.flags & bit)
        yield f"{entry} ->AceSize: {ace.size:#x}"
        if ace.mask is not None:
            yield f"{entry} ->Mask : 0x{ace.mask:08x}"
            yield f"{entry} ->SID: {_sid(ace.sid)}"
        yield ""
    if acl.problem:
        yield f"NOTE: the list at {acl.address:x}: {acl.problem}"


def descriptor_lines(descriptor: Descriptor) -> Iterator[str]:
    """``!sd``."""
    yield f"->Revision: {descriptor.revision:#x}"
    yield f"->Control : {descriptor.control:#x}"
    yield from (f"            {name}" for bit, name in _CONTROL.items() if descriptor.control & bit)
    yield f"->Owner   : {_sid(descriptor.owner)}"
    yield f"->Group   : {_sid(descriptor.group)}"
    for label, acl in (("->Dacl    :", descriptor.dacl), ("->Sacl    :", descriptor.sacl)):
        if acl is None:
            yield f"{label}  is NULL"
        else:
            yield from acl_lines(acl, label)
