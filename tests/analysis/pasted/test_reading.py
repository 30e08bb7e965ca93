"""Pasted text in the shapes that people paste it in."""

# ruff: noqa: E501 - rows of a stack are as long as the debugger prints them

from __future__ import annotations

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.analysis.pasted_text import pasted, vectors
from tests.analysis.score_vectors import differences
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.pasted.evidence import PastedVerdict, judge
from volatility3_kdump.analysis.pasted.frames import bare_row, row, stacks
from volatility3_kdump.analysis.pasted.report import Report, read_report
from volatility3_kdump.analysis.pasted.source import LARGEST, decode, lines_of
from volatility3_kdump.errors import KdumpError

RULES = OwnerRules.load()
#: One of each style, with all its facts in the text.
SAMPLES = {
    vector["id"]: vector
    for vector in vectors()
    if vector["id"] in ("d1-vrf-vmswitch", "50-wwanusbmp-x86", "1e-cmpcreatekeybody", "old-3b-iqvw64e", "7e-bedaisy")
}


def reading(text: str) -> Report:
    return read_report(lines_of(text), "text")


def judged(text: str) -> PastedVerdict:
    return judge(reading(text), RULES)


def wrapped(text: str) -> str:
    """Every long row of the stack in two lines, an empty one between all, as some web pages make it."""
    lines = []
    for line in text.split("\n"):
        if len(line) > 80 and " : " in line:
            first, _, rest = line.rpartition(" 00000000`00000000 : ")
            lines += [f"{first} ", "", f"00000000`00000000 : {rest}", ""]
        else:
            lines += [line, ""]
    return "\n".join(lines)


SHAPES = {
    "as it is": lambda text: text,
    "quoted": lambda text: "\n".join(f"> {line}" for line in text.split("\n")),
    "quoted twice, backticks escaped": lambda text: "\n".join(
        f">> {line}" for line in text.replace("`", "\\`").split("\n")
    ),
    "indented": lambda text: "\n".join(f"        {line}" for line in text.split("\n")),
    "escaped for HTML": lambda text: "<pre>" + html.escape(text).replace("\n", "<br/>\n") + "</pre>",
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "tabs": lambda text: text.replace("  ", "\t"),
    "hard spaces": lambda text: text.replace(" ", "\u00a0"),
    "zero width": lambda text: text.replace("nt!", "nt\u200b!").replace(": ", ":\u200b "),
    "broken rows": wrapped,
    "no backticks": lambda text: text.replace("`", ""),
    "in one line": lambda text: " ".join(line.strip() for line in text.split("\n") if line.strip("* -")),
    "in a code fence after prose": lambda text: f"My PC crashed again, see below!!\n```\n{text}\n```\nThanks > all",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SAMPLES)
def test_the_shape_of_the_text_changes_nothing(name: str, shape: str) -> None:
    if shape == "in one line" and SAMPLES[name]["arch"] == "x86":
        pytest.skip("rows of 32 bits cannot be told apart in one line")
    assert differences(SAMPLES[name], judged(SHAPES[shape](pasted(SAMPLES[name]))).verdict) == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings(encoding: str) -> None:
    vector = SAMPLES["d1-vrf-vmswitch"]
    report = read_report(decode((pasted(vector) + "\n\u00fcber").encode(encoding), "text"), "text")
    assert differences(vector, judge(report, RULES).verdict) == {}


