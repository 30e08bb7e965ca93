"""What can be asked of collections and of text: the query methods of ``dx``.

The names and signatures are those of "Using LINQ With the debugger objects" in the debugger's documentation. Methods
that give a collection are evaluated when its elements are asked for; elements keep the index that they had.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import cpp_operators as operators
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.data_model import (
    MOST_ELEMENTS,
    Failure,
    Function,
    Items,
    Key,
    Model,
    Steps,
    items_of,
    plain,
)

_COUNT = cpp.UNSIGNED_LONG_LONG


def _number(value: int) -> CppValue:
    return cpp.integer(value, _COUNT)


class Queries:
    """The query methods, with the budget of one expression."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def of_items(self, name: str) -> Callable[..., Any] | None:
        """The method of collections that has a name: a function of the collection and the arguments."""
        method: Callable[..., Any] | None = getattr(self, f"_{_snake(name)}", None) if name in _METHODS else None
        return method

    # helpers ----------------------------------------------------------------------------------------------------

    def _pairs(self, items: Items) -> Iterator[tuple[Key, Any]]:
        for pair in items.pairs():
            self._steps.step()
            yield pair

    def _values(self, items: Items) -> Iterator[Any]:
        for _, value in self._pairs(items):
            yield _sound(value)

    def _test(self, function: Any, value: Any) -> bool:
        return cpp.truth(self._steps.call(function, value))

    def _tried(self, function: Any, value: Any) -> Any:
        try:
            return self._steps.call(function, value)
        except KdumpError as error:
            return Failure(error)

    def _compare(self, comparator: Any) -> Callable[[Any, Any], int]:
        if comparator is None:
            return _order
        return lambda left, right: cpp.whole(self._steps.call(comparator, left, right))

    def _same(self, comparator: Any, left: Any, right: Any) -> bool:
        if comparator is not None:
            return cpp.whole(self._steps.call(comparator, left, right)) == 0
        left, right = plain(left), plain(right)
        if isinstance(left, (CppValue, bool, str, float)) and isinstance(right, (CppValue, bool, str, float)):
            try:
                return operators.compare("==", left, right)
            except EvaluationError:
                return isinstance(left, CppValue) and isinstance(right, CppValue) and left == right
        return bool(_hashed(left) == _hashed(right))

    # filtering and projection -----------------------------------------------------------------------------------

    def _where(self, items: Items, predicate: Any) -> Items:
        def chosen() -> Iterator[tuple[Key, Any]]:
            for key, value in self._pairs(items):
                try:
                    if self._test(predicate, value):
                        yield key, value
                except KdumpError as error:
                    yield key, Failure(error)

        if items.counted:
            return Items(lambda: enumerate(value for _, value in chosen()), counted=True)
        return Items(chosen)

    def _select(self, items: Items, projection: Any) -> Items:
        return Items(
            lambda: ((key, self._tried(projection, value)) for key, value in self._pairs(items)), count=items.count
        )

    def _select_many(self, items: Items, projection: Any) -> Items:
        def inner() -> Iterator[tuple[Key, Any]]:
            number = 0
            for _, value in self._pairs(items):
                inside = self._tried(projection, value)
                if isinstance(inside, Failure):
                    yield number, inside
                    number += 1
                    continue
                for _, element in self._pairs(_collection(inside)):
                    yield number, element
                    number += 1

        return Items(inner)

    def _flatten(self, items: Items, projection: Any = None) -> Items:
        """Every element of a tree, parents first; without a projection elements that are collections are the tree."""

        def flattened() -> Iterator[tuple[Key, Any]]:
            stack: list[Iterator[tuple[Key, Any]]] = [self._pairs(items)]
            number = 0
            while stack:
                pair = next(stack[-1], None)
                if pair is None:
                    stack.pop()
                    continue
                value = pair[1]
                inside = items_of(value) if projection is None else None
                if inside is None:
                    yield number, value
                    number += 1
                if projection is not None and not isinstance(value, Failure):
                    projected = self._tried(projection, value)
                    inside = None if isinstance(projected, Failure) else items_of(projected)
                if inside is not None:
                    if len(stack) > _DEEPEST_TREE:
                        raise EvaluationError("the tree is nested too deeply")
                    stack.append(self._pairs(inside))

        return Items(flattened, counted=True)

    # grouping and sets ------------------------------------------------------------------------------------------

    def _group_by(self, items: Items, projection: Any, comparator: Any = None) -> Items:
        def groups() -> Iterator[tuple[Key, Any]]:
            groups_by_hash: dict[Any, tuple[Any, list[tuple[Key, Any]]]] = {}
            for key, value in self._pairs(items):
                group = plain(self._steps.call(projection, value))
                if comparator is not None:
                    group = next(
                        (
                            seen_key
                            for seen_key, _ in groups_by_hash.values()
                            if self._same(comparator, seen_key, group)
                        ),
                        group,
                    )
                groups_by_hash.setdefault(_hashed(group), (group, []))[1].append((key, value))
            for group, members in groups_by_hash.values():
                yield _index(group), Items(functools.partial(iter, members), count=functools.partial(len, members))

        return Items(groups)

    def _join(
        self, items: Items, inner: Any, outer_key: Any, inner_key: Any, result: Any, comparator: Any = None
    ) -> Items:
        def joined() -> Iterator[tuple[Key, Any]]:
            others = [(self._steps.call(inner_key, value), value) for value in self._values(_collection(inner))]
            number = 0
            for value in self._values(items):
                key = self._steps.call(outer_key, value)
                for other_key, other in others:
                    self._steps.step()
                    if self._same(comparator, key, other_key):
                        yield number, self._steps.call(result, value, other)
                        number += 1

        return Items(joined)

    def _distinct(self, items: Items, comparator: Any = None) -> Items:
        def different() -> Iterator[tuple[Key, Any]]:
            seen: set[Any] = set()
            kept: list[Any] = []
            for key, value in self._pairs(items):
                _sound(value)
                if comparator is None:
                    hashed = _hashed(plain(value))
                    if hashed in seen:
                        continue
                    seen.add(hashed)
                else:
                    if any(self._same(comparator, other, value) for other in kept):
                        continue
                    kept.append(value)
                yield key, value

        return Items(different)

    def _contains(self, items: Items, wanted: Any, comparator: Any = None) -> bool:
        return any(self._same(comparator, value, wanted) for value in self._values(items))

    def _intersect(self, items: Items, other: Any, comparator: Any = None) -> Items:
        return self._by_membership(items, other, comparator, True)

    def _except(self, items: Items, other: Any, comparator: Any = None) -> Items:
        return self._by_membership(items, other, comparator, False)

    def _by_membership(self, items: Items, other: Any, comparator: Any, wanted: bool) -> Items:
        def chosen() -> Iterator[tuple[Key, Any]]:
            others = list(self._values(_collection(other)))
            for key, value in self._pairs(self._distinct(items, comparator)):
                present = False
                for candidate in others:
                    self._steps.step()
                    present = present or self._same(comparator, value, candidate)
                if present == wanted:
                    yield key, value

        return Items(chosen)

    def _union(self, items: Items, other: Any, comparator: Any = None) -> Items:
        return self._distinct(self._concat(items, other), comparator)

    def _concat(self, items: Items, other: Any) -> Items:
        def both() -> Iterator[tuple[Key, Any]]:
            number = 0
            for part in (items, _collection(other)):
                for _, value in self._pairs(part):
                    yield number, value
                    number += 1

        return Items(both)

    # order ------------------------------------------------------------------------------------------------------

    def _order_by(self, items: Items, projection: Any, comparator: Any = None, descending: bool = False) -> Items:
        def ordered() -> Iterator[tuple[Key, Any]]:
            keyed: list[tuple[Any, tuple[Key, Any]]] = [
                (self._steps.call(projection, value), (key, value)) for key, value in self._pairs(items)
            ]
            compare = self._compare(comparator)
            order = functools.cmp_to_key(compare)
            keyed.sort(key=lambda pair: order(pair[0]), reverse=descending)
            return (pair for _, pair in keyed)

        return Items(ordered, count=items.count)

    def _order_by_descending(self, items: Items, projection: Any, comparator: Any = None) -> Items:
        return self._order_by(items, projection, comparator, True)

    def _reverse(self, items: Items) -> Items:
        return Items(lambda: reversed(list(self._pairs(items))), count=items.count)

    # parts ------------------------------------------------------------------------------------------------------

    def _take(self, items: Items, count: Any) -> Items:
        most = cpp.whole(count)

        def first() -> Iterator[tuple[Key, Any]]:
            pairs = self._pairs(items)
            for _ in range(most):
                pair = next(pairs, None)
                if pair is None:
                    return
                yield pair

        return Items(first)

    def _skip(self, items: Items, count: Any) -> Items:
        fewest = cpp.whole(count)
        return Items(lambda: (pair for number, pair in enumerate(self._pairs(items)) if number >= fewest))

    def _take_while(self, items: Items, predicate: Any) -> Items:
        def first() -> Iterator[tuple[Key, Any]]:
            for key, value in self._pairs(items):
                if not self._test(predicate, value):
                    return
                yield key, value

        return Items(first)

    def _skip_while(self, items: Items, predicate: Any) -> Items:
        def last() -> Iterator[tuple[Key, Any]]:
            skipping = True
            for key, value in self._pairs(items):
                skipping = skipping and self._test(predicate, value)
                if not skipping:
                    yield key, value

        return Items(last)

    # one value --------------------------------------------------------------------------------------------------

    def _count(self, items: Items, predicate: Any = None) -> CppValue:
        if predicate is not None:
            return _number(sum(self._test(predicate, value) for value in self._values(items)))
        if items.count is not None:
            return _number(items.count())
        return _number(sum(1 for _ in self._values(items)))

    def _sum(self, items: Items, projection: Any = None) -> Any:
        total: Any = _number(0)
        for value in self._values(items):
            total = operators.binary("+", total, value if projection is None else self._steps.call(projection, value))
        return total

    def _extreme(self, items: Items, projection: Any, sign: int) -> Any:
        best: Any = None
        for value in self._values(items):
            candidate = value if projection is None else self._steps.call(projection, value)
            if best is None or _order(candidate, best) * sign > 0:
                best = candidate
        if best is None:
            raise EvaluationError("the collection has no elements")
        return best

    def _min(self, items: Items, projection: Any = None) -> Any:
        return self._extreme(items, projection, -1)

    def _max(self, items: Items, projection: Any = None) -> Any:
        return self._extreme(items, projection, 1)

    def _all(self, items: Items, predicate: Any) -> bool:
        return all(self._test(predicate, value) for value in self._values(items))

    def _any(self, items: Items, predicate: Any = None) -> bool:
        return any(predicate is None or self._test(predicate, value) for value in self._values(items))

    def _first(self, items: Items, predicate: Any = None) -> Any:
        for value in self._values(items):
            if predicate is None or self._test(predicate, value):
                return value
        raise EvaluationError("no element is like that" if predicate is not None else "the collection has no elements")

    def _last(self, items: Items, predicate: Any = None) -> Any:
        last: list[Any] = []
        for value in self._values(items):
            if predicate is None or self._test(predicate, value):
                last = [value]
        if not last:
            raise EvaluationError("no element is like that" if predicate is not None else "the collection is empty")
        return last[0]

    def _single(self, items: Items, predicate: Any = None) -> Any:
        matching = [value for value in self._values(items) if predicate is None or self._test(predicate, value)]
        if len(matching) != 1:
            raise EvaluationError(f"{len(matching)} elements are like that, not one")
        return matching[0]

    def _sequence_equal(self, items: Items, other: Any, comparator: Any = None) -> bool:
        left, right = list(self._values(items)), list(self._values(_collection(other)))
        return len(left) == len(right) and all(
            self._same(comparator, one, two) for one, two in zip(left, right, strict=True)
        )

    # errors -----------------------------------------------------------------------------------------------------

    def _without_errors(self, items: Items, predicate: Any) -> Iterator[Any]:
        for _, value in self._pairs(items):
            if isinstance(value, Failure):
                continue
            try:
                if predicate is None or self._test(predicate, value):
                    yield value
            except KdumpError:
                continue

    def _first_non_error(self, items: Items, predicate: Any = None) -> Any:
        for value in self._without_errors(items, predicate):
            return value
        raise EvaluationError("no element is like that")

    def _last_non_error(self, items: Items, predicate: Any = None) -> Any:
        return self._last(Items(lambda: enumerate(self._without_errors(items, predicate))))

    def _all_non_error(self, items: Items, predicate: Any) -> bool:
        sound = Items(lambda: ((key, value) for key, value in self._pairs(items) if not isinstance(value, Failure)))
        return self._all(sound, predicate)


