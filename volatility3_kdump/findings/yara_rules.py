"""YARA rules: compiled by the library that the host would choose, and matched against bytes.

The host takes yara-x where it can be imported, else yara-python from 3.8 on; so does this. Both compile the same rules,
but compiled files are of one library each, and a compiled file is code: only load one that you made yourself.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import FileFailure, read_bytes

YARA_X, YARA_PYTHON = "yara-x", "yara-python"

#: Of rules, in bytes: the largest public collections take a tenth of it.
_LARGEST_FILE = 256 << 20
_LEAST_YARA_PYTHON = (3, 8)
#: As many matches of one string as yara-x gives at most; yara-python warns by itself.
_MOST_MATCHES = 1_000_000
#: Seconds that a scan may take beyond what its bytes earn: a loop in a condition has no end.
_LONGEST = 120
#: Bytes that earn another second; ten thousand rules scan ten times as many.
_SLOWEST = 128 << 10
_LOCATION = re.compile(r"-->\s*(?P<origin>.*?)line:(?P<line>\d+):(?P<column>\d+)")
#: A definition of a string, as opposed to rules: text, hexadecimal bytes, or a regular expression.
_DEFINITION = re.compile(r"\s*(\"|\{|/(?![/*]))")


class Rule(NamedTuple):
    """A rule that matched; ``meta`` are its pairs of name and value."""

    name: str
    namespace: str
    tags: tuple[str, ...]
    meta: tuple[tuple[str, Any], ...]


class Match(NamedTuple):
    """A string of a rule that was found: offset and length in bytes, and the string's identifier (``$a``)."""

    offset: int
    length: int
    rule: Rule
    string: str


class Rules(Protocol):
    """Compiled rules.

    ``library`` is one of the constants above; ``threads`` says whether several threads may match at once, which gains
    nothing otherwise; ``notes`` what a scan could not find, if so.
    """

    library: str
    threads: bool
    notes: list[str]

    def matches(self, data: bytes) -> Iterator[Match]:
        """The strings of the rules that match some bytes. Raises :class:`KdumpError` where the library gives up, or
        where all pieces so far have taken too long."""
        ...


