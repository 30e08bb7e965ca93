"""Published sessions, typed through to their end on the made dump that comes closest.

Each replay is a scene and what is typed; behind a command stand the lines that it must show, or ends of them. The
values are those that the scene was given. Where they come from is said at each replay. A command that is not there at
all fails, whatever is expected of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import settle

_FAILED = re.compile(
    r"no such command here| is not there: | knows no |Syntax error|Extra character error|Bad register error"
    r"|failed by a mistake|Couldn't resolve error"
)
Step = tuple[str, tuple[str, ...]]

#: What is asked of whole answers: a line of it fits the pattern.
_REPLAYS: dict[str, tuple[str, list[Step]]] = {
    # Bug check 0x9F of Microsoft's reference, parameter 1 = 3.
    "R1": (
        "blocked-power-irp",
        [
            (".bugcheck", (r"Bugcheck code 0000009F", r"Arguments 00000000`00000003 .* ffff9189`4ef3a010")),
            (
                "!analyze -v",
                (r"DRIVER_POWER_STATE_FAILURE \(9f\)", r"FAILURE_BUCKET_ID:  0x9F_3_RtsPer_IMAGE_pci\.sys"),
            ),
            ("dx KiBugCheckDriver", (r"KiBugCheckDriver +: ",)),
            ("dt nt!_TRIAGE_9F_POWER @$bug_param3", (r"   \+0x000 Signature +: 0x8000", r".*IrpList +: 0x")),
            ("dl @@c++(((nt!_TRIAGE_9F_POWER *)@$bug_param3)->IrpList) 2", (r"fffff800`632239f0  ffff9189`4ef4a010",)),
            ("!poaction", (r"  IRP: ffff91894ef3a010, PDO: ffff91894ef40060",)),
            ("!irp @$bug_param4", (r">\[IRP_MJ_POWER\(16\), IRP_MN_SET_POWER\(2\)\]", r"Held by: \\Driver\\RtsPer")),
            ("!irpfind", (r"ffff91894ef3a010 \[0000000000000000\] irpStack: \(16, 2\) .* \\Driver\\RtsPer\]",)),
            ("!devstack @$bug_param2", (r"> ffff91894ef40060  \\Driver\\pci", r'  ServiceName is "RtsPer"')),
            ("!devnode 0 1", (r"Dumping IopRootDeviceNode", r'    InstancePath is "ACPI\\PNP0A08\\0"')),
            ("kc", (r"00 nt!KeBugCheckEx$", r"01 nt!PopIrpWatchdogBugcheck$")),
            ("!stacks 2 nt!PopIrpWatchdog", (r".*nt!PopIrpWatchdogBugcheck\+0xe0",)),
            ("!running -it", (r"00 ffffd48f`76a45cb8 .* nt!KeBugCheckEx",)),
            ("!lmi myfault", (r"   Base Address: fffff80060da0000", r"     Image Name: myfault\.sys")),
            ("lmvm RtsPer", (r"    Image name: RtsPer\.sys",)),
        ],
    ),
    # The same, parameter 1 = 4.
    "R2": (
        "pnp-timeout",
        [
            (".bugcheck", (r"Bugcheck code 0000009F", r"Arguments 00000000`00000004 ")),
            ("dt nt!_TRIAGE_9F_PNP @$bug_param4", (r"   \+0x000 Signature +: 0x8000",)),
            ("!thread @$bug_param3", (r"THREAD ffff91894c2e1040  Cid 0004\.0250 .* WAIT: \(Executive\)",)),
            ("!stacks 2 Pnp", (r".*nt!PnpBugcheckPowerTimeout\+0x76",)),
            ("!locks", (r"KD: Scanning for held locks",)),
            ("!exqueue f", (r".*no work queue is in the dump",)),
            ("!devnode 0 1", (r'  InstancePath is "HTREE\\ROOT\\0"',)),
            ("!devnode 0 21", (r"No device node is like that",)),
            ("k", (r"01 .* nt!PnpBugcheckPowerTimeout\+0x76",)),
        ],
    ),
    # Bug check 0x133 of the reference: parameter 1 = 0, then 1.
    "R3": (
        "dpc-timeout",
        [
            (".bugcheck", (r"Bugcheck code 00000133", r"Arguments 00000000`00000000 00000000`00000501 ")),
            ("k", (r"01 .* nt!KeAccumulateTicks\+0x3d8",)),
            ("!pcr", (r"KPCR for Processor 2 at ffffc3014f460000:", r".*Prcb: ffffc3014f460180")),
            ("dt nt!_KPRCB @$prcb Dpc*", (r".*DpcData +: \[2\] _KDPC_DATA",)),
            ("!dpcs", (r"NOTE: processor 2 runs the normal DPC 0xffff91894ed40100 0xfffff80060da1a40 myfault",)),
            ("!dpcwatchdog", (r".*names no block of the DPC watchdog",)),
            ("!timer", (r"Dump system timers",)),
            ("u", (r"nt!KeBugCheckEx:",)),
            ("ub myfault+1a40", (r"myfault\+0x1a",)),
            ("uu", (r"fffff800`",)),
        ],
    ),
    "R3 of queued DPCs": (
        "dpc-samples",
        [
            (".bugcheck", (r"Bugcheck code 00000133", r"Arguments 00000000`00000001 ")),
            ("!dpcwatchdog", (r"CPU#2: 58 addresses sampled at 0xffff91894ed43000", r" +32 % +18  myfault")),
        ],
    ),
    # Bug check 0xEF of the reference.
    "R4": (
        "critical-process",
        [
            (".bugcheck", (r"Bugcheck code 000000EF",)),
            ("!process @$bug_param1 3", (r"PROCESS ffff91894f241080", r"    Image: csrss\.exe")),
            ("!analyze -v", (r"CRITICAL_PROCESS:  csrss\.exe \(Cid 0244\)",)),
            ("!process 244 0", (r"PROCESS ffff91894f241080",)),
            ("!thread", (r"THREAD ffff918952f55080  Cid 1c58\.1c5c",)),
            ("dt nt!_EPROCESS @$bug_param1 ImageFileName ExitStatus", (r".*ExitStatus +: 0n1",)),
            ("!error @@c++(((nt!_EPROCESS *)@$bug_param1)->ExitStatus)", (r".*0x1 \(1\) - ERROR_INVALID_FUNCTION",)),
            ("!peb", (r".*the PEB at 7ae6a10000: user page 7ae6a10000 is not in the dump",)),
        ],
    ),
    # Bug check 0x124 of the reference.
    "R5": (
        "machine-check",
        [
            (".bugcheck", (r"Bugcheck code 00000124",)),
            ("!errrec @$bug_param2", (r"Severity      : Fatal",)),
            ("!errpkt @$bug_param2", (r"no error packet at 0xffff91894ef51028",)),
            ("!whea", (r".*",)),
            ("!sysinfo cpuinfo", (r"\[CPU Information\]", r"~MHz = REG_DWORD 3192")),
            ("!sysinfo cpumicrocode", (r"Initial Microcode Version",)),
            ("!sysinfo smbios", (r"\[SMBIOS Data Tables v3\.1\]",)),
            ("!mca", (r"The banks of machine check registers are not in a dump",)),
            ("!cpuinfo", (r" 0 6,158,10 GenuineIntel 3192 ",)),
            ("!analyze -v", (r"WHEA_UNCORRECTABLE_ERROR \(124\)",)),
        ],
    ),
    # "Using the kernel debugger to find a kernel-mode memory leak".
    "R6": (
        "memory",
        [
            ("!vm 1", (r"Page File: ",)),
            ("!poolused 4", (r" Sorting by Paged Pool Consumed",)),
            ("!poolused 2", (r" Leak +20508 +52431936",)),
            ("!poolused 2 Leak", (r" Leak +20508 +52431936", r"TOTAL +20508 +52431936")),
            ("!poolused /t5 2", (r" EtwB +1312 +103170048", r"TOTAL +24270 +204982208")),
            ("!poolfind Leak", (r"ffff91894d629060 : tag Leak, size +0x60, Nonpaged pool",)),
            ("!pool ffff91894d629060 2", (r"\*ffff91894d629050 size: +70 .* \*Leak",)),
            ('!for_each_module s-a @#Base @#End "Leak"', (r"fffff800`60da1e62  4c 65 61 6b",)),
        ],
    ),
    # Guides for hangs: "Hang or deadlock", InsightEngineering's case of an ERESOURCE.
    "R7": (
        "locks",
        [
            ("!analyze -v -hang", (r".*nt!PiEngineLock",)),
            ("!locks", (r"Resource @ nt!PiEngineLock \(0xfffff80063244a60\) +Exclusively owned",)),
            ("!stacks 2", (r".*nt!KiSwapContext\+0x76",)),
            ("!running -it", (r"System Processors:  \(0000000000000007\)",)),
            ("!vm 1", (r"Page File: ",)),
            ("!process 0 7", (r"PROCESS ffff91894c27a040",)),
            ("!process 0 17", (r"PROCESS ffff91894c27a040",)),
            ("!alpc /lpp @$proc", (r".*",)),
            ("!qlocks", (r"Key: O = Owner, 1-n = Wait order",)),
            ("!timer", (r"Dump system timers",)),
            ("!findstack myfault", (r"Thread ffff918952f55080, 3 frame\(s\) match",)),
            ("!uniqstack", (r".*nt!KiPageFault\+0x469",)),
            ("!mex.tl -t", (r"0x4 +0n4 +ffff91894c27a040 System",)),
            ("!ready f", (r"KSHARED_READY_QUEUE ",)),
            ("!irpfind 0 0 thread @$thread", (r"ffff91894ed94d70 \[ffff918952f55080\]",)),
            ("!handle 0 3 0 File", (r"PROCESS ffff91894c27a040",)),
        ],
    ),
    # "Stop 0x7F, 8": stack pointer.
    "R8": (
        "double-fault",
        [
            ("kv", (r".* nt!KiDoubleFaultAbort\+0x2c3 \(TrapFrame @",)),
            ("!thread", (r"Stack Init [0-9a-f]+ Current [0-9a-f]+",)),
            (".formats @rsp ^ @rbp", (r"  Hex: +00000000`000003d8",)),
            ("!pcr", (r"KPCR for Processor 2 at ffffc3014f460000:",)),
            ("dt nt!_KPCR @$pcr NtTib.", (r".*StackBase +: 0xffffc301`4f471000 Void",)),
            ("r cr2", (r"cr2=0000000000000008",)),
            (".tss 28", (r".*",)),
            ("!analyze -v", (r".*STACK_OVERFLOW",)),
        ],
    ),
    # Bug checks 0xA, 0xD1 of the reference; the session of the article.
    "R9": (
        "myfault",
        [
            ("!analyze -v", (r"DRIVER_IRQL_NOT_LESS_OR_EQUAL \(d1\)",)),
            ("dx KiBugCheckDriver", (r'KiBugCheckDriver +: .* : "myfault.sys"',)),
            ("kv", (r"02 .* nt!KiPageFault\+0x469 \(TrapFrame @ ffffd48f`77af97e0\)",)),
            (".trap 0xffffd48f77af97e0", (r"rip=fffff80060da1981 ", r"myfault\+0x1981:")),
            ("kb", (r"00 .* myfault\+0x1981",)),
            ("dd @rsp L2", (r"ffffd48f`77af9970  ",)),
            (".trap", (r"Resetting default scope",)),
            ("!irql", (r"Debugger saved IRQL for processor 0x2 -- 2 \(DISPATCH_LEVEL\)",)),
            ("!address @rsp", (r"Usage: +kernel stack of thread ffff918952f55080",)),
            ("!pte @rsp", (r" +VA ffffd48f77af9698", r"PXE at FFFF")),
            ("u fffff80060da1981 L1", (r"fffff800`60da1981 8b03 ",)),
            ("!error c0000005", (r".*0xc0000005 \(3221225477\) - STATUS_ACCESS_VIOLATION",)),
            (".exr -1", (r"ExceptionAddress: ",)),
            (".cxr -1", (r"rip=fffff80060da1981 ",)),
            (
                "!process ffff9189527e9080 7",
                (r"    Image: notepad\.exe", r"        THREAD ffff91895309d080  Cid 1e90\.1e94"),
            ),
        ],
    ),
    # Bug check 0x101 of the reference.
    "R10": (
        "hung-processor",
        [
            (".bugcheck", (r"Bugcheck code 00000101",)),
            # The layout of the page on "!frozen"; the processor that hangs did not take the interrupt.
            ("!frozen", (r"Processor states:$", r" {7}0 : Frozen$", r" {7}1 : TargetFreeze$", r" {7}2 : Current$")),
            ("!prcb 1", (r"PRCB for Processor 1 at ffffc3014f3c0180:",)),
            ("1k", (r"00 .* myfault\+0x1a60",)),
            ("~1s; k", (r"00 .* myfault\+0x1a60",)),
            ("!running -it", (r"System Processors:",)),
            ("!ipi", (r"IPI State for Processor 0",)),
            (
                "dt nt!_KPRCB @$bug_param3 CurrentThread IpiFrozen PacketBarrier TargetSet",
                (r".*IpiFrozen +: 0x5", r"Cannot find specified field members: nt!_KPRCB has no field TargetSet"),
            ),
        ],
    ),
    # "Converting virtual addresses to physical addresses"; "Mapping symbols when the PEB is paged out".
    "R12": (
        "myfault",
        [
            ("n 16", (r"base is 16",)),
            ("!process 0 0", (r"    DirBase: 1f3a2a000 ",)),
            ("!vtop 1f3a2a @rsp", (r"Virtual address ffffd48f77af9698 translates to physical address [0-9a-f]+",)),
            ("!vtop 1f3a2a000 @rsp", (r"Virtual address ffffd48f77af9698 translates to physical address [0-9a-f]+",)),
            (".process /p @$proc", (r"Implicit process is now ffff9189`5301a080",)),
            ("!pte @rsp", (r"pfn 11000f ",)),
            ("!dd 120043698 L4", (r"#120043698 ",)),
            ("dd /p 120043698 L4", (r"00000001`20043698  62a09169 fffff800",)),
            ("dd @rsp L4", (r"ffffd48f`77af9698  62a09169 fffff800",)),
            ("!process 1e90 1", (r" +VadRoot ffff918953a30a20 Vads 285",)),
            ("!vad ffff918953a30a20 1", (r".*",)),
            (".formats 12f980", (r"  Decimal: 1243520",)),
            ("dd 0xc00004bc L1", (r"00000000`c00004bc  \?{8}",)),
        ],
    ),
}
_QUICK = ("R1",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _QUICK else pytest.mark.thorough) for name in _REPLAYS]
)
def test_replay(scene: Callable[[str], Target], name: str) -> None:
    made, steps = _REPLAYS[name]
    session = session_on(settle(scene(made)))
    _play(session, steps)


def _play(session: Session, steps: list[Step]) -> None:
    for command, expected in steps:
        lines = answer(session, command)
        assert not any(_FAILED.search(line) for line in lines), (command, lines[:3])
        for pattern in expected:
            assert any(re.match(pattern, line) for line in lines), (command, pattern, lines)


@pytest.mark.thorough
def test_the_small_dump(sample: Callable[..., Path]) -> None:
    """R13: what a small dump holds is shown, and each command that has nothing to show says why."""
    path = sample(4)
    session = session_on(settle(Target.open(path)))
    _play(
        session,
        [
            (".bugcheck", (r"Bugcheck code 000000D1",)),
            ("k", (r"03 .* myfault\+0x1981",)),
            ("!thread", (r"THREAD ffff918952f55080  Cid 1c58\.1c5c",)),
            ("!process", (r"PROCESS ffff91895301a080",)),
            ("!stacks", (r" *1c58\.001c5c  ffff918952f55080 .*nt!KeBugCheckEx", r"Threads Processed: 1")),
            ("lmvm myfault", (r"    Image name: myfault\.sys",)),
            ("r cr2", (r"cr2=ffffd8024aaa8010",)),
            ("!blackboxpnp", (r".*has no black box of that kind",)),
            ("!peb", (r".*a small memory dump holds no user mode",)),
            ("dd /p 1000", (r".*a small memory dump holds no physical memory",)),
        ],
    )
