"""The kernel's address space as a list: against what is known of each address, and against the layer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.prompt import answer, session_on
from volatility3_kdump.findings.kernel_space import IMAGE, kernel_space, usage
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.kernel_regions import NONPAGED_POOL, STACK, kernel_region


def test_stretches_do_not_overlap_and_say_what_each_address_is(plain: Target) -> None:
    stretches = kernel_space(plain)
    assert all(first.high <= second.low for first, second in pairwise(stretches))
    for stretch in stretches:
        for address in (stretch.low, stretch.high - 1):
            module = next((module for module in plain.modules if module.base <= address < module.end), None)
            assert (module is not None) == (stretch.kind == IMAGE)
            if stretch.kind not in (IMAGE, STACK):
                region = kernel_region(plain, address)
                assert region is not None and region.kind == stretch.kind
    images = {(stretch.low, stretch.high) for stretch in stretches if stretch.kind == IMAGE}
    assert images == {(module.base, module.end) for module in plain.modules}


def test_stacks_name_their_threads(plain: Target) -> None:
    from volatility3_kdump.windows.processes.crashed import crash_thread

    thread = crash_thread(plain)
    assert thread is not None
    (own,) = [stretch for stretch in kernel_space(plain) if stretch.thread == thread.address]
    assert (own.low, own.high, own.pid, own.tid) == (thread.stack_limit, thread.stack_base, thread.pid, thread.tid)
    size = plain.memory.pointer_size
    lines = answer(session_on(plain), "!address -f:Stack")
    assert f"          KernelStack {thread.address:0{2 * size}x} : {thread.pid:x}.{thread.tid:x}" in lines
    assert {line.strip() for line in lines if "Usage" in line} == {"Usage       KernelSpaceUsageKernelStack"}


def test_pages_of_a_kind(plain: Target) -> None:
    """What the dump holds of nonpaged pool, page by page through the layer."""
    stretches = [stretch for stretch in kernel_space(plain) if stretch.kind == NONPAGED_POOL]
    (found,) = usage(plain, stretches)
    assert plain.layer_name is not None
    layer = plain.context.layers[plain.layer_name]
    pages = 0
    for stretch in stretches:
        low = stretch.low & layer.address_mask
        pages += sum(size for _, size, _, _, _ in layer.mapping(low, stretch.size, True)) // 0x1000
    assert (found.count, found.size) == (len(stretches), sum(stretch.size for stretch in stretches))
    assert found.present == pages * 0x1000


@pytest.mark.parametrize("scene_name", ["blocked-power-irp"])
def test_options_of_address(scene: Callable[[str], Target], scene_name: str) -> None:
    session = session_on(scene(scene_name))
    summary = answer(session, "!address -summary")
    assert summary[0].startswith("--- Usage Summary ---")
    assert {line.split()[0] for line in summary[1:]} >= {"NonPagedPool", "Image", "KernelStack"}
    assert answer(session, "!vm 21")[-len(summary) :] == summary
    assert answer(session, "!address -f:nothing")[0].startswith("!address -f: nothing is not among ")
    assert answer(session, "!address -f:image @rsp") == [
        "!address takes an address, or -summary and -f: for all of the address space"
    ]


def test_other_flags_of_vm_and_memusage(plain: Target) -> None:
    session = session_on(plain)
    lines = answer(session, "!vm 5")
    start = lines.index("Terminal Server Memory Usage By Session:")
    listed = [line for line in lines[start:] if line.startswith("Session ID ")]
    processes = answer(session, "!process 0 0")
    for line in listed:
        number = line.split()[2].rstrip(":")
        assert f" {sum(f'SessionId: {number} ' in row for row in processes)} processes," in line
    whole = answer(session, "!memusage 8")
    assert answer(session, "!memusage 1") == [line for line in whole if "ModifiedNoWrite" in line]