def load_rules(
    text: str | None = None,
    file: str | None = None,
    compiled_file: str | None = None,
    library: str | None = None,
) -> Rules:
    """Compile rules from a text or a file, or load a file of compiled ones; exactly one of them is given.

    ``text`` may also be the definition of a single string, which becomes the rule ``r1`` with the string ``$a``, as the
    host's plugin does. ``library`` asks for one of the two; by default it is as the host has it. Raises
    :class:`KdumpError` with what is wrong in one line.
    """
    if sum(value is not None for value in (text, file, compiled_file)) != 1:
        raise KdumpError("give rules in one way: --rules TEXT, --rules-file FILE or --compiled-file FILE")
    make = _library(library)
    if text is not None:
        if not text.strip():
            raise KdumpError("--rules is empty: give YARA rules, or one string in quotes, braces or slashes")
        if _DEFINITION.match(text):
            text = f"rule r1 {{ strings: $a = {text} condition: $a }}"
        return make.compile(text, None)
    path = Path(file if file is not None else compiled_file or "")
    try:
        data = read_bytes(path, _LARGEST_FILE)
    except FileFailure as failure:
        raise KdumpError(f"{path}: the file of rules {failure}") from failure
    if compiled_file is not None:
        return make.load(data, path)
    try:
        return make.compile(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise KdumpError(
            f"{path}: no text at offset {error.start:#x}: for compiled rules use --compiled-file"
        ) from error


def _library(name: str | None) -> type[_YaraX] | type[_YaraPython]:
    """The class for the library that is at hand."""
    if name in (None, YARA_X):
        try:
            import yara_x  # noqa: F401
        except ImportError:
            if name is not None:
                raise KdumpError("yara-x is not installed: pip install yara-x") from None
        else:
            return _YaraX
    try:
        import yara
    except ImportError:
        raise KdumpError("no YARA library is installed: pip install yara-x (or yara-python)") from None
    if _version(yara.__version__) < _LEAST_YARA_PYTHON:
        raise KdumpError(f"yara-python {yara.__version__} is too old: pip install yara-x (or yara-python 3.8 or later)")
    return _YaraPython


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _bad_rules(path: Path | None, message: str) -> KdumpError:
    where = "--rules" if path is None else str(path)
    return KdumpError(f"{where}: {' '.join(message.split())}")


def _bad_compiled(path: Path, library: str, error: BaseException) -> KdumpError:
    return KdumpError(f"{path}: not rules that {library} compiled: {' '.join(str(error).split())}")


class _Library:
    """What both libraries have: notes, each once, one :class:`Rule` for all matches of a rule, and one account of the
    time that all pieces together may take: rules that are slow in each of many have no end either."""

    library: str

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._rules_seen: dict[tuple[str, str], Rule] = {}
        self._scanned = 0
        self._spent = 0.0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _timed(self, length: int) -> Iterator[int]:
        """Take the time of scanning some bytes; gives the seconds that it may take, at least one."""
        with self._lock:
            self._scanned += length
            left = _LONGEST + self._scanned / _SLOWEST - self._spent
        if left <= 0:
            raise KdumpError(
                f"{self.library} gave up: the rules take too long, {self._spent:.0f} s for {self._scanned >> 10} KB"
            )
        started = monotonic()
        try:
            yield math.ceil(left)
        finally:
            with self._lock:
                self._spent += monotonic() - started

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _rule(self, name: str, matching_rule: Any, metadata: Iterable[tuple[str, Any]]) -> Rule:
        key = matching_rule.namespace, name
        rule = self._rules_seen.get(key)
        if rule is None:
            rule = Rule(name, matching_rule.namespace, tuple(matching_rule.tags), tuple(metadata))
            self._rules_seen[key] = rule
        return rule


class _YaraX(_Library):
    library = YARA_X
    # A scanner works only in the thread that made it, and keeps the others from running.
    threads = False

    def __init__(self, rules: Any) -> None:
        import yara_x

        super().__init__()
        # One scanner for all data: making one takes several times as long as scanning a page.
        self._scanner = yara_x.Scanner(rules)
        self._limit = 0

    @classmethod
    def compile(cls, text: str, path: Path | None) -> _YaraX:
        import yara_x

        compiler = yara_x.Compiler()
        if hasattr(compiler, "add_include_dir"):
            compiler.add_include_dir(str(path.parent if path is not None else Path()))
        try:
            compiler.add_source(text)
            return cls(compiler.build())
        except (yara_x.CompileError, ValueError) as error:
            message = str(error)
            place = _LOCATION.search(message)
            first = message.partition("\n")[0]
            # Its message is a picture of several lines: what, and where.
            detail = re.search(r"\^+ *(.+)", message)
            first += f" ({detail[1]})" if detail else ""
            raise _bad_rules(
                path, f"line {place['line']}, column {place['column']}: {first}" if place else first
            ) from error

    @classmethod
    def load(cls, data: bytes, path: Path) -> _YaraX:
        import io

        import yara_x

        try:
            return cls(yara_x.Rules.deserialize_from(file=io.BytesIO(data)))
        except Exception as error:  # the library raises whatever its decoder raises
            raise _bad_compiled(path, cls.library, error) from error

    def matches(self, data: bytes) -> Iterator[Match]:
        import yara_x

        try:
            with self._timed(len(data)) as limit:
                if limit != self._limit:
                    self._scanner.set_timeout(limit)
                    self._limit = limit
                matching = self._scanner.scan(data).matching_rules
        except (yara_x.ScanError, yara_x.TimeoutError) as error:
            raise KdumpError(f"yara-x gave up: {' '.join(str(error).split())}") from error
        for matching_rule in matching:
            rule = self._rule(matching_rule.identifier, matching_rule, matching_rule.metadata)
            for pattern in matching_rule.patterns:
                identifier, matches = pattern.identifier, pattern.matches
                if len(matches) >= _MOST_MATCHES:
                    self._note(f"yara-x: too many matches for string {identifier} in rule {rule.name!r}")
                for match in matches:
                    yield Match(match.offset, match.length, rule, identifier)


class _YaraPython(_Library):
    library = YARA_PYTHON
    threads = True

    def __init__(self, rules: Any) -> None:
        import yara

        super().__init__()
        self._rules = rules
        # Where the library has no warnings, it gives up at too many matches.
        self._options = {"warnings_callback": self._warned} if hasattr(yara, "CALLBACK_TOO_MANY_MATCHES") else {}

    def _warned(self, kind: int, message: Any) -> int:
        import yara

        what = "too many matches" if kind == yara.CALLBACK_TOO_MANY_MATCHES else f"warning {kind}"
        self._note(f"yara-python: {what} for string {message.string} in rule {message.rule!r}")
        return int(yara.CALLBACK_CONTINUE)

    @classmethod
    def compile(cls, text: str, path: Path | None) -> _YaraPython:
        import yara

        try:
            # Of a file, the name: what it includes is looked for beside it.
            return cls(yara.compile(source=text) if path is None else yara.compile(filepath=str(path)))
        except yara.Error as error:
            raise _bad_rules(path, re.sub(rf"^{re.escape(str(path))}\((\d+)\)", r"line \1", str(error))) from error

    @classmethod
    def load(cls, data: bytes, path: Path) -> _YaraPython:
        import io

        import yara

        try:
            return cls(yara.load(file=io.BytesIO(data)))
        except yara.Error as error:
            raise _bad_compiled(path, cls.library, error) from error

    def matches(self, data: bytes) -> Iterator[Match]:
        import yara

        try:
            with self._timed(len(data)) as limit:
                matching = self._rules.match(data=data, timeout=limit, **self._options)
        except yara.Error as error:
            raise KdumpError(f"yara-python gave up: {' '.join(str(error).split())}") from error
        for matching_rule in matching:
            rule = self._rule(matching_rule.rule, matching_rule, matching_rule.meta.items())
            for string in matching_rule.strings:
                if isinstance(string, tuple):  # before 4.3
                    offset, identifier, matched = string
                    yield Match(offset, len(matched), rule, identifier)
                    continue
                identifier = string.identifier
                for match in string.instances:
                    yield Match(match.offset, match.matched_length, rule, identifier)
