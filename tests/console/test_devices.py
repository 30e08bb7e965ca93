"""The device tree, the power manager and Driver Verifier at the prompt, in the layout of the documentation's examples.

The pages of ``!devnode``, ``!verifier`` and ``!deadlock`` in the debugger's documentation, and its page on bug check 9F
for ``!poaction``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.edited import edited
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target
from volatility3_kdump.windows.io.device_tree import DeviceTree, root_address
from volatility3_kdump.windows.io.devices import fast_io_routines

Sample = Callable[..., Path]
At = Callable[[str], Session]

REQUEST = "  IRP: ffff91894ef3a010 (set/D3,), PDO: ffff91894ef40060, CURRENT: ffff91894ef42b10"


@pytest.fixture
def at(sample: Sample, isf_path: Path) -> At:
    """A session over a scene, laid out for a kernel with all of its types."""
    return lambda scene: session_on(
        Target.open(sample(isf=isf_path, scene=scene), Options(offline=True, isf_file=str(isf_path)))
    )


def states(session: Session) -> bool:
    """Whether the kernel numbers the states of device nodes as the sample does."""
    nt = session.target.nt
    return nt is not None and nt.enum("_PNP_DEVNODE_STATE").get(0x308) == "DeviceNodeStarted"


def test_the_tree(at: At) -> None:
    session = at("myfault")
    lines = answer(session, "!devnode 0 1")
    if not states(session):
        pytest.skip("another numbering of states")
    root = lines[1].split()[1]
    assert lines[:7] == [
        f"Dumping IopRootDeviceNode (= {root})",
        f"DevNode {root} for PDO 0000000000",
        '  InstancePath is "HTREE\\ROOT\\0"',
        "  State = DeviceNodeStarted (0x308)",
        "  Previous State = DeviceNodeEnumerateCompletion (0x30d)",
        "  DevNode 0xffff91894e243a20 for PDO 0xffff91894e233060",
        '    InstancePath is "PCI\\VEN_8086&DEV_A36D&SUBSYS_86941043&REV_10\\3&11583659&0&A0"',
    ]
    assert answer(session, "!devnode 0 1 PCI")[1:] == [
        "DevNode 0xffff91894e242a20 for PDO 0xffff91894e232060",
        '  InstancePath is "ACPI\\PNP0A08\\0"',
        '  ServiceName is "pci"',
        "  State = DeviceNodeStarted (0x308)",
        "  Previous State = DeviceNodeEnumerateCompletion (0x30d)",
    ]
    assert answer(session, "!devnode 0 11 pci")[-1] == "No device node is like that"


def test_one_node_with_its_history(at: At) -> None:
    session = at("myfault")
    if not states(session):
        pytest.skip("another numbering of states")
    lines = answer(session, "!devnode ffff91894e241a20")
    assert lines[1].endswith("   Sibling 0000000000   Child 0000000000")
    assert lines[2:] == [
        '  InstancePath is "ACPI\\GenuineIntel_-_Intel64_Family_6_Model_158\\_1"',
        '  ServiceName is "intelppm"',
        "  State = DeviceNodeStarted (0x308)",
        "  Previous State = DeviceNodeEnumerateCompletion (0x30d)",
        "  StateHistory[03] = DeviceNodeEnumerateCompletion (0x30d)",
        "  StateHistory[02] = DeviceNodeEnumeratePending (0x30c)",
        "  StateHistory[01] = DeviceNodeStarted (0x308)",
        "  StateHistory[00] = DeviceNodeUninitialized (0x301)",
        "  Flags (0x6c0000f0)  DNF_ENUMERATED, DNF_IDS_QUERIED, DNF_HAS_BOOT_CONFIG,",
        "                      DNF_BOOT_CONFIG_RESERVED, DNF_NO_LOWER_DEVICE_FILTERS,",
        "                      DNF_NO_LOWER_CLASS_FILTERS, DNF_NO_UPPER_DEVICE_FILTERS,",
        "                      DNF_NO_UPPER_CLASS_FILTERS",
        "  CapabilityFlags (0x00002000)",
    ]


def test_fast_io_and_a_device_that_is_busy(sample: Sample, isf_path: Path, tmp_path: Path) -> None:
    """A FAST_IO_DISPATCH of an older driver, which ends before the kernel's; an IRP in the queue of the device."""
    path = sample(isf=isf_path)
    target = volatility3_kdump.open(path, isf_file=str(isf_path))
    nt = target.nt
    assert nt is not None
    driver, device = 0xFFFF91894ED30C80, 0xFFFF91894ED31E00
    table = device & ~0xFFF
    routines = {"FastIoCheckIfPossible": target.symbol("KeBugCheckEx"), "FastIoWrite": 0xFFFFF80060DA1E40}
    names = sorted(nt.field_names("_FAST_IO_DISPATCH"), key=lambda name: nt.offset("_FAST_IO_DISPATCH", name))
    last = nt.offset("_FAST_IO_DISPATCH", "FastIoUnlockAll")
    words = bytearray(last)
    struct.pack_into("<I", words, 0, last)
    for name, address in routines.items():
        struct.pack_into("<Q", words, nt.offset("_FAST_IO_DISPATCH", name), address or 0)
    entry = 0xFFFF91894ED31A10 + nt.offset("_IRP", "Tail.Overlay.DeviceQueueEntry")
    head = device + nt.offset("_DEVICE_OBJECT", "DeviceQueue.DeviceListHead")
    changes = {
        driver + nt.offset("_DRIVER_OBJECT", "FastIoDispatch"): struct.pack("<Q", table),
        table: bytes(words),
        head: struct.pack("<QQ", entry, entry),
        entry: struct.pack("<QQ", head, head),
        device + nt.offset("_DEVICE_OBJECT", "DeviceQueue.Busy"): b"\1",
        device + nt.offset("_DEVICE_OBJECT", "Characteristics"): struct.pack("<I", 0x180),
    }
    changed = edited(target, path, tmp_path / "changed.dmp", changes, offline=True, isf_file=str(isf_path))
    assert [name for name, _, _ in fast_io_routines(changed, table)] == names[1 : names.index("FastIoUnlockAll")]
    session = session_on(changed)
    lines = answer(session, "!drvobj MYFAULT 7")
    at = lines.index("Fast I/O routines:")
    assert lines[at + 1 : at + 3] == [
        f"FastIoCheckIfPossible                   {routines['FastIoCheckIfPossible']:x}\tnt!KeBugCheckEx",
        "FastIoWrite                             fffff80060da1e40\tmyfault+0x1e40",
    ]
    assert lines[-5:-3] == [f"!devstack {device:x} :", answer(session, f"!devstack {device:x}")[0]]
    assert lines[-1] == "Processed 1 device objects."
    lines = answer(session, f"!devobj {device:x}")
    assert lines[2].endswith(" RefCount 1 Type 00008336 Flags 00000040")
    assert lines[4:] == [
        "ExtensionFlags (0000000000)",
        "Characteristics (0x00000180)  FILE_AUTOGENERATED_DEVICE_NAME, FILE_DEVICE_SECURE_OPEN",
        "Device queue is busy -- Queue of:",
        "  IRP ffff91894ed31a10",
    ]


