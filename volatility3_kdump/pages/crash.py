"""The page of one crash."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from volatility3_kdump.analysis.crash import Crash
from volatility3_kdump.findings.wait_chains import WaitChains
from volatility3_kdump.pages import drawing, facts
from volatility3_kdump.pages.rendering import render
from volatility3_kdump.text.times import session_time, uptime
from volatility3_kdump.views.report import report
from volatility3_kdump.windows.memory.memory_counters import PAGE_SIZE

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: What a page shows of long lists; it says how many there are.
MOST_PROCESSES, MOST_EVENTS, MOST_WAITS, MOST_FRAMES = 20, 14, 60, 120
_ORDER = (
    "rax rbx rcx rdx rsi rdi rip rsp rbp r8 r9 r10 r11 r12 r13 r14 r15",
    "eax ebx ecx edx esi edi eip esp ebp",
    " ".join(f"x{number}" for number in range(29)) + " fp lr sp pc",
)
_KINDS = {
    1: "complete memory dump",
    2: "kernel memory dump",
    4: "small memory dump",
    5: "complete bitmap dump",
    6: "kernel bitmap dump",
    8: "range dump",
    9: "range dump with user memory",
    10: "complete range dump",
}


def crash_page(target: Target, crash: Crash) -> str:
    """The page of an analysed crash."""
    document = report(target, crash)
    processes = facts.known(target, lambda: facts.listed_processes(target))
    happened = facts.known(target, lambda: facts.events(target, processes))
    loaded = facts.known(target, lambda: facts.drivers(target, crash))
    chains = facts.known(target, lambda: facts.waits(target, processes))
    memory = facts.known(target, lambda: facts.memory(target))
    code = facts.known(target, lambda: facts.code(target, crash))
    return render(
        "crash.html",
        document=document,
        kind=_KINDS.get(target.header.dump_type or 0, "crash dump"),
        when=session_time(target.header.system_time),
        uptime=uptime(target.header.system_up_time),
        frames=document["stack"]["frames"][:MOST_FRAMES],
        frame_words=_frame_words(crash),
        registers=_registers(document),
        code=code,
        absent=facts.Absent,
        events=happened,
        line=None if isinstance(happened, facts.Absent) else drawing.time_line(happened),
        last_events=[] if isinstance(happened, facts.Absent) else happened[-MOST_EVENTS:],
        processes=processes if isinstance(processes, facts.Absent) else facts.process_uses(crash, processes),
        most_processes=MOST_PROCESSES,
        page_size=PAGE_SIZE,
        memory=memory,
        waits=chains,
        most_waits=MOST_WAITS,
        graph=None if isinstance(chains, facts.Absent) else drawing.wait_graph(chains.waits),
        circles=[] if isinstance(chains, facts.Absent) else _circles(chains),
        drivers=loaded,
        vendors=_vendors(loaded),
        unloaded=[(module, session_time(module.time)) for module in target.unloaded_modules],
        lacks=_lacks(document, (processes, happened, loaded, chains, memory)),
    )


def _frame_words(crash: Crash) -> str:
    """What the frame of the verdict is: where arguments or hardware are blamed, the crash only showed there."""
    number, frames = crash.verdict.frame, crash.stack.frames
    name = frames[number].name if number is not None and number < len(frames) else None
    return "held responsible" if name is not None and facts.is_suspect(crash, name.module) else "where it showed"


def _registers(document: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(name, value, whether it was recovered) of each register, as far as they are those of a fault."""
    failure = document["failure"]
    if failure is None or not failure["at_fault"]:
        return []
    recovered, registers = set(failure["recovered_registers"]), failure["registers"]
    # As the debugger orders them; what is only in records comes last.
    ordered = [name for row in _ORDER for name in row.split() if name in registers]
    return [(name, registers[name], name in recovered) for name in dict.fromkeys((*ordered, *registers))]


def _circles(chains: WaitChains) -> list[tuple[int, bool, list[str]]]:
    """(number, whether it is certain, who is in it) of each deadlock."""
    return [
        (number, all(named.wait.sure for named in circle), [named.waiter for named in circle])
        for number, circle in chains.deadlocks
    ]


def _vendors(loaded: list[facts.Driver] | facts.Absent) -> list[tuple[str, list[facts.Driver]]]:
    """The drivers of each vendor, third parties first; by company where their resources say one."""
    if isinstance(loaded, facts.Absent):
        return []
    groups: dict[tuple[bool, str], list[facts.Driver]] = collections.defaultdict(list)
    for driver in loaded:
        groups[
            not driver.third_party, driver.company if driver.third_party and driver.company else driver.vendor
        ].append(driver)
    return [
        (vendor, sorted(drivers, key=lambda driver: (not driver.notable, driver.image.lower())))
        for (_, vendor), drivers in sorted(groups.items(), key=lambda entry: (entry[0][0], -len(entry[1]), entry[0][1]))
    ]


def _lacks(document: dict[str, Any], parts: tuple[object, ...]) -> list[str]:
    """What the dump does not hold, one line each."""
    lacking = []
    pages = document["dump"]["pages"]
    if pages is None:
        lacking.append("A small memory dump holds the crash, one thread and one process; other memory is not in it.")
    elif pages["present"] < pages["declared"]:
        missing = pages["declared"] - pages["present"]
        lacking.append(f"{missing:,} of {pages['declared']:,} pages that the dump declares are not in the file.")
    symbols = document["symbols"]
    if not symbols["loaded"]:
        lacking.append(f"The kernel has no names here: {symbols['status']}.")
    if symbols["remedy"]:
        lacking.append(symbols["remedy"])
    lacking += [part.reason for part in parts if isinstance(part, facts.Absent)]
    return list(dict.fromkeys([*lacking, *document["warnings"]]))
