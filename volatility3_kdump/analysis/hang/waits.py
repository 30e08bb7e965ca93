"""Who waits for whom, and for how long: deadlocks, those at the end of chains, and places where many threads stand."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from volatility3_kdump.analysis.hang.evidence import (
    LOCKS,
    SECOND,
    STUCK,
    Evidence,
    Section,
    Suspicion,
    counted,
    seconds,
)
from volatility3_kdump.analysis.hang.observed import Observed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.wait_chains import Deadlocks, name_wait
from volatility3_kdump.findings.waits import ALPC_WAIT, MUTANT_WAIT, RESOURCE_WAIT, Wait
from volatility3_kdump.windows.processes.threads import Thread
from volatility3_kdump.windows.stacks.frames import Frame, Stack

_SHORT, _LONG, _VERY_LONG = 4 * SECOND, 10 * SECOND, 60 * SECOND
_MOST_SHOWN = 16
#: Waits that end by somebody's doing soon on a healthy machine. A thread waits for the end of another one, or of a
#: process, for as long as that lives.
_LOCK_KINDS = (MUTANT_WAIT, RESOURCE_WAIT, ALPC_WAIT)
#: KWAIT_REASON of waits that are none for work: for memory, for pages, for locks.
_STUCK_REASONS = frozenset(
    "FreePage PageIn PoolAllocation WrFreePage WrPageIn WrPoolAllocation WrVirtualMemory WrPageOut WrResource "
    "WrPushLock WrMutex WrFastMutex WrGuardedMutex WrRundown WrProcessInSwap WrPhysicalFault WrMdlCache".split()
)
_EXECUTIVE = ("Executive", "WrExecutive")
#: Routines that wait or take a lock on behalf of whoever called them.
_WAIT_ROUTINES = re.compile(
    r"(Swap|Ki(Swap|Commit|Wait|Exit)|Ke(Wait|Delay|Acquire|Enter)|Kx|Ex[fp]?\w*(Acquire|Wait|Block)|Ob(p)?Wait"
    r"|Exp?Acquire|Exf|FsRtlAcquire|guard_dispatch)\w*"
)


# locks ----------------------------------------------------------------------------------------------------------------


def locks_section(observed: Observed) -> Section:
    """Deadlocks, and the threads that others wait for."""
    observed.require("wait chains")
    graph = observed.graph
    deadlocks = Deadlocks(graph.deadlocks)
    evidence = [_deadlock(observed, number, circle) for number, circle in enumerate(deadlocks.circles, 1)]
    in_circles = {wait.waiter for circle in deadlocks.circles for wait in circle}
    evidence += _blockers(observed, in_circles)
    return Section(LOCKS, tuple(evidence), notes=graph.problems)


def _deadlock(observed: Observed, number: int, circle: Sequence[Wait]) -> Evidence:
    """Threads that wait for each other in a circle: none of them can go on."""
    certain = all(wait.sure for wait in circle)
    members = [wait.waiter for wait in circle]
    behind = _behind(observed.graph.waits, set(members)) - set(members)
    ages = [age for age in (observed.thread(member).wait_time for member in members) if age is not None]
    # The circle is closed since its last wait began.
    age = min(ages) if len(ages) == len(members) else None
    sentence = f"deadlock {number}" if certain else f"possible deadlock {number} (a wait may end otherwise)"
    sentence += f": {counted(len(members), 'thread')} for {seconds(age)}"
    if behind:
        sentence += f", {counted(len(behind), 'more thread')} behind them"
    titles = " and ".join(observed.title(member) for member in members[:4])
    why = "they wait for each other and cannot go on" if certain else "they wait for each other, though not only"
    if behind:
        why += f"; {counted(len(behind), 'more thread')} {'waits' if len(behind) == 1 else 'wait'} for them"
    weight = (90 if certain else 45) + min(len(behind), 5)
    drivers = [observed.driver_on(observed.stack(member).frames) for member in members]
    modules = {driver.base: driver for driver in drivers if driver is not None}
    if len(modules) == 1:
        (driver,) = modules.values()
        suspicion = observed.suspect_driver(driver, f"the threads {titles} deadlock in it: {why}", weight, members[0])
    else:
        suspicion = Suspicion(f"the deadlock of {titles}", f"deadlock {number}", why, weight, None, members[0])
    waits = tuple(name_wait(observed.target, wait, number) for wait in circle)
    return Evidence(
        sentence,
        members[0],
        circle[0].object,
        count=len(members),
        age=age,
        waits=waits,
        threads=tuple(members),
        suspicions=(suspicion,),
    )


def _behind(waits: Iterable[Wait], roots: set[int]) -> set[int]:
    """Every thread that waits for one of some threads or processes, or for one that does."""
    waiting: dict[int, set[int]] = collections.defaultdict(set)
    for wait in waits:
        waiting[wait.holder or wait.process or 0].add(wait.waiter)
    reached: set[int] = set()
    left = list(roots)
    while left:
        for thread in waiting.get(left.pop(), ()):
            if thread not in reached:
                reached.add(thread)
                left.append(thread)
    return reached


def _blockers(observed: Observed, in_circles: set[int]) -> list[Evidence]:
    """Those at the end of a chain of waits, the one that most threads wait for first."""
    waits = [wait for wait in observed.graph.waits if wait.kind in _LOCK_KINDS]
    waiters = {wait.waiter for wait in waits}
    ends = {
        wait.holder or wait.process or 0
        for wait in waits
        if (wait.holder or wait.process or 0) not in waiters and (wait.holder or 0) not in in_circles
    }
    evidence = [_blocker(observed, end, waits) for end in ends if end]
    return sorted(evidence, key=lambda fact: (-(fact.count or 0), -(fact.age or 0)))


def _blocker(observed: Observed, end: int, waits: Sequence[Wait]) -> Evidence:
    behind = _behind(waits, {end})
    chain = [wait for wait in waits if wait.waiter in behind]
    age = max((observed.thread(thread).wait_time or 0 for thread in behind), default=0) or None
    direct = [wait for wait in chain if (wait.holder or wait.process) == end]
    named = tuple(name_wait(observed.target, wait) for wait in chain[:_MOST_SHOWN])
    process = all(wait.holder is None for wait in direct)
    who = name_wait(observed.target, direct[0]).holder
    one = len(behind) == 1
    sentence = f"{counted(len(behind), 'thread')} {'waits' if one else 'wait'} for {who}, "
    sentence += f"{'' if one else 'the longest '}for {seconds(age)}"
    if not process:
        sentence += f"; {who} {_does(observed, observed.thread(end))}"
    suspicions = []
    if age is not None and age >= _SHORT and (len(behind) > 1 or any(wait.kind != ALPC_WAIT for wait in direct)):
        weight = 20 + min(30, 8 * len(behind)) + (12 if age >= _LONG else 0) + (8 if age >= _VERY_LONG else 0)
        if all(wait.kind == ALPC_WAIT for wait in chain):
            # Servers keep calls of their clients on purpose.
            weight //= 2
        why = f"{counted(len(behind), 'thread')} {'waits' if one else 'wait'} for it, for up to {seconds(age)}"
        suspicions.append(_end_of_chain(observed, end, who, why, weight, process))
    return Evidence(
        sentence,
        None if process else end,
        direct[0].object,
        count=len(behind),
        age=age,
        waits=named,
        threads=tuple(sorted(behind)),
        stack=None if process else observed.stack(end),
        suspicions=tuple(suspicions),
    )


def _end_of_chain(observed: Observed, end: int, who: str, why: str, weight: int, process: bool) -> Suspicion:
    """Whom the end of a chain points at: the driver that has the thread's request, the one on its stack, the thread."""
    if process:
        return Suspicion(f"the process {who}", end, why, weight)
    for request in observed.requests_of(end):
        module = observed.holder_module(request)
        if module is not None:
            why = why.replace(" for it,", f" for {who},")
            reason = f"{why}; {who} waits for the request {request.address:x}, which this driver has"
            return observed.suspect_driver(module, reason, weight, end)
    return observed.suspect_thread(end, why.replace(" for it,", f" for {who},"), weight)


