"""x87 registers: numbers that the processor loads as constants, and what FXSAVE keeps of the stack."""

from __future__ import annotations

import struct

import pytest

from volatility3_kdump.text import x87


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # FLD1, FLDPI, FLDL2T, FLDLG2 of the manual, and what they are to 21 digits.
        (0x3FFF_8000000000000000, " 1.000000000000000000000e+0000"),
        (0x4000_C90FDAA22168C235, " 3.141592653589793238510e+0000"),
        (0x4000_D49A784BCD1B8AFE, " 3.321928094887362347810e+0000"),
        (0x3FFD_9A209A84FBCFF799, " 3.010299956639811952260e-0001"),
        (0xC003_9000000000000000, "-1.800000000000000000000e+0001"),
        (0x7FFE_FFFFFFFFFFFFFFFF, " 1.189731495357231765020e+4932"),
        (0x0000_0000000000000001, " 3.645199531882474602530e-4951"),
        (0xFFFF_C000000000000000, "-1.#QNAN0000000000000000e+0000"),
        (0x7FFF_8000000000000000, " 1.#INF00000000000000000e+0000"),
        (0, " 0.000000000000000000000e+0000"),
    ],
)
def test_numbers(value: int, text: str) -> None:
    assert x87.decimal(value) == text


def test_the_top_of_the_stack() -> None:
    """ST counts from the top, MMX registers are places; flags in capitals where an exception is not masked."""
    area = bytearray(0xA0)
    struct.pack_into("<HHBxHIHxxIH", area, 0, 0x137E, 0x3A81, 0xFF, 0x1DE, 0x401000, 0x23, 0x402000, 0x2B)
    for number in range(8):
        struct.pack_into("<Q", area, 0x20 + 16 * number, number)
    lines = list(x87.lines(bytes(area)))
    assert lines[0] == "fpcw=137E: rn 64 puozdI  fpsw=3A81: top=7 cc=0010 e------i  fptw=00FF"
    assert lines[1] == "fopcode=01DE  fpip=0023:00401000  fpdp=002B:00402000"
    assert x87.register(bytes(area), 0) == 0
    assert x87.mmx(bytes(area), 7) == 0
    assert x87.mmx(bytes(area), 0) == 1
