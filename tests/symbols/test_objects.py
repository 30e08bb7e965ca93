"""Objects for scripts, held against what the readers of the package and the host's own objects say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.symbols.objects import NotInDump
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.processes import read_process


@pytest.fixture(scope="module")
def target(sample: Callable[..., Path]) -> Any:
    return volatility3_kdump.open(sample(1))


@pytest.fixture(scope="module")
def process(target: Any) -> Any:
    return target.object("nt!_EPROCESS", crash_process(target).address)


def test_members(target: Any, process: Any) -> None:
    read = read_process(target, process.address_)
    assert process.ImageFileName.text() == read.image_name
    assert process.UniqueProcessId.value == read.pid == int(process.UniqueProcessId)
    assert process.Pcb.DirectoryTableBase.value == read.directory_table_base
    assert process.SeAuditProcessCreationInfo.ImageFileName.Name.text() == read.image_path
    # A bit field, a pointer that is followed, an array.
    assert process.ExitTime.QuadPart.value == read.exit_time
    assert process.ImageFileName[0].value == ord(read.image_name[0]) and len(process.ImageFileName) == 15
    assert process == target.object("_EPROCESS", process.address_)


def test_lists(target: Any, process: Any) -> None:
    head = target.symbol_object("nt!PsActiveProcessHead", "_LIST_ENTRY")
    entries = [entry.address_ for entry in head.entries("nt!_EPROCESS", "ActiveProcessLinks")]
    assert entries == process_addresses(target)
    threads = [thread.address_ for thread in process.ThreadListHead.entries("_ETHREAD", "ThreadListEntry")]
    assert threads == thread_addresses(target, process.address_)
    thread = target.object("_ETHREAD", crash_thread(target).address)
    assert thread.ThreadListEntry.containing("_ETHREAD", "ThreadListEntry") == thread
    assert thread.Tcb.Process.pointer() == process.address_
    assert thread.Tcb.Process.deref().type_.name == "_KPROCESS"
    assert thread.Tcb.Process.cast("_EPROCESS").ImageFileName.text() == process.ImageFileName.text()
    assert "ImageFileName" in dir(process) and "Header" in dir(thread.Tcb.Process)


def test_what_is_not_there(target: Any, process: Any) -> None:
    with pytest.raises(AttributeError, match="has no member Nothing"):
        _ = process.Nothing
    with pytest.raises(KdumpError, match="has no such type"):
        target.object("nt!_NOTHING", 0)
    with pytest.raises(KdumpError, match="the types of nowhere are not at hand"):
        target.object("nowhere!_EPROCESS", 0)
    with pytest.raises(KdumpError, match="no such symbol"):
        target.symbol_object("nt!Nothing", "_LIST_ENTRY")
    with pytest.raises(NotInDump, match="not mapped"):
        _ = target.object("_EPROCESS", 0xFFFF_8000_0000_0000).UniqueProcessId.value
    for wrong in (lambda: process.value, lambda: process.Pcb[0], process.UniqueProcessId.text):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(IndexError):
        _ = process.ImageFileName[15]


def test_notebooks_show_them(target: Any, process: Any) -> None:
    shown = process._repr_html_()
    assert "<td style='text-align:left'>ActiveProcessLinks</td>" in shown and shown.count("<tr>") > 50
    for value in (target, crash_process(target), crash_thread(target)):
        assert value._repr_html_().startswith("<table ")
    assert "DRIVER_IRQL" in target._repr_html_() or "bug check D1" in target._repr_html_()


def test_notebooks_show_single_values(process: Any) -> None:
    cell = "<td style='text-align:left'>{}</td>"
    for value in (process.ImageFileName, process):
        assert cell.format("&quot;notmyfault64.e&quot;") in value._repr_html_()
    assert cell.format(f"{process.UniqueProcessId.value:#x}") in process.UniqueProcessId._repr_html_()
    unread = process.types_.object("_EPROCESS", 0xFFFF_8000_0000_0000)
    assert "? " in unread.ImageFileName._repr_html_() and "not mapped" in unread.UniqueProcessId._repr_html_()


def test_names_of_a_dump_are_escaped_in_notebooks(sample: Callable[..., Path], tmp_path: Path) -> None:
    """The same dump with another image name, as long as the old one."""
    name = b"<b>&\x1b[1m'\"$x$"
    path = tmp_path / "$x$.dmp"
    content = sample(1).read_bytes()
    assert content.count(b"notmyfault64.e\0")
    path.write_bytes(content.replace(b"notmyfault64.e\0", name.ljust(14, b"~") + b"\0"))
    target = volatility3_kdump.open(path)
    process = target.object("nt!_EPROCESS", crash_process(target).address)
    assert process.ImageFileName.text().encode("latin-1").startswith(name)
    for shown in (process._repr_html_(), process.ImageFileName._repr_html_(), crash_process(target)._repr_html_()):
        assert "&lt;b&gt;&amp;\\x1b[1m&#x27;&quot;$x$" in shown
        assert "<b>" not in shown and "\x1b" not in shown
        # MathJax leaves out what is in elements of these classes.
        assert shown.startswith("<table class='tex2jax_ignore mathjax_ignore'>") and shown.endswith("</table>")


def test_no_field_that_the_type_has_breaks_it(target: Any, process: Any) -> None:
    """Every member of the largest structures is shown, or says why it is not."""
    for name in ("_EPROCESS", "_ETHREAD", "_KPCR", "_KPRCB", "_MMPFN", "_OBJECT_TYPE"):
        assert target.object(f"nt!{name}", process.address_)._repr_html_().startswith("<table ")
