"""``!reg``: the registry as far as the dump holds it."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, joined, rest, word
from volatility3_kdump.errors import KdumpError

_SHOWN = (
    *("hivelist", "querykey", "q", "keyinfo", "valuelist", "subkeylist", "knode", "kvalue", "kcb"),
    *("openkeys", "findkcb", "cellindex"),
)
#: What KD has beside that, and why it is not there.
_NOT_SHOWN = {
    "viewlist": "kernels since Windows 8 map no views of hives",
    "dumppool": "!poolfind CM* shows the registry's blocks of pool",
    "kbody": "dt nt!_CM_KEY_BODY ADDRESS shows it",
    "baseblock": "dt nt!_HBASE_BLOCK shows it: its address is in !reg hivelist",
    "openhandles": "!object 0 Key lists the keys that handles lead to",
    "seccache": "!sd shows a security descriptor",
    "convkey": "!reg findkcb finds a key by its path",
    "hashindex": "!reg openkeys shows the entries of the hash table",
    **dict.fromkeys(
        ("freebins", "freecells", "dirtyvector", "freehints", "translist", "uowlist", "locktable", "postblocklist"),
        "it is not shown here: dt shows the structures",
    ),
    **dict.fromkeys(("notifylist", "ixlock"), "it is not shown here: dt shows the structures"),
}


@command(
    "!reg",
    help="the registry: hives, keys, values, open keys",
    arguments=(
        word("WHAT", joined(_SHOWN), required=True),
        rest("OPERANDS", "a path, or the addresses of a hive and of a key node"),
    ),
    examples=(
        Example("!reg hivelist"),
        Example("!reg q \\REGISTRY\\MACHINE\\SYSTEM\\Select"),
        Example("!reg openkeys 0", "of every hive"),
    ),
    plugin="registry",
)
def registry(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views import registry as view

    target, what = session.target, (arguments.word("WHAT") or "").lower()
    typed = (arguments.word("OPERANDS") or "").strip()
    if what in _NOT_SHOWN:
        raise KdumpError(f"!reg {what}: {_NOT_SHOWN[what]}")
    if what not in _SHOWN:
        raise KdumpError(f"!reg takes {joined(_SHOWN)}, not {what}")
    if what == "hivelist":
        return view.hives_grid(target).kd_lines()
    if what in ("querykey", "q", "findkcb"):
        if not typed:
            raise KdumpError(f"!reg {what} needs the path of a key")
        path = typed.strip('"')
        return view.key_grid(target, path).kd_lines() if what != "findkcb" else view.control_block_lines(target, path)
    numbers = [session.evaluate(part) for part in typed.split()]
    needed = 2 if what in ("keyinfo", "valuelist", "subkeylist", "cellindex") else 1
    if len(numbers) != needed:
        raise KdumpError(f"!reg {what} needs {'a hive and a key node or cell' if needed == 2 else 'one address'}")
    if what == "openkeys":
        return view.open_keys_grid(target, numbers[0]).kd_lines()
    if what == "kcb":
        return view.control_block_lines(target, numbers[0])
    if what in ("knode", "kvalue"):
        return view.node_text(target, numbers[0], what == "kvalue")
    if what == "cellindex":
        return [view.cell_line(target, *numbers)]
    if what == "keyinfo":
        return view.node_grid(target, *numbers).kd_lines()
    return (view.value_list_lines if what == "valuelist" else view.subkey_lines)(target, *numbers)
