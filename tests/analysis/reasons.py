"""What the tests of the rules share: the dump types they run on, and looking up findings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from volatility3_kdump.analysis.reasoning import Case, Reasoning

MakeCase = Callable[..., Case]
KERNEL, TRIAGE = 6, 4
both = pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])


def value(found: Reasoning, tag: str) -> str | None:
    """The value of the finding of a tag, ``None`` where there is none."""
    finding = found.finding(tag)
    return None if finding is None else finding.value


def values(found: Reasoning, tag: str) -> list[str]:
    """The values of all findings of a tag."""
    return [finding.value for finding in found.findings if finding.tag == tag]