K_STACKS = {
    "k": """ # Child-SP          RetAddr               Call Site
00 ffffd48f`77af9698 fffff800`62a09169     nt!KeBugCheckEx
01 ffffd48f`77af96a0 fffff800`62a05469     nt!KiBugCheckDispatch+0x69
02 ffffd48f`77af97e0 fffff800`60da1981     nt!KiPageFault+0x469
03 ffffd48f`77af9970 fffff800`60da1d3d     myfault+0x1981
04 ffffd48f`77af99a0 00000000`00000000     nt!IofCallDriver+0x55
""",
    "kv": """Child-SP          RetAddr           : Args to Child                                                           : Call Site
ffffd48f`77af9698 fffff800`62a09169 : 00000000`0000000a ffffd802`4aaa8010 00000000`00000002 00000000`00000000 : nt!KeBugCheckEx
ffffd48f`77af97e0 fffff800`60da1981 : 0 0 0 0 : nt!KiPageFault+0x469 (TrapFrame @ ffffd48f`77af97e0)
ffffd48f`77af9970 fffff800`60da1d3d : 0000ffff`c85c00f0 ffffd802`41e00340 00000000`00000890 00000000`00000000 : myfault+0x1981
ffffd48f`77af99a0 00000000`00000000 : 00000000`00000000 00000000`00000000 00000000`00000000 00000000`00000000 : nt!IofCallDriver+0x55 [minkernel\\ntos\\io\\iomgr\\iosubs.c @ 3149]
""",
    "kb": """ # RetAddr               : Args to Child                                                           : Call Site
00 fffff800`62a09169     : 00000000`0000000a ffffd802`4aaa8010 00000000`00000002 00000000`00000000 : nt!KeBugCheckEx
01 fffff800`60da1981     : ffffd802`4aaa8010 00000000`00000002 00000000`00000000 fffff800`60da1981 : nt!KiPageFault+0x469
02 fffff800`60da1d3d     : 00000000`c85c00f0 ffffd802`41e00340 00000000`00000890 00000000`00000000 : myfault+0x1981
03 00000000`00000000     : 00000000`00000000 00000000`00000000 00000000`00000000 00000000`00000000 : nt!IofCallDriver+0x55
""",
    "kf": """ #   Memory  Child-SP          RetAddr               Call Site
00           ffffd48f`77af9698 fffff800`62a09169     nt!KeBugCheckEx
01         8 ffffd48f`77af97e0 fffff800`60da1981     nt!KiPageFault+0x469
02       140 ffffd48f`77af9970 fffff800`60da1d3d     myfault+0x1981
03        30 (Inline Function) --------`--------     myfault!Inlined+0x16 [E:\\project\\a.h @ 114]
04         0 ffffd48f`77af99a0 00000000`00000000     nt!IofCallDriver+0x55
""",
    "kc": """ # Call Site
00 nt!KeBugCheckEx
01 nt!KiPageFault+0x469
02 myfault+0x1981
03 nt!IofCallDriver+0x55
""",
    "names only": "nt!KeBugCheckEx\nnt!KiPageFault+0x469\nmyfault+0x1981\nnt!IofCallDriver+0x55\n",
    "elided": "... : nt!KeBugCheckEx ...\n... : nt!KiPageFault+0x469 ...\n... : myfault+0x1981 ...\n",
    "32 bits": """ChildEBP RetAddr  Args to Child
8ba0ede4 82076708 0000000a 4aaa8010 00000002 nt!KeBugCheckEx (FPO: [Non-Fpo])
8ba0ef08 82154573 00000000 8ba10000 00000000 nt!_KiTrap0E+0xec (FPO: [0,0] TrapFrame @ 8ba0ef08)
WARNING: Stack unwind information not available. Following frames may be wrong.
8ba0f270 ac526f96 adfb9000 a2bfd0e8 8269b9b0 myfault+0x1981
8ba0f878 8231f07e 8ba0f8ec adf5d4c8 872e2eb8 nt!IofCallDriver+0x48
""",
}


@pytest.mark.parametrize("kind", K_STACKS)
def test_stacks_of_every_command(kind: str) -> None:
    answer = judged("STOP: 0x0000000A (0x4aaa8010, 0x2, 0x0, 0x60da1981)\n\n" + K_STACKS[kind])
    assert answer.verdict.symbol_name == "myfault+1981"
    assert answer.verdict.bucket in ("AV_myfault!unknown_function", "0xA_myfault+1981")


