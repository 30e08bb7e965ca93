"""The prompt and the plugins give the same values: the command's text is that of the plugin with the same options."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from volatility3.framework import contexts

from volatility3_kdump.console.commands import execute, registry
from volatility3_kdump.console.session import Session
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.target import Target

#: A command, and the plugin with its options that shows the same.
PAIRS: list[tuple[str, str, dict[str, Any]]] = [
    (".bugcheck", "bugcheck", {}),
    ("!analyze -v", "analyze", {}),
    ("!analyze -show 9f 3", "bugcheck", {"show": ["9f", "3"]}),
    ("kn", "stack", {"layout": "kn"}),
    ("kv", "stack", {"layout": "kv"}),
    ("kb 4", "stack", {"layout": "kb", "frames": 4}),
    ("kc", "stack", {"layout": "kc"}),
    ("kf", "stack", {"layout": "kf"}),
    (".trap ffffd48f`77af97e0", "trap", {"address": "ffffd48f77af97e0"}),
    (".trap ffffd48f`77af97e0; kv", "stack", {"trap": "ffffd48f77af97e0"}),
    (".thread ffff91895309d080; kn", "stack", {"thread": ["ffff91895309d080"], "layout": "kn"}),
    ("u nt!KiBugCheckDispatch", "disasm", {"address": "nt!KiBugCheckDispatch"}),
    ("ub nt!KiBugCheckDispatch+69 L2", "disasm", {"address": "nt!KiBugCheckDispatch+69", "count": 2, "before": True}),
    ("!process 0 0", "process", {}),
    ("!process 0 7", "process", {"detail": "7"}),
    ("!process 0 1 notepad.exe", "process", {"name": ["notepad.exe"], "detail": "1"}),
    ("!process ffff9189527e9080 7", "process", {"address": ["ffff9189527e9080"]}),
    ("!process 1e90 3", "process", {"pid": ["0x1e90"], "detail": "3"}),
    ("!thread", "thread", {}),
    ("!thread ffff91895309d080", "thread", {"address": ["ffff91895309d080"]}),
    ("!thread -t 1e94 2", "thread", {"tid": ["0x1e94"], "no-stack": True}),
    ("!running -i", "ready", {}),
    ("!ready", "ready", {}),
    ("!drivers", "drivers", {"sizes": True}),
    ("lm v", "drivers", {"verbose": True}),
    ("lmvm myfault", "drivers", {"verbose": True, "module": ["myfault"]}),
    ("lm a fffff800`60da1981", "drivers", {"address": ["fffff80060da1981"]}),
    ("!irp ffff91894ed94d70", "irp", {"address": "ffff91894ed94d70"}),
    ("!irpfind", "irp", {"find": True}),
    (
        "!irpfind 1 0 thread ffff918952f55080",
        "irp",
        {"find": True, "pool": "paged", "with": ["thread", "ffff918952f55080"]},
    ),
    ("!poolfind Leak 0", "pool", {"find": True, "tag": "Leak", "pool": "nonpaged"}),
    ("!fileobj ffff91894e251a20", "file", {"address": "ffff91894e251a20"}),
    ("!devnode 0 1", "devnode", {}),
    ("!devnode 0 1 pci", "devnode", {"service": "pci"}),
    ("!drvobj MYFAULT 3", "irp", {"driver": "MYFAULT"}),
    ("!devstack ffff91894ed31e00", "irp", {"device": "ffff91894ed31e00"}),
    ("vertarget", "info", {}),
    ("!locks", "locks", {}),
    ("!locks -d -v", "locks", {"all": True, "verbose": True}),
    ("!errlog", "errlog", {}),
    ("!vm", "vm", {}),
    ("!poolused 2", "pool", {"sort": "nonpaged"}),
    ("!poolused 5 Irp*", "pool", {"sort": "paged", "tag": "Irp*", "verbose": True}),
    ("!poolused", "pool", {"sort": "tag"}),
    ("!pool ffff91894ed94d70", "pool", {"address": "ffff91894ed94d70"}),
    ("!vm 1", "vm", {"no-processes": True}),
    ("!memusage", "memusage", {}),
    ("!memusage 8", "memusage", {"summary": True}),
    (".enumtag", "info", {"tagged": True}),
    ("!object \\Driver", "object", {"path": "\\Driver"}),
    ("!handle", "object", {"handles": True}),
    ("!address nt", "address", {"address": "nt"}),
    ("!pte nt", "pte", {"address": "nt"}),
    ("!vtop nt", "pte", {"address": "nt", "vtop": True}),
    ("!dpcs", "cpu", {"dpcs": True}),
    ("!timer", "cpu", {"timers": True}),
    ("!qlocks", "cpu", {"spin-locks": True}),
    ("!analyze -hang", "hang", {}),
    ("!analyze -v -hang", "hang", {"verbose": True}),
    ("x nt!KeBug*", "symbols", {"match": "nt!KeBug*"}),
    ("ln nt!KeBugCheckEx+4", "symbols", {"near": "nt!KeBugCheckEx+4"}),
    ("!error c0000005", "error", {"code": ["c0000005"]}),
    ("!error 5 1", "error", {"code": ["5"], "status": True}),
    ("!sysinfo smbios", "smbios", {}),
]
#: How many lines a command shows before those of the plugin; and commands that show a part of its text.
PREFIXES = {".trap ffffd48f`77af97e0; kv": 11, ".thread ffff91895309d080; kn": 1, "!process 1e90 3": 1}
PARTS = ("!running -i", "!ready", "vertarget")
#: Modules of commands that have tests of their own for this.
ELSEWHERE = ("memory", "types", "symbols")
#: Commands that show what the plugin computes in another form, or on a dump that is not the sample.
WITHOUT_PAIR = {
    *(".cxr", ".ecxr", ".exr", "r", ".frame", "uf", "#", "kd", "??", "dx", "dtx"),
    *("!stacks", "!irql", "!devobj", "!chkimg"),
    *("!pcr", "!prcb", "!cpuinfo", "!errrec", "!token", "!vad"),
    # The sample has no work queues, no debug output, and no types of the cache.
    *("!exqueue", "!dbgprint", "!filecache"),
    *("!poaction", "!verifier", "!deadlock", "!vpb", "!ca", "!pfn", "!idt"),
    *("!peb", "!teb", "!dlls", "!gle"),
    # Types that the table of the sample does not have.
    *("!reg", "!job", "!alpc", "!lookaside", "!whea"),
    # No process of the sample has 32-bit code.
    *("!wow64exts.k", "!wow64exts.r"),
    *("version", ".time", ".lastevent", "!sysinfo", ".dumpdebug"),
}


@pytest.fixture
def plugin_lines(opened: Target, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], list[str]]:
    """``plugin_lines(name, options)``: KD's text of a plugin, as its renderer shows it."""
    monkeypatch.setattr(KdumpPlugin, "_open", lambda plugin: opened)
    return _plugin_lines


