"""UNWIND_INFO and its codes, decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

#: Reads an image: exactly ``size`` bytes at an RVA, or ``None`` when any of them is not at hand.
ReadRva = Callable[[int, int], "bytes | None"]
#: RUNTIME_FUNCTION: BeginAddress, EndAddress, UnwindInfoAddress.
ENTRY = struct.Struct("<III")

PUSH_NONVOL, ALLOC_LARGE, ALLOC_SMALL, SET_FPREG, SAVE_NONVOL, SAVE_NONVOL_FAR = range(6)
EPILOG, SPARE, SAVE_XMM128, SAVE_XMM128_FAR, PUSH_MACHFRAME = range(6, 11)

FLAG_EXCEPTION_HANDLER, FLAG_TERMINATION_HANDLER, FLAG_CHAINED = 1, 2, 4


class Undecodable(Exception):
    """Unwind data that cannot be used; ``absent`` tells bytes that are not in the dump from bytes that are wrong."""

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


class UnwindCode(NamedTuple):
    """One UNWIND_CODE: ``offset`` of the end of its instruction in the prologue, ``operation``, ``info``.

    ``value`` is the operand in bytes, scaled: the size of an allocation, or the offset of a save from the frame base.
    """

    offset: int
    operation: int
    info: int
    value: int


class UnwindInfo(NamedTuple):
    """One UNWIND_INFO. ``codes`` are in stored order, version 2 epilog codes apart.

    ``frame_offset`` is in bytes. ``epilogs`` are the (offset, info) pairs of the EPILOG codes. ``handler`` is the RVA
    of the language handler, ``chained`` the RUNTIME_FUNCTION that a chained entry continues, each ``None`` without.
    """

    version: int
    flags: int
    prolog_size: int
    frame_register: int
    frame_offset: int
    codes: tuple[UnwindCode, ...]
    epilogs: tuple[tuple[int, int], ...]
    handler: int | None
    chained: tuple[int, int, int] | None


def decode_unwind_info(read_rva: ReadRva, rva: int, size_of_image: int) -> UnwindInfo:
    """The UNWIND_INFO at an RVA. Raises ``ValueError`` with the reason when it is absent, malformed or of version 3."""
    try:
        return decode(read_rva, rva, size_of_image)
    except Undecodable as error:
        raise ValueError(str(error)) from None


def decode(read_rva: ReadRva, rva: int, size_of_image: int) -> UnwindInfo:
    head = image_bytes(read_rva, rva, 4, size_of_image)
    version, flags = head[0] & 7, head[0] >> 3
    if version == 3:
        raise Undecodable(f"unwind information of version 3 at RVA {rva:#x} is not supported")
    if version not in (1, 2):
        raise Undecodable(f"unwind information of unknown version {version} at RVA {rva:#x}")
    count = head[2]
    # The array is padded to an even number of slots.
    length = 2 * (count + count % 2)
    extra = 12 if flags & FLAG_CHAINED else 4 if flags & (FLAG_EXCEPTION_HANDLER | FLAG_TERMINATION_HANDLER) else 0
    body = image_bytes(read_rva, rva + 4, length + extra, size_of_image) if length + extra else b""
    codes, epilogs = _decode_codes(body, count, version, rva)
    chained = None
    handler = None
    if flags & FLAG_CHAINED:
        chained = ENTRY.unpack_from(body, length)
    elif extra:
        (handler,) = struct.unpack_from("<I", body, length)
    return UnwindInfo(
        version, flags, head[1], head[3] & 15, 16 * (head[3] >> 4), tuple(codes), tuple(epilogs), handler, chained
    )


def image_bytes(read_rva: ReadRva, rva: int, size: int, size_of_image: int) -> bytes:
    if rva + size > size_of_image:
        raise Undecodable(f"unwind information at RVA {rva:#x} runs past the image")
    data = read_rva(rva, size)
    if data is None or len(data) < size:
        raise Undecodable(f"unwind information at RVA {rva:#x} is not in the dump", absent=True)
    return data


def _decode_codes(body: bytes, count: int, version: int, rva: int) -> tuple[list[UnwindCode], list[tuple[int, int]]]:
    codes: list[UnwindCode] = []
    epilogs: list[tuple[int, int]] = []
    slots = struct.unpack_from(f"<{count}H", body)
    index = 0
    while index < count:
        offset, operation, info = slots[index] & 0xFF, slots[index] >> 8 & 15, slots[index] >> 12
        if operation == EPILOG and version == 2:
            epilogs.append((offset, info))
            index += 1
            continue
        taken = _slots_of(operation, info, version, rva)
        if index + taken > count:
            raise Undecodable(f"unwind information at RVA {rva:#x} ends inside an operation")
        value = 0
        if operation == ALLOC_SMALL:
            value = 8 * info + 8
        elif taken == 2:
            value = slots[index + 1] * (16 if operation in (SAVE_XMM128, EPILOG) else 8)
        elif taken == 3:
            value = slots[index + 1] | slots[index + 2] << 16
        codes.append(UnwindCode(offset, operation, info, value))
        index += taken
    return codes, epilogs


def _slots_of(operation: int, info: int, version: int, rva: int) -> int:
    """Slots of two bytes that an operation takes. EPILOG is here the save of version 1 that nothing emits any more."""
    if operation in (PUSH_NONVOL, ALLOC_SMALL, SET_FPREG, PUSH_MACHFRAME):
        if operation == PUSH_MACHFRAME and info > 1:
            raise Undecodable(f"unwind information at RVA {rva:#x} has a machine frame of unknown kind {info}")
        return 1
    if operation == ALLOC_LARGE:
        if info > 1:
            raise Undecodable(f"unwind information at RVA {rva:#x} has an allocation of unknown kind {info}")
        return 2 + info
    if operation in (SAVE_NONVOL, SAVE_XMM128, EPILOG):
        return 2
    if operation in (SAVE_NONVOL_FAR, SAVE_XMM128_FAR, SPARE):
        return 3
    raise Undecodable(f"unwind information at RVA {rva:#x} has unknown operation {operation}")