@pytest.mark.parametrize(
    "text",
    [
        "*** STOP: 0x0000001E (0xFFFFFFFFC0000096, 0xFFFFF80012345678, 0x0, 0x0)",
        "BugCheck 1E, {ffffffffc0000096, fffff80012345678, 0, 0}",
        "*** BUGCHECK 0x1E (0xFFFFFFFFC0000096,0xFFFFF80012345678,0x0,0x0)",
        "*** Fatal System Error: 0x0000001e\n   (0xFFFFFFFFC0000096,0xFFFFF80012345678,0x0000000000000000,0x0)",
        "Bugcheck code 0000001E\nArguments ffffffff`c0000096 fffff800`12345678 00000000`00000000 00000000`00000000",
        "The computer has rebooted from a bugcheck.  The bugcheck was: 0x0000001e (0xffffffffc0000096, "
        "0xfffff80012345678, 0x0000000000000000, 0x0000000000000000).",
        "KMODE_EXCEPTION_NOT_HANDLED (1e)\nArguments:\nArg1: ffffffffc0000096, The code\nArg2: fffff80012345678, Where\n"
        "Arg3: 0000000000000000, x\nArg4: 0000000000000000, y",
        "BUGCHECK_CODE:  1e\n\nBUGCHECK_P1: ffffffffc0000096\n\nBUGCHECK_P2: fffff80012345678\n\nBUGCHECK_P3: 0\n\n"
        "BUGCHECK_P4: 0",
    ],
)
def test_ways_to_write_a_bug_check(text: str) -> None:
    answer = judged(f"{text}\n\nnt!KiDispatchException+0x1\nmydriver!Foo+0x10\n")
    assert answer.bug_check.raw_code == 0x1E
    assert [entry.value for entry in answer.bug_check.arguments] == [0xFFFFFFFFC0000096, 0xFFFFF80012345678, 0, 0]
    assert answer.verdict.bucket == "0x1E_c0000096_mydriver!Foo"


def test_the_row_of_the_bug_check_tells_it_where_nothing_else_does() -> None:
    answer = judged(K_STACKS["kb"])
    assert answer.bug_check.code == 0xA
    assert [entry.value for entry in answer.bug_check.arguments] == [0xFFFFD8024AAA8010, 2, 0, None]
    assert answer.verdict.bucket == "AV_myfault!unknown_function"
    assert "the arguments of nt!KeBugCheckEx" in answer.used


VERDICT = """
SYMBOL_NAME:  other!Foo+1

MODULE_NAME: other

IMAGE_NAME:  other.sys

BUCKET_ID_FUNC_OFFSET:  1

FAILURE_BUCKET_ID:  AV_other!Foo

FAILURE_ID_HASH:  {00000000-1111-2222-3333-444444444444}

Followup:     MachineOwner
"""


def test_the_verdict_in_the_text_is_compared_and_not_copied() -> None:
    text = pasted(SAMPLES["d1-vrf-vmswitch"])
    plain, answer = judged(text), judged(text + VERDICT)
    assert answer.verdict == plain.verdict and plain.differences == () and plain.pasted == {}
    assert answer.pasted["bucket"] == "AV_other!Foo"
    assert len(answer.differences) == 6
    assert "bucket: the text has AV_other!Foo, ours is AV_VRF_vmswitch!memcpy" in answer.differences
    keyed = judged(text + "\n    Key  : Failure.Bucket\n    Value: AV_VRF_vmswitch!memcpy\n")
    assert keyed.pasted == {"bucket": "AV_VRF_vmswitch!memcpy"} and keyed.differences == ()


