"""The switches of KD's command line that mean nothing for a dump: they are taken, and said to do nothing."""

from __future__ import annotations

from collections.abc import Sequence

#: What each does in the debugger, or why it does nothing here, and whether a value follows.
_NOTHING = {
    "-noio": ("there is always input and output", False),
    "-noshell": ("no other programs are ever run", False),
    "-nosqm": ("nothing is ever reported", False),
    "-noinh": ("no process is started", False),
    "-s": ("symbols are always read when they are needed", False),
    "-sdce": ("no dialogs are shown", False),
    "-sicv": ("symbols that do not fit are never used", False),
    "-sup": ("all symbols are searched", False),
    "-snul": ("names without a module are always looked for", False),
    "-snc": ("C++ names are shown as the symbols have them", False),
    "-sins": ("_NT_SYMBOL_PATH is read where -y is not given", False),
    "-ses": ("symbols that do not fit are never used", False),
    "-sflags": ("symbol options are fixed", True),
    "-failinc": ("symbols that do not fit are never used", False),
    "-secure": ("no other programs are run, and nothing is written but the log", False),
    "-clines": ("the history of a session is whole", True),
    "-b": ("a dump does not run", False),
    "-bonc": ("a dump does not run", False),
    "-d": ("a dump does not run", False),
    "-x": ("a dump does not run", False),
    "-m": ("there is no modem", False),
    "-r": ("there is no register display to turn on", False),
    "-t": ("errors are always shown", False),
    "-w": ("there are no 16-bit programs", False),
    "-W": ("there are no workspaces", True),
    "-WF": ("there are no workspaces", True),
    "-WX": ("there are no workspaces", False),
    "-Q": ("there are no workspaces", False),
    "-QY": ("there are no workspaces", False),
    "-QS": ("there are no workspaces", False),
    "-QSY": ("there are no workspaces", False),
    "-g": ("a dump does not run", False),
    "-G": ("a dump does not run", False),
    "-myob": ("there is one version of everything", False),
    "-ee": ("expressions are those of MASM; ?? takes those of C++", True),
    "-a": ("extensions are built in", True),
    "-k": ("a kernel that runs is not debugged: -z opens a dump", True),
    "-kl": ("a kernel that runs is not debugged: -z opens a dump", False),
    "-kqm": ("a kernel that runs is not debugged", False),
    "-kx": ("a kernel that runs is not debugged", True),
    "-server": ("nobody can connect", True),
    "-remote": ("no other debugger is connected to", True),
    "-premote": ("no other debugger is connected to", True),
    "-wake": ("no other debugger is connected to", True),
    "-netsyms:yes": ("symbol servers are asked unless --offline is given", False),
    "-iu": ("there are no protocols to register", True),
    "-cimp": ("there is no import of a command line", False),
}
#: Our switches behind which a value stands.
_VALUES = (
    *("-z", "-y", "-i", "-c", "-cf", "-logo", "-loga", "-logau", "-logou"),
    *("--member", "--isf-dir", "--isf-file", "--kernel"),
)


def without_meaning(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the arguments that mean something here, a warning for each of the others)."""
    kept: list[str] = []
    warnings: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument in _VALUES:
            kept += [argument, *left[:1]]
            left = left[1:]
            continue
        meaning, takes_value = _NOTHING.get(argument, ("", False))
        if not meaning:
            kept.append(argument)
            continue
        if takes_value and left and not left[0].startswith("-"):
            left.pop(0)
        warnings.append(f"WARNING: {argument} changes nothing: {meaning}")
    return kept, warnings