def _plugin_lines(name: str, options: dict[str, Any]) -> list[str]:
    module = importlib.import_module(f"volatility3.plugins.kdump.{name}")
    (plugin,) = (
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, KdumpPlugin) and found.__module__ == module.__name__
    )
    context = contexts.Context()
    path = f"plugins.{plugin.__name__}"
    for requirement in plugin.get_requirements():
        value = options.get(requirement.name, requirement.default)
        if value is not None:
            context.config[f"{path}.{requirement.name}"] = value
    return list(plugin(context, path).run().kd_lines())


@pytest.mark.parametrize(("command", "plugin", "options"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_same_text(
    command: str,
    plugin: str,
    options: dict[str, Any],
    plugin_lines: Callable[[str, dict[str, Any]], list[str]],
    session: Session,
) -> None:
    shown = list(execute(session, command))[PREFIXES.get(command, 0) :]
    expected = plugin_lines(plugin, options)
    assert shown
    if command in PARTS:
        start = expected.index(shown[0])
        assert expected[start : start + len(shown)] == shown
    else:
        assert shown == expected


def test_every_command_with_a_plugin_is_compared() -> None:
    compared = {command.split()[0] for pair in PAIRS for command in pair[0].split(";")} | WITHOUT_PAIR
    for name, entry in registry().items():
        if entry.plugin is not None and entry.function.__module__.rpartition(".")[2] not in ELSEWHERE:
            importlib.import_module(f"volatility3.plugins.kdump.{entry.plugin}")
            assert compared & {*entry.names, *(f"{known}vm" for known in entry.names)}, name
