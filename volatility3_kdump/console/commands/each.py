"""Commands for each frame of the stack, and for each register."""

from __future__ import annotations

import re
from collections.abc import Iterator

from volatility3_kdump.console.commands import Arguments, command, looping, run, without_quotes
from volatility3_kdump.console.commands.stacks import current_start
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, rest
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.stacks import row

_MOST_NESTED = 3
_ALIAS = re.compile(r"(?:\$\{)?@#(RegisterName|RegisterValue)\b\}?", re.IGNORECASE)
#: By architecture, in the order in which KD numbers registers.
_ORDER = {
    "x64": "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip eflags cs ds es fs gs ss",
    "x86": "gs fs es ds edi esi ebx edx ecx eax ebp eip cs eflags esp ss",
    "arm64": " ".join([*(f"x{number}" for number in range(29)), "fp lr sp pc cpsr"]),
}
_SHOWN = {"eflags": "efl"}


@command(
    "!for_each_frame",
    help="commands for each frame of the stack; @$frame is its number",
    arguments=(rest("COMMANDS", "without them the frames alone"),),
    examples=(Example("!for_each_frame .frame /r @$frame", "the registers of each frame"),),
)
def for_each_frame(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.windows.stacks.walker import walker

    body = without_quotes(arguments.text)
    target, state = session.target, session.state
    frames = walker(target).walk(current_start(session)).frames
    chosen = state.frame
    try:
        with looping(session, "!for_each_frame", _MOST_NESTED):
            for number, frame in enumerate(frames):
                yield row(frame, "k", target.memory.pointer_size)
                state.frame = number
                if body:
                    yield from run(session, body)
    finally:
        state.frame = chosen


@command(
    "!for_each_register",
    help="commands for each register that is known",
    options=(
        Option(
            "-c:", "commands, all of the rest; @#RegisterName and @#RegisterValue are the register's", value="COMMANDS"
        ),
    ),
    usage="-c:COMMANDS",
    own=True,
    examples=(Example("!for_each_register -c:!address ${@#RegisterValue}"),),
)
def for_each_register(session: Session, arguments: Arguments) -> Iterator[str]:
    typed = arguments.text.strip()
    if not typed:
        raise KdumpError("!for_each_register needs -c:COMMANDS (.help !for_each_register)")
    if not typed.startswith("-c:"):
        raise arguments.unknown(typed.split()[0])
    body = typed.removeprefix("-c:").strip().strip('"')
    context = session.current.registers
    if context is None:
        raise KdumpError("no registers: the dump holds none of this processor")
    unknown = []
    with looping(session, "!for_each_register", _MOST_NESTED):
        for name in _ORDER[context.architecture].split():
            value = context.get(name)
            if value is None:
                unknown.append(_SHOWN.get(name, name))
                continue
            yield from run(session, _filled(body, _SHOWN.get(name, name), value))
    if unknown:
        yield f"NOTE: not known: {' '.join(unknown)}"


def _filled(body: str, name: str, value: int) -> str:
    return _ALIAS.sub(lambda match: name if match[1].lower() == "registername" else f"0x{value:x}", body)
