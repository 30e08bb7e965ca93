"""Whose a module is: Microsoft's or a third party's, and how that is known."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from volatility3_kdump.analysis.owners import IGNORE, LAST_IGNORE, OwnerRules

MICROSOFT, THIRD_PARTY, PROBABLY_THIRD_PARTY = "Microsoft", "third party", "probably third party"


@dataclass(frozen=True)
class Vendor:
    """``kind`` is ``Microsoft``, ``third party`` or ``probably third party``; ``reason`` says why."""

    kind: str
    reason: str

    @property
    def third_party(self) -> bool:
        return self.kind != MICROSOFT


@functools.lru_cache(maxsize=1)
def _rules() -> OwnerRules:
    return OwnerRules.load()


def _is_component(name: str) -> bool:
    """Whether the shipped rules give a module to Windows, or leave it out as one that only reports."""
    owner = _rules().owner(name, None)
    return owner.microsoft or owner.strength in (IGNORE, LAST_IGNORE)


def vendor_of(name: str, company: str | None) -> Vendor:
    """Judge by the company in the version resource, or else by the shipped list of Windows's components.

    ``name`` is the module's name as the debugger has it, ``company`` is CompanyName or ``None``. A resource says what
    its author wrote there, so that a signature (SigningLevel) is better evidence where there is one.
    """
    if company:
        is_microsoft = "microsoft" in company.casefold()
        return Vendor(MICROSOFT if is_microsoft else THIRD_PARTY, f"company name {company}")
    if _is_component(name):
        return Vendor(MICROSOFT, "list of Windows's components")
    return Vendor(PROBABLY_THIRD_PARTY, "not in the list of Windows's components, no resources in the dump")
