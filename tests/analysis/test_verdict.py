"""The culprit, the bucket and its hash, against verdicts that were published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.pasted_text import vectors
from tests.analysis.score_vectors import differences, entry_of, verdict_of
from volatility3_kdump import open as open_dump
from volatility3_kdump.analysis.buckets import FailureFacts, failure_facts, failure_hash, grouping, tail
from volatility3_kdump.analysis.bugcheck import describe, header_bug_check, known_codes
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.reasoning import Culprit, Reasoning
from volatility3_kdump.analysis.stack_entries import StackEntry, entry_at, stack_entries
from volatility3_kdump.analysis.verdict import Verdict, decide
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.walker import walker

RULES = OwnerRules.load()

#: Pairs of FAILURE_BUCKET_ID and FAILURE_ID_HASH as the debugger printed them.
PUBLISHED = {
    "AV_myfault!unknown_function": "9745090a-9bce-ccba-c096-ca6e9ca04c64",
    "MEMORY_CORRUPTION_ONE_BIT": "e3faf315-c3d0-81db-819a-6c43d23c63a7",
    "MEMORY_CORRUPTION_LARGE": "e29154ac-69a4-0eb8-172a-a860f73c0a3c",
    "MEMORY_CORRUPTION_STRIDE": "574dbc1b-92cb-fb09-cb7a-cacc1bb2c511",
    "0x133_DPC_nvlddmkm!unknown_function": "15c3af0e-5564-7a80-2e26-65b5115ecc4d",
    "0x9F_3_RtsPer_IMAGE_pci.sys": "ce555a86-e2a6-4bdd-cc96-f64b1a03e85a",
    "0x124_16_GenuineIntel__UNKNOWN_IMAGE_GenuineIntel.sys": "37af9407-4a3e-0b08-acdd-dadffdc34c3c",
    "AV_W_(null)_Driver!unknown_function": "2f4cb3f6-118f-01c9-d978-7b6c7a9a1257",
    "0x7f_8_nt!KiDoubleFaultAbort": "d1f8395a-8c58-45da-6ebf-e8bb4aad2fc5",
    "0x133_ISR_nt!KeAccumulateTicks": "65350307-c3b9-f4b5-8829-4d27e9ff9b06",
    "0x133_DPC_nt!KeAccumulateTicks": "88dc98ce-f842-4daa-98d0-858621db6b0f",
    "CLOCK_WATCHDOG_TIMEOUT_INVALID_CONTEXT_nt!KeAccumulateTicks": "95498f51-33a9-903b-59e5-d236937d8ecf",
    "0x139_3_CORRUPT_LIST_ENTRY_nt!KiFastFailDispatch": "3aede96a-54dd-40d6-d4cb-2a161a843851",
    "0x139_3_CORRUPT_LIST_ENTRY_KTIMER_LIST_CORRUPTION_nt!KiProcessExpiredTimerList": (
        "9db7945b-255d-24a1-9f2c-82344e883ab8"
    ),
    "0x116_IMAGE_nvlddmkm.sys": "c89bfe8c-ed39-f658-ef27-f2898997fdbd",
    "CORRUPT_MODULELIST_AV": "fc259191-ef0c-6215-476f-d32e5dcaf1b7",
    "0x18_OVER_DEREFERENCE_nt!ObfDereferenceObjectWithTag": "4139309c-4e9f-52f0-ac5e-4041e7a86a20",
    "AV_CODE_AV_BAD_IP_nt!KiPageFault": "73cd60cc-83fa-6b76-df08-1961c31d7403",
}


def decided(
    code: int,
    arguments: tuple[int, ...],
    *frames: str,
    facts: FailureFacts | None = None,
    reasoning: Reasoning | None = None,
    resolve: dict[int, StackEntry] | None = None,
    rules: OwnerRules = RULES,
) -> Verdict:
    names = (resolve or {}).get
    entries = [entry_of(frame) for frame in frames]
    return decide(describe(code, arguments), facts, entries, reasoning or Reasoning(), rules, names)


@pytest.mark.parametrize(("bucket", "published"), PUBLISHED.items())
def test_the_hash_of_a_bucket_is_the_debuggers(bucket, published):
    assert failure_hash(bucket) == failure_hash(bucket.upper()) == published


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["id"])
def test_verdicts_on_published_stacks_equal_the_debuggers(vector):
    found = differences(vector, verdict_of(vector, RULES))
    assert bool(found) == ("excuse" in vector), found


CLOCK = (
    "nt!KeBugCheckEx",
    "nt!KeAccumulateTicks+0x20f4e5",
    "nt!KeClockInterruptNotify+0x453",
    "hal!HalpTimerClockIpiRoutine+0x1a",
    "nt!KiCallInterruptServiceRoutine+0xa5",
    "nt!KiInterruptSubDispatchNoLockNoEtw+0xfa",
    "nt!KiInterruptDispatchNoLockNoEtw+0x37",
    "nt!KeYieldProcessorEx+0x13",
    "nt!KxWaitForLockOwnerShip+0xe",
)
LIST = (
    "nt!KeBugCheckEx",
    "nt!KiBugCheckDispatch+0x69",
    "nt!KiFastFailDispatch+0xd0",
    "nt!KiRaiseSecurityCheckFailure+0x31d",
)
FAULT = ("nt!KeBugCheckEx", "nt!KiBugCheckDispatch+0x69", "nt!KiPageFault+0x469")


@pytest.mark.parametrize(
    ("bucket", "code", "arguments", "frames", "options"),
    [
        (
            "0x7f_8_nt!KiDoubleFaultAbort",
            0x7F,
            (8,),
            ("nt!KeBugCheckEx", "nt!KiBugCheckDispatch+0x69", "nt!KiDoubleFaultAbort+0x2c3", "nt!KiPageFault+0x5"),
            {},
        ),
        ("0x133_ISR_nt!KeAccumulateTicks", 0x133, (1,), CLOCK, {}),
        ("0x133_DPC_nt!KeAccumulateTicks", 0x133, (0,), CLOCK, {}),
        ("0x133_DPC_nvlddmkm!unknown_function", 0x133, (0,), (*CLOCK, "nvlddmkm+0x1234", "myfault+0x1"), {}),
        (
            "CLOCK_WATCHDOG_TIMEOUT_INVALID_CONTEXT_nt!KeAccumulateTicks",
            0x101,
            (0xC, 0, 0xFFFFB000, 3),
            CLOCK,
            {"facts": FailureFacts(small_dump=True)},
        ),
        ("0x139_3_CORRUPT_LIST_ENTRY_nt!KiFastFailDispatch", 0x139, (3,), (*LIST, "nt!KiInsertQueueDpc+0x1"), {}),
        (
            "0x139_3_CORRUPT_LIST_ENTRY_KTIMER_LIST_CORRUPTION_nt!KiProcessExpiredTimerList",
            0x139,
            (3,),
            (*LIST, "nt!KiProcessExpiredTimerList+0x1a2ae5", "nt!KiRetireDpcList+0x9dd", "nt!KiIdleLoop+0x9e"),
            {},
        ),
        (
            "0x18_OVER_DEREFERENCE_nt!ObfDereferenceObjectWithTag",
            0x18,
            (0, 0xFFFFA00012345678, 2, 0xFFFFFFFFFFFFFFFF),
            ("nt!KeBugCheckEx", "nt!ObfDereferenceObjectWithTag+0x192ea5", "nt!ObCloseHandleTableEntry+0x2a1"),
            {},
        ),
        (
            "AV_CODE_AV_BAD_IP_nt!KiPageFault",
            0xD1,
            (0xFFFF800000001000, 2, 8, 0xFFFF800000001000),
            (*FAULT, "0xffff800000001000"),
            {},
        ),
        (
            "0x116_IMAGE_nvlddmkm.sys",
            0x116,
            (0xFFFFA00000001000, 0xFFFFF80012345678, 0, 4),
            ("nt!KeBugCheckEx", "dxgkrnl!TdrBugcheckOnTimeout+0xfe", "dxgkrnl!DXGADAPTER::Reset+0x16e"),
            {"resolve": {0xFFFFF80012345678: entry_of("nvlddmkm+0xcb1f30")}},
        ),
        (
            "0x9F_3_RtsPer_IMAGE_pci.sys",
            0x9F,
            (3, 1, 2, 3),
            ("nt!KeBugCheckEx", "nt!PopIrpWatchdogBugcheck+0x251"),
            {
                "reasoning": Reasoning(
                    specifiers=("3", "RtsPer"), culprit=Culprit("pci.sys", "pci", None, "it owns the PDO")
                )
            },
        ),
        (
            "0x124_16_GenuineIntel__UNKNOWN_IMAGE_GenuineIntel.sys",
            0x124,
            (0x10,),
            ("nt!KeBugCheckEx", "nt!HalBugCheckSystem+0xd7", "PSHED!PshedBugCheckSystem+0x10"),
            {
                "reasoning": Reasoning(
                    specifiers=("16", "GenuineIntel", "_UNKNOWN"),
                    culprit=Culprit("GenuineIntel.sys", "GenuineIntel", None, "the processor reported the error"),
                )
            },
        ),
        (
            "MEMORY_CORRUPTION_ONE_BIT",
            0xA,
            (1, 2, 0, 4),
            (*FAULT, "nt!KeSetEvent+0x1"),
            {"reasoning": Reasoning(prefix="MEMORY_CORRUPTION_ONE_BIT")},
        ),
        ("CORRUPT_MODULELIST_AV", 0xD1, (1, 2, 0, 4), FAULT, {"reasoning": Reasoning(prefix="CORRUPT_MODULELIST")}),
    ],
)
def test_published_buckets_come_from_stacks_of_their_kind(bucket, code, arguments, frames, options):
    """The frames are of the kind that these buckets were published with."""
    verdict = decided(code, arguments, *frames, **options)
    assert verdict.bucket == bucket
    assert verdict.bucket_hash == PUBLISHED[bucket]


def test_the_transcript():
    frames = (
        *FAULT,
        "myfault+0x1981",
        "myfault+0x1d3d",
        "myfault+0x1ea1",
        "nt!IofCallDriver+0x55",
        "nt!NtDeviceIoControlFile+0x56",
        "nt!KiSystemServiceCopyEnd+0x25",
        "0x00007ff8`f16ece54",
    )
    verdict = decided(0xD1, (0xFFFFD8024AAA8010, 2, 0, 0xFFFFF80060DA1981), *frames)
    assert verdict.symbol_name == "myfault+1981"
    assert (verdict.module_name, verdict.image_name) == ("myfault", "myfault.sys")
    assert verdict.bucket == "AV_myfault!unknown_function"
    assert verdict.bucket_hash == "9745090a-9bce-ccba-c096-ca6e9ca04c64"
    assert verdict.function_offset == 0x1981
    assert (verdict.frame, verdict.confidence, verdict.followup) == (3, "high", "MachineOwner")
    assert not verdict.all_microsoft
    assert "default=MachineOwner" in verdict.rule
    assert verdict.runner_up == "nt!IofCallDriver+55"
    assert "weaker" in verdict.runner_up_rule


# the walk -------------------------------------------------------------------------------------------------------------


def test_a_stack_of_only_microsoft_says_so():
    verdict = decided(
        0xA, (8, 2, 0, 1), *FAULT, "nt!KeSetEvent+0x11", "tcpip!TcpSend+0x5", "nt!KiStartSystemThread+0x28"
    )
    assert verdict.symbol_name == "tcpip!TcpSend+5"
    assert verdict.all_microsoft
    assert verdict.confidence == "low"
    assert "every frame belongs to Microsoft" in verdict.rule


def test_the_file_system_gives_way_to_a_filter_but_not_to_the_kernel_below():
    frames = (*FAULT, "Ntfs!NtfsCommonCreate+0x5", "FLTMGR!FltpDispatch+0x1")
    assert decided(0xA, (8, 2, 0, 1), *frames, "filter+0x10", "nt!NtCreateFile+0x1").symbol_name == "filter+10"
    assert decided(0xA, (8, 2, 0, 1), *frames, "nt!NtCreateFile+0x1").symbol_name == "Ntfs!NtfsCommonCreate+5"
    waiting = ("nt!KiSwapContext+0x76", "nt!KiSwapThread+0x500", "Ntfs!NtfsWait+0x3", "nt!NtCreateFile+0x1")
    verdict = decided(0x1CC, (), *waiting)
    assert verdict.bucket == "LKD_0x1CC_EXRESOURCE_TIMEOUT_OWNERTHREAD_nt!KiSwapContext"


def test_the_runner_up_is_somebody_elses_driver_where_there_is_one():
    verdict = decided(0xA, (8, 2, 0, 1), *FAULT, "ndis!NdisFoo+0x1", "afd!AfdFoo+0x2", "mydriver+0x33")
    assert verdict.module_name == "afd"
    assert verdict.runner_up == "mydriver+33"
    assert verdict.confidence == "low"
    assert not verdict.all_microsoft


def test_handlers_above_the_instruction_that_failed_are_not_blamed():
    ip = 0xFFFFF80012345678
    entries = [
        entry_of(frame) for frame in ("nt!KeBugCheckEx", "filterer!Filter+0x1", "nt!KiPageFault+0x1", "culprit+0x5")
    ]
    entries[3] = StackEntry("culprit", None, 5, "culprit.sys", ip, True)
    failed = FailureFacts(ip=ip, in_module=True)
    assert decide(describe(0x1E, (0xC0000005, ip)), failed, entries, Reasoning(), RULES).symbol_name == "culprit+5"
    assert decide(describe(0x139, (3,)), failed, entries, Reasoning(), RULES).symbol_name == "filterer!Filter+1"


def test_the_instruction_that_failed_counts_where_the_stack_lacks_its_frame():
    """Small memory dumps hold no code to unwind by; the registers of the failure are there all the same."""
    ip = 0xFFFFF80012345678
    frames = (*FAULT, "other+0x5", "nt!NtCreateFile+0x1")
    verdict = decided(0x50, (8, 0, ip, 2), *frames, resolve={ip: entry_of("culprit+0x5678")})
    assert (verdict.symbol_name, verdict.bucket) == ("culprit+5678", "AV_R_(null)_culprit!unknown_function")
    assert (verdict.frame, verdict.confidence, verdict.runner_up) == (None, "high", "other+5")
    verdict = decided(0x50, (8, 0, ip, 2), *frames, resolve={ip: entry_of("nt!memcpy+0x12")})
    assert verdict.symbol_name == "other+5"
    assert "in a function that it called" in verdict.confidence_reason
    assert verdict.runner_up == "nt!memcpy+12"


@pytest.mark.parametrize(("ip", "word"), [(0, ""), (0x10, "CODE_AV_NULL_IP_"), (0xFFFF800000001000, "CODE_AV_BAD_IP_")])
def test_a_jump_to_nowhere_is_its_callers(ip, word):
    verdict = decided(0xD1, (ip, 2, 8, ip), *FAULT, f"{ip:#x}", "mydriver!Call+0x20", "nt!IofCallDriver+0x5")
    assert verdict.bucket == f"AV_{word}mydriver!Call"
    assert verdict.symbol_name == "mydriver!Call+20"


KERNEL = 0xFFFFF80700000000


def test_what_only_reports_is_not_blamed_where_it_has_no_symbol():
    """By its place between the call of the bug check and the fault: no owner rule knows it."""
    entries = [
        StackEntry("nt", None, 0x4B87E0, "ntoskrnl.exe", KERNEL + 1, True, part="bug check"),
        StackEntry("filter", None, 0x10, "filter.sys", KERNEL + 2, False, part="fault path"),
        StackEntry("nt", None, 0x685DCB, "ntoskrnl.exe", KERNEL + 3, True, part="fault path"),
        StackEntry("nt", None, 0x2E8EAC, "ntoskrnl.exe", KERNEL + 4, True, part="fault"),
    ]
    chosen = decide(describe(0xBE, (0, 0, 0, 0)), None, entries, Reasoning(), RULES)
    assert (chosen.symbol_name, chosen.frame) == ("nt+2e8eac", 3)
    driver = StackEntry("driver", None, 0x20, "driver.sys", KERNEL + 5, False)
    chosen = decide(describe(0xBE, (0, 0, 0, 0)), None, [*entries, driver], Reasoning(), RULES)
    assert (chosen.symbol_name, chosen.frame) == ("driver+20", 4)
    # Where nothing else is left, the one that reported it is.
    chosen = decide(describe(0xBE, (0, 0, 0, 0)), None, entries[:1], Reasoning(), RULES)
    assert chosen.symbol_name == "nt+4b87e0"


def test_a_driver_that_was_only_interrupted_leaves_little_confidence():
    entries = [entry_of(frame) for frame in ("nt!KeBugCheckEx", "nt!KiRetireDpcList+0x1f4", "nt!KxRetireDpcList+0x5")]
    waiting = StackEntry("driver", "Wait", 0x20, "driver.sys", KERNEL + 5, True)
    chosen = decide(describe(0xC2, (8, 0, 0, 0)), None, [*entries, waiting], Reasoning(), RULES)
    assert (chosen.symbol_name, chosen.confidence) == ("driver!Wait+20", "high")
    interrupted = replace(waiting, part="interrupted")
    chosen = decide(describe(0xC2, (7, 0, 0, 0)), None, [*entries, interrupted], Reasoning(), RULES)
    assert (chosen.symbol_name, chosen.confidence) == ("driver!Wait+20", "low")
    assert "only interrupted by the DPC" in chosen.confidence_reason


def test_frames_found_by_a_scan_lower_the_confidence():
    entries = [entry_of(frame) for frame in (*FAULT, "mydriver+0x10")]
    sure = decide(describe(0xD1, (1, 2, 0, 4)), None, entries, Reasoning(), RULES)
    entries[3] = StackEntry("mydriver", None, 0x10, "mydriver.sys", 0, False)
    unsure = decide(describe(0xD1, (1, 2, 0, 4)), None, entries, Reasoning(), RULES)
    assert (sure.confidence, unsure.confidence) == ("high", "medium")
    assert "scan" in unsure.confidence_reason
    assert sure.bucket == unsure.bucket


def test_a_kernel_without_symbols_is_no_more_than_a_guess():
    verdict = decided(0x3D, (), "nt+0x3fcd70", "nt+0x44314b")
    assert (verdict.bucket, verdict.confidence) == ("0x3D_nt!unknown_function", "low")
    assert "no symbols" in verdict.confidence_reason


@pytest.mark.parametrize("frames", [(), ("0xfffff80012345678",), ("nt!KeBugCheckEx",)])
def test_without_anybody_to_blame_the_analysis_is_inconclusive(frames):
    verdict = decided(0x109, (1, 2, 3, 0x19), *frames)
    assert verdict.bucket == "0x109_19_ANALYSIS_INCONCLUSIVE!unknown_function"
    assert (verdict.module_name, verdict.image_name) == ("Unknown_Module", "Unknown_Image")
    assert verdict.confidence == "low"
    assert verdict.frame is None


def test_without_a_bug_check_there_is_no_bucket():
    verdict = decide(None, None, [entry_of("mydriver+0x10")], Reasoning(), RULES)
    assert verdict.symbol_name == "mydriver+10"
    assert verdict.bucket is None
    assert verdict.bucket_hash is None


def test_a_users_rules_change_the_choice_and_the_follow_up(tmp_path):
    path = tmp_path / "mine.ini"
    path.write_text("mydriver=ignore\nother=StorageTeam\n", encoding="utf-8")
    verdict = decided(0xD1, (1, 2, 0, 4), *FAULT, "mydriver+0x10", "other+0x20", rules=OwnerRules.load(path))
    assert verdict.module_name == "other"
    assert verdict.followup == "StorageTeam"
    assert "'other=StorageTeam'" in verdict.rule
    assert str(path) in verdict.rule


# what the arguments name ----------------------------------------------------------------------------------------------


def test_a_culprit_of_the_arguments_goes_before_the_stack():
    reasoning = Reasoning(culprit=Culprit("usbhub.sys", None, None, "it holds the request"), specifiers=("3", "usbhub"))
    verdict = decided(0x9F, (3, 1, 2, 3), "nt!KeBugCheckEx", "nt!PopFoo+0x1", "mydriver+0x5", reasoning=reasoning)
    assert verdict.bucket == "0x9F_3_usbhub_IMAGE_usbhub.sys"
    assert (verdict.module_name, verdict.image_name, verdict.symbol_name) == ("usbhub", "usbhub.sys", None)
    assert verdict.rule == "it holds the request"
    assert verdict.runner_up == "mydriver+5"
    assert (verdict.confidence, verdict.suspect) == ("high", "usbhub.sys")


def test_the_bucket_may_name_the_device_and_the_verdict_the_driver_in_its_stack():
    culprit = Culprit("RtsPer.sys", "RtsPer", None, "it has the power IRP")
    reasoning = Reasoning(culprit=culprit, specifiers=("3", "RtsPer", "IMAGE", "pci.sys"))
    verdict = decided(0x9F, (3, 1, 2, 3), "nt!KeBugCheckEx", reasoning=reasoning)
    assert verdict.bucket_hash == PUBLISHED["0x9F_3_RtsPer_IMAGE_pci.sys"]
    assert (verdict.module_name, verdict.image_name) == ("pci", "pci.sys")
    assert verdict.suspect == "RtsPer.sys"


def test_what_the_dump_does_not_hold_is_an_unknown_image():
    verdict = decided(0x9F, (3, 1, 2, 3), "nt!KeBugCheckEx", "nt!PopIrpWatchdogBugcheck+0x1")
    assert (verdict.bucket, verdict.module_name) == ("0x9F_3", "Unknown_Module")
    assert (verdict.suspect, verdict.confidence) == (None, "low")
    verdict = decided(0x9F, (4, 300), "nt!KiSwapContext+0x76", "mydriver+0x1")
    assert verdict.bucket == "0x9F_4_mydriver!unknown_function"


def test_a_stack_that_proves_nothing_leaves_little_confidence():
    frames = ("nt!KeBugCheckEx", "mydriver!F+0x1")
    for code, words in ((0xE2, "asked for"), (0x109, "random times"), (0x101, "another one")):
        verdict = decided(code, (), *frames)
        assert verdict.confidence == "low"
        assert words in verdict.confidence_reason
    verdict = decided(0x101, (), *frames, reasoning=Reasoning(thread=0xFFFF800000001000))
    assert (verdict.confidence, verdict.confidence_reason) == ("high", "the thread that the arguments name was there")


def test_where_the_debugger_goes_by_the_stack_the_bucket_does_and_the_suspect_does_not():
    culprit = Culprit("mydriver.sys", "mydriver", None, "its routine was the DPC that ran")
    verdict = decided(0x133, (0,), *CLOCK, reasoning=Reasoning(culprit=culprit))
    assert verdict.bucket_hash == PUBLISHED["0x133_DPC_nt!KeAccumulateTicks"]
    assert (verdict.suspect, verdict.rule) == ("mydriver.sys", "its routine was the DPC that ran")
    assert verdict.runner_up.startswith("nt!KeAccumulateTicks+")
    assert not verdict.all_microsoft
    verdict = decided(0x133, (0,), *CLOCK, "mydriver+0x10", reasoning=Reasoning(culprit=culprit))
    assert verdict.symbol_name == "mydriver+10"
    assert (verdict.suspect, verdict.confidence) == ("mydriver.sys", "high")
    assert "its routine was the DPC that ran; on the stack, " in verdict.rule


def test_an_unloaded_driver_is_blamed_for_its_old_addresses():
    facts = FailureFacts(ip=0xFFFFF80012341981, in_module=False, unloaded=("gone.sys", 0xFFFFF80012340000))
    arguments = (0xFFFFF80012341981, 2, 8, 0xFFFFF80012341981)
    verdict = decided(0xD1, arguments, *FAULT, "0xfffff80012341981", "nt!IofCallDriver+0x1", facts=facts)
    assert verdict.symbol_name == "gone+1981"
    assert (verdict.module_name, verdict.image_name) == ("gone", "gone.sys")
    assert "unloaded" in verdict.rule
    assert verdict.runner_up == "nt!IofCallDriver+1"


def test_a_worker_routine_of_a_driver_is_blamed():
    verdict = decided(
        0xE1,
        (0x1000, 2, 3, 4),
        "nt!KeBugCheckEx",
        "nt!ExpWorkerThread+0x1",
        resolve={0x1000: entry_of("mydriver!Work")},
    )
    assert verdict.symbol_name == "mydriver!Work+0"
    assert verdict.bucket == "0xE1_mydriver!Work"
    assert verdict.confidence == "high"


# buckets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments", "reasoning", "start"),
    [
        (0x3B, (0xC000001D,), Reasoning(), "0x3B_c000001d_"),
        (0x3B, (0xFFFFFFFFC0000005,), Reasoning(), "AV_"),
        (0x7E, (0x80000003,), Reasoning(), "0x7E_80000003_"),
        (0x1000007E, (0xC0000005,), Reasoning(), "AV_"),
        (0x1E, (0xC0000005, 1, 0, 0xFFFFFFFFFFFFFFFF), Reasoning(), "AV_R_"),
        (0x1E, (0xC0000005, 1, 1, 0x10), Reasoning(), "AV_W_"),
        (0x1E, (0xC0000096, 1, 0, 0), Reasoning(), "0x1E_c0000096_"),
        (0x50, (0x1000, 0, 1, 2), Reasoning(), "AV_R_(null)_"),
        (0x50, (0x1000, 2, 1, 0), Reasoning(), "AV_W_(null)_"),
        (0x50, (0x1000, 0, 1, 2), Reasoning(prefix="AV_R", specifiers=("INVALID",)), "AV_R_INVALID_"),
        (0x50, (), Reasoning(), "AV_"),
        (0xD1, (1, 2, 0, 4), Reasoning(prefix="AV"), "AV_"),
        (0x139, (3,), Reasoning(specifiers=("3", "CORRUPT_LIST_ENTRY")), "0x139_3_CORRUPT_LIST_ENTRY_"),
        (0x139, (0x7777,), Reasoning(), "0x139_7777_"),
        (0x133, (1,), Reasoning(prefix="0x133_ISR"), "0x133_ISR_"),
        (0x133, (1,), Reasoning(specifiers=("ISR",)), "0x133_ISR_"),
        (0x1A, (0x41790,), Reasoning(), "0x1a_41790_"),
        (0x162, (0x41790,), Reasoning(), "0x162_"),
        (0x161, (), Reasoning(), "LKD_0x161_"),
        (0x119, (2,), Reasoning(), "0x119_2_DRIVER_FAILED_SUBMIT_COMMAND_"),
        (
            0xEF,
            (1,),
            Reasoning(specifiers=("a.exe", "BUGCHECK_CRITICAL_PROCESS")),
            "0xEF_a.exe_BUGCHECK_CRITICAL_PROCESS_",
        ),
        (0xDEADBEEF, (1,), Reasoning(), "0xDEADBEEF_"),
    ],
)
def test_the_head_of_the_bucket(code, arguments, reasoning, start):
    verdict = decided(code, arguments, "nt!KeBugCheckEx", "mydriver!F+0x1", reasoning=reasoning)
    assert verdict.bucket == f"{start}mydriver!F"


def test_buckets_without_a_module():
    culprit = Culprit("AuthenticAMD.sys", None, None, "no instruction starts there")
    verdict = decided(0x1E, (0xC000001D,), *FAULT, reasoning=Reasoning(prefix="IP_MISALIGNED", culprit=culprit))
    assert (verdict.bucket, verdict.image_name) == ("IP_MISALIGNED_AuthenticAMD.sys", "hardware")
    verdict = decided(0x3B, (0xC000001D,), *FAULT, reasoning=Reasoning(prefix="PAGE_NOT_ZERO"))
    assert (verdict.bucket, verdict.image_name) == ("PAGE_NOT_ZERO_0x3B", "Unknown_Image")
    verdict = decided(0x1A, (0x41792,), *FAULT, reasoning=Reasoning(prefix="MEMORY_CORRUPTION_ONE_BIT"))
    assert (verdict.module_name, verdict.image_name) == ("hardware", "memory_corruption")
    verdict = decided(0x1A, (0x41792,), *FAULT, reasoning=Reasoning(prefix="MEMORY_CORRUPTION_LARGE"))
    assert (verdict.module_name, verdict.followup) == ("memory_corruption", "memory_corruption")
    verdict = decided(0x1A, (0x61941, 1, 0x1D, 2), "nt!KeBugCheckEx", "mydriver!F+0x1")
    assert verdict.bucket == "0x1a_61941_PAGE_TABLE_RESERVED_BITS_SET_IMAGE_hardware_ram"
    assert (verdict.module_name, verdict.image_name, verdict.symbol_name) == ("hardware", "hardware_ram", None)


def test_the_second_word_of_0x50_tells_of_a_pool_without_page_tables():
    frames = ("nt!KeBugCheckEx", "mydriver!F+0x1")
    pool = FailureFacts(region="Paged pool")
    assert decided(0x50, (0x1000, 0, 1, 2), *frames, facts=pool).bucket == "AV_R_INVALID_mydriver!F"
    assert decided(0x50, (0x1000, 0, 1, 0), *frames, facts=pool).bucket == "AV_R_(null)_mydriver!F"


def test_verifier_stands_before_the_words_of_the_instruction_and_a_bad_stack_after_all():
    ip = 0xFFFFF80012345678
    facts = FailureFacts(ip=ip, in_module=True, verifier=True, bad_stack_pointer=True)
    bucket = decided(0xD1, (ip, 2, 8, ip), "nt!KeBugCheckEx", "mydriver!F+0x1", facts=facts).bucket
    assert bucket == "AV_VRF_CODE_AV_PAGED_IP_STACKPTR_ERROR_mydriver!F"


def test_stack_cookies_that_differ_in_one_or_two_bits_say_so():
    frames = ("nt!KeBugCheckEx", "mydriver!F+0x1")
    for found, word in ((0x1001, "ONE_BIT_"), (0x1003, "TWO_BIT_"), (0x1FFF, "")):
        bucket = decided(0xF7, (found, 0x1000, 0), *frames).bucket
        assert bucket == f"0xF7_{word}MISSING_GSFRAME_mydriver!F"


def test_frames_of_the_process_count_where_it_is_what_failed():
    frames = ("nt!KeBugCheckEx", "nt!NtFoo+0x1", "nt!KiSystemServiceCopyEnd+0x25", "ntdll!NtFoo+0x14")
    assert decided(0x18, (0, 1, 2, 3), *frames).symbol_name == "nt!NtFoo+1"
    assert decided(0xEF, (1, 0), *frames).symbol_name == "ntdll!NtFoo+14"
    # The kernel calls its own services the same way.
    own = ("nt!KeBugCheckEx", "nt!KiSystemServiceCopyEnd+0x25", "nt!KiServiceLinkage", "mydriver!F+0x1")
    assert decided(0x18, (0, 1, 2, 3), *own).symbol_name == "mydriver!F+1"


def test_classic_debuggers_write_code_and_offset():
    classic = FailureFacts(generation="classic", architecture="x64")
    frames = ("nt!KeBugCheckEx", "nt!KiPageFault+0x260", "nt!MmFoo+0x1")
    assert decided(0xA, (8, 2, 0, 1), *frames, facts=classic).bucket == "X64_0xA_nt!KiPageFault+260"
    verdict = decided(0x7E, (0xC0000005,), "mydriver+0x12", facts=classic)
    assert (verdict.bucket, verdict.function_offset) == ("X64_0x7E_mydriver+12", None)
    x86 = FailureFacts(generation="classic", architecture="x86")
    assert decided(0x50, (8, 0, 1, 0), "mydriver!F+0x12", facts=x86).bucket == "0x50_mydriver!F+12"


def test_verifier_and_live_dumps_show_in_the_bucket():
    frames = ("nt!KeBugCheckEx", "mydriver!F+0x1")
    assert decided(0xD1, (1, 2, 0, 4), *frames, facts=FailureFacts(verifier=True)).bucket == "AV_VRF_mydriver!F"
    assert decided(0x144, (7,), *frames, facts=FailureFacts(live=True)).bucket == "LKD_0x144_7_mydriver!F"


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        ("ntoskrnl.exe", "ntkrnlmp.exe"),
        ("ntkrnlmp.exe", "ntkrnlmp.exe"),
        ("ntkrpamp.exe", "ntkrpamp.exe"),
        (None, "ntkrnlmp.exe"),
    ],
)
def test_the_kernel_goes_by_the_name_it_was_built_with(image, shown):
    entries = [StackEntry("nt", "KeFoo", 1, image, 0, True)]
    assert decide(describe(0x3D, ()), None, entries, Reasoning(), RULES).image_name == shown


# anything at all ------------------------------------------------------------------------------------------------------

_WORDS = st.text(max_size=12) | st.sampled_from(
    ["nt", "hal", "Ntfs", "KeBugCheckEx", "KiPageFault", "nt!a", "mydriver"]
)
_NUMBERS = st.integers(0, (1 << 64) - 1) | st.integers(0, 64)
_MAYBE_NUMBERS = st.none() | _NUMBERS
_ENTRIES = st.builds(
    StackEntry,
    module=st.none() | _WORDS,
    symbol=st.none() | _WORDS,
    offset=_NUMBERS,
    image=st.none() | _WORDS,
    address=_NUMBERS,
    trusted=st.booleans(),
)
_CULPRITS = st.builds(
    Culprit, image_name=st.none() | _WORDS, module_name=st.none() | _WORDS, address=_MAYBE_NUMBERS, why=_WORDS
)
_REASONINGS = st.builds(
    Reasoning,
    specifiers=st.lists(_WORDS, max_size=3).map(tuple),
    prefix=st.none() | _WORDS | st.sampled_from(["AV", "PAGE_NOT_ZERO", "IP_MISALIGNED", "MEMORY_CORRUPTION"]),
    culprit=st.none() | _CULPRITS,
)
_FACTS = st.builds(
    FailureFacts,
    ip=_MAYBE_NUMBERS,
    in_module=st.none() | st.booleans(),
    access=st.sampled_from([None, "read", "write", "execute"]),
    address=_MAYBE_NUMBERS,
    unloaded=st.none() | st.tuples(_WORDS, _NUMBERS),
    verifier=st.booleans(),
    small_dump=st.booleans(),
    live=st.booleans(),
)


@given(
    code=st.sampled_from(sorted(known_codes())) | st.integers(0, 0xFFFFFFFF),
    arguments=st.lists(_MAYBE_NUMBERS, max_size=4),
    facts=st.none() | _FACTS,
    entries=st.lists(_ENTRIES, max_size=8),
    reasoning=_REASONINGS,
    resolved=st.none() | _ENTRIES,
)
def test_any_stack_and_any_arguments_give_a_verdict(code, arguments, facts, entries, reasoning, resolved):
    verdict = decide(describe(code, arguments), facts, entries, reasoning, RULES, lambda address: resolved)
    assert verdict.bucket is not None
    assert verdict.bucket_hash == failure_hash(verdict.bucket)
    assert verdict.confidence in ("high", "medium", "low")
    assert verdict.rule or reasoning.culprit is not None
    assert (verdict.runner_up is None) == (verdict.runner_up_rule is None)
    if verdict.frame is not None:
        assert verdict.symbol_name == entries[verdict.frame].name


# dumps ----------------------------------------------------------------------------------------------------------------


def _of_dump(path) -> Verdict:
    target = open_dump(path)
    bug_check = header_bug_check(target)
    failure = find_failure(target, bug_check)
    entries = stack_entries(target, walker(target).walk(crash_start(target)))
    return decide(
        bug_check,
        failure_facts(target, failure),
        entries,
        Reasoning(),
        RULES,
        lambda address: entry_at(target, address),
    )


@pytest.mark.parametrize("dump_type", [1, 2, 4, 5, 6])
def test_the_sample_has_the_verdict_of_the_session(sample, dump_type):
    verdict = _of_dump(sample(dump_type))
    assert verdict.symbol_name == "myfault+1981"
    assert verdict.image_name == "myfault.sys"
    assert verdict.bucket_hash == PUBLISHED["AV_myfault!unknown_function"]
    # A small memory dump holds no code, so that what is below the failure is found by a scan.
    assert verdict.runner_up.startswith("nt!" if dump_type == 4 else "nt!IofCallDriver+")
    assert verdict.confidence == "high"


@pytest.mark.parametrize(("cs", "sp", "bad"), [(0x10, 0x14EFC8, True), (0x33, 0x14EFC8, False), (0x10, None, False)])
def test_the_kernel_on_a_stack_of_the_process_has_a_bad_stack_pointer(scene, cs, sp, bad):
    target = scene("double-fault")
    failure = find_failure(target, header_bug_check(target))
    registers = {**failure.context.registers, "cs": cs, **({} if sp is None else {"rsp": sp})}
    failure = replace(failure, context=replace(failure.context, registers=registers))
    facts = failure_facts(target, failure)
    assert facts.bad_stack_pointer is bad
    bucket = decided(0x7F, (8, 0, 0, 0), "nt!KeBugCheckEx", "mydriver!F+0x1", facts=facts).bucket
    assert ("_STACKPTR_ERROR_" in bucket) is bad


@pytest.mark.parametrize(
    "name", ["triage_x64_17763", "triage_x64_19041", "triage_x64_19041_0x1a", "triage_x64_9600", "triage_arm64_22000"]
)
def test_real_dumps_have_a_verdict(shared_data, name):
    verdict = _of_dump(shared_data / "dumps" / f"{name}.dmp")
    assert verdict.bucket_hash == failure_hash(verdict.bucket)
    assert verdict.module_name
    assert verdict.confidence_reason


@pytest.mark.parametrize(
    "bucket, group",
    [
        ("0xEF_a.exe_BUGCHECK_CRITICAL_PROCESS_66897700_ntdll!Nt", "0xEF_a.exe_BUGCHECK_CRITICAL_PROCESS_ntdll!Nt"),
        (
            "0xEF_a.exe_BUGCHECK_CRITICAL_PROCESS_TERMINATED_BY_b_c.exe_5f28_ntdll!Nt",
            "0xEF_a.exe_BUGCHECK_CRITICAL_PROCESS_TERMINATED_BY_b_c.exe_ntdll!Nt",
        ),
        ("0x1a_fffff80012345678_nt!Mi", "0x1a_nt!Mi"),
        ("0x1a_61941_PAGE_TABLE_RESERVED_BITS_SET_nt!Mi", "0x1a_61941_PAGE_TABLE_RESERVED_BITS_SET_nt!Mi"),
        ("0x3B_c0000005_deadbeef00!fn_fffff80012345678_x", "0x3B_c0000005_deadbeef00!fn_fffff80012345678_x"),
    ],
)
def test_the_group_of_a_bucket_has_no_address(bucket: str, group: str) -> None:
    assert grouping(bucket) == group


@pytest.mark.parametrize(
    "code, arguments, facts, start",
    [
        (0xD1, (0x10, 2, 8, 0x10), {}, "AV_CODE_AV_NULL_IP_"),
        (0x7E, (0xC0000005, 0x10, 1, 2), {"ip": 0x10, "address": 0x10, "access": "execute"}, "AV_NULL_IP_"),
        (0x3B, (0xC0000005, 9, 1, 2), {"ip": 1 << 40, "access": "execute", "in_module": False}, "AV_BAD_IP_"),
        (0x50, (1 << 40, 0x10, 1 << 40, 0), {"in_module": False, "access": "execute"}, "AV_X_(null)_BAD_IP_"),
        (0x7E, (0xC000001D, 1 << 40, 1, 2), {"ip": 1 << 40, "in_module": False}, "0x7E_c000001d_BAD_IP_"),
        (0x3B, (0xC000001D, 1 << 40, 1, 2), {"ip": 1 << 40, "in_module": True}, "0x3B_c000001d_drv!"),
        (0xE6, (0x26, 0, 0, 0), {}, "0xE6_26_drv!"),
        (0xE6, (0x3, 0, 0, 0), {}, "0xE6_3_VRF_drv!"),
        (0xFE, (6, 0, 0, 0), {}, "0xFE_BAD_SIGNATURE_drv!"),
        (0x7A, (1, 0xFFFFFFFFC000000E, 0, 0), {}, "0x7a_c000000e_drv!"),
        (0x139, (0, 0, 0, 0), {}, "0x139_0_LEGACY_GS_VIOLATION_drv!"),
    ],
)
def test_words_of_buckets_that_microsoft_published(code: int, arguments: tuple[int, ...], facts: dict, start: str):
    verdict = decided(code, arguments, "nt!KeBugCheckEx", "drv!Function+0x1", facts=FailureFacts(**facts))
    assert verdict.bucket is not None and verdict.bucket.lower().startswith(start.lower()), verdict.bucket


def test_the_bucket_of_an_unloaded_driver():
    facts = FailureFacts(ip=0xFFFFF80012341981, in_module=False, unloaded=("gone.sys", 0xFFFFF80012340000))
    arguments = (0xFFFFF80012341981, 0, 0xFFFFF80012341981, 0)
    verdict = decided(0x50, arguments, *FAULT, "0xfffff80012341981", "nt!IofCallDriver+0x1", facts=facts)
    assert verdict.bucket == "AV_R_(null)_BAD_IP_gone.sys!Unloaded"


def test_the_usb_stack_only_reports_what_a_driver_on_it_did():
    frames = ("nt!KeBugCheckEx", "USBPORT!USBPORT_ProcessURB+0x1", "usbccgp!USBC_Dispatch+0x2", "sound+0x3")
    assert decided(0xFE, (4, 1, 2, 3), *frames).module_name == "sound"
    assert decided(0xFE, (1, 1, 2, 3), *frames).module_name == "USBPORT"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("ST_STORE<SM_TRAITS>::StDmPageError", "ST_STORE_SM_TRAITS_::StDmPageError"),
        ("FxCmResList::`scalar deleting destructor'", "FxCmResList::_scalar_deleting_destructor_"),
        (" ?? ::FNODOBFM::`string'", "_??_::FNODOBFM::_string_"),
    ],
)
def test_names_of_functions_in_a_bucket_are_one_word(function: str, told: str) -> None:
    """The last two are published: names of fixed crashes in release notes, and a bucket of 2012."""
    assert tail("nt", function, 0x10, FailureFacts()) == f"nt!{told}"


def test_changed_memory_is_not_the_doing_of_who_meets_it() -> None:
    verdict = decided(0x12B, (0xFFFFFFFFC00002C4, 0x4F0, 0x21E5, 0xFFFFA980), "nt!KeBugCheckEx", "mydriver+0x33")
    assert (verdict.suspect, verdict.confidence, verdict.runner_up) == ("memory", "medium", "mydriver+33")
    assert verdict.bucket == "0x12B_c00002c4_StCtDecompressFailed_mydriver!unknown_function"


@pytest.mark.parametrize(
    ("code", "arguments", "frames", "facts", "bucket", "published"),
    [
        (
            0x1A,
            (0x3F,),
            ("nt!KeBugCheckEx", "nt!MiValidatePagefilePageHash+0x2aa"),
            FailureFacts(small_dump=True),
            "PAGE_HASH_ERRORS_0x1a_3f",
            "6a2d4548-0eec-578d-e8f1-9e2239aa9a00",
        ),
        (
            0x101,
            (0x10,),
            ("nt!KeBugCheckEx", "nt!KeAccumulateTicks+0x1846b2", "nt!KeClockInterruptNotify+0x98c"),
            FailureFacts(small_dump=True),
            "CLOCK_WATCHDOG_TIMEOUT_INVALID_CONTEXT_nt!KeAccumulateTicks",
            "95498f51-33a9-903b-59e5-d236937d8ecf",
        ),
        (
            0x133,
            (1, 0x1E00),
            ("nt!KeBugCheckEx", "nt!KeAccumulateTicks+0x20c9f9", "nt!KeClockInterruptNotify+0x453"),
            FailureFacts(small_dump=True),
            "0x133_ISR_nt!KeAccumulateTicks",
            "65350307-c3b9-f4b5-8829-4d27e9ff9b06",
        ),
        (
            0x7F,
            (8,),
            ("nt!KeBugCheckEx", "nt!KiBugCheckDispatch+0x69", "nt!KiDoubleFaultAbort+0x2c3"),
            FailureFacts(),
            "0x7f_8_nt!KiDoubleFaultAbort",
            "d1f8395a-8c58-45da-6ebf-e8bb4aad2fc5",
        ),
        (
            0x139,
            (3,),
            (
                "nt!KeBugCheckEx",
                "nt!KiBugCheckDispatch+0x69",
                "nt!KiFastFailDispatch+0xd0",
                "nt!KiRaiseSecurityCheckFailure+0x323",
                "nt!KiProcessExpiredTimerList+0x2f8",
                "nt!KiRetireDpcList+0x5dd",
            ),
            FailureFacts(),
            "0x139_3_CORRUPT_LIST_ENTRY_KTIMER_LIST_CORRUPTION_nt!KiProcessExpiredTimerList",
            "9db7945b-255d-24a1-9f2c-82344e883ab8",
        ),
    ],
)
def test_published_hashes(code, arguments, frames, facts, bucket, published):
    """Hashes that are widely published, with the stacks that lead to them."""
    verdict = decide(
        describe(code, (*arguments, *(0,) * (4 - len(arguments)))),
        facts,
        [entry_of(frame) for frame in frames],
        Reasoning(),
        RULES,
    )
    assert (verdict.bucket, verdict.bucket_hash) == (bucket, published)


def test_pages_that_should_be_zero_turn_the_verdict_to_memory():
    verdict = decided(0x1A, (0x41790,), *FAULT, reasoning=Reasoning(prefix="PAGE_NOT_ZERO"))
    assert (verdict.symbol_name, verdict.bucket, verdict.suspect) == ("PAGE_NOT_ZERO", "PAGE_NOT_ZERO_0x1A", "memory")


def test_damage_of_pool_is_no_modules_doing():
    """Published: 0xC5 in nt!ExDeferredFreePool, with a pseudo module and the bucket of the function."""
    frames = ("nt!KeBugCheckEx", "nt!KiPageFault+0x23a", "nt!ExDeferredFreePool+0x21b", "win32k!EngAlphaBlend+0x239")
    verdict = decided(0xC5, (4, 2, 0, 0), *frames)
    assert (verdict.module_name, verdict.image_name) == ("Pool_Corruption", "Pool_Corruption")
    assert (verdict.symbol_name, verdict.followup) == ("nt!ExDeferredFreePool+21b", "Pool_corruption")
    assert verdict.bucket == "0xC5_2_nt!ExDeferredFreePool" and verdict.confidence == "low"


#: A driver that is on the stack below the kernel's own report.
BELOW = ("nt!KeBugCheckEx", "nt!SomeReport+0x12", "evil+0x1234", "nt!IofCallDriver+0x55")


@pytest.mark.parametrize(
    ("code", "arguments", "suspect", "confidence"),
    [
        (0x80, (0x4F4454,), "hardware", "medium"),
        (0x9C, (0,), "hardware", "medium"),
        (0x7F, (2,), "hardware", "medium"),
        (0x7F, (0x12,), "hardware", "medium"),
        (0x20001, (0x11,), "hypervisor", "medium"),
        (0x7A, (0xFFFFE00012345678, 0xFFFFFFFFC000000E), "disk", "medium"),
        (0x77, (0xFFFFFFFFC0000185,), "disk", "medium"),
        (0x7A, (0xFFFFE00012345678, 0xFFFFFFFFC000009A), "evil.sys", "medium"),
        (0x3B, (0xC0000006, 0xFFFFF80312345678), "disk", "medium"),
        (0x7E, (0xFFFFFFFFC000009D, 0xFFFFF80312345678), "evil.sys", "medium"),
        (0x18B, (1,), "evil.sys", "low"),
        (0x1CA, (1,), "evil.sys", "low"),
        (0x1DB, (1,), "evil.sys", "low"),
        (0x1C8, (0x1B58,), "evil.sys", "low"),
        (0x76, (0,), "evil.sys", "low"),
        (0x7B, (0,), "evil.sys", "low"),
        (0xEF, (0,), "evil.sys", "medium"),
        (0xC2, (7,), "evil.sys", "medium"),
        (0xC2, (0,), "evil.sys", "high"),
        (0x7F, (8,), "evil.sys", "medium"),
        (0x7F, (0,), "evil.sys", "high"),
        (0x44, (1,), "evil.sys", "medium"),
        (0x4A, (1, 2, 0, 0), "evil.sys", "low"),
        (0x1, (1, 0, 1, 0), "evil.sys", "low"),
        (0xE6, (0x26,), "evil.sys", "low"),
        (0xE6, (3,), "evil.sys", "high"),
        (0x2FF, (0,), "evil.sys", "medium"),
    ],
)
def test_codes_that_acquit_what_is_on_the_stack(code, arguments, suspect, confidence):
    """What the hardware, a hypervisor or another processor reported is not the doing of what ran at that time."""
    verdict = decided(code, (*arguments, *(0,) * (4 - len(arguments))), *BELOW)
    assert (verdict.suspect, verdict.confidence) == (suspect, confidence)
    assert (verdict.module_name, verdict.symbol_name) == ("evil", "evil+1234")


@pytest.mark.parametrize("code", [0x6B, 0xA0000001])
def test_a_driver_that_borrows_a_code_of_the_start_or_has_its_own_is_not_acquitted_by_it(code):
    verdict = decided(code, (0, 0, 0, 0), "nt!KeBugCheckEx", "evil+0x1234", "nt!IofCallDriver+0x55")
    assert (verdict.suspect, verdict.confidence) == ("evil.sys", "high")