def test_files_that_only_the_verdict_names_are_not_used() -> None:
    text = "VIDEO_TDR_FAILURE (116)\nArguments:\nArg1: 1\nArg2: fffff804777f54c0\n\nIMAGE_NAME:  nvlddmkm.sys\n"
    text += "Probably caused by : nvlddmkm.sys ( nvlddmkm+1a254c0 )\n    Key  : Failure.Bucket\n    Value: 0x116_IMAGE_nvlddmkm.sys\n"
    assert "nvlddmkm" not in (judged(text).verdict.bucket or "")
    seen = judged(text + "*** WARNING: Unable to verify timestamp for nvlddmkm.sys\n")
    assert seen.verdict.bucket == "0x116_IMAGE_nvlddmkm.sys"


@pytest.mark.parametrize(
    ("lines", "generation"),
    [
        ("ANALYSIS_VERSION: 6.3.9600.17336 (debuggers(dbg).150226-1500) amd64fre", "middle"),
        ("Microsoft (R) Windows Debugger Version 6.12.0002.633 AMD64", "classic"),
        ("Microsoft (R) Windows Debugger Version 10.0.27793.1000 AMD64", "modern"),
        ("ANALYSIS_VERSION: 10.0.18248.1001 amd64fre", "middle"),
        ("ANALYSIS_VERSION: 10.0.17763.132 amd64fre\nOSBUILD:  7601", "classic"),
        ("Windows 7 Kernel Version 7601 (Service Pack 1) MP (4 procs) Free x64", "classic"),
        ("", "modern"),
    ],
)
def test_the_debugger_decides_how_a_bucket_is_written(lines: str, generation: str) -> None:
    assert judged(f"{lines}\nSTOP: 0x000000D1 (0x1, 0x2, 0x0, 0x4)\n").facts.generation == generation


def test_the_first_of_several_analyses_is_read() -> None:
    first, second = (pasted(SAMPLES[name]) for name in ("d1-vrf-vmswitch", "7e-bedaisy"))
    answer = judged(first + "\n" + second)
    assert answer.bug_check.code == 0xD1
    assert answer.notes == ("the text has 2 analyses with a stack; this is the first",)


def test_unloaded_drivers_and_frames_of_them() -> None:
    text = """DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS (ce)
Arg1: fffff80012341234
STACK_TEXT:
ffffd48f`77af9698 fffff800`62a09169 : 1 2 3 4 : nt!KeBugCheckEx
ffffd48f`77af9970 fffff800`60da1d3d : 1 2 3 4 : <Unloaded_gone.sys>+0x1234
"""
    assert judged(text).verdict.module_name == "gone"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "ffff8287`1f44f5e0 00000000`00000000 : 0 0 0 0 : nt! ?? ::FNODOBFM::`string'+0x10295",
            "nt!?? ::FNODOBFM::`string'+0x10295",
        ),
        (
            "00000023`5136f6c8 00007ff6`eb571704     dxgkrnl!ADAPTER_RENDER::Reset+0x220",
            "dxgkrnl!ADAPTER_RENDER::Reset+0x220",
        ),
        (
            "fffffd8c`3e3ef838 fffff806`69d087e2     : 0 0 0 0 : mod!std::map<int, char>::at+0x5",
            "mod!std::map<int, char>::at+0x5",
        ),
        ("ba1b0 82c4b324 00000000 a48261c0", None),
        ("fffff801`197f1d1e 0f2949c0        movaps  xmmword ptr [rcx-40h],xmm1", None),
        ("rax=ffffe5068d8a3db0 rbx=0000000000000000 rcx=ffffe5068d8a4040", None),
        ("fffff880`033bc000 fffff880`033cb000   man      T (no symbols)", None),
    ],
)
def test_rows(line: str, name: str | None) -> None:
    found = row(line)
    assert (found.name if found else None) == name


