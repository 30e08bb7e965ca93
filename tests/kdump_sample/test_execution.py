"""The machine code of the sample does to its stacks what its unwind data says: unicorn runs it.

A stopped thread is let run on from its innermost frame. Each ``ret`` must arrive at the next row of the published stack
listing, with the stack pointer of that row.
"""

from __future__ import annotations

from typing import Any

import pytest

unicorn = pytest.importorskip("unicorn")
x86 = pytest.importorskip("unicorn.x86_const")

PAGE = 0x1000
CRASH_THREAD_REGISTERS = {"RBX": 0x7AE6BDE9D0, "RDI": 0x1E35FB24550, "R14": 0x1E8}


def run(memory: Any, ip: int, sp: int, stop: int) -> tuple[list[tuple[int, int]], Any]:
    """Run from an address to another; (address, stack pointer) behind each ``ret``."""
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    returned: list[tuple[int, int]] = []
    last = [b""]

    def load(address: int) -> bool:
        page = memory.try_read(address & ~(PAGE - 1), PAGE)
        if page is None:
            return False
        machine.mem_map(address & ~(PAGE - 1), PAGE)
        machine.mem_write(address & ~(PAGE - 1), page)
        return True

    def fault(machine: Any, access: int, address: int, size: int, value: int, data: Any) -> bool:
        return load(address)

    def step(machine: Any, address: int, size: int, data: Any) -> None:
        if last[0] == b"\xc3":
            returned.append((address, machine.reg_read(x86.UC_X86_REG_RSP)))
        last[0] = memory.read(address, size)

    machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, fault)
    machine.hook_add(unicorn.UC_HOOK_CODE, step)
    machine.reg_write(x86.UC_X86_REG_RSP, sp)
    machine.emu_start(ip, stop, count=100_000)
    if last[0] == b"\xc3":
        returned.append((machine.reg_read(x86.UC_X86_REG_RIP), machine.reg_read(x86.UC_X86_REG_RSP)))
    return returned, machine


def test_waiting_thread_runs_on(memory: Any) -> None:
    returned, machine = run(memory, 0xFFFFF800629FDF46, 0xFFFFD48F777BEB10, 0xFFFFF80062A08BB5)
    assert returned == [
        (0xFFFFF8006280C970, 0xFFFFD48F777BEC50),
        (0xFFFFF8006280BE9F, 0xFFFFD48F777BED00),
        (0xFFFFF800628805CE, 0xFFFFD48F777BEDA0),
        (0xFFFFF80062C6F620, 0xFFFFD48F777BEEB0),
        (0xFFFFECCBD0C3798D, 0xFFFFD48F777BF3B0),
        (0xFFFFECCBD0B46C5E, 0xFFFFD48F777BF460),
        (0xFFFFECCBD15D6FD0, 0xFFFFD48F777BFD90),
        (0xFFFFF80062A08BB5, 0xFFFFD48F777BFDD0),
    ]
    # saved registers come back: rbp points 0x80 bytes into the trap frame, rbx is still the caller's
    assert machine.reg_read(x86.UC_X86_REG_RBP) == 0xFFFFD48F777BFE40 + 0x80
    assert machine.reg_read(x86.UC_X86_REG_RBX) == memory.word(0xFFFFD48F777BFE40 + 0x140)


def test_crashed_driver_runs_on(memory: Any) -> None:
    """From behind the faulting instruction back to the system call."""
    returned, machine = run(memory, 0xFFFFF80060DA1983, 0xFFFFD48F77AF9970, 0xFFFFF80062A08BB5)
    assert returned == [
        (0xFFFFF80060DA1D3D, 0xFFFFD48F77AF99A0),
        (0xFFFFF80060DA1EA1, 0xFFFFD48F77AF9AE0),
        (0xFFFFF8006288F865, 0xFFFFD48F77AF9B40),
        (0xFFFFF80062C75328, 0xFFFFD48F77AF9B80),
        (0xFFFFF80062C74BF5, 0xFFFFD48F77AF9C20),
        (0xFFFFF80062C745F6, 0xFFFFD48F77AF9D60),
        (0xFFFFF80062A08BB5, 0xFFFFD48F77AF9DD0),
    ]
    assert machine.reg_read(x86.UC_X86_REG_RBP) == 0xFFFFD48F77AF9EC0
    found = {name: machine.reg_read(getattr(x86, f"UC_X86_REG_{name}")) for name in CRASH_THREAD_REGISTERS}
    assert found == CRASH_THREAD_REGISTERS
