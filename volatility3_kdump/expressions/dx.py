"""The grammar of ``dx``: C++ expressions with objects of the data model, lambdas, queries and anonymous objects.

Beside :mod:`cpp`: ``x => ...``, ``(a, b) => ...``, ``new { Name = x.F }``, calls of methods, indexes that are text, the
variables ``@$curprocess`` and those that users set (``@$name = ...``), the root ``Debugger``, and format specifiers
behind a comma.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp import CppParser
from volatility3_kdump.expressions.cpp_names import CppNames
from volatility3_kdump.expressions.cpp_tokens import Node
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.data_model import Failure, Function, Items, Make, Model, Steps, items_of
from volatility3_kdump.expressions.grammar import ExpressionError
from volatility3_kdump.expressions.queries import Queries, string_method

_PARAMETERS = re.compile(r"\(\s*((?:[A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)?)\s*\)\s*=>|([A-Za-z_]\w*)\s*=>")
_ASSIGNED = re.compile(r"\s*@\$([A-Za-z_]\w*)\s*=(?![=>])")
_SPECIFIER = re.compile(r",\s*(?:(\d+|0x[0-9a-fA-F]+)|\[|(s8b|s8|sub|sb|su|s32b|s32|en|nd|[xXdobcs!]))\s*")


@dataclass(frozen=True)
class Formatting:
    """What format specifiers ask for: ``base`` of numbers (16, 10, 8, 2), ``text`` the kind of string, ``raw`` members
    alone, ``names`` of enumerations alone, ``length`` of a pointer, array or collection."""

    base: int | None = None
    text: str | None = None
    raw: bool = False
    names: bool = False
    length: int | None = None


@dataclass
class World:
    """What the names of ``dx`` mean.

    ``roots`` are its objects by name (``Debugger``, ``$curprocess``), ``variables`` those that the user set, and
    ``display`` gives the text that a value is shown as.
    """

    names: CppNames
    roots: Mapping[str, Make]
    variables: dict[str, Any]
    display: Callable[[Any, Formatting], str]
    steps: Steps = field(default_factory=Steps)


class DxParser(CppParser):
    """Reads expressions of ``dx``."""

    def __init__(self, text: str, world: World) -> None:
        super().__init__(text, world.names)
        self._world = world
        self._queries = Queries(world.steps)

    def evaluate(self) -> tuple[Any, Formatting]:
        """The value of the whole text, and how it is to be shown. An assignment gives the value assigned."""
        assigned = _ASSIGNED.match(self.text)
        if assigned is not None:
            self.position = assigned.end()
        node = self._conditional()
        formatting = self.formatting()
        if self._peek():
            raise self._error("Extra character error at")
        value = node({})
        if assigned is not None:
            if assigned[1] in _FIXED:
                raise EvaluationError(f"@${assigned[1]} cannot be set")
            self._world.variables[assigned[1]] = value
        return value, formatting

    def formatting(self) -> Formatting:
        """The format specifiers that stand here."""
        chosen: dict[str, Any] = {}
        self._peek()
        while match := _SPECIFIER.match(self.text, self.position):
            self.position = match.end()
            if match[1]:
                chosen["length"] = int(match[1], 0)
            elif match[2]:
                chosen.update(_specified(match[2]))
            else:
                node = self._nested(self._conditional)
                self._expect("]")
                chosen["length"] = cpp.whole(node({}))
        if self.text.startswith(",", self.position):
            raise self._error("Syntax error at", "no such format specifier: x d o b c s sb s8 su sub en nd ! [length]")
        return Formatting(**chosen)

    def _chosen(self, condition: Node, chosen: Node, other: Node) -> Node:
        # Functions call themselves in what is not taken: it is not evaluated.
        return lambda local: chosen(local) if cpp.truth(condition(local)) else other(local)

    # lambdas and objects ----------------------------------------------------------------------------------------

    def _conditional(self) -> Node:
        self._peek()
        match = _PARAMETERS.match(self.text, self.position)
        if match is None:
            return super()._conditional()
        self.position = match.end()
        names = [name.strip() for name in (match[2] or match[1]).split(",") if name.strip()]
        outer = self._locals
        self._locals = [*outer, *names]
        body = self._nested(self._conditional)
        self._locals = outer

        def make(local: dict[str, Any]) -> Function:
            def call(*values: Any) -> Any:
                return body({**local, **dict(zip(names, values, strict=True))})

            return Function(call, len(names))

        return make

    def _named(self, name: str, start: int) -> Node:
        if name == "new" and self._peek() == "{":
            return self._anonymous()
        if name == "__iserror":
            self._expect("(")
            node = self._nested(self._conditional)
            self._expect(")")
            return lambda local: _fails(node, local)
        if name in self._world.roots and name not in self._locals:
            root = self._world.roots[name]
            return lambda local: root()
        return super()._named(name, start)

    def _anonymous(self) -> Node:
        self._expect("{")
        parts: list[tuple[str, Node]] = []
        while not self._accept("}"):
            if parts:
                self._expect(",")
            match = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?![=>])").match(self.text, self.position)
            if match is not None:
                self.position = match.end()
                parts.append((match[1], self._nested(self._conditional)))
                continue
            start = self.position
            node = self._nested(self._conditional)
            last = re.search(r"([A-Za-z_]\w*)\s*$", self.text[start : self.position])
            if last is None:
                raise self._error("Syntax error at", "the property needs a name: new { Name = ... }")
            parts.append((last[1], node))

        def make(local: dict[str, Any]) -> Model:
            # Values belong to the moment at which the object is made.
            made = {name: _kept(node, local) for name, node in parts}
            return Model({name: functools.partial(_given, value) for name, value in made.items()})

        return make

    # names ------------------------------------------------------------------------------------------------------

    def _other_evaluator(self) -> Node:
        raise self._error("Syntax error at", "dx takes C++ expressions only, without @@")

    def _register(self, token: str) -> Node:
        name = token.removeprefix("@")
        world = self._world
        plain = name.removeprefix("$")
        if name.startswith("$"):
            if plain in world.variables:
                self.position += len(token)
                return lambda local: world.variables[plain]
            if name in world.roots:
                self.position += len(token)
                return lambda local: world.roots[name]()
        return super()._register(token)

    # members, indexes, calls ------------------------------------------------------------------------------------

    def _member_name(self) -> str:
        match = re.compile(r'\s*@"([^"]+)"').match(self.text, self.position)
        if match is None:
            return self._name()
        self.position = match.end()
        return match[1]

    def _postfix(self, node: Node) -> Node:
        while True:
            if self._peek() == "(":
                node = self._called(node)
            before = self.position
            node = self._one_postfix(node)
            if self.position == before and self._peek() != "(":
                return node

    def _one_postfix(self, node: Node) -> Node:
        sign = self._peek()
        if sign in (".", "->"):
            self.position += len(sign)
            return self._member(node, sign, self._member_name())
        if sign == "[":
            self.position += 1
            index = self._nested(self._conditional)
            self._expect("]")
            return self._indexed(node, index)
        if sign in ("++", "--"):
            raise self._error("Operand error at", "nothing in a dump can be assigned to")
        return node

    def _called(self, node: Node) -> Node:
        self._expect("(")
        arguments: list[Node] = []
        while not self._accept(")"):
            if arguments:
                self._expect(",")
            arguments.append(self._nested(self._conditional))
        steps = self._world.steps

        def call(local: dict[str, Any]) -> Any:
            function = node(local)
            return _call(steps, function, [argument(local) for argument in arguments])

        return call

    def _member(self, node: Node, sign: str, name: str) -> Node:
        return lambda local: self._property(node(local), name)

    def _property(self, value: Any, name: str) -> Any:
        if isinstance(value, Failure):
            raise value.error
        if isinstance(value, Model):
            if name == "ToDisplayString" and name not in value.properties:
                return Function(functools.partial(self._displayed, value))
            return value.get(name)
        if isinstance(value, CppValue):
            type_ = value.type.target if value.type.kind == "pointer" and value.type.target else value.type
            if name in cpp.members_of(value.reader, type_):
                return cpp.member(value, name)
        if name == "ToDisplayString":
            return Function(functools.partial(self._displayed, value))
        if isinstance(value, Items) and name in value.properties:
            return value.properties[name]()
        if isinstance(value, Items) and name in value.methods:
            return Function(value.methods[name])
        method = self._queries.of_items(name)
        items = items_of(value) if method is not None else None
        if items is not None and method is not None:
            return Function(functools.partial(method, items))
        string = cpp.text_of(value)
        if string is not None:
            if name == "Length":
                return cpp.integer(len(string), cpp.UNSIGNED_LONG_LONG)
            of_string = string_method(string, name)
            if of_string is not None:
                return of_string
        if isinstance(value, CppValue) and value.type.kind in ("struct", "union", "pointer"):
            return cpp.member(value, name)
        raise EvaluationError(f"Unable to bind name '{printable(name)}'")

    def _displayed(self, value: Any, specifier: Any = None) -> str:
        chosen: dict[str, Any] = {}
        if specifier is not None:
            format_letters = cpp.text_of(specifier)
            if format_letters is None or not re.fullmatch(
                r"s8b|s8|sub|sb|su|s32b|s32|en|nd|[xXdobcs!]", format_letters
            ):
                raise EvaluationError("ToDisplayString takes a format specifier as text")
            chosen = _specified(format_letters)
        return self._world.display(value, Formatting(**chosen))

    def _indexed(self, node: Node, index: Node) -> Node:
        def get(local: dict[str, Any]) -> Any:
            value, key = node(local), index(local)
            if isinstance(value, Failure):
                raise value.error
            if isinstance(value, Items):
                string = cpp.text_of(key)
                return value.find(cpp.whole(key) if string is None else string)
            if isinstance(value, Model):
                raise EvaluationError("the object is no collection")
            return cpp.element(value, cpp.whole(key))

        return get


#: Names that cannot be variables of the user.
_FIXED = frozenset(
    "curprocess curthread cursession curstack curframe vars debuggerRootNamespace "
    "proc thread peb teb pcr pcrb prcb ip csp ra".split()
)


def _specified(letters: str) -> dict[str, Any]:
    bases = {"x": 16, "X": 16, "d": 10, "o": 8, "b": 2}
    if letters in bases:
        return {"base": bases[letters]}
    if letters == "!":
        return {"raw": True}
    if letters == "en":
        return {"names": True}
    return {} if letters == "nd" else {"text": letters}


def _fails(node: Node, local: dict[str, Any]) -> bool:
    try:
        value = node(local)
        if isinstance(value, CppValue) and value.type.kind not in ("struct", "union", "array"):
            cpp.load(value)
    except KdumpError:
        return True
    return isinstance(value, Failure)


def _kept(node: Node, local: dict[str, Any]) -> Any:
    try:
        return node(local)
    except KdumpError as error:
        return Failure(error)


def _given(value: Any) -> Any:
    if isinstance(value, Failure):
        raise value.error
    return value


def _call(steps: Steps, function: Any, arguments: list[Any]) -> Any:
    if isinstance(function, Function) and function.parameters is None:
        try:
            inspect.signature(function.call).bind(*arguments)
        except TypeError:
            raise EvaluationError(f"the method does not take {len(arguments)} values") from None
    return steps.call(function, *arguments)


__all__ = ["DxParser", "ExpressionError", "Formatting", "World"]