def test_prose_is_no_stack() -> None:
    assert stacks(["Hello!there you are", "see foo!bar for that", "and 12 apples"]) == []
    assert bare_row("I installed it and then it crashed") is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "there is no text in it"),
        (b" \r\n\t\n", "there is no text in it"),
        (b"PAGEDU64" + bytes(range(256)) * 40, "this is not a text"),
        (b"x" * (LARGEST + 1), "more than 16 MB"),
        (b"My computer is slow, what can I do?\nThanks\n", "no bug check is in this text"),
    ],
)
def test_what_is_no_analysis_is_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(KdumpError, match=words) as error:
        read_report(decode(data, "paste.txt"), "paste.txt")
    assert "\n" not in str(error.value) and str(error.value).startswith("paste.txt: ")


def test_huge_lines_and_endless_stacks_are_bounded() -> None:
    rows = "".join(f"ffffd48f`77af{n & 0xFFFF:04x} fffff800`62a09169 : 1 2 3 4 : drv+0x{n:x}\n" for n in range(20000))
    answer = judged("STOP: 0xD1 (0x1, 0x2, 0x0, 0x4)\nSTACK_TEXT:\n" + "A" * 500_000 + "\n" + rows)
    assert answer.verdict.module_name == "drv"
    assert judged("STOP: 0xD1 (0x1)\n" + "drv!" + "x" * 100_000 + "+0x1\n" * 2).verdict.bucket is not None


_PIECES = st.sampled_from(
    [
        *(
            "STACK_TEXT:",
            "BUGCHECK_CODE: ",
            "BUGCHECK_P1: ",
            "Arg1: ",
            "STOP: 0x0000009F (0x3, 0x1",
            ")",
            "nt!KeBugCheckEx",
            " : ",
        ),
        *(
            "ffffd48f`77af9698 ",
            "82a09169 ",
            "+0x",
            "!",
            "drv.sys",
            "\n",
            "\x1b[31m",
            "&lt;",
            "> ",
            "Key  : a\nValue: ",
            "ERROR_CODE: ",
        ),
        *(
            "CHKIMG_EXTENSION: x\n",
            "1 errors : !nt",
            "[ 48:4c ]",
            "TRAP_FRAME: ",
            "rip=",
            "\u202e",
            "\x00",
            "FAULTING_MODULE: 0 ",
            "ef",
            "124",
        ),
        *(
            "Bugcheck Analysis\n",
            "CRITICAL_PROCESS: ",
            "(ef)",
            "(c4)\n",
            "FAULTING_THREAD: ",
            "unloaded modules",
            "KERNEL (9f)\n",
        ),
    ]
)


@settings(max_examples=part(150), deadline=None)
@given(st.lists(st.one_of(_PIECES, st.text(max_size=8)), max_size=60).map("".join))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        answer = judge(read_report(lines_of("STOP: 0x000000EF (0x1, 0x0)\n" + text), "text"), RULES)
    except KdumpError as error:
        assert "\n" not in str(error)
    else:
        assert answer.verdict.rule


@settings(max_examples=part(60), deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        decode(data, "text")
    except KdumpError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text, code, arguments",
    [
        (
            "  BCCode:\td1\n  BCP1:\t0000000000000010\n  BCP2: 2\n  BCP3: 0\n  BCP4: FFFFF88006DD6C8F",
            0xD1,
            [0x10, 2, 0],
        ),
        (
            "  BugcheckCode 209\n  BugcheckParameter1 0x10\n  BugcheckParameter2 0x2\n  BugcheckParameter3 0x0",
            0xD1,
            [16, 2, 0],
        ),
        (
            '<Data Name="BugcheckCode">30</Data>\n<Data Name="BugcheckParameter1">0xffffffffc0000005</Data>',
            0x1E,
            [0xFFFFFFFFC0000005],
        ),
        (
            "Bug Check Code    : 0x000000d1\nParameter 1       : 00000000`00000028\nParameter 2       : 2",
            0xD1,
            [0x28, 2],
        ),
        (
            "Bugcheck code: 0x1E (0xFFFFFFFFC0000005, 0xFFFFF8014B8E3A77, 0x0, 0x28)",
            0x1E,
            [0xFFFFFFFFC0000005, 0xFFFFF8014B8E3A77, 0, 0x28],
        ),
        (
            "The bugcheck was: 0x0000007e (0xffffffffc0000005, 0xfffff80123456789, 0x1, 0x2). A dump was saved",
            0x7E,
            [0xFFFFFFFFC0000005, 0xFFFFF80123456789, 1, 2],
        ),
        (
            "*** Fatal System Error: 0x0000003b\n     (0x00000000C000001D,0xFFFFF80181D07B81,0x1,0x0)",
            0x3B,
            [0xC000001D, 0xFFFFF80181D07B81, 1, 0],
        ),
        ("Stop code: SYSTEM_SERVICE_EXCEPTION\nWhat failed: win32kfull.sys", 0x3B, []),
        ("Stop code: DRIVER_IRQL_NOT_LESS_OR_EQUAL (0xD1)", 0xD1, []),
    ],
)
def test_what_windows_and_tools_report(text: str, code: int, arguments: list[int]) -> None:
    found = reading(text)
    assert found.code == code
    assert found.arguments[: len(arguments)] == arguments