_METHODS = frozenset(
    "Where Select SelectMany Flatten GroupBy Join Distinct Contains Intersect Except Union Concat OrderBy "
    "OrderByDescending Reverse Take Skip TakeWhile SkipWhile Count Sum Min Max All Any First Last Single "
    "SequenceEqual FirstNonError LastNonError AllNonError".split()
)
_DEEPEST_TREE = 100


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _sound(value: Any) -> Any:
    if isinstance(value, Failure):
        raise value.error
    return value


def _collection(value: Any) -> Items:
    items = items_of(value)
    if items is None:
        raise EvaluationError("a collection is expected")
    return items


def _order(left: Any, right: Any) -> int:
    left, right = plain(left), plain(right)
    if operators.compare("<", left, right):
        return -1
    return 1 if operators.compare(">", left, right) else 0


def _hashed(value: Any) -> Any:
    """A value that equal ones share."""
    if isinstance(value, CppValue):
        try:
            return cpp.load(value)
        except EvaluationError:
            return value.type, value.address
    if isinstance(value, Model) and value.identity is not None:
        return value.identity
    if isinstance(value, (str, bool, float)):
        return value
    raise EvaluationError("objects of that kind cannot be compared: compare a property of them")


def _index(value: Any) -> Key:
    """What a group is shown under."""
    if isinstance(value, (str, bool)):
        return value if isinstance(value, str) else str(value).lower()
    if isinstance(value, CppValue):
        return cpp.whole(value)
    raise EvaluationError("groups are made by text or numbers")


