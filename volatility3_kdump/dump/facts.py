"""The facts of a machine that left no crash dump: those that a dump's header gives, each with its source.

:class:`~volatility3_kdump.dump.header.DumpHeader` is what everything above reads. A crash dump's is its header. That of
a memory image is put together from what there is: the registers that the container holds, KUSER_SHARED_DATA, the
kernel's variables, a header that the guest left with its hypervisor. A fact that none of them gives is ``None``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from volatility3_kdump.dump.header import DumpHeader


class Fact(NamedTuple):
    """A value and where it is from, in words."""

    value: Any
    source: str


@dataclass(frozen=True)
class MachineFacts(DumpHeader):
    """What is known of the machine in a memory image, by the names of a dump header's fields.

    ``kind`` names the container. ``kernel_base`` is where the kernel's image lies. ``has_crashed`` is whether the
    kernel has recorded a bug check, ``None`` where its record cannot be read. ``sources`` says of every field that is
    not ``None`` where it is from.
    """

    kind: str = ""
    kernel_base: int | None = None
    has_crashed: bool | None = None
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def container(self) -> str | None:
        return self.kind

    @property
    def crashed(self) -> bool | None:
        return self.has_crashed

    def source_of(self, name: str) -> str | None:
        return self.sources.get(name)

    def completed(self, facts: Mapping[str, Fact]) -> MachineFacts:
        """These facts and others; what is known already stays, and values of ``None`` are no facts."""
        added = {name: fact for name, fact in facts.items() if fact.value is not None and name not in self.sources}
        sources = {**self.sources, **{name: fact.source for name, fact in added.items()}}
        return dataclasses.replace(self, sources=sources, **{name: fact.value for name, fact in added.items()})


#: Fields that are not ``None`` even where nothing is known of them.
_EMPTY: dict[str, Any] = {
    "bits": 64,
    "header_size": 0,
    "bug_check_parameters": (None, None, None, None),
    "context_record": b"",
    "exception_record": b"",
    "physical_memory": b"",
}


def no_facts(kind: str) -> MachineFacts:
    """The facts of a 64-bit machine of which nothing is known but the container."""
    names = [entry.name for entry in dataclasses.fields(DumpHeader)]
    values: dict[str, Any] = {name: _EMPTY.get(name) for name in names}
    return MachineFacts(kind=kind, **values)
