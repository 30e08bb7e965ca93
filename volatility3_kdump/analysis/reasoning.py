"""What the arguments of a bug check say: one rule for each code, registered with :func:`rule`.

A rule reads what the arguments point at and returns a :class:`Reasoning`. Rules live in
:mod:`volatility3_kdump.analysis.rules`, one module a theme. :func:`reason` runs the rule of a code; whatever goes wrong
in it becomes a note, so that a damaged dump costs one rule and not the analysis.
"""

from __future__ import annotations

import enum
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.failure import Failure
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.memory import sign_extended

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LOG = logging.getLogger(__name__)
#: What reading structures out of a damaged dump can raise.
_FAILURES: tuple[type[Exception], ...] = (KdumpError, struct.error, ArithmeticError, LookupError, ValueError)
#: What only a mistake in a rule raises. An analysis goes on without the rule; the tests let these through.
MISTAKES: tuple[type[Exception], ...] = (TypeError, AttributeError, NameError, RecursionError)


@dataclass(frozen=True)
class Finding:
    """One fact. ``tag`` is the debugger's field name where it has one (``READ_ADDRESS``, ``DPC_TIMEOUT_TYPE``), else
    our own in capitals. ``value`` is text for a reader, ``address`` the number behind it where there is one, ``note``
    what else is known, or why the value is missing."""

    tag: str
    value: str
    address: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Culprit:
    """A component that the arguments themselves name, which is stronger than a walk of the stack.

    ``image_name`` is the file (``usbhub.sys``), ``module_name`` the debugger's name, ``address`` where in it, each
    ``None`` if not known; ``why`` is a sentence without a full stop.
    """

    image_name: str | None
    module_name: str | None
    address: int | None
    why: str


class Topic(enum.Enum):
    """What a sentence is about, where other evidence can refute it or say the same."""

    ACCESS = enum.auto()
    """Who accessed which address, and what lies there."""
    FETCH = enum.auto()
    """From where the processor wanted to execute."""
    REPORTED = enum.auto()
    """The access that the processor reported, and that the instruction does not make."""
    NO_ADDRESS = enum.auto()
    """That the processor reported no address."""
    OPERAND = enum.auto()
    """The same, with what the instruction would have accessed."""
    UNMAPPED = enum.auto()
    """That no memory is mapped at the address."""
    POINTER = enum.auto()
    """Where the instruction pointer leads."""
    CODE = enum.auto()
    """Why the code was not in memory."""
    WRITER = enum.auto()
    """Where the instruction is that a trap frame was kept of."""
    UNLOADED = enum.auto()
    """That a driver was unloaded too early."""
    ARGUMENT = enum.auto()
    """That an argument of the bug check does not agree with what it names."""


class Sentence(str):
    """A sentence or a note, which is shown as it is; ``topic`` is what it is about, where that matters."""

    __slots__ = ("topic",)
    topic: Topic | None

    def __new__(cls, text: str, topic: Topic | None = None) -> Sentence:
        sentence = super().__new__(cls, text)
        sentence.topic = topic
        return sentence


def topic_of(sentence: str) -> Topic | None:
    """What a sentence or a note is about, where its rule said so."""
    return sentence.topic if isinstance(sentence, Sentence) else None


def contradicted(note: str) -> Sentence:
    """A note on an argument of the bug check that does not agree with what it names."""
    return Sentence(note, Topic.ARGUMENT)


@dataclass(frozen=True)
class Reasoning:
    """What a rule found.

    ``sentences`` are for the analyst, each a full sentence, a :class:`Sentence` where its topic counts; ``notes`` are
    contradictions and failures of consistency. ``specifiers`` are the words between prefix and module in the bucket,
    ``prefix`` its prefix when it is not the default. ``thread`` is the ETHREAD whose stack is to be shown in place of
    the crashing one, ``process`` the EPROCESS that the crash is about. ``uncertain`` says why the stack may show
    nothing of the reason. ``by_name`` says that the culprit goes before the stack, whatever the table says of the
    code.
    """

    findings: tuple[Finding, ...] = ()
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    specifiers: tuple[str, ...] = ()
    prefix: str | None = None
    culprit: Culprit | None = None
    thread: int | None = None
    process: int | None = None
    uncertain: str | None = None
    by_name: bool = False

    def __add__(self, other: Reasoning) -> Reasoning:
        """Both: tuples joined without repetition, single values from the left where it has them."""
        return Reasoning(
            _joined(self.findings, other.findings),
            _joined(self.sentences, other.sentences),
            _joined(self.notes, other.notes),
            self.specifiers or other.specifiers,
            self.prefix if self.prefix is not None else other.prefix,
            self.culprit if self.culprit is not None else other.culprit,
            self.thread if self.thread is not None else other.thread,
            self.process if self.process is not None else other.process,
            self.uncertain if self.uncertain is not None else other.uncertain,
            self.by_name or other.by_name,
        )

    def finding(self, tag: str) -> Finding | None:
        """The first finding with a tag."""
        return next((finding for finding in self.findings if finding.tag == tag), None)


@dataclass(frozen=True)
class Case:
    """What a rule is given."""

    target: Target
    bug_check: BugCheck
    failure: Failure | None

    def argument(self, number: int) -> int | None:
        """Argument 1 to 4 as the target's pointer width has it; ``None`` when it was never set."""
        value = self.bug_check.arguments[number - 1].value
        return None if value is None else value & ((1 << 8 * self.target.memory.pointer_size) - 1)

    def pointer(self, number: int) -> int | None:
        """Argument 1 to 4 as an address, sign-extended on 32-bit targets; ``None`` when never set or zero."""
        value = self.argument(number)
        return None if value is None else sign_extended(value, self.target.memory.pointer_size) or None

    def differ(self, place: int | None, other: int | None) -> bool:
        """Whether two addresses are known and not the same, with their sign extension or without."""
        mask = (1 << 8 * self.target.memory.pointer_size) - 1
        return place is not None and other is not None and place & mask != other & mask


Rule = Callable[[Case], Reasoning]

#: Bug check code (without the minidump bit) to its rule.
RULES: dict[int, Rule] = {}


def rule(*codes: int) -> Callable[[Rule], Rule]:
    """Register a function as the rule of bug check codes."""

    def register(function: Rule) -> Rule:
        for code in codes:
            if code in RULES:
                raise ValueError(f"two rules for bug check {code:#x}")
            RULES[code] = function
        return function

    return register


def attempt(step: Callable[[], Reasoning], subject: str) -> Reasoning:
    """Run one step of a rule. What it raises becomes a note: ``the analysis of SUBJECT stopped: ...``."""
    try:
        return step()
    except _FAILURES + MISTAKES as error:
        _LOG.debug("the analysis of %s stopped", subject, exc_info=True)
        return Reasoning(notes=(f"the analysis of {subject} stopped: {_one_line(error)}",))


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    if isinstance(error, KdumpError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _joined(left: tuple, right: tuple) -> tuple:  # type: ignore[type-arg]
    return left + tuple(entry for entry in right if entry not in left)