def _does(observed: Observed, thread: Thread) -> str:
    """What a thread does, that others wait for."""
    state = (thread.state_name or "is not in the dump").lower()
    if state == "waiting":
        return f"waits itself ({thread.wait_reason_name or '?'}) since {seconds(thread.wait_time)}"
    if state == "running":
        return f"runs on processor {thread.processor}"
    return f"is {state}"


# threads in one place -------------------------------------------------------------------------------------------------


def stuck_section(observed: Observed) -> Section:
    """Threads that wait for memory, a lock or a request, grouped by equal stacks."""
    observed.require("threads")
    groups: dict[tuple[Any, ...], list[tuple[Thread, Stack]]] = {}
    others = 0
    unknown = collections.Counter[str]()
    for thread, stack in observed.stacks_of_waiting():
        if not _is_stuck(observed, thread):
            others += 1
            continue
        sites = tuple(frame.ip for frame in stack.frames if observed.target.is_kernel_address(frame.ip))
        if not sites:
            unknown[stack.end] += 1
        groups.setdefault(sites or (stack.end,), []).append((thread, stack))
    ordered = sorted(groups.values(), key=lambda group: (-len(group), group[0][0].address))
    evidence = [_group(observed, group) for group in ordered]
    notes = (
        [f"{counted(others, 'thread')} {'waits' if others == 1 else 'wait'} for work, as is usual"] if others else []
    )
    notes += [f"the stacks of {counted(count, 'of them')} are not known: {why}" for why, count in unknown.items()]
    if len(evidence) > _MOST_SHOWN:
        notes.append(f"{len(evidence) - _MOST_SHOWN} more places, with fewer threads")
    return Section(STUCK, tuple(evidence[:_MOST_SHOWN]), notes=tuple(notes))