def test_a_tree_that_leads_back_ends(sample: Sample, tmp_path: Path) -> None:
    """A node whose child is its parent, and one whose sibling is not in the dump."""
    path = sample()
    target = volatility3_kdump.open(path)
    root = root_address(target)
    nt = target.nt
    assert nt is not None
    child, sibling = (nt.offset("_DEVICE_NODE", name) for name in ("Child", "Sibling"))
    changes = {
        0xFFFF91894E243A20 + child: root.to_bytes(8, "little"),
        0xFFFF91894E241A20 + sibling: (0xFFFF9FFF00000000).to_bytes(8, "little"),
    }
    changed = edited(target, path, tmp_path / "changed.dmp", changes, offline=True)
    tree = DeviceTree(changed, root)
    assert len(list(tree.nodes())) == 4
    assert [problem.partition(":")[0] for problem in tree.problems] == [
        f"the device tree leads back to the node {root:#x}",
        "a part of the device tree is not known",
    ]


def test_the_thread_that_serves_a_power_request(at: At) -> None:
    session = at("blocked-power-irp")
    nt = session.target.nt
    assert nt is not None
    lines = answer(session, "!poaction 2")
    assert lines[1].startswith("Allocated power irps (PopIrpList - fffff")
    if not nt.has_type("_POP_IRP_WORKER_ENTRY"):
        pytest.skip("the symbols of this kernel do not describe the entries")
    assert lines[2:] == [
        REQUEST,
        "",
        lines[4],
        "  THREAD: ffff91894c2b3040 (static)",
        "  THREAD: ffff91894c2e1040 (dynamic), IRP: ffff91894ef3a010, DEVICE: ffff91894ef42b10",
    ]
    action = answer(session, "!poaction")
    assert action[1:9] == [
        "  State..........: 0 - Idle",
        "  Updates........: 0",
        "  Action.........: None",
        "  Lightest State.: Unspecified",
        "  Flags..........: 10000003 QueryApps|UIAllowed",
        "  Irp minor......: ??",
        "  System State...: Unspecified",
        "  Hiber Context..: 0000000000000000",
    ]
    triage = answer(session, "!powertriage")
    assert REQUEST in triage
    assert "Device nodes that are not started or have a problem" in triage


