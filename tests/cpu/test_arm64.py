from __future__ import annotations

import pytest

from volatility3_kdump.cpu.arm64 import strip_pointer_authentication


@pytest.mark.parametrize(
    "signed, mask, stripped",
    [
        (0xFFFFF803F3A20860, None, 0xFFFFF803F3A20860),
        (0x2E37F803F3A20860, None, 0x0000F803F3A20860),
        (0x2EF7F803F3A20860, None, 0xFFFFF803F3A20860),
        (0x007F7FFB5F6E4D20, None, 0x00007FFB5F6E4D20),
        (0x00007FFB5F6E4D20, None, 0x00007FFB5F6E4D20),
        # A mask of the kernel that leaves the top byte alone.
        (0x2EF7F803F3A20860, 0x007F000000000000, 0x2EFFF803F3A20860),
        (0xFFB7F803F3A20860, 0xFF7F000000000000, 0xFFFFF803F3A20860),
        (0x2EF7F803F3A20860, 0, 0xFFFFF803F3A20860),
    ],
)
def test_pointer_authentication_codes_are_stripped(signed: int, mask: int | None, stripped: int) -> None:
    assert strip_pointer_authentication(signed, mask) == stripped
