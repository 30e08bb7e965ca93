"""Published verdicts as the text that people paste, without the debugger's own verdict in it."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from volatility3_kdump.analysis.buckets import completed
from volatility3_kdump.analysis.bugcheck import describe

VECTORS = Path(__file__).with_name("published_verdicts.jsonl")


def vectors() -> list[dict]:
    """What was published: stacks and facts, and the verdict of the debugger."""
    return [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]


def pasted(vector: dict) -> str:
    """A vector as ``!analyze -v`` of its time prints it, up to the stack."""
    style, code = vector["style"], int(vector["code"], 16)
    arguments = [None if value is None else int(value, 16) for value in vector["arguments"]]
    name = describe(code, arguments).name or "UNKNOWN"
    width = 8 if vector["arch"] == "x86" else 16
    lines = [vector["banner"]] if vector.get("banner") else []
    lines += ["*" * 79, "*" + "Bugcheck Analysis".center(77) + "*", "*" * 79, "", f"{name} ({code:x})", "Arguments:"]
    for number, value in enumerate(arguments, 1):
        if value is not None:
            lines.append(f"Arg{number}: {value & (1 << 4 * width) - 1:0{width}x}, words that explain it")
    lines += ["", "Debugging Details:", "------------------", ""]
    if style == "modern":
        lines += ["KEY_VALUES_STRING: 1", "", f"BUGCHECK_CODE:  {code:x}", ""]
        lines += [f"BUGCHECK_P{n}: {value:x}\n" for n, value in enumerate(arguments, 1) if value is not None]
    elif style == "modern-2018":
        lines += ["DUMP_CLASS: 1", "", "DUMP_QUALIFIER: 400", ""]
        lines += [f"BUGCHECK_P{n}: {value:x}\n" for n, value in enumerate(arguments, 1) if value is not None]
    if style != "modern":
        known = "WIN8_" if style == "modern-2018" else ""
        lines += [f"DEFAULT_BUCKET_ID:  {'VERIFIER_ENABLED_' if vector.get('verifier') else known}DRIVER_FAULT", ""]
    elif vector.get("verifier"):
        lines += ["VERIFIER_DRIVER_ENTRY: dt nt!_MI_VERIFIER_DRIVER_ENTRY ffffd68517af2670", ""]
    if vector.get("bugcheck_str"):
        lines += [f"BUGCHECK_STR:  {vector['bugcheck_str']}", ""]
    lines += facts(vector)
    if vector.get("process"):
        lines += [f"PROCESS_NAME:  {vector['process']}", ""]
    lines += ["STACK_TEXT:  ", *rows(vector, code, arguments), "", ""]
    return "\n".join(lines)


def facts(vector: dict) -> list[str]:
    """The lines that tell what else is known."""
    lines = []
    if vector.get("live") and vector["style"] == "modern":
        lines += ["DUMP_FILE_ATTRIBUTES: 0x10", "  Live Generated Dump", ""]
    if vector.get("small"):
        lines += ["CUSTOMER_CRASH_COUNT:  1", ""]
    if vector.get("paged_ip"):
        lines += ["IP_IN_PAGED_CODE: ", vector["frames"][vector["ip_frame"]], ""]
    if vector.get("bad_pages"):
        lines += [f"BAD_PAGES_DETECTED: {vector['bad_pages']}", ""]
    if vector.get("cpu"):
        lines += [f"CPU_VENDOR:  {vector['cpu']}", ""]
    if vector.get("bad_stack"):
        lines += ["BAD_STACK_POINTER:  ffff8706afe3f588", ""]
    if vector.get("region"):
        lines += [f"READ_ADDRESS:  {vector['arguments'][0]} {vector['region']}", ""]
    if vector.get("critical"):
        lines += [f"CRITICAL_PROCESS:  {vector['critical']}", ""]
    if vector.get("exception"):
        lines += [f"EXCEPTION_CODE: (Win32) {vector['exception']} (1720284928) - <Unable to get error code text>", ""]
    if vector.get("holder"):
        lines += ["    >[IRP_MJ_POWER(16), IRP_MN_SET_POWER(2)]", f"\t       \\Driver\\{vector['holder']}", ""]
    if vector.get("faulting_module"):
        lines += [f"FAULTING_MODULE: fffff80366350000 {vector['faulting_module']}", ""]
    if vector.get("chkimg"):
        count, _, module = vector["chkimg"].split(" ")[1], "", vector["chkimg"].split(" ")[0]
        lines += ["CHKIMG_EXTENSION: !chkimg -lo 50 -d !" + module, "\t[ 48 ff:4c 8b ]"]
        lines += [f"{count} errors : !{module} (fffff80316663ab5-fffff80316663b30)", ""]
    for address, name in vector.get("pairs", {}).items():
        lines += [
            "FAULTING_IP: ",
            name,
            f"{address[:8]}`{address[8:]} 4c8b4808        mov     r9,qword ptr [rax+8]",
            "",
        ]
    for address, name in vector.get("resolve", {}).items():
        value, offset = int(address, 16), int(name.partition("+0x")[2], 16)
        if "!" in name:
            lines += [
                "WORKER_ROUTINE: ",
                name.replace("0x", ""),
                f"{value >> 32:08x}`{value & 0xFFFFFFFF:08x} 4053 push rbx",
                "",
            ]
        else:
            start = value - offset
            lines += [f"{start:016x} {start + 0x2000000:016x}   {name.partition('+')[0]} T (no symbols)", ""]
    if vector.get("access"):
        lines += [
            "EXCEPTION_RECORD:  fffff88007c6b958 -- (.exr 0xfffff88007c6b958)",
            "   ExceptionCode: c0000005 (Access violation)",
        ]
        lines += [f"   Parameter[0]: {0:016x}", f"   Parameter[1]: {int(vector['address'], 16):016x}", ""]
    if vector.get("record"):
        code, parameters = vector["record"]
        lines += ["EXCEPTION_RECORD:  fffffc8bec01ed68 -- (.exr 0xfffffc8bec01ed68)", f"   ExceptionCode: {code}"]
        lines += [f"   Parameter[{index}]: {int(value, 16):016x}" for index, value in enumerate(parameters)]
    return lines


def address_of(frame: str, width: int) -> int:
    """Some address of the kernel or the process for a frame, the same for the same name."""
    if frame.startswith("0x"):
        return int(frame.replace("`", ""), 16)
    user = frame.partition("!")[0] in ("ntdll", "csrss", "kernel32", "USER32", "wow64", "wow64cpu")
    low = zlib.crc32(frame.encode()) & 0x3FFFFFF
    if width == 8:
        return (0x77000000 if user else 0x82000000) | low & 0xFFFFFF
    return (0x00007FF900000000 if user else 0xFFFFF80300000000) | low


def rows(vector: dict, code: int, arguments: list[int | None]) -> list[str]:
    """The stack in the layout of its time."""
    width = 8 if vector["arch"] == "x86" else 16
    ip = completed(None, describe(code, arguments)).ip
    places = [address_of(frame, width) for frame in vector["frames"]]
    if vector.get("ip_frame") is not None and ip is not None:
        places[vector["ip_frame"]] = ip & (1 << 4 * width) - 1
    places.append(0)
    lines = []
    sp = 0x8BA0EDE4 if width == 8 else 0xFFFFF88007C6B000 if vector["style"] == "old-off" else 0xFFFFA884C0C3F568
    for index, frame in enumerate(vector["frames"]):
        if width == 8:
            lines.append(f"{sp + 16 * index:08x} {places[index + 1]:08x} 00000000 00000001 00000002 {frame}")
        else:
            gap = "     " if vector["style"] == "modern" else " "
            zero = "00000000`00000000"
            shown = [tick(sp + 16 * index), tick(places[index + 1])]
            lines.append(f"{shown[0]} {shown[1]}{gap}: {zero} {zero} {zero} {zero} : {frame}")
    return lines


def tick(value: int) -> str:
    return f"{value >> 32:08x}`{value & 0xFFFFFFFF:08x}"
