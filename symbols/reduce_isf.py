"""Reduce a kernel ISF table to the types that the suite reads, keeping every symbol.

Run as ``python symbols/reduce_isf.py FULL.json.xz symbols/kdump/ntkrnlmp-19041.isf.xz``. Types reached from the roots
through embedded fields are kept; types behind pointers are kept only when they are roots themselves. Symbols are all
kept, since the nearest lower symbol of an address is right only in a complete list. The output is deterministic.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Structures that the suite, its sample maker or the plugins of the host that run on the sample read.
ROOTS = """
_ALPC_PORT _CONTEXT _CONTROL_AREA _CURDIR _DBGKD_GET_VERSION64 _DEVICE_NODE _DEVICE_OBJECT _DEVOBJ_EXTENSION _DRIVER_EXTENSION
_DRIVER_OBJECT _EJOB _EPROCESS _EPROCESS_QUOTA_BLOCK _ERESOURCE _ETHREAD _EX_POOL_HEAP_MANAGER_STATE _EXCEPTION_RECORD _FILE_OBJECT
_HANDLE_TABLE _HANDLE_TABLE_ENTRY _HEAP_LARGE_ALLOC_DATA _HEAP_LFH_SUBSEGMENT _HEAP_PAGE_SEGMENT _HEAP_SEG_CONTEXT _HEAP_VS_CHUNK_HEADER
_HEAP_VS_SUBSEGMENT _RTLP_HP_HEAP_GLOBALS _RTL_RB_TREE _SEGMENT_HEAP _IMAGE_DEBUG_DIRECTORY _IMAGE_DOS_HEADER _IMAGE_NT_HEADERS64 _IMAGE_SECTION_HEADER _IO_STACK_LOCATION _IRP
_KDPC _KDPC_DATA _KEVENT _KEXCEPTION_FRAME _KLDR_DATA_TABLE_ENTRY _KMUTANT _KPCR _KPRCB _KPROCESS _KPROCESSOR_STATE _KQUEUE _KSEMAPHORE
_KSHARED_READY_QUEUE _KSTACK_CONTROL _KTHREAD _KTIMER _KTIMER_TABLE _KTRAP_FRAME _KTSS64 _KUSER_SHARED_DATA _KWAIT_BLOCK _LDR_DATA_TABLE_ENTRY _LIST_ENTRY
_MI_PARTITION _MI_SYSTEM_INFORMATION _MI_VISIBLE_STATE _MMPAGING_FILE _MMPFN _MMPFNENTRY _MMPTE _MMSUPPORT_FULL _MMSUPPORT_INSTANCE _MMVAD
_MMVAD_SHORT _MM_DRIVER_VERIFIER_DATA _MM_SESSION_SPACE _OBJECT_CREATE_INFORMATION _OBJECT_DIRECTORY _OBJECT_DIRECTORY_ENTRY _OBJECT_HEADER
_OBJECT_HEADER_CREATOR_INFO _OBJECT_HEADER_HANDLE_INFO _OBJECT_HEADER_NAME_INFO _OBJECT_HEADER_PROCESS_INFO _OBJECT_HEADER_QUOTA_INFO
_OBJECT_NAME_INFORMATION _OBJECT_SYMBOLIC_LINK _OBJECT_TYPE _OWNER_ENTRY _PEB _PEB_LDR_DATA _POOL_HEADER _POOL_TRACKER_BIG_PAGES
_POOL_TRACKER_TABLE _PSP_SESSION_SPACE _RTL_AVL_TREE _RTL_BALANCED_NODE _RTL_USER_PROCESS_PARAMETERS _SECTION _SEGMENT
_SE_AUDIT_PROCESS_CREATION_INFO _SID _SUBSECTION _TEB _TOKEN _TRIAGE_9F_PNP _TRIAGE_9F_POWER _TRIAGE_DEVICE_NODE _TRIAGE_EX_WORK_QUEUE
_TRIAGE_POP_IRP_DATA _UNICODE_STRING _WHEA_ERROR_RECORD _WHEA_ERROR_RECORD_HEADER _WHEA_ERROR_RECORD_SECTION_DESCRIPTOR _XSAVE_FORMAT
_FAST_ERESOURCE _FAST_ERESOURCE_INTERNAL _KWAIT_CHAIN_ENTRY _EPARTITION _EX_PARTITION _EX_WORK_QUEUE _WORK_QUEUE_ITEM
_EWOW64PROCESS _PEB32 _TEB32
_MI_TRIAGE_DUMP_DATA _MI_ERROR_STATE _DISPATCHER_HEADER _EX_FAST_REF _FAST_MUTEX _PS_CLIENT_SECURITY_CONTEXT _VPB _MDL _KAPC
""".split()

#: Enumerations that are read by name rather than through a field.
ENUMS = """
_KTHREAD_STATE _KWAIT_REASON _KOBJECTS _MMLISTS _POOL_TYPE _MI_SYSTEM_VA_TYPE _MI_ASSIGNED_REGION_TYPES _KPROCESS_STATE _WAIT_TYPE
_WHEA_ERROR_SEVERITY _WHEA_ERROR_SOURCE_TYPE _DEVICE_POWER_STATE _SYSTEM_POWER_STATE
""".split()


def embedded(type_: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of the types that a field's own bytes consist of."""
    kind = type_["kind"]
    if kind == "array":
        return embedded(type_["subtype"])
    if kind == "bitfield":
        return embedded(type_["type"])
    if kind in ("struct", "union", "class", "enum"):
        return [(kind, type_["name"])]
    return []


def reduce_table(document: Mapping[str, Any]) -> dict[str, Any]:
    """The reduced ISF document; fields that point to types left out become ``void`` pointers."""
    types: dict[str, Any] = {}
    enums = {name: document["enums"][name] for name in ENUMS if name in document["enums"]}
    waiting = [name for name in ROOTS if name in document["user_types"]]
    while waiting:
        name = waiting.pop()
        if name in types:
            continue
        types[name] = document["user_types"][name]
        for field in types[name]["fields"].values():
            for kind, inner in embedded(field["type"]):
                if kind == "enum":
                    enums[inner] = document["enums"][inner]
                else:
                    waiting.append(inner)
    for name, description in types.items():
        fields = {key: {**value, "type": prune(value["type"], types)} for key, value in description["fields"].items()}
        types[name] = {**description, "fields": fields}
    return {
        "metadata": document["metadata"],
        "base_types": document["base_types"],
        "user_types": types,
        "enums": enums,
        "symbols": {name: {"address": entry["address"]} for name, entry in document["symbols"].items()},
    }


def prune(type_: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """A field type whose pointers lead only to kept types."""
    kind = type_["kind"]
    if kind == "pointer":
        inner = type_["subtype"]
        if inner["kind"] in ("struct", "union", "class") and inner["name"] not in types:
            return {**type_, "subtype": {"kind": "base", "name": "void"}}
        return {**type_, "subtype": prune(inner, types)}
    if kind == "array":
        return {**type_, "subtype": prune(type_["subtype"], types)}
    return dict(type_)


def main(arguments: list[str]) -> int:
    source, target = (Path(argument) for argument in arguments)
    with lzma.open(source, "rb") as stream:
        document = json.load(stream)
    text = json.dumps(reduce_table(document), sort_keys=True, separators=(",", ":")).encode("ascii")
    target.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32))
    print(f"{target}: {len(text):,} bytes of JSON, {target.stat().st_size:,} compressed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
