"""Which Windows it is exactly: the kernel's version by its image, and the name that it was released under.

TimeDateStamp and SizeOfImage, which every list of modules has, identify an image. The package ships the versions of
kernels by them; where a kernel is not among them, the version resource of its image serves if that is at hand.
"""

from __future__ import annotations

import functools
import lzma
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.version_resource import module_version

if TYPE_CHECKING:
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.target import Target

_VERSIONS = "versions.tsv.xz"
#: The first builds of Windows 10 and 11: those after them that were never released are Insider builds.
_FIRST_10, _FIRST_11 = 9841, 21990
_CLIENT = 1


@dataclass(frozen=True)
class KernelVersion:
    """The version of a kernel, four numbers with dots between them, and how it is known."""

    text: str
    known_by: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.text.split("."))


def kernel_version(target: Target) -> KernelVersion | None:
    """The version of a dump's kernel; ``None`` where its image is not known and has no version resource at hand."""
    return target.once(_kernel_version)


def listed_version(target: Target) -> KernelVersion | None:
    """The version of a dump's kernel if it is among the listed ones; no image is looked for."""
    return target.once(_listed_version)


def _kernel_version(target: Target) -> KernelVersion | None:
    listed = listed_version(target)
    if listed is not None:
        return listed
    module = _kernel_module(target)
    resource = _from_resource(target, module) if module is not None else None
    return None if resource is None else KernelVersion(resource, "version resource of its image")


def _kernel_module(target: Target) -> Module | None:
    kernel = target.kernel
    return next((module for module in target.modules if kernel is not None and module.base == kernel.base), None)


def _listed_version(target: Target) -> KernelVersion | None:
    module = _kernel_module(target)
    if module is None:
        return None
    timestamp = target.images.image_of(module).timestamp()
    if timestamp is not None and target.header.machine_type is not None:
        versions = _known().get((target.header.machine_type, timestamp, module.size), ())
        if len(versions) == 1:
            return KernelVersion(versions[0], "time stamp and size of its image")
    return None


def _from_resource(target: Target, module: Module) -> str | None:
    resource = module_version(target.images.image_of(module))
    parts = resource.file_version.split(".") if resource is not None else []
    return ".".join(parts) if len(parts) == 4 and all(part.isdigit() for part in parts) else None


@functools.lru_cache(maxsize=1)
def _known() -> dict[tuple[int, int, int], tuple[str, ...]]:
    """Versions by machine, TimeDateStamp and SizeOfImage; several where images share all three."""
    path = tables.data_path(_VERSIONS)
    versions: dict[tuple[int, int, int], tuple[str, ...]] = {}
    try:
        with lzma.open(path, "rt", encoding="ascii") as stream:
            for line in stream:
                machine, version, timestamp, size, _ = line.split("\t")
                key = (int(machine, 16), int(timestamp, 16), int(size, 16))
                if version not in versions.get(key, ()):
                    versions[key] = (*versions.get(key, ()), version)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise KdumpError(f"{path}: the shipped table cannot be read: {error}; reinstall volatility3-kdump") from error
    return versions


def release_name(build: int | None, revision: int | None = None, product_type: int | None = None) -> str | None:
    """The name under which a build was released: ``Windows 10 21H2 or 22H2``, ``Windows Server 2025``.

    Several releases share one kernel; its revision narrows them to those that were serviced when it was made. Builds
    that were never released are Insider builds. ``None`` for builds that nothing is known of. ``product_type`` is the
    header's; without it both names are given.
    """
    if build is None:
        return None
    records = [record for record in _releases() if record["build"] == build]
    if not records:
        if build < _FIRST_10:
            return None
        family = "Windows Server" if product_type not in (None, _CLIENT) else "Windows"
        number = "" if family.endswith("Server") else " 11" if build >= _FIRST_11 else " 10"
        return f"{family}{number} Insider Preview"
    if revision is None and len(records) > 1:
        records = [record for record in records if record.get("any")]
    fitting = [record for record in records if revision is None or record["revision"] <= revision]
    names = {
        key: next((record[key] for record in fitting[::-1] if key in record), None) for key in ("client", "server")
    }
    if product_type is None:
        return " / ".join(name for name in names.values() if name) or None
    return names["client" if product_type == _CLIENT else "server"] or names["client"] or names["server"]


@functools.lru_cache(maxsize=1)
def _releases() -> tuple[dict[str, Any], ...]:
    return tuple(tables.json_lines("releases.jsonl"))


def release(target: Target) -> str | None:
    """The name under which a dump's Windows was released; ``None`` where that is not known."""
    version = kernel_version(target)
    build = target.header.build_number
    revision = None
    if version is not None:
        *_, build, revision = version.numbers
    return release_name(build, revision, target.header.product_type)
