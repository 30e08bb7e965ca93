"""What is observed on a machine that hangs: facts by subject, and whom each of them points at."""

from __future__ import annotations

from dataclasses import dataclass

from volatility3_kdump.findings.wait_chains import NamedWait
from volatility3_kdump.windows.stacks.frames import Stack

#: What the evidence is about, in the order in which it is shown.
BUG_CHECK = "bug check"
PROCESSORS = "processors"
SPIN_LOCKS = "spin locks"
READY = "ready threads"
LOCKS = "locks"
STUCK = "stuck threads"
REQUESTS = "requests"
WORKERS = "worker queues"
MEMORY = "memory"
TIMERS = "timers"
DPCS = "DPC queues"

SECOND = 10_000_000


@dataclass(frozen=True)
class Suspicion:
    """Whom a fact points at, and how strongly.

    ``who`` is in words (``the driver RtsPer.sys``), ``key`` what says that two suspicions are of the same: a module's
    base, an ETHREAD, or words. ``weight`` is from 0 to 100; :mod:`volatility3_kdump.analysis.hang.verdict` says what it
    means. ``module`` is the file name of the driver, ``thread`` the ETHREAD, where there is one.
    """

    who: str
    key: int | str
    why: str
    weight: int
    module: str | None = None
    thread: int | None = None


@dataclass(frozen=True)
class Evidence:
    """A fact in a sentence.

    ``thread`` is the ETHREAD, ``object`` the address of the lock, request, queue or timer, ``module`` the file name of
    the driver, ``processor`` the number of the processor that it is about. ``count`` is how many threads, requests or
    items, ``age`` how long it has been so at least, in 100 ns. ``details`` are what it is made of, a line each;
    ``waits`` who waits for whom; ``stack`` the stack that shows it, with ``threads`` that have it.
    """

    text: str
    thread: int | None = None
    object: int | None = None
    module: str | None = None
    processor: int | None = None
    count: int | None = None
    age: int | None = None
    details: tuple[str, ...] = ()
    waits: tuple[NamedWait, ...] = ()
    threads: tuple[int, ...] = ()
    stack: Stack | None = None
    suspicions: tuple[Suspicion, ...] = ()


@dataclass(frozen=True)
class Section:
    """The evidence on one subject; ``absent`` says why there can be none, ``notes`` what is not known beside it."""

    subject: str
    evidence: tuple[Evidence, ...] = ()
    absent: str | None = None
    notes: tuple[str, ...] = ()


def seconds(age: int | None) -> str:
    """A duration in words: ``12.3 s``, ``4 min 5 s``."""
    if age is None:
        return "an unknown time"
    if age < 60 * SECOND:
        return f"{age / SECOND:.1f} s"
    minutes, rest = divmod(age // SECOND, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, what: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
