"""Driver Verifier's state, from the kernel's variable and from small memory dumps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from volatility3_kdump import open as open_dump
from volatility3_kdump.analysis.buckets import failure_facts
from volatility3_kdump.windows.machine.verifier import verifier_level


def machine(level: int | None, stored: bytes | None = None) -> SimpleNamespace:
    """As much of a target as the level is read from."""
    blob = SimpleNamespace(offset=0x100, size=80)
    source = SimpleNamespace(read=lambda offset, size: (stored or b"")[offset - 0x100 : offset - 0x100 + size])
    target = SimpleNamespace(
        variable=lambda symbol, field: 0xFFFFF80000001000,
        memory=SimpleNamespace(unsigned=lambda address, size: level),
        dump=SimpleNamespace(
            triage=SimpleNamespace(memory_manager=blob) if stored is not None else None, source=source
        ),
        header=SimpleNamespace(bits=64),
    )
    target.once = lambda make: make(target)
    return target


@pytest.mark.parametrize(
    ("level", "stored", "expected"),
    [
        (0, None, 0),
        (0x209BB, None, 0x209BB),
        (0xFFFFFFFF, None, 0),
        (None, None, None),
        (None, bytes(16) + (0x9BB).to_bytes(4, "little") + bytes(60), 0x9BB),
        (None, bytes(80), None),
        (None, bytes(16) + b"\xff" * 4 + bytes(60), 0),
        (None, bytes(18), None),
    ],
)
def test_the_level(level, stored, expected):
    assert verifier_level(machine(level, stored)) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("triage_x64_19041_0x7e", 0), ("triage_x64_9600", 0), ("triage_x64_26100_0x3b", None)]
)
def test_real_machines(shared_data, name, expected):
    target = open_dump(shared_data / "dumps" / f"{name}.dmp")
    assert verifier_level(target) == expected
    assert not failure_facts(target, None).verifier
