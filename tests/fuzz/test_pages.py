"""Pages and formats of damaged dumps: well-formed, small, nothing unsafe in them, and only errors of ours."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import volatility3_kdump
from tests.fuzz.mutation import mutate
from tests.fuzz.running import Runner
from tests.fuzz.test_kernel_structures import damaged
from tests.pages.hostile import unsafe
from tests.pages.markup import Page
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.pages.crash import crash_page
from volatility3_kdump.pipelines import junit, lines, markdown, sarif
from volatility3_kdump.pipelines.analysed import Analysed
from volatility3_kdump.views.report import report

LARGEST = 300_000
FORMATS = (lines.text, lines.as_json, lines.github, markdown.markdown, junit.junit, sarif.sarif)


def shown(path: Path) -> None:
    target = volatility3_kdump.open(path, offline=True)
    target.memory.budget.begin()
    crash = analyze_crash(target)
    page = crash_page(target, crash)
    assert not unsafe(page) and len(page.encode()) < LARGEST
    read = Page(page)
    assert read.tables == read.captions and "script" not in read.names()
    dump = Analysed("x.dmp", report(target, crash), None, 0.1, ("any",))
    for make in FORMATS:
        assert not unsafe(make([dump]))
    ElementTree.fromstring(junit.junit([dump]))
    json.loads(sarif.sarif([dump]))


def fields(data: bytes, generator: random.Random) -> bytes:
    """The header's own fields: times, codes, counts; and the first pages behind it."""
    changed = bytearray(mutate(data, generator, (0x2000, 0x8000)))
    for at in (0xFA0, 0x1030, 0x38, 0x40, 0x48):
        if at + 8 <= len(changed) and generator.random() < 0.4:
            struct.pack_into(
                "<Q", changed, at, generator.choice((0, 1, (1 << 64) - 1, 1 << 63, generator.getrandbits(64)))
            )
    return bytes(changed)


@pytest.mark.parametrize("scene", ["waits", "memory", "error-log"])
def test_pages_of_damaged_structures(scene: str, sample: Callable[..., Path], fuzz: Runner, tmp_path: Path) -> None:
    data = sample(1, None, scene).read_bytes()
    values = struct.unpack_from(f"<{(len(data) - 0x2000) // 8}Q", data, 0x2000)
    places = [0x2000 + 8 * number for number, value in enumerate(values) if 0xFFFF8 <= value >> 44 < 1 << 20]
    path = tmp_path / "damaged.dmp"

    def feed(changed: bytes) -> None:
        path.write_bytes(changed)
        shown(path)

    feed(data)
    fuzz.run(f"page-{scene}", [data], lambda data, generator: damaged((data, places), generator), feed, 3)


@pytest.mark.parametrize("kind", [1, 4, 6])
def test_pages_of_damaged_headers(kind: int, sample: Callable[..., Path], fuzz: Runner, tmp_path: Path) -> None:
    path = tmp_path / "damaged.dmp"

    def feed(changed: bytes) -> None:
        path.write_bytes(changed)
        shown(path)

    fuzz.run(f"page-header-{kind}", [sample(kind).read_bytes()], fields, feed, 10)
