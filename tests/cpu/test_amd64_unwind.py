from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.amd64_unwind import (
    FunctionTable,
    Registers,
    TableAbsent,
    Unwound,
    decode_unwind_info,
    unwind,
)
from volatility3_kdump.cpu.context import Context

BASE = 0xFFFFF80600000000
STACK = 0xFFFFD48F77AF9000
CODE, INFO, TABLE, SIZE = 0x1000, 0x4000, 0x5000, 0x8000
CALLER = 0xFFFFF80600123456
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R12, R13, R14, R15 = range(12, 16)


def _codes(*codes: tuple[int, ...]) -> bytes:
    """Padded UNWIND_CODE slots from (prologue offset, operation, info, operand slots...)."""
    slots = [slot for offset, operation, info, *more in codes for slot in (offset | operation << 8 | info << 12, *more)]
    return struct.pack(f"<{len(slots)}H", *slots)


def _info(codes: bytes, prolog: int = 0x20, *, version: int = 1, flags: int = 0, frame: int = 0) -> bytes:
    head = bytes([version | flags << 3, prolog, len(codes) // 2, frame])
    return head + codes + b"\0" * (len(codes) % 4)


def _image(
    infos: bytes | dict[int, bytes],
    entries: list[tuple[int, int, int]] | None = None,
    code: bytes = b"",
    absent: tuple[int, ...] = (),
) -> FunctionTable:
    """A table over an image: ``infos`` at INFO, ``entries`` as its function table, ``code`` at CODE, else nops."""
    data = bytearray(SIZE)
    data[CODE:INFO] = b"\x90" * (INFO - CODE)
    data[CODE : CODE + len(code)] = code
    for rva, info in (infos if isinstance(infos, dict) else {INFO: infos}).items():
        data[rva : rva + len(info)] = info
    listed = [(CODE, CODE + 0x1000, INFO)] if entries is None else entries
    packed = b"".join(struct.pack("<III", *entry) for entry in listed)
    data[TABLE : TABLE + len(packed)] = packed

    def read_rva(rva: int, size: int) -> bytes | None:
        if rva < 0 or rva + size > len(data) or any(page < rva + size and rva < page + 0x1000 for page in absent):
            return None
        return bytes(data[rva : rva + size])

    return FunctionTable(read_rva, (TABLE, len(packed)), SIZE)


def _stack(qwords: dict[int, int], size: int = 0x1000) -> Read:
    """Memory at STACK: each qword holds its own offset or'ed with 1 << 40, ``qwords`` by offset apart."""
    data = bytearray(b"".join(struct.pack("<Q", 1 << 40 | offset) for offset in range(0, size, 8)))
    for offset, value in qwords.items():
        struct.pack_into("<Q", data, offset, value)

    def read(address: int, length: int) -> bytes | None:
        offset = address - STACK
        return bytes(data[offset : offset + length]) if offset >= 0 and offset + length <= len(data) else None

    return read


def _slot(offset: int) -> int:
    return 1 << 40 | offset


def _registers(rva: int, rsp: int = STACK, **known: int | None) -> Registers:
    values: list[int | None] = [0xA0 + number for number in range(16)]
    values[RSP] = rsp
    for name, value in known.items():
        values[{"rbp": RBP, "rsp": RSP, "rbx": RBX}[name]] = value
    return Registers(values, BASE + rva, {6: 0x66, 7: 0x77})


def _caller(unwound: Unwound) -> Registers:
    assert unwound.reason is None and unwound.registers is not None
    return unwound.registers


BODY = CODE + 0x80

# operations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes, frame, return_offset, restored",
    [
        ([(1, 0, RBX)], 0, 8, {RBX: 0}),
        ([(4, 0, R15), (2, 0, RBP)], 0, 0x10, {R15: 0, RBP: 8}),
        ([(4, 2, 0)], 0, 8, {}),
        ([(4, 2, 15)], 0, 0x80, {}),
        ([(7, 1, 0, 0x21)], 0, 0x108, {}),
        ([(7, 1, 1, 0x208, 0)], 0, 0x208, {}),
        ([(9, 4, RSI, 6), (4, 2, 3)], 0, 0x20, {RSI: 0x30}),
        ([(9, 5, RDI, 0x38, 0), (4, 2, 3)], 0, 0x20, {RDI: 0x38}),
        # rbp is 0x50 above the stack pointer of the prologue, which the body has moved
        ([(9, 4, R14, 2), (8, 3, 0), (4, 2, 9), (1, 0, RBP)], 0x55, 0x258, {R14: 0x210, RBP: 0x250}),
        # obsolete operations take two and three slots and do nothing
        ([(9, 6, 6, 0x123), (4, 2, 3), (1, 0, RBX)], 0, 0x28, {RBX: 0x20}),
        ([(9, 7, 6, 0x123, 0x456), (4, 2, 3), (1, 0, RBX)], 0, 0x28, {RBX: 0x20}),
        # a register saved twice: the first of the saves that were made holds the caller's value
        ([(9, 4, RBX, 1), (4, 2, 3), (1, 0, RBX)], 0, 0x28, {RBX: 0x20}),
        # two registers that claim one slot, and a slot that is not aligned
        ([(9, 4, RBX, 1), (9, 4, RSI, 1), (4, 2, 3)], 0, 0x20, {RBX: 8, RSI: 8}),
    ],
)
def test_operations(codes: list[tuple[int, ...]], frame: int, return_offset: int, restored: dict[int, int]) -> None:
    table = _image(_info(_codes(*codes), frame=frame))
    start = _registers(BODY, rbp=STACK + 0x250)
    before = start.copy()
    unwound = unwind(start, table, BASE, _stack({return_offset: CALLER}))
    caller = _caller(unwound)
    assert (caller.rip, caller.rsp) == (CALLER, STACK + return_offset + 8)
    for number in (RBX, RBP, RSI, RDI, R12, R13, R14, R15):
        expected = _slot(restored[number]) if number in restored else before.gpr[number]
        assert caller.gpr[number] == expected
    assert [caller.gpr[number] for number in (RAX, RCX, RDX, 8, 9, 10, 11)] == [None] * 7
    assert caller.xmm == {6: 0x66, 7: 0x77}
    assert unwound.establisher == (STACK + 0x200 if frame else STACK)
    assert (unwound.leaf, unwound.machine_frame, unwound.stack_switch) == (False, None, False)
    assert unwound.function is not None and unwound.function.begin == CODE
    assert (start.gpr, start.rip, start.xmm) == (before.gpr, before.rip, before.xmm)


def test_far_forms_are_not_scaled() -> None:
    codes = _codes((9, 5, RBX, 0x1008, 0x10), (9, 9, 8, 0x2000, 0x10), (8, 1, 1, 0, 0x20))
    info = decode_unwind_info(_image(_info(codes)).read_rva, INFO, SIZE)
    assert [code.value for code in info.codes] == [0x101008, 0x102000, 0x200000]


@pytest.mark.parametrize("code", [(9, 8, 6, 2), (9, 9, 6, 0x20, 0)])
def test_vector_registers(code: tuple[int, ...]) -> None:
    table = _image(_info(_codes(code, (4, 2, 8))))
    caller = _caller(unwind(_registers(BODY), table, BASE, _stack({0x48: CALLER, 0x20: 0x1111, 0x28: 0x2222})))
    assert caller.xmm == {6: 0x2222 << 64 | 0x1111, 7: 0x77}
    assert caller.rip == CALLER
    unknown = _registers(BODY)
    unknown.xmm = None
    assert _caller(unwind(unknown, table, BASE, _stack({0x48: CALLER}))).xmm == {6: _slot(0x28) << 64 | _slot(0x20)}


def test_prologue_positions_undo_what_was_executed() -> None:
    # push rbp; push rdi; sub rsp, 0x40; lea rbp, [rsp+0x20]; mov [rsp+0x60], rbx
    codes = _codes((0x13, 4, RBX, 12), (0x0E, 3, 0), (9, 2, 7), (5, 0, RDI), (1, 0, RBP))
    table = _image(_info(codes, 0x13, frame=0x25))
    frame = STACK + 0x100
    stack = _stack({0x100: CALLER})
    for offset, rsp, rbp in [
        (0, frame, 0xB),
        (1, frame - 8, 0xB),
        (4, frame - 8, 0xB),
        (5, frame - 0x10, 0xB),
        (9, frame - 0x50, 0xB),
        (0x0E, frame - 0x50, frame - 0x30),
        (0x13, frame - 0x50, frame - 0x30),
        (0x60, frame - 0x90, frame - 0x30),
    ]:
        caller = _caller(unwind(_registers(CODE + offset, rsp, rbp=rbp), table, BASE, stack))
        assert (caller.rip, caller.rsp) == (CALLER, frame + 8), offset
        assert caller.gpr[RBP] == (0xB if offset == 0 else _slot(0xF8))
        assert caller.gpr[RDI] == (_slot(0xF0) if offset >= 5 else 0xA7)
        assert caller.gpr[RBX] == (_slot(0x110) if offset >= 0x13 else 0xA3)


@pytest.mark.parametrize("error_code", [0, 1])
def test_machine_frames(error_code: int) -> None:
    # push rbp; sub rsp, 0x158; lea rbp, [rsp+0x80]: how trap handlers begin
    codes = _codes((0x10, 3, 0), (8, 1, 0, 0x2B), (1, 0, RBP), (0, 10, error_code))
    table = _image(_info(codes, 0x10, frame=0x85))
    slot = 0x200 + 8 * error_code
    user = {slot: 0x00007FF612341000, slot + 8: 0x33, slot + 0x10: 0x246, slot + 0x18: 0x000000A1B2C3D4E8}
    rbp = STACK + 0x200 - 8 - 0x158 + 0x80
    unwound = unwind(_registers(BODY, STACK, rbp=rbp), table, BASE, _stack(user))
    interrupted = _caller(unwound)
    assert unwound.machine_frame == STACK + slot
    assert (interrupted.rip, interrupted.rsp) == (0x00007FF612341000, 0x000000A1B2C3D4E8)
    assert unwound.stack_switch
    assert interrupted.gpr[RBP] == _slot(0x1F8)
    assert (interrupted.gpr[RBX], interrupted.gpr[R12], interrupted.gpr[RAX]) == (0xA3, 0xAC, None)
    # Before its first instruction the handler has changed nothing.
    interrupted = _caller(unwind(_registers(CODE, STACK + 0x200), table, BASE, _stack(user)))
    assert (interrupted.rip, interrupted.gpr[RAX], interrupted.gpr[11]) == (0x00007FF612341000, 0xA0, 0xAB)


def test_a_jump_out_of_a_trap_handler_is_no_epilogue() -> None:
    table = _image(_info(_codes((1, 0, RBP), (0, 10, 0)), 1), code=b"\x55\x90" + b"\xe9\x00\x20\x00\x00")
    stack = _stack({8: CALLER, 0x20: STACK + 0x800})
    unwound = unwind(_registers(CODE + 2), table, BASE, stack)
    assert (_caller(unwound).rip, unwound.machine_frame) == (CALLER, STACK + 8)


# epilogues ------------------------------------------------------------------------------------------------------------

FRAME = _codes((7, 2, 3), (3, 0, RDI), (1, 0, RBX))


@pytest.mark.parametrize(
    "code, taken, popped",
    [
        ("4883C420 5F 5B C3", 0x30, {RDI: 0x20, RBX: 0x28}),
        ("4881C420000000 5F 5B C3", 0x30, {RDI: 0x20, RBX: 0x28}),
        ("5F 5B C3", 0x10, {RDI: 0, RBX: 8}),
        ("5B C3", 8, {RBX: 0}),
        ("C3", 0, {}),
        ("F3C3", 0, {}),
        ("F2C3", 0, {}),
        ("C20000", 0, {}),
        ("5B FF2500000000", 8, {RBX: 0}),
        ("5B 48FF2500000000", 8, {RBX: 0}),
        ("5B 48FFE0", 8, {RBX: 0}),
        ("5B 49FFE2", 8, {RBX: 0}),
        ("48FF6018", 0, {}),
        ("E900200000", 0, {}),
        ("5B E900200000", 8, {RBX: 0}),
        ("5B 4C8B1500000000 E900200000", 8, {RBX: 0}),
        ("5B 4C8B1500000000 41FFE2", 8, {RBX: 0}),
        # not epilogues: the frame is whole
        ("4883C428 5F 5B C3", None, {}),
        ("4883C420 5B C3", None, {}),
        ("5F C3", None, {}),
        ("5B 5F C3", None, {}),
        ("5B 90 C3", None, {}),
        ("5C C3", None, {}),
        ("EB10", None, {}),
        ("FFE0", None, {}),
        ("5B FFE0", None, {}),
        ("4C8B1500000000 90", None, {}),
        ("488D6520 5F 5B C3", None, {}),
        ("90", None, {}),
    ],
)
def test_epilogues_by_their_instructions(code: str, taken: int | None, popped: dict[int, int]) -> None:
    table = _image(_info(FRAME, 7), code=b"\x90" * 0x80 + bytes.fromhex(code))
    offset = 0x30 if taken is None else taken
    restored = {RDI: 0x20, RBX: 0x28} if taken is None else popped
    caller = _caller(unwind(_registers(BODY), table, BASE, _stack({offset: CALLER})))
    assert (caller.rip, caller.rsp) == (CALLER, STACK + offset + 8)
    for number, unchanged in ((RBX, 0xA3), (RDI, 0xA7)):
        assert caller.gpr[number] == (_slot(restored[number]) if number in restored else unchanged)


def test_ret_with_an_operand_releases_arguments() -> None:
    table = _image(_info(FRAME, 7), code=b"\x90" * 0x80 + bytes.fromhex("C21000"))
    assert _caller(unwind(_registers(BODY), table, BASE, _stack({0: CALLER}))).rsp == STACK + 0x18


def test_an_absent_code_page_means_no_epilogue() -> None:
    table = _image(_info(FRAME, 7), code=b"\x90" * 0x80 + b"\xc3", absent=(CODE,))
    caller = _caller(unwind(_registers(BODY), table, BASE, _stack({0x30: CALLER})))
    assert (caller.rip, caller.gpr[RBX]) == (CALLER, _slot(0x28))


def test_an_epilogue_at_the_end_of_the_last_present_page() -> None:
    code = b"\x90" * 0xFFD + b"\x5f\x5b\xc3"
    table = _image(_info(FRAME, 7), [(CODE, CODE + 0x1800, INFO)], code, absent=(CODE + 0x1000,))
    assert _caller(unwind(_registers(CODE + 0xFFE), table, BASE, _stack({8: CALLER}))).rip == CALLER


def test_a_return_address_is_never_in_an_epilogue() -> None:
    # call; pop rdi; pop rbx; ret cannot follow each other with 0x20 bytes still allocated
    table = _image(_info(FRAME, 7), code=b"\x90" * 0x80 + bytes.fromhex("5F 5B C3"))
    stack = _stack({0x30: CALLER, 0x10: 0x1234})
    assert _caller(unwind(_registers(BODY), table, BASE, stack, call_site=True)).rip == CALLER
    assert _caller(unwind(_registers(BODY), table, BASE, stack)).rip == 0x1234


@pytest.mark.parametrize(
    "rva, taken",
    [
        # 6-byte epilogues at the end and 0x123 before it: pop rdi; pop rbx; jmp
        (CODE + 0xFFA, 0x10),
        (CODE + 0xFFB, 8),
        (CODE + 0xFFC, 0),
        (CODE + 0xEDD, 0x10),
        (CODE + 0xEDE, 8),
        (CODE + 0xEDF, 0),
        # the add before it, and the code behind it
        (CODE + 0xED9, 0x30),
        (CODE + 0xEE3, 0x30),
        (CODE + 0x10, 0x30),
    ],
)
def test_epilogues_that_version_2_lists(rva: int, taken: int) -> None:
    epilogs = _codes((6, 6, 1), (0x23, 6, 1), (0, 6, 0))
    table = _image(_info(epilogs + FRAME, 7, version=2), absent=(CODE,))
    caller = _caller(unwind(_registers(rva), table, BASE, _stack({taken: CALLER})))
    assert (caller.rip, caller.rsp) == (CALLER, STACK + taken + 8)


def test_a_listed_epilogue_without_the_flag_is_not_at_the_end() -> None:
    table = _image(_info(_codes((3, 6, 0), (0x40, 6, 0)) + FRAME, 7, version=2), absent=(CODE,))
    function = table.find(BODY)
    assert function is not None
    assert (function.epilogs, function.epilog_size) == ((CODE + 0x1000 - 0x40,), 3)


# pushfq; push rbx; push rdi; sub rsp, 20h: the flags are an allocation of 8 to the unwinder
FLAGS_FRAME = _codes((8, 2, 3), (4, 0, RDI), (3, 0, RBX), (2, 2, 0))


@pytest.mark.parametrize(
    "code, taken, popped",
    [
        ("4883C420 5F 5B 59 C3", 0x38, {RDI: 0x20, RBX: 0x28}),
        ("5F 5B 59 C3", 0x18, {RDI: 0, RBX: 8}),
        ("5B 4158 C3", 0x10, {RBX: 0}),
        ("58 C3", 8, {}),
        ("4883C428 5F 5B C3", None, {}),
        ("5F 5B 5D C3", None, {}),
    ],
)
def test_pushed_flags_are_popped_into_a_volatile_register(code: str, taken: int | None, popped: dict[int, int]) -> None:
    table = _image(_info(FLAGS_FRAME, 8), code=b"\x90" * 0x80 + bytes.fromhex(code))
    offset = 0x38 if taken is None else taken
    restored = {RDI: 0x20, RBX: 0x28} if taken is None else popped
    caller = _caller(unwind(_registers(BODY), table, BASE, _stack({offset: CALLER})))
    assert (caller.rip, caller.rsp) == (CALLER, STACK + offset + 8)
    for number, unchanged in ((RBX, 0xA3), (RDI, 0xA7)):
        assert caller.gpr[number] == (_slot(restored[number]) if number in restored else unchanged)


@pytest.mark.parametrize("done, taken", [(0, 0x18), (1, 0x10), (2, 8), (3, 0)])
def test_pushed_flags_in_an_epilogue_that_version_2_lists(done: int, taken: int) -> None:
    codes = _codes((4, 6, 1)) + FLAGS_FRAME
    code = b"\x90" * 0xFC + bytes.fromhex("5F 5B 59 C3")
    table = _image(_info(codes, 8, version=2), [(CODE, CODE + 0x100, INFO)], code)
    caller = _caller(unwind(_registers(CODE + 0xFC + done), table, BASE, _stack({taken: CALLER})))
    assert (caller.rip, caller.rsp) == (CALLER, STACK + taken + 8)
    assert caller.gpr[RCX] is None


def test_an_epilogue_whose_last_instruction_is_an_entry_of_its_own() -> None:
    """As in ntdll 7601.24384: the return is a chained entry that begins behind the pops."""
    code = b"\x90" * 0x80 + bytes.fromhex("5F 5B F3C3")
    child = INFO + 0x100
    entries = [(CODE, CODE + 0x82, INFO), (CODE + 0x82, CODE + 0x84, child)]
    table = _image({INFO: _info(FRAME, 7), child: _chained(b"", INFO)}, entries, code)
    caller = _caller(unwind(_registers(BODY), table, BASE, _stack({0x10: CALLER})))
    assert (caller.rip, caller.rsp, caller.gpr[RDI], caller.gpr[RBX]) == (CALLER, STACK + 0x18, _slot(0), _slot(8))
    caller = _caller(unwind(_registers(CODE + 0x82), table, BASE, _stack({0: CALLER})))
    assert (caller.rip, caller.rsp, caller.gpr[RDI], caller.gpr[RBX]) == (CALLER, STACK + 8, 0xA7, 0xA3)


def test_at_the_begin_of_an_entry_that_is_not_chained_nothing_is_undone() -> None:
    # The first instruction is pop rdi, which a prologue can never be left by.
    table = _image(_info(FRAME, 7), code=bytes.fromhex("5F 5B C3"))
    caller = _caller(unwind(_registers(CODE), table, BASE, _stack({0: CALLER})))
    assert (caller.rip, caller.rsp) == (CALLER, STACK + 8)


def test_iretq_returns_to_what_was_interrupted() -> None:
    """As in RtlRestoreContext of ntdll 19044.1766: the machine frame is on top of the stack, all else is restored."""
    codes = _codes((2, 6, 1), (8, 2, 3), (1, 0, RBX), (0, 10, 0))
    code = b"\x90" * 0xFE + bytes.fromhex("48CF")
    table = _image(_info(codes, 8, version=2), [(CODE, CODE + 0x100, INFO)], code)
    frame = {0: CALLER, 8: 0x10, 0x10: 0x246, 0x18: STACK + 0x800, 0x20: 0x18}
    unwound = unwind(_registers(CODE + 0xFE), table, BASE, _stack(frame))
    interrupted = _caller(unwound)
    assert (interrupted.rip, interrupted.rsp, unwound.machine_frame) == (CALLER, STACK + 0x800, STACK)
    assert (interrupted.gpr[RAX], interrupted.gpr[RBX]) == (0xA0, 0xA3)
    # Before it the frame is whole.
    stack = _stack({0x28: CALLER, 0x30: 0x10, 0x38: 0x246, 0x40: STACK + 0x800, 0x48: 0x18})
    assert _caller(unwind(_registers(CODE + 0xFC), table, BASE, stack)).rip == CALLER
    absent = unwind(_registers(CODE + 0xFE, STACK + 0x2000), table, BASE, _stack({}))
    assert absent.registers is None and absent.absent


# chains and tables ----------------------------------------------------------------------------------------------------


def _chained(codes: bytes, parent: int, prolog: int = 0) -> bytes:
    return _info(codes, prolog, flags=4) + struct.pack("<III", CODE, CODE + 0x100, parent)


def test_chained_entries_undo_their_parents_too() -> None:
    child, grandchild = INFO + 0x100, INFO + 0x200
    table = _image(
        {
            INFO: _info(FRAME, 7),
            child: _chained(_codes((5, 4, RSI, 8)), INFO, 5),
            grandchild: _chained(_codes((5, 4, R12, 9)), child),
        },
        [(CODE, CODE + 0x100, INFO), (CODE + 0x100, CODE + 0x200, child), (CODE + 0x200, CODE + 0x300, grandchild)],
    )
    stack = _stack({0x30: CALLER})
    caller = _caller(unwind(_registers(CODE + 0x280), table, BASE, stack))
    assert [caller.gpr[n] for n in (RBX, RDI, RSI, R12)] == [_slot(o) for o in (0x28, 0x20, 0x40, 0x48)]
    # In the fragment's own prologue its save was not made yet, its parent's were.
    caller = _caller(unwind(_registers(CODE + 0x104), table, BASE, stack))
    assert [caller.gpr[n] for n in (RBX, RDI, RSI)] == [_slot(0x28), _slot(0x20), 0xA6]
    function = table.find(CODE + 0x280)
    assert function is not None and function.primary == CODE


def _chain_of(length: int, last: bytes) -> FunctionTable:
    infos = {INFO + 0x10 * number: _chained(b"", INFO + 0x10 * number + 0x10) for number in range(length)}
    return _image({**infos, INFO + 0x10 * length: last})


def test_chains_are_limited_and_do_not_loop() -> None:
    assert _caller(unwind(_registers(BODY), _chain_of(32, _info(b"", 0)), BASE, _stack({0: CALLER}))).rip == CALLER
    unwound = unwind(_registers(BODY), _chain_of(33, _info(b"", 0)), BASE, _stack({}))
    assert unwound.registers is None and unwound.reason == "more than 32 chained unwind entries"
    unwound = unwind(_registers(BODY), _chain_of(5, _chained(b"", INFO)), BASE, _stack({}))
    assert unwound.registers is None and unwound.reason == f"the chain of unwind entries loops at RVA {INFO:#x}"


def test_indirect_entries_are_followed_once() -> None:
    entry = INFO + 0x200
    pointed = struct.pack("<III", CODE, CODE + 0x100, INFO)
    table = _image(
        {INFO: _info(FRAME, 7), entry: pointed, entry + 0x10: struct.pack("<III", CODE, CODE + 0x100, entry | 1)},
        [
            (CODE, CODE + 0x100, INFO),
            (CODE + 0x200, CODE + 0x300, entry | 1),
            (CODE + 0x300, CODE + 0x400, entry + 0x10 | 1),
        ],
    )
    # A fragment is behind the prologue of what it stands for, from its first instruction on.
    assert _caller(unwind(_registers(CODE + 0x200), table, BASE, _stack({0x30: CALLER}))).rip == CALLER
    unwound = unwind(_registers(CODE + 0x300), table, BASE, _stack({}))
    assert unwound.registers is None and "leads to another one" in (unwound.reason or "")


def _find(table: FunctionTable, rva: int) -> int | str | None:
    try:
        function = table.find(rva)
    except TableAbsent:
        return "absent"
    return None if function is None else function.begin


def _entries(count: int, start: int = 0x100) -> list[tuple[int, int, int]]:
    return [(start + 8 * number, start + 8 * number + 6, INFO) for number in range(count)]


def test_every_entry_is_found_and_the_gaps_are_not() -> None:
    table = _image(_info(b"", 0), _entries(800))
    for number in range(800):
        begin = 0x100 + 8 * number
        assert [_find(table, begin + offset) for offset in (0, 5, 6, 7)] == [begin, begin, None, None]
    assert _find(table, 0xFF) is None
    assert _find(table, 0x7000) is None
    assert [function.begin for function in table.functions()] == [begin for begin, _, _ in _entries(800)]


def test_absent_parts_of_the_table() -> None:
    # 800 entries of 12 bytes in three pages, the middle one absent: entries 341 to 682 are in it in whole or in part.
    table = _image(_info(b"", 0), _entries(800), absent=(TABLE + 0x1000,))
    found = [_find(table, 0x100 + 8 * number) for number in range(800)]
    present = [*range(341), *range(683, 800)]
    assert [number for number in range(800) if found[number] == 0x100 + 8 * number] == present
    assert {found[number] for number in range(341, 683)} == {"absent"}
    # Behind the last entry before the gap: an absent entry may begin there. Before the first one behind it, too.
    assert _find(table, 0x100 + 8 * 340 + 7) == "absent"
    assert _find(table, 0x100 + 8 * 683 - 1) == "absent"
    assert _find(table, 0x100 + 8 * 700 + 7) is None
    first = _image(_info(b"", 0), _entries(800), absent=(TABLE,))
    assert (_find(first, 0x10), _find(first, 0x100 + 8 * 799)) == ("absent", 0x100 + 8 * 799)
    last = _image(_info(b"", 0), _entries(800), absent=(TABLE + 0x2000,))
    assert (_find(last, 0x100), _find(last, 0x7F00)) == (0x100, "absent")
    unwound = unwind(_registers(0x100 + 8 * 500), table, BASE, _stack({}))
    assert unwound.absent and unwound.registers is None
    assert unwound.reason == "the function table entries around RVA 0x10a0 are not in the dump"


def test_unsorted_zero_and_overlapping_entries() -> None:
    entries = _entries(100)
    shuffled = entries[50:] + [(0, 0, 0)] * 3 + entries[:50][::-1]
    table = _image(_info(b"", 0), shuffled)
    assert [_find(table, begin) for begin, _, _ in entries] == [begin for begin, _, _ in entries]
    assert _find(table, 0) is None
    unsorted_with_gap = _image(_info(b"", 0), (_entries(800)[400:] + _entries(800)[:400]), absent=(TABLE + 0x1000,))
    assert "absent" in {_find(unsorted_with_gap, 0x100 + 8 * number) for number in range(800)}
    assert None not in {_find(unsorted_with_gap, 0x100 + 8 * number) for number in range(800)}
    nested = _image(_info(b"", 0), [(0x100, 0x200, INFO), (0x110, 0x120, INFO), (0x300, 0x300, INFO)])
    assert [_find(nested, rva) for rva in (0x108, 0x118, 0x180, 0x300)] == [0x100, 0x110, 0x100, None]


def test_tables_outside_of_the_image() -> None:
    absent: Callable[[int, int], bytes | None] = lambda rva, size: None  # noqa: E731
    assert _find(FunctionTable(absent, (TABLE, 0x300), SIZE), 0x1000) == "absent"
    assert _find(FunctionTable(absent, (SIZE, 0x300), SIZE), 0x1000) == "absent"
    assert _find(FunctionTable(absent, (0xFFFFFFF0, 0xFFFFFFFF), 0xFFFFFFFF), 0x1000) == "absent"
    assert _find(FunctionTable(absent, None, SIZE), 0x1000) is None
    started = time.process_time()
    assert _find(FunctionTable(absent, (0x1000, 0xFFFFF000), 0xFFFFFFFF), 0x1000) == "absent"
    assert time.process_time() - started < 2


# frames that need care ------------------------------------------------------------------------------------------------


def test_a_leaf_function_has_no_entry() -> None:
    unwound = unwind(_registers(0x3000), _image(_info(b"", 0)), BASE, _stack({0: CALLER}))
    caller = _caller(unwound)
    assert (unwound.leaf, unwound.function, unwound.establisher) == (True, None, STACK)
    assert (caller.rip, caller.rsp, caller.gpr[RBX], caller.gpr[RAX]) == (CALLER, STACK + 8, 0xA3, None)


@pytest.mark.parametrize("entries", [1, 2])
def test_a_call_that_ends_its_function(entries: int) -> None:
    """The return address of a call that does not return is behind its function, or in the next one."""
    listed = [(CODE, CODE + 0x100, INFO), (CODE + 0x100, CODE + 0x200, INFO + 0x100)][:entries]
    table = _image({INFO: _info(FRAME, 7), INFO + 0x100: _info(_codes((1, 0, RBP)), 1)}, listed)
    unwound = unwind(_registers(CODE + 0x100), table, BASE, _stack({0x30: CALLER}), call_site=True)
    assert _caller(unwound).rip == CALLER
    assert unwound.function is not None and unwound.function.begin == CODE
    # An instruction pointer that is no return address is where it is.
    assert _caller(unwind(_registers(CODE + 0x100), table, BASE, _stack({0: CALLER}))).rip == CALLER


def test_registers_whose_slots_are_absent_are_unknown() -> None:
    # rbx was saved far below the rest, in a part of the stack that is not in the dump.
    table = _image(_info(_codes((9, 4, RBX, 4), (8, 1, 0, 0x200), (1, 0, RBP)), 9))

    def read(address: int, size: int) -> bytes | None:
        return _stack({0x1008: CALLER}, 0x2000)(address, size) if address >= STACK + 0x800 else None

    caller = _caller(unwind(_registers(BODY), table, BASE, read))
    assert (caller.rip, caller.rsp) == (CALLER, STACK + 0x1010)
    assert (caller.gpr[RBX], caller.gpr[RBP], caller.gpr[RSI]) == (None, _slot(0x1000), 0xA6)


def test_a_frame_register_may_leave_the_stack() -> None:
    # mov rbp, rsp; mov rsp, rdx: a call on another stack, which lies above the first one
    table = _image(_info(_codes((4, 3, 0), (1, 0, RBP)), 4, frame=0x05))
    unwound = unwind(_registers(BODY, STACK + 0x800, rbp=STACK), table, BASE, _stack({8: CALLER}))
    assert (_caller(unwound).rip, _caller(unwound).rsp, unwound.stack_switch) == (CALLER, STACK + 0x10, True)


def _reason(unwound: Unwound) -> str:
    assert unwound.registers is None and unwound.reason is not None
    return unwound.reason


@pytest.mark.parametrize(
    "info, reason",
    [
        (_info(b"", version=3), "version 3 at RVA 0x4000 is not supported"),
        (_info(b"", version=0), "unknown version 0"),
        (_info(b"", version=7), "unknown version 7"),
        (_info(_codes((1, 11, 0))), "unknown operation 11"),
        (_info(_codes((1, 15, 0))), "unknown operation 15"),
        (_info(_codes((1, 1, 2, 0))), "an allocation of unknown kind 2"),
        (_info(_codes((1, 10, 2))), "a machine frame of unknown kind 2"),
        (_info(_codes((1, 1, 1, 0))), "ends inside an operation"),
        (_info(_codes((1, 4, RBX))), "ends inside an operation"),
        (_info(_codes((1, 0, RSP))), "restores the stack pointer"),
        (_info(_codes((1, 4, RSP, 0))), "restores the stack pointer"),
        (_info(_codes((1, 3, 0))), "sets a frame register but names none"),
        (_info(_codes((4, 3, 0)), frame=0x06), "the frame register rsi is not known"),
    ],
)
def test_unwind_information_that_cannot_be_used(info: bytes, reason: str) -> None:
    start = _registers(BODY)
    start.gpr[RSI] = None
    unwound = unwind(start, _image(info), BASE, _stack({}))
    assert reason in _reason(unwound)
    assert not unwound.absent and unwound.function is not None


def test_unwind_information_past_the_image_or_absent() -> None:
    codes = _codes(*[(1, 0, RBX)] * 255)
    table = _image({SIZE - 0x100: _info(codes)}, [(CODE, CODE + 0x100, SIZE - 0x100)])
    assert "runs past the image" in _reason(unwind(_registers(BODY), table, BASE, _stack({})))
    table = _image(b"", [(CODE, CODE + 0x100, 0xFFFFFFF0)])
    assert "runs past the image" in _reason(unwind(_registers(BODY), table, BASE, _stack({})))
    table = _image(_info(FRAME), absent=(INFO,))
    unwound = unwind(_registers(BODY), table, BASE, _stack({}))
    assert (_reason(unwound), unwound.absent) == ("unwind information at RVA 0x4000 is not in the dump", True)


def test_states_that_cannot_be_unwound() -> None:
    table = _image(_info(FRAME, 7))
    stack = _stack({})
    assert _reason(unwind(_registers(BODY, STACK + 4), table, BASE, stack)).endswith("is not a multiple of 8")
    start = _registers(BODY)
    start.gpr[RSP] = None
    assert _reason(unwind(start, table, BASE, stack)) == "the stack pointer is not known"
    assert "is not in the image" in _reason(unwind(_registers(-1), table, BASE, stack))
    assert "is not in the image" in _reason(unwind(_registers(SIZE), table, BASE, stack))
    unwound = unwind(_registers(BODY, STACK + 0xFF0), table, BASE, stack)
    assert _reason(unwound) == f"the return address at {STACK + 0x1020:#x} is not in the dump"
    assert unwound.absent
    assert "past the address space" in _reason(unwind(_registers(BODY, 0xFFFFFFFFFFFFFFF0), table, BASE, stack))
    machine = _image(_info(_codes((0, 10, 1)), 0))
    assert "the machine frame at" in _reason(unwind(_registers(BODY, STACK + 0xFF0), machine, BASE, stack))


def test_contexts_and_registers() -> None:
    xmm = tuple(100 + number for number in range(16))
    context = Context("x64", {"rip": 1, "rsp": 2, "r15": 3, "eflags": 0x246}, "header context", 0x1000, xmm)
    registers = Registers.from_context(context)
    assert (registers.rip, registers.rsp, registers.gpr[15], registers.gpr[0]) == (1, 2, 3, None)
    assert registers.xmm == {number: 100 + number for number in range(6, 16)}
    back = registers.to_context("unwind")
    assert (back.source, back.address, dict(back.registers)) == ("unwind", None, {"rip": 1, "rsp": 2, "r15": 3})
    assert back.xmm == (None,) * 6 + xmm[6:]
    copy = registers.copy()
    copy.gpr[15] = 9
    assert registers.gpr[15] == 3
    with pytest.raises(ValueError, match="no x64 context"):
        Registers.from_context(Context("x64", {"rsp": 2}, "header context"))
    with pytest.raises(ValueError, match="no x64 context"):
        Registers.from_context(Context("arm64", {"pc": 2}, "header context"))


# hostile data ---------------------------------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.none(),
    st.integers(0, (1 << 64) - 1),
    st.integers(STACK // 8, STACK // 8 + 0x200).map(lambda value: value * 8),
)


@settings(max_examples=part(400), deadline=None)
@given(
    info=st.binary(max_size=96),
    version=st.sampled_from([None, 1, 2]),
    code=st.binary(max_size=40),
    table=st.lists(st.tuples(*[st.integers(0, SIZE) | st.integers(0, 0xFFFFFFFF)] * 3), max_size=5),
    gpr=st.lists(_VALUES, min_size=16, max_size=16),
    offset=st.integers(0, 0x90),
    call_site=st.booleans(),
    stack=st.binary(max_size=64),
    seeded=st.booleans(),
)
def test_random_bytes_never_raise_and_the_stack_goes_up(
    info: bytes,
    version: int | None,
    code: bytes,
    table: list[tuple[int, int, int]],
    gpr: list[int | None],
    offset: int,
    call_site: bool,
    stack: bytes,
    seeded: bool,
) -> None:
    if version is not None and info:
        info = bytes([info[0] & 0xF8 | version]) + info[1:]
    entries = [(CODE, CODE + 0x80, INFO), *table] if seeded else table
    functions = _image(info, entries, code)
    memory = bytearray(0x1000)
    memory[: len(stack)] = stack

    def read(address: int, size: int) -> bytes | None:
        start = address - STACK
        return bytes(memory[start : start + size]) if start >= 0 and start + size <= len(memory) else None

    registers = Registers(gpr, BASE + CODE + offset)
    for _ in range(6):
        unwound = unwind(registers, functions, BASE, read, call_site=call_site)
        assert (unwound.registers is None) == (unwound.reason is not None)
        if unwound.registers is None:
            return
        after, before = unwound.registers.rsp, registers.rsp
        assert after is not None and before is not None
        assert 0 <= after < 1 << 64 and 0 <= unwound.registers.rip < 1 << 64
        assert (after <= before) == unwound.stack_switch
        framed = unwound.function is not None and any(code[1] == 3 for code in _all_codes(unwound))
        assert not unwound.stack_switch or unwound.machine_frame is not None or framed
        registers = unwound.registers


def _all_codes(unwound: Unwound) -> list[tuple[int, int]]:
    function = unwound.function
    return [] if function is None else [(code.offset, code.operation) for code in function.codes]


@settings(max_examples=part(300), deadline=None)
@given(data=st.binary(max_size=600))
def test_random_unwind_information_is_decoded_or_refused(data: bytes) -> None:
    def read_rva(rva: int, size: int) -> bytes | None:
        return data[rva : rva + size] if rva + size <= len(data) else None

    try:
        info = decode_unwind_info(read_rva, 0, len(data))
    except ValueError as error:
        assert str(error)
    else:
        assert info.version in (1, 2)
        assert len(info.codes) + len(info.epilogs) <= data[2]
