"""``!for_each_function``: commands for each function whose name fits a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator

from volatility3_kdump.console.commands import Arguments, command, looping, run
from volatility3_kdump.console.script import marked, unmarked
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.errors import KdumpError

_MOST_NESTED = 3
_OPTION = re.compile(r"-([mp]):(\S*)\s*|-c:(.*)$", re.DOTALL)
_ALIAS = re.compile(r"(?:\$\{)?@#(SymbolName|SymbolAddress|ModName|FunctionName)\b\}?", re.IGNORECASE)
_PATH = re.compile(r"[/\\]")


@command(
    "!for_each_function",
    help="commands for each function whose name fits a pattern",
    usage="-m:MODULE -p:PATTERN -c:COMMANDS",
    own=True,
    options=(
        Option("-m:", "the module, or a pattern of modules", value="MODULE"),
        Option("-p:", "what the function's name fits", value="PATTERN"),
        Option(
            "-c:",
            "commands, all of the rest; @#FunctionName, @#SymbolName, @#SymbolAddress and @#ModName are the function's",
            value="COMMANDS",
        ),
    ),
    examples=(Example("!for_each_function -m:pci -p:*read* -c:.echo @#FunctionName"),),
)
def for_each_function(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.symbols.listing import matching

    given: dict[str, str] = {}
    remaining = arguments.text
    while remaining:
        match = _OPTION.match(remaining)
        if match is None:
            raise arguments.unknown(remaining.split()[0])
        given[match[1] or "c"] = unmarked(match[2]).strip() if match[1] else match[3].strip()
        remaining = remaining[match.end() :]
    missing = [f"-{letter}:" for letter in "mpc" if not given.get(letter)]
    if missing:
        raise KdumpError(f"!for_each_function needs {missing[0]} (.help !for_each_function)")
    with looping(session, "!for_each_function", _MOST_NESTED):
        for symbol in matching(session.target.names, f"{given['m']}!{given['p']}"):
            if symbol.code:
                values = {
                    "symbolname": str(symbol),
                    "symboladdress": f"0x{symbol.address:x}",
                    "modname": symbol.module,
                    "functionname": symbol.name,
                }
                yield from run(session, _filled(given["c"], values))


def _filled(commands: str, values: dict[str, str]) -> str:
    """Names come from symbols of strangers: they become no commands, nor paths."""
    return _ALIAS.sub(lambda match: _PATH.sub("_", marked(values[match[1].lower()])), commands)