def test_a_machine_that_lost_its_power_had_no_bug_check() -> None:
    with pytest.raises(KdumpError, match="no bug check"):
        reading("Kernel-Power 41\n  BugcheckCode 0\n  BugcheckParameter1 0x0\n")


def test_the_tag_of_a_block_that_is_freed_twice_is_in_the_bucket() -> None:
    """The bucket is published (github.com/safing/portmaster/issues/1881), the stack at issue 1593 of that project."""
    text = """
KERNEL_MODE_HEAP_CORRUPTION (13a)
Arg1: 0000000000000011, Type of corruption detected
Arg2: ffffbe0a3be00100, Address of the heap that reported the corruption
Arg3: ffffbe0a562ab370, Address at which the corruption was detected
Arg4: 0000000000000000

FREED_POOL_TAG:  PMas

STACK_TEXT:
ffff890d`fbab6d68 fffff807`1e9949ac     : 00000000`0000013a 00000000`00000011 ffffbe0a`3be00100 ffffbe0a`562ab370 : nt!KeBugCheckEx
ffff890d`fbab6d70 fffff807`1e994a0c     : 00000000`00000011 00000000`00000000 ffffbe0a`3be00100 ffffbe0a`5a27ecd0 : nt!RtlpHeapHandleError+0x40
ffff890d`fbab6db0 fffff807`1e994639     : 00000000`00000060 ffffbe0a`56299000 00000000`00000000 ffffbe0a`43709000 : nt!RtlpHpHeapHandleError+0x58
ffff890d`fbab6fa0 fffff807`5ddc8ec4     : fffff807`247f7a90 ffffbe0a`5a27eb50 ffffbe0a`562ab380 00000000`00000000 : nt!ExFreePool+0x9
ffff890d`fbab6fd0 fffff807`5ddc6b78     : badbadfa`badbadfa 00000000`00000000 ffffbe0a`5a27eb50 00000000`00000000 : portmaster_kext_v1_1_2+0x8ec4
"""
    verdict = judge(read_report(lines_of(text), "pasted")).verdict
    assert verdict.bucket == "0x13a_11_PMas_portmaster_kext_v1_1_2!unknown_function"