# text -----------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    string = plain(value)
    if not isinstance(string, str):
        raise EvaluationError("text is expected")
    return string


def _length(value: Any) -> int:
    number = cpp.whole(value)
    if not 0 <= number <= MOST_ELEMENTS:
        raise EvaluationError(f"{number} characters")
    return number


def _removed(text: str, start: Any, count: Any = None) -> str:
    first = _length(start)
    return text[:first] + (text[first + _length(count) :] if count is not None else "")


def _replaced(text: str, old: str, new: str) -> str:
    if len(text) * max(len(new), 1) > cpp.LONGEST_TEXT:
        raise EvaluationError(f"text of more than {cpp.LONGEST_TEXT:,} characters")
    return text.replace(old, new) if old else text


def _cut(text: str, start: Any, count: Any = None) -> str:
    first = _length(start)
    return text[first:] if count is None else text[first : first + _length(count)]


_STRING_METHODS: dict[str, Callable[..., Any]] = {
    "Contains": lambda text, other: _text(other) in text,
    "StartsWith": lambda text, other: text.startswith(_text(other)),
    "EndsWith": lambda text, other: text.endswith(_text(other)),
    "IndexOf": lambda text, other: cpp.integer(text.find(_text(other))),
    "LastIndexOf": lambda text, other: cpp.integer(text.rfind(_text(other))),
    "Substring": _cut,
    "Remove": _removed,
    "Replace": lambda text, old, new: _replaced(text, _text(old), _text(new)),
    "PadLeft": lambda text, width: text.rjust(_length(width)),
    "PadRight": lambda text, width: text.ljust(_length(width)),
    "ToLower": lambda text: text.lower(),
    "ToUpper": lambda text: text.upper(),
    "Trim": lambda text: text.strip(),
}


def string_method(text: str, name: str) -> Function | None:
    """A method of text by name; ``None`` for no such."""
    method = _STRING_METHODS.get(name)
    return None if method is None else Function(functools.partial(method, text))
