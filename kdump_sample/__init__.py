"""The maker of demonstration dumps: small, deterministic, of every dump type and for every kernel layout at hand.

:func:`write_sample` writes the crash of a published WinDbg session (NotMyFault's high-IRQL fault on Windows 10 19041),
or another of the scenes in :mod:`kdump_sample.scenes`. It knows nothing of the package's readers, so that
the two check each other.

The way from a scene to a file:

* *scenes as data*: ``scene`` is the vocabulary, with ``regions``, ``tokens``, ``memory_use`` and ``pool_contents`` for
  its parts and ``stacks``, ``code``, ``functions``, ``dispatch`` for what stands on a stack. ``myfault`` is the
  demonstration, ``scenes`` has the others, ``variants`` turns one scene into another.
* *the machine*: ``machine`` lays a scene out in memory. ``workspace`` is what all parts work with: ``physical`` pages,
  page tables (``paging``), ``structures`` by the fields of a symbol table, ``pools`` (``pool_blocks``, ``pool_tables``,
  ``segment_heaps``). The parts are ``images`` (``pe``),
  ``processes`` (``vads``, ``user_modules``), ``objects``, ``processors`` (``context``, ``processor_models``),
  ``lists``, ``resources``, ``queues``, ``page_frames``, ``memory_counters``, ``error_log``, ``kernel_data``
  (``kdbg``); ``hives`` makes structures of the registry for a scene.
* *the file*: ``contents`` chooses the pages and blocks that a dump holds, ``containers`` writes each dump type,
  ``memory_images`` images of memory.
"""

from __future__ import annotations

from pathlib import Path

from kdump_sample.containers import DUMP_TYPES, write
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.scenes import DEFAULT, make_scene, scene_names
from volatility3_kdump.errors import UnsupportedDump
from volatility3_kdump.symbols.isf import load_table_file

__all__ = ["DUMP_TYPES", "scene_names", "write_image_sample", "write_sample"]


def write_sample(path: str | Path, dump_type: int = 6, isf: str | Path | None = None, scene: str = DEFAULT) -> None:
    """Write a dump of a scene, by default the demonstration.

    ``dump_type`` is 1 (full), 2 (summary), 4 (triage), 5 or 6 (bitmap), 8, 9 or 10 (ranges). ``isf`` is the symbol
    table of the kernel that the dump shall show, ``.json`` or ``.json.xz``; without it, the table that the package
    ships (Windows 10 19041). ``scene`` is one of :func:`scene_names`. Raises
    :class:`~volatility3_kdump.errors.UnsupportedDump` for another type,
    :class:`~volatility3_kdump.errors.KdumpError` for another scene, and :class:`~volatility3_kdump.layout.LayoutError`
    for a file that is not a symbol table of an x64 Windows kernel.
    """
    if dump_type not in DUMP_TYPES:
        choices = ", ".join(map(str, DUMP_TYPES))
        raise UnsupportedDump(f"no sample of dump type {dump_type}: choose one of {choices}")
    if isf is None:
        from volatility3_kdump.tables import kernel_table_path

        isf = kernel_table_path()
    layouts = load_table_file(Path(isf))
    machine = Machine(make_scene(scene, layouts), layouts)
    write(Path(path), dump_type, make_contents(machine))


def write_image_sample(
    path: str | Path, kind: str, isf: str | Path | None = None, scene: str = DEFAULT, running: bool = False
) -> None:
    """Write the machine of a scene as a memory image: ``avml``, ``elf``, ``kdump``, ``lime``, ``raw`` or ``vmem``.

    ``running`` has the kernel not record any bug check. All else is as for :func:`write_sample`.
    """
    from kdump_sample.memory_images import write_image
    from volatility3_kdump.tables import kernel_table_path

    write_image(Path(path), kind, load_table_file(Path(isf or kernel_table_path())), scene, running)
