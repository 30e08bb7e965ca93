"""Who owns a function, for the choice of the culprit: the rules of ``symbols/kdump/triage.ini`` and a user's own.

The syntax is that of the debugger's triage.ini ("Specifying Module and Function Owners" in Microsoft's debugger
documentation): ``module!function=owner`` or ``module=owner``, with ``*`` at the end of either name, ``default=owner``
for whatever no other line fits, and ``;`` before a comment. An owner called ``ignore`` takes a frame out of the choice;
the prefixes ``maybe_`` and ``last_`` make an owner give way to others. Names are compared without regard to case.

The owner ``Pool_corruption`` stands for damage of pool, which a function only met. Two things are our own: the owner
``microsoft`` marks components of Windows, and ``last_ignore`` (or, before an owner,
``last_ignore_``) frames that are chosen only when there is nothing else at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from volatility3_kdump import tables
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import FileFailure, read_bytes

#: Strengths of an owner, weakest first. A stronger one anywhere on the stack beats a weaker one above it.
IGNORE, LAST_IGNORE, LAST, MAYBE, PLAIN = "ignore", "last_ignore", "last", "maybe", "plain"
RANKS = {IGNORE: 0, LAST_IGNORE: 1, LAST: 2, MAYBE: 3, PLAIN: 4}

MICROSOFT = "microsoft"
#: Functions of the kernel that meet damage of pool: the debugger names this in place of module and file.
POOL_CORRUPTION = "Pool_Corruption"
#: What the debugger prints as the follow-up where no rule names anyone.
DEFAULT_OWNER = "MachineOwner"
SHIPPED = "triage.ini"

_LARGEST_FILE = 16 << 20
_MOST_PROBLEMS = 100
_PREFIXES = {"last_ignore_": LAST_IGNORE, "last_": LAST, "maybe_": MAYBE}
_MODULE = re.compile(r"[^\s!*;]*\*?")
_FUNCTION = re.compile(r"[^*]*\*?")
_OWNER = re.compile(r"[^\s=!*;]+")
_COMMENT = re.compile(r"(?:^|\s);.*")


class Ownership(NamedTuple):
    """Who owns a frame: the owner's name without prefix, its strength, and text and place of the rule that says so."""

    owner: str
    strength: str
    rule: str
    source: str

    @property
    def microsoft(self) -> bool:
        """Whether the frame belongs to a component of Windows."""
        return self.owner.lower() == MICROSOFT or self.pool_corruption

    @property
    def pool_corruption(self) -> bool:
        """Whether the frame only met damage of pool that somebody else did."""
        return self.owner.lower() == POOL_CORRUPTION.lower()


@dataclass(frozen=True)
class OwnerRule:
    """One line. ``module`` and ``function`` are in lower case and without their ``*``; ``*_exact`` says whether one
    was absent. ``line`` counts from one."""

    module: str
    module_exact: bool
    function: str
    function_exact: bool
    ownership: Ownership
    line: int

    def fits(self, module: str, function: str | None) -> bool:
        """Whether the rule speaks of a function; ``None`` is one whose name is not known."""
        if self.module != module if self.module_exact else not module.startswith(self.module):
            return False
        if self.function_exact:
            return function == self.function
        return not self.function if function is None else function.startswith(self.function)

    @property
    def key(self) -> tuple[str, bool, str, bool]:
        """What the rule speaks of: a later rule with the same key replaces it."""
        return self.module, self.module_exact, self.function, self.function_exact

    @property
    def specificity(self) -> tuple[bool, int, bool, int]:
        """Higher is more specific: the module decides before the function, an exact name before a longer pattern."""
        return self.module_exact, len(self.module), self.function_exact, len(self.function)