def _is_stuck(observed: Observed, thread: Thread) -> bool:
    if thread.wait_reason_name in _STUCK_REASONS:
        return True
    return thread.wait_reason_name in _EXECUTIVE and thread.wait_mode == 0 and bool(thread.irps)


def _group(observed: Observed, group: Sequence[tuple[Thread, Stack]]) -> Evidence:
    thread, stack = group[0]
    age = max((member.wait_time or 0 for member, _ in group), default=0) or None
    place = next(_callers(stack), None)
    name = str(place.name) if place is not None and place.name is not None else None
    reason = thread.wait_reason_name
    sentence = f"{counted(len(group), 'thread')} in {name or 'a place without a name'} ({reason}), for {seconds(age)}"
    suspicions = []
    # Whoever waits for a known thread is told of by its chain.
    unexplained = not any(observed.graph.of(member.address) for member, _ in group)
    if len(group) >= 3 and age is not None and age >= _LONG and unexplained:
        weight = 35 + min(15, 2 * len(group))
        why = f"{len(group)} threads stand in one place, for up to {seconds(age)}"
        driver = observed.driver_on(stack.frames)
        if driver is not None:
            suspicions.append(observed.suspect_driver(driver, why, weight, thread.address))
        elif name is not None:
            suspicions.append(Suspicion(f"what {name} waits for", name, why, weight, None, thread.address))
    return Evidence(
        sentence,
        thread.address,
        count=len(group),
        age=age,
        threads=tuple(member.address for member, _ in group),
        stack=stack,
        suspicions=tuple(suspicions),
    )


def _callers(stack: Stack) -> Iterator[Frame]:
    """The frames below those that only wait."""
    for frame in stack.frames:
        name = frame.name
        if name is None or name.module != "nt" or not _WAIT_ROUTINES.match(name.symbol or ""):
            yield frame


# threads of a queue that all stand in one place -----------------------------------------------------------------------


def place_of(stack: Stack) -> str | None:
    """The name of the place where a thread waits."""
    frame = next(_callers(stack), None)
    return str(frame.name) if frame is not None and frame.name is not None else None


def end_of(observed: Observed, thread: int) -> int:
    """The thread that everything waits for that a thread waits for; itself where that is nobody's."""
    try:
        chain = observed.graph.chain(thread)
    except KdumpError:
        return thread
    holders = [wait.holder for wait in chain if wait.kind in _LOCK_KINDS and wait.holder is not None]
    return holders[-1] if holders else thread
