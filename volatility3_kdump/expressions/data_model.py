"""Objects of the debugger's data model: what ``dx`` shows besides C++ values.

* :class:`Model` - an object with named properties; a debugger object, or one that a query makes (``new { ... }``).
* :class:`Items` - a collection: elements with the index that they are shown under.
* :class:`Function` - a lambda, or a method of an object.
* :class:`Failure` - an element that could not be evaluated, with the reason.

Everything is made when it is asked for, and elements one after another: a query over all threads keeps none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError, element, text_of

#: What an element of a collection is shown under: a number, or text.
Key = int | str
Make = Callable[[], Any]

#: The most elements that one collection gives, and that all collections of an expression give together.
MOST_ELEMENTS, MOST_STEPS = 1_000_000, 2_000_000
#: How deep functions may call each other.
_DEEPEST = 50
#: What debuggers and their scripts add, by what shows it here.
_ELSEWHERE = {
    "Registry": "!reg hivelist, querykey and openkeys show the registry",
    "Objects": "!object \\ shows the tree of objects",
    "Settings": "the debugger's settings are not those of KD: .help lists what can be set",
    "Scripts": "JavaScript is not run: $$>a< runs command files",
    "Extensions": "extensions are built in: .help lists all commands",
    "TTD": "a dump has no trace of what ran before",
    "Heaps": "heaps of user mode are not read",
}


class Failure:
    """An element that has no value: ``error`` says why."""

    def __init__(self, error: KdumpError) -> None:
        self.error = error


class Model:
    """An object. ``title`` is what stands behind its name; ``properties`` give its values when they are asked for.

    ``methods`` are what can be called. Objects with the same ``identity`` are the same.
    """

    def __init__(
        self,
        properties: Mapping[str, Make] | None = None,
        title: Callable[[], str | None] | None = None,
        methods: Mapping[str, Callable[..., Any]] | None = None,
        identity: tuple[str, int] | None = None,
    ) -> None:
        self.properties = dict(properties or {})
        self.methods = dict(methods or {})
        self.identity = identity
        self._title = title

    @property
    def title(self) -> str | None:
        """What stands behind its name; ``None`` for nothing."""
        return self._title() if self._title is not None else None

    def get(self, name: str) -> Any:
        """A property by name. Raises :class:`EvaluationError` for no such."""
        if name in self.properties:
            return self.properties[name]()
        if name in self.methods:
            return Function(self.methods[name])
        if name in _ELSEWHERE:
            raise EvaluationError(f"Unable to bind name '{name}': {_ELSEWHERE[name]}")
        shown = ", ".join([*self.properties, *(f"{method}()" for method in self.methods)])
        raise EvaluationError(f"Unable to bind name '{name}': the object has {shown or 'no properties'}")


class Items:
    """A collection. ``make`` begins it anew each time; ``find`` gets the element of an index without the others.

    The indexes of ``counted`` ones are no names of the elements: what is chosen of them is counted anew.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[tuple[Key, Any]]],
        find: Callable[[Key], Any] | None = None,
        count: Callable[[], int] | None = None,
        properties: Mapping[str, Make] | None = None,
        methods: Mapping[str, Callable[..., Any]] | None = None,
        counted: bool = False,
    ) -> None:
        self.counted = counted
        self._make = make
        self._find = find
        self.count = count
        self.properties = dict(properties or {})
        self.methods = dict(methods or {})

    def pairs(self) -> Iterator[tuple[Key, Any]]:
        """The elements with their indexes."""
        for number, pair in enumerate(self._make()):
            if number >= MOST_ELEMENTS:
                raise EvaluationError(f"a collection of more than {MOST_ELEMENTS:,} elements")
            yield pair

    def find(self, key: Key) -> Any:
        """The element that is shown under an index. Raises :class:`EvaluationError` for no such."""
        if self._find is not None:
            return self._find(key)
        for own_key, value in self.pairs():
            if own_key == key:
                return value
        shown = key if isinstance(key, str) else f"{key:#x}"
        raise EvaluationError(f"Unable to find object at index [{shown}]")


@dataclass(frozen=True)
class Function:
    """What can be called with values; ``parameters`` is how many it takes, ``None`` where it sees to that itself."""

    call: Callable[..., Any]
    parameters: int | None = None


class Steps:
    """Counts what an expression does, and ends one that does not end."""

    def __init__(self, most: int = MOST_STEPS) -> None:
        self.left = most
        self.depth = 0

    def step(self) -> None:
        """One element more."""
        self.left -= 1
        if self.left < 0:
            raise EvaluationError(f"stopped: the query has looked at more than {MOST_STEPS:,} elements")

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function. Raises :class:`EvaluationError` where it is none, or takes another number of values."""
        if not isinstance(function, Function):
            raise EvaluationError("only a function can be called: x => ...")
        if function.parameters is not None and function.parameters != len(arguments):
            raise EvaluationError(f"the function takes {function.parameters} values, not {len(arguments)}")
        for argument in arguments:
            if isinstance(argument, Failure):
                raise argument.error
        self.depth += 1
        try:
            if self.depth > _DEEPEST:
                raise EvaluationError("functions call each other too deeply")
            return function.call(*arguments)
        finally:
            self.depth -= 1


def items_of(value: Any) -> Items | None:
    """A value as a collection: itself, or an array in memory; ``None`` for what has no elements."""
    if isinstance(value, Items):
        return value
    if isinstance(value, CppValue) and value.type.kind == "array" and value.address is not None:
        array, count = value, value.type.count or 0
        return Items(
            lambda: ((index, element(array, index)) for index in range(count)),
            lambda key: element(array, key) if isinstance(key, int) else None,
            lambda: count,
        )
    return None


def plain(value: Any) -> Any:
    """A value to compare and sort by: text where it is some."""
    string = text_of(value)
    return value if string is None else string
