from __future__ import annotations

import pytest

from volatility3_kdump.cpu.x86 import sign_extend, truncate


@pytest.mark.parametrize("short, extended", [(0x804E3592, 0xFFFFFFFF804E3592), (0x7FFE0300, 0x7FFE0300)])
def test_addresses_extend_and_truncate(short: int, extended: int) -> None:
    assert sign_extend(short) == extended
    assert sign_extend(extended) == extended
    assert truncate(extended) == short
