"""The processor by a dump's tagged data: real dumps, made ones, and bytes of any kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_sample.processor_models import CORE_2_QUAD, RYZEN_5
from volatility3_kdump.dump import open_dump
from volatility3_kdump.dump.cpuid import parse_identity, processor_identity


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "triage_x64_19041_0x7e_q9400",
            "Intel(R) Core(TM)2 Quad CPU Q9400 @ 2.66GHz, family 6h model 17h stepping ah, microcode a0ch",
        ),
        ("triage_x64_26100_0xbe", "AMD Ryzen 5 5600X 6-Core Processor, family 19h model 21h stepping 2h"),
        (
            "triage_x64_9600",
            "Intel(R) Core(TM) i5-3230M CPU @ 2.60GHz, family 6h model 3ah stepping 9h, microcode 1bh",
        ),
    ],
)
def test_real_processors(shared_data: Path, name: str, text: str) -> None:
    """Family and model are those that the makers publish for these processors."""
    dump = open_dump(shared_data / "dumps" / f"{name}.dmp")
    identity = processor_identity(dump.source, dump.tagged)
    assert identity is not None and identity.text == text


def test_features() -> None:
    old, new = parse_identity(CORE_2_QUAD.records()), parse_identity(RYZEN_5.records())
    assert old is not None and new is not None
    assert old.has(1, "ecx", 23) is False and new.has(1, "ecx", 23) is True
    assert old.has(1, "ecx", 19) is True
    # Leaf 7 is recorded as zeros, whatever the processor has; a leaf beyond the last one is certain.
    assert new.has(7, "ebx", 5) is None
    assert new.has(0x17, "ebx", 0) is False
    assert old.has(0x80000001, "ecx", 5) is False
    assert old.address_bits() == 36 and new.address_bits() == 48


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    identity = parse_identity(data)
    if identity is not None:
        assert identity.text
        identity.has(1, "ecx", 31)
        identity.address_bits()


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_damaged_records(offset: int, junk: bytes) -> None:
    data = bytearray(CORE_2_QUAD.records())
    offset %= len(data)
    data[offset : offset + len(junk)] = junk
    identity = parse_identity(bytes(data))
    assert identity is None or identity.text.isprintable()