@pytest.mark.parametrize(
    ("debugger", "module", "image", "bucket"),
    [
        (
            "BUGCHECK_CODE:  124",
            "GenuineIntel",
            "GenuineIntel.sys",
            "0x124_0_GenuineIntel_PROCESSOR_CACHE_IMAGE_GenuineIntel.sys",
        ),
        ("DEFAULT_BUCKET_ID:  WIN8_DRIVER_FAULT", "GenuineIntel", "GenuineIntel", "0x124_GenuineIntel_PROCESSOR_CACHE"),
        ("DEFAULT_BUCKET_ID:  VISTA_DRIVER_FAULT", "hardware", "hardware", "X64_0x124_GenuineIntel_PROCESSOR_CACHE"),
    ],
)
def test_hardware_errors_of_each_age(debugger: str, module: str, image: str, bucket: str) -> None:
    """Published: the hash 4c8f3f5e-1af5-ed8b-df14-d42663b1dfa7 for the second bucket, 2014 to 2018."""
    text = (
        "WHEA_UNCORRECTABLE_ERROR (124)\nArguments:\nArg1: 0000000000000000, Machine Check Exception\n"
        "Arg2: ffffe0016d1a5028\nArg3: 00000000be000000\nArg4: 000000000100110a\n"
        f"Debugging Details:\n{debugger}\nCPU_VENDOR:  GenuineIntel\n"
        "STACK_TEXT:\nfffff801`e2f2a5b8 fffff801`e0e3f7cf : 00000000`00000124 00000000`00000000 ffffe001`6d1a5028 "
        "00000000`be000000 : nt!KeBugCheckEx\n"
    )
    verdict = judged(text).verdict
    assert (verdict.module_name, verdict.image_name, verdict.bucket) == (module, image, bucket)
    assert debugger.startswith("DEFAULT_BUCKET_ID:  WIN8") == (
        verdict.bucket_hash == "4c8f3f5e-1af5-ed8b-df14-d42663b1dfa7"
    )


@pytest.mark.parametrize(
    ("banner", "generation"),
    [
        ("Windows 8 Kernel Version 9200 MP (1 procs) Free x64", "middle"),
        ("Windows 7 Kernel Version 19041 MP (16 procs) Free x64", "classic"),
        ("Windows 7 Kernel Version 7601 (Service Pack 1) MP (4 procs) Free x64", "classic"),
    ],
)
def test_what_a_debugger_calls_the_system_tells_its_age(banner: str, generation: str) -> None:
    """6.12 takes every later system for Windows 7; no version of the debugger is in these texts."""
    text = f"{banner}\nVIDEO_TDR_FAILURE (116)\nArg1: 1\nDEFAULT_BUCKET_ID: GRAPHICS_DRIVER_TDR_FAULT\n"
    assert judged(text).facts.generation == generation


def test_pages_that_should_be_zero_are_the_verdict() -> None:
    found = judged(f"BAD_PAGES_DETECTED: 2\n{pasted(SAMPLES['7e-bedaisy'])}")
    assert (found.verdict.bucket, found.verdict.image_name) == ("PAGE_NOT_ZERO_AV", "Unknown_Image")
    assert "BAD_PAGES_DETECTED" in found.used


@pytest.mark.parametrize(
    ("told", "bucket"),
    [
        # The debugger's own words go before ours: "0x5A_c0000428" is the published beginning of a bucket.
        ("0xC2_7_CKBJ", "0xC2_7_CKBJ_driver!unknown_function"),
        # Where ours go on from its words, ours stay.
        ("0xc2", "0xc2_7_driver!unknown_function"),
        # What cannot be the beginning of a bucket is none.
        ("../../etc/passwd", "0xc2_7_driver!unknown_function"),
        ("0x" + "C2" * 4000, "0xc2_7_driver!unknown_function"),
        ("\x1b[2J0xC2", "0xc2_7_driver!unknown_function"),
        ("", "0xc2_7_driver!unknown_function"),
    ],
)
def test_the_first_words_of_a_bucket_that_the_text_tells(told: str, bucket: str) -> None:
    text = f"""BAD_POOL_CALLER (c2)
Arg1: 0000000000000007, freed twice

BUGCHECK_STR:  {told}

BUGCHECK_CODE:  c2

STACK_TEXT:
fffff802`12345678 fffff802`12345678     : 0 0 0 0 : nt!KeBugCheckEx
fffff802`12345688 fffff802`12345678     : 0 0 0 0 : driver+0x1234
"""
    assert judged(text).verdict.bucket == bucket