class OwnerRules:
    """A set of rules.

    ``problems`` names the lines that could not be understood, one sentence each; such lines are left out.
    """

    def __init__(self, rules: Iterable[OwnerRule], problems: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        chosen = {rule.key: rule for rule in rules}
        ordered = sorted(chosen.values(), key=lambda rule: rule.specificity, reverse=True)
        self._exact: dict[str, list[OwnerRule]] = {}
        self._wild: list[OwnerRule] = []
        for rule in ordered:
            if rule.module_exact:
                self._exact.setdefault(rule.module, []).append(rule)
            else:
                self._wild.append(rule)

    @classmethod
    def load(cls, path: str | Path | None = None) -> OwnerRules:
        """The shipped rules, and over them those of a user's file: a line there replaces the shipped one for the same
        pattern. Raises :class:`KdumpError` when the user's file cannot be read."""
        rules, problems = _shipped()
        if path is None:
            return cls(rules, problems)
        own, own_problems = parse(_text(Path(path)), str(path))
        return cls([*rules, *own], [*problems, *own_problems])

    @classmethod
    def of_text(cls, text: str, source: str = "rules") -> OwnerRules:
        """Only the rules of a text."""
        return cls(*parse(text, source))

    def owner(self, module: str, function: str | None) -> Ownership:
        """Who owns a function of a module; the function is ``None`` where the module has no symbols.

        The most specific rule wins, first by module, then by function.
        """
        module = module.lower()
        function = None if function is None else function.lower()
        for rule in self._exact.get(module, ()):
            if rule.fits(module, function):
                return rule.ownership
        for rule in self._wild:
            if rule.fits(module, function):
                return rule.ownership
        return Ownership(DEFAULT_OWNER, PLAIN, f"default={DEFAULT_OWNER}", "built in")


def parse(text: str, source: str) -> tuple[list[OwnerRule], list[str]]:
    """The rules of a text in order, and a sentence for each line that is not one."""
    rules: list[OwnerRule] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        content = _COMMENT.sub("", line).strip()
        if not content:
            continue
        rule = _rule(content, number, source)
        if isinstance(rule, OwnerRule):
            rules.append(rule)
        elif len(problems) < _MOST_PROBLEMS:
            problems.append(f"{source}, line {number}: {rule}; the line is ignored")
    return rules, problems


def _rule(content: str, line: int, source: str) -> OwnerRule | str:
    """A line as a rule, or what is wrong with it."""
    if content.startswith("+"):
        return "files are not included from others"
    # A function may have "=" in its name (operator==), an owner may not.
    pattern, equals, owner = (part.strip() for part in content.rpartition("="))
    if not equals:
        return "there is no '='"
    if not _OWNER.fullmatch(owner):
        return "the owner is not one word" if owner else "there is no owner"
    module, has_function, function = (part.strip().lower() for part in pattern.partition("!"))
    if module == "default" and not has_function:
        module = "*"
    if not module or (has_function and not function):
        return "a name is missing before the '='"
    if not _MODULE.fullmatch(module) or not _FUNCTION.fullmatch(function):
        return "a '*' may only stand at the end of a name, and a module has no spaces in its name"
    function = function or "*"
    return OwnerRule(
        module.rstrip("*"),
        not module.endswith("*"),
        function.rstrip("*"),
        not function.endswith("*"),
        _ownership(owner, content, f"{source}, line {line}"),
        line,
    )


def _ownership(owner: str, rule: str, source: str) -> Ownership:
    lowered = owner.lower()
    if lowered in (IGNORE, LAST_IGNORE):
        return Ownership(IGNORE, lowered, rule, source)
    for prefix, strength in _PREFIXES.items():
        if lowered.startswith(prefix) and len(owner) > len(prefix):
            return Ownership(owner[len(prefix) :], strength, rule, source)
    return Ownership(owner, PLAIN, rule, source)


@functools.lru_cache(maxsize=1)
def _shipped() -> tuple[list[OwnerRule], list[str]]:
    return parse(tables.data_path(SHIPPED).read_text(encoding="utf-8"), SHIPPED)


def _text(path: Path) -> str:
    """The text of a user's file, in UTF-8 or, as Windows writes it, in UTF-16 with a byte order mark."""
    try:
        data = read_bytes(path, _LARGEST_FILE)
    except FileFailure as failure:
        raise KdumpError(f"{path}: the file of owner rules {failure}") from failure
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def microsoft_modules() -> Iterator[str]:
    """The modules, in lower case, that the shipped rules mark as components of Windows."""
    for rule in _shipped()[0]:
        if rule.module_exact and not rule.function and rule.ownership.microsoft:
            yield rule.module
