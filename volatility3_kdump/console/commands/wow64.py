"""Commands on 32-bit programs of 64-bit Windows: the machine whose registers and stacks are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command, run
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, number, word
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.registers import register_block

_MACHINES = {"x64": "x64 (AMD64)", "x86": "x86 compatible (x86)", "arm64": "ARM 64-bit (AArch64) (arm64)"}


@command(
    ".effmach",
    help="shows or sets the machine whose registers and stacks are shown",
    arguments=(word("MACHINE", "x86 for a 32-bit program on 64-bit Windows; amd64, arm64, . or # for the dump's"),),
    examples=(Example(".effmach x86", "the 32-bit half of the current thread"), Example(".effmach .", "and back")),
)
def effective_machine(session: Session, arguments: Arguments) -> Iterable[str]:
    own = session.target.header.architecture
    accepted = {".", "#", own, {"x64": "amd64"}.get(own, own)}
    machine = (arguments.word("MACHINE") or "").lower()
    if machine == "x86" and own == "x64":
        session.current.choose_guest()
    elif machine and machine not in accepted:
        raise KdumpError(f"a dump of {own} cannot be seen as {machine}")
    elif machine and session.state.machine:
        session.current.choose_host()
    shown = session.state.machine or own
    yield f"Effective machine: {_MACHINES.get(shown, shown)}"


@command(
    "!wow64exts.sw",
    help="changes between the 64-bit and the 32-bit half of the current thread",
    examples=(Example("!wow64exts.sw; k", "its 32-bit stack"),),
)
def switch(session: Session, arguments: Arguments) -> Iterator[str]:
    if session.state.machine:
        session.current.choose_host()
        yield "Switched to Host mode"
    else:
        session.current.choose_guest()
        yield "Switched to Guest (WoW) mode"


@command(
    "!wow64exts.k",
    help="both halves of the current thread's stack",
    arguments=(number("COUNT", "the most frames"),),
    examples=(Example("!wow64exts.k"),),
    plugin="stack",
)
def both_stacks(session: Session, arguments: Arguments) -> Iterator[str]:
    """The 64-bit half is followed by the 32-bit one, whichever is current."""
    guest = session.state.machine is not None
    if guest:
        session.current.choose_host()
    try:
        count = arguments.number("COUNT")
        yield from run(session, "k" if count is None else f"k {count:x}")
    finally:
        if guest:
            session.current.choose_guest()


@command(
    "!wow64exts.r",
    help="the registers of the current thread's 32-bit half",
    examples=(Example("!wow64exts.r"),),
    plugin="trap",
)
def guest_registers(session: Session, arguments: Arguments) -> Iterator[str]:
    guest = session.state.machine is not None
    if not guest:
        session.current.choose_guest()
    try:
        context = session.current.registers
        yield from register_block(context) if context is not None else ()
    finally:
        if not guest:
            session.current.choose_host()