def test_verified_drivers(at: At) -> None:
    session = at("verifier-deadlock")
    lines = answer(session, "!verifier 1")
    assert "Verify Flags Level 0x000209bb" in lines
    assert "    [X] (0x00000020) Deadlock detection" in lines
    assert "    [ ] (0x00000400) IRP logging" in lines
    assert "  AcquireSpinLocks                           0x362" in lines
    assert "  Peak nonpaged pool allocations             0x10f for 00048E40 bytes" in lines
    assert lines[-2:] == [
        "  ffff91894ef50010  Loaded             1        0  myfault.sys",
        "  ffff91894ef50210  Never loaded       0        0  ghost.sys",
    ]
    assert answer(session, "!verifier 1 MYFAULT.sys")[-1] == lines[-2]
    assert "no driver named x.sys is verified" in answer(session, "!verifier 1 x.sys")[0]


def test_a_deadlock_that_driver_verifier_reported(at: At) -> None:
    session = at("verifier-deadlock")
    assert answer(session, "!deadlock") == [
        "Deadlock detected (2 resources in 2 threads):",
        "",
        "Thread 0: A B",
        "Thread 1: B A",
        "",
        "Where:",
        "Thread 0 = ffff91894c2b3040",
        "Thread 1 = ffff918952f55080",
        "Lock A =   ffff91894ef4e0a0 Type 'Mutex'",
        "Lock B =   myfault+0x4120 Type 'SpinLock'",
    ]
    assert answer(session, "!deadlock 1")[2:8] == [
        "Thread 0 (ffff91894c2b3040) took locks in the following order:",
        "",
        "    Lock A -- ffff91894ef4e0a0 (Mutex)",
        "    Stack:   myfault+0x1b00",
        "             myfault+0x1c00",
        "",
    ]


def test_rules(session: Session) -> None:
    assert answer(session, "!ruleinfo 91001 ffffe000027b8370") == [
        "RULE_ID: 0x91001",
        "",
        "RULE_DESCRIPTION: DDI compliance: rule NdisOidComplete is broken.",
        "",
        "RULE_STATE: 0xFFFFE000027B8370",
    ]


def test_small_dumps_say_what_they_lack(sample: Sample) -> None:
    session = session_on(volatility3_kdump.open(sample(4)))
    for line in ("!devnode 0 1", "!poaction", "!verifier", "!deadlock"):
        lines = answer(session, line)
        assert any("not in the dump" in shown or "need the kernel's symbols" in shown for shown in lines), line


@pytest.mark.parametrize(
    "line", ["!devnode 0 40", "!devnode", "!poaction 4", "!verifier 1000", "!deadlock 2", "!ruleinfo 3"]
)
def test_what_is_refused(session: Session, line: str) -> None:
    (shown,) = answer(session, line)
    assert "knows no flag" in shown or "needs" in shown or "is no rule" in shown
