"""The grammar of C++ expressions, as the debugger's ``??`` and ``@@c++()`` take them.

A text is read by recursive descent, once, into functions of local names (those of lambdas), and these are then called:
what stands inside a query is evaluated thousands of times. Precedence is that of C++. Numbers are decimal unless they
begin with ``0x`` or ``0``, or hold a backtick; ``0n``, ``0t`` and ``0y`` are taken too.
Nothing can be assigned to: a dump does not change.
"""

from __future__ import annotations

import re
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.expressions import cpp_operators as operators
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp_names import TYPE_WORDS, CppNames
from volatility3_kdump.expressions.cpp_tokens import Node, Tokens
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.grammar import ExpressionError
from volatility3_kdump.expressions.grammar import Parser as MasmParser
from volatility3_kdump.symbols.types import TypeReference
from volatility3_kdump.windows.typed_values import TypedReader

Typed = tuple[TypeReference, "TypedReader | None"]

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,4}|.)")
#: Bases by the second letter of a number, as the debugger's own language has them: C++ gives these letters no meaning.
_BASES = {"n": 10, "t": 8, "y": 2}
#: Binary operators by precedence, the lowest first; ``&&`` and ``||`` end as soon as the value is known.
_LEVELS: tuple[tuple[str, ...], ...] = (
    *(("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!=")),
    *(("<", ">", "<=", ">="), ("<<", ">>"), ("+", "-"), ("*", "/", "%")),
)
_PRECEDENCE = {sign: level for level, signs in enumerate(_LEVELS) for sign in signs}
_ASSIGNMENTS = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--"})
_CASTS = frozenset({"dynamic_cast", "static_cast", "reinterpret_cast", "const_cast"})
_QUALIFIERS = frozenset({"const", "volatile", "struct", "class", "union", "enum"})
#: What cannot follow a cast: then the parentheses held an expression.
_NO_OPERAND = frozenset({"", ")", "]", "}", ",", ".", "->", "[", "?", ":", "=>", "=", "/", "%", "<", ">", "<=", ">="})
_NO_OPERAND |= {"==", "!=", "|", "^", "&&", "||", "<<", ">>"}


class CppParser(Tokens):
    """Reads C++ expressions from a text; ``position`` is where the next one begins.

    Every failure is an :class:`ExpressionError` (of the text) or an :class:`EvaluationError` (of the values).
    """

    def __init__(self, text: str, names: CppNames, position: int = 0) -> None:
        super().__init__(text, position)
        self.names = names
        self._locals: list[str] = []

    def whole(self) -> Node:
        """The text as one expression."""
        node = self.expression()
        if self._peek():
            raise self._error("Extra character error at")
        return node

    def group(self) -> Node:
        """The expression in the parentheses that begin here."""
        self._expect("(")
        node = self.expression()
        self._expect(")")
        return node

    def expression(self) -> Node:
        """The longest expression that begins here, with commas: all are evaluated, the last is the value."""
        node = self._conditional()
        while self._accept(","):
            node = _last(node, self._conditional())
        return node

    # operators --------------------------------------------------------------------------------------------------

    def _conditional(self) -> Node:
        condition = self._nested(self._binary, 0)
        if self._accept("?"):
            chosen = self._nested(self._conditional)
            self._expect(":")
            other = self._nested(self._conditional)
            return self._chosen(condition, chosen, other)
        if self._peek() in _ASSIGNMENTS:
            raise self._error("Operand error at", "nothing in a dump can be assigned to")
        return condition

    def _chosen(self, condition: Node, chosen: Node, other: Node) -> Node:
        def choose(local: dict[str, Any]) -> Any:
            true = cpp.truth(condition(local))
            value = (chosen if true else other)(local)
            try:
                # The result has the type that both have in common, where the one that is not taken has a value.
                return operators.converted(value, (other if true else chosen)(local))
            except KdumpError:
                return value

        return choose

    def _binary(self, lowest: int) -> Node:
        node = self._unary()
        while True:
            sign = self._peek()
            level = _PRECEDENCE.get(sign)
            if level is None or level < lowest:
                return node
            self.position += len(sign)
            node = _combined(sign, node, self._nested(self._binary, level + 1))

    def _unary(self) -> Node:
        sign = self._peek()
        if sign in ("-", "+", "~", "!", "*", "&"):
            self.position += len(sign)
            return self._applied(sign, self._nested(self._unary))
        if sign == "&&" or sign in _ASSIGNMENTS:
            raise self._error("Syntax error at")
        if sign == "(":
            typed = self._cast_type()
            if typed is not None:
                operand = self._nested(self._unary)
                type_, reader = typed
                size = self.names.pointer_size
                return lambda local: cpp.cast(operand(local), type_, reader, size)
        if sign == "sizeof":
            self.position += len(sign)
            return self._size()
        return self._postfix(self._primary())

    def _applied(self, sign: str, operand: Node) -> Node:
        if sign == "*":
            return lambda local: cpp.pointee(operand(local))
        if sign == "&":
            size = self.names.pointer_size
            return lambda local: cpp.address_of(operand(local), size)
        return lambda local: operators.unary(sign, operand(local))

    def _size(self) -> Node:
        unsigned = cpp.UNSIGNED_LONG_LONG if self.names.pointer_size == 8 else cpp.UNSIGNED_INT
        if self._peek() == "(":
            start = self.position
            self.position += 1
            typed = self._type()
            if typed is not None and self._accept(")"):
                if typed[0].size is None:
                    raise self._error("Type does not have given member error at", "its size is not known")
                size = cpp.integer(typed[0].size, unsigned)
                return lambda local: size
            self.position = start
        operand = self._nested(self._unary)
        return lambda local: cpp.integer(cpp.size_of(operand(local)), unsigned)

    def _postfix(self, node: Node) -> Node:
        while True:
            sign = self._peek()
            if sign in (".", "->"):
                self.position += len(sign)
                node = self._member(node, sign, self._member_name())
            elif sign == "[":
                self.position += 1
                index = self._nested(self._conditional)
                self._expect("]")
                node = self._indexed(node, index)
            elif sign in ("++", "--"):
                raise self._error("Operand error at", "nothing in a dump can be assigned to")
            elif sign == "(":
                raise self._error("Syntax error at", "a function cannot be called in a dump")
            else:
                return node

    def _member_name(self) -> str:
        return self._name()

    def _member(self, node: Node, sign: str, name: str) -> Node:
        return lambda local: cpp.member(node(local), name)

    def _indexed(self, node: Node, index: Node) -> Node:
        return lambda local: cpp.element(node(local), cpp.whole(index(local)))

    # operands ---------------------------------------------------------------------------------------------------

    def _primary(self) -> Node:
        match = self._match()
        if match is None:
            raise self._error("Numeric expression missing from" if not self._peek() else "Syntax error at")
        kind, token = match.lastgroup, match[0]
        if token in (")", "]", "}"):
            raise self._error("Numeric expression missing from")
        if kind == "number":
            value: Any = self._number(token)
        elif kind in ("string", "character"):
            value = _unescaped(token[1:-1])
            if kind == "character":
                value = cpp.integer(ord(value), cpp.CHAR)
        elif kind == "register":
            return self._register(token)
        elif kind == "macro":
            self.position = match.end()
            return self._macro(token[1:].upper(), match.start())
        elif kind == "name":
            self.position = match.end()
            return self._named(token, match.start())
        elif token == "(":
            self.position = match.end()
            node = self._nested(self.expression)
            self._expect(")")
            return node
        else:
            raise self._error("Syntax error at")
        self.position = match.end()
        return lambda local: value

    def _number(self, token: str) -> Any:
        suffix = re.search(r"(?<=[0-9a-fA-F`])(?:[uUlL]{1,3}|[uU]?[iI]64)$", token)
        letters = suffix[0].lower() if suffix else ""
        digits = token[: len(token) - len(letters)].replace("`", "")
        base = _BASES.get(digits[1:2].lower())
        if base is not None:
            number, decimal = int(digits[2:] or "0", base), base == 10
        elif digits[:2].lower() == "0x" or "`" in token:
            number, decimal = int(digits, 16), False
        elif "." in digits:
            return float(digits.rstrip("fF"))
        elif digits.startswith("0") and len(digits) > 1:
            if not re.fullmatch("[0-7]+", digits):
                raise self._error("Numeric expression missing from", "an octal number has digits up to 7")
            number, decimal = int(digits, 8), False
        else:
            number, decimal = int(digits), True
        if number >> 64:
            raise self._error("Overflow error at", "the number is beyond 64 bits")
        wide = "i64" in letters or "ll" in letters or "`" in token
        for type_, bits, allowed in (
            (cpp.INT, 31, not wide and "u" not in letters and "l" not in letters),
            (cpp.UNSIGNED_INT, 32, not wide and "l" not in letters and ("u" in letters or not decimal)),
            (cpp.LONG, 31, not wide and "u" not in letters),
            (cpp.UNSIGNED_LONG, 32, not wide and ("u" in letters or not decimal)),
            (cpp.LONG_LONG, 63, "u" not in letters),
        ):
            if allowed and not number >> bits:
                return cpp.integer(number, type_)
        return cpp.integer(number, cpp.UNSIGNED_LONG_LONG)

    def _register(self, token: str) -> Node:
        """What begins with a commercial at: a register, or an expression of another evaluator."""
        start = self.position
        if token == "@":
            return self._other_evaluator()
        self.position += len(token)
        name = token.removeprefix("@")
        try:
            value = self.names.register(name)
        except EvaluationError as error:
            raise ExpressionError("Bad register error at", self.text, start, str(error)) from None
        return lambda local: value

    def _other_evaluator(self) -> Node:
        match = re.compile(r"@@(masm|c\+\+)?\(", re.IGNORECASE).match(self.text, self.position)
        if match is None:
            raise self._error("Syntax error at")
        self.position = match.end() - 1
        if (match[1] or "").lower() == "c++":
            return self._primary()
        masm = MasmParser(self.text, self.names.names, self.names.radix)
        masm.position = self.position
        value = cpp.unsigned64(masm.group())
        self.position = masm.position
        return lambda local: value

    def _named(self, name: str, start: int) -> Node:
        if name in self._locals:
            return lambda local: local[name]
        if name in ("true", "false"):
            return lambda local: name == "true"
        if name in ("nullptr", "NULL"):
            null = cpp.pointer_to(cpp.VOID, 0, self.names.pointer_size)
            return lambda local: null
        if name in _CASTS:
            return self._template_cast()
        reason = self.names.why_no_type(name)
        value = None
        try:
            value = self.names.symbol(name)
        except EvaluationError as error:
            reason = str(error)
        if value is None:
            value = self.names.constant(name)
        if value is None:
            if self.names.type_named(name) is not None:
                reason = "that is a type: cast an address to it, as in (nt!_EPROCESS *)0xffff..."
            raise ExpressionError("Couldn't resolve error at", self.text, start, reason or None)
        return lambda local: value

    def _template_cast(self) -> Node:
        self._expect("<")
        typed = self._type()
        if typed is None:
            raise self._error("Syntax error at", "a type is expected")
        self._expect(">")
        self._expect("(")
        operand = self._nested(self.expression)
        self._expect(")")
        type_, reader = typed
        size = self.names.pointer_size
        return lambda local: cpp.cast(operand(local), type_, reader, size)

    # macros -----------------------------------------------------------------------------------------------------

    def _macro(self, name: str, start: int) -> Node:
        """The macros of Windows's headers that the debugger knows."""
        self._expect("(")
        if name == "CONTAINING_RECORD":
            address = self._nested(self._conditional)
            self._expect(",")
            (type_, reader), offset, _ = self._type_and_field()
            size = self.names.pointer_size
            return lambda local: cpp.pointer_to(type_, cpp.address_in(address(local)) - offset, size, reader)
        if name in ("FIELD_OFFSET", "RTL_FIELD_SIZE", "RTL_SIZEOF_THROUGH_FIELD"):
            _, offset, field_size = self._type_and_field()
            numbers = {"FIELD_OFFSET": offset, "RTL_FIELD_SIZE": field_size}
            value = cpp.integer(numbers.get(name, offset + field_size), cpp.LONG)
            return lambda local: value
        if name == "RTL_CONTAINS_FIELD":
            structure = self._nested(self._conditional)
            self._expect(",")
            given = self._nested(self._conditional)
            self._expect(",")
            path = self._field_path()
            self._expect(")")
            return lambda local: _contains(structure(local), cpp.whole(given(local)), path)
        if name == "RTL_NUMBER_OF":
            array = self._nested(self._conditional)
            self._expect(")")
            return lambda local: _number_of(array(local))
        raise ExpressionError("Syntax error at", self.text, start, f"there is no macro {printable(name)}")

    def _type_and_field(self) -> tuple[Typed, int, int]:
        typed = self._type()
        if typed is None:
            raise self._error("Couldn't resolve error at", "a type is expected")
        self._expect(",")
        field = cpp.field_of(typed[1], typed[0], self._field_path())
        self._expect(")")
        return typed, field.offset, field.type.size or 0

    def _field_path(self) -> str:
        path = self._name()
        while self._accept("."):
            path += f".{self._name()}"
        return path

    # types ------------------------------------------------------------------------------------------------------

    def _cast_type(self) -> Typed | None:
        """The type in parentheses that begin here, where they are a cast; else ``None``, and nothing is taken."""
        start = self.position
        self.position += 1
        typed = self._type()
        if typed is not None and self._accept(")") and self._peek() not in _NO_OPERAND:
            return typed
        self.position = start
        return None

    def _type(self) -> Typed | None:
        """A type as C++ writes it, with its stars; ``None`` where none stands here."""
        start = self.position
        keywords: list[str] = []
        named: str | None = None
        while True:
            match = self._match()
            token = match["name"] if match is not None else None
            if match is None or token is None:
                break
            if token in _QUALIFIERS:
                pass
            elif token in TYPE_WORDS and named is None:
                keywords.append(token)
            elif named is None and not keywords and token not in self._locals:
                named = token
            else:
                break
            self.position = match.end()
        typed: Typed | None = None
        if keywords:
            type_ = self.names.words_type(keywords)
            typed = None if type_ is None else (type_, None)
        elif named is not None:
            typed = self.names.type_named(named)
        if typed is None:
            self.position = start
            return None
        return self._declared(*typed)

    def _declared(self, type_: TypeReference, reader: TypedReader | None) -> Typed:
        size = self.names.pointer_size
        reader = reader or self.names.nt()
        while True:
            sign = self._peek()
            if sign in ("*", "const", "volatile"):
                self.position += len(sign)
                if sign == "*":
                    type_ = TypeReference("pointer", None, size, type_)
            elif sign == "(":
                # A pointer to an array: T (*)[4].
                start = self.position
                self.position += 1
                if not (self._accept("*") and self._accept(")") and self._peek() == "["):
                    self.position = start
                    return type_, reader
                type_ = TypeReference("pointer", None, size, self._array_of(type_))
            elif sign == "[":
                type_ = self._array_of(type_)
            else:
                return type_, reader

    def _array_of(self, type_: TypeReference) -> TypeReference:
        self._expect("[")
        match = self._match()
        if match is None or match["number"] is None:
            raise self._error("Syntax error at", "a number of elements is expected")
        count = self._number(match[0])
        self.position = match.end()
        self._expect("]")
        elements = cpp.whole(count)
        if self._peek() == "[":
            type_ = self._array_of(type_)
        return TypeReference("array", None, None if type_.size is None else type_.size * elements, type_, elements)


def _unescaped(text: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        escape = match[1]
        return chr(int(escape[1:], 16)) if escape[0] == "x" and len(escape) > 1 else _ESCAPES.get(escape, escape)

    return _ESCAPE.sub(replaced, text)


def _last(first: Node, second: Node) -> Node:
    def both(local: dict[str, Any]) -> Any:
        first(local)
        return second(local)

    return both


def _combined(sign: str, left: Node, right: Node) -> Node:
    if sign == "&&":
        return lambda local: cpp.truth(left(local)) and cpp.truth(right(local))
    if sign == "||":
        return lambda local: cpp.truth(left(local)) or cpp.truth(right(local))
    return lambda local: operators.binary(sign, left(local), right(local))


def _contains(structure: Any, given: int, path: str) -> bool:
    if not isinstance(structure, CppValue):
        raise EvaluationError("RTL_CONTAINS_FIELD takes a structure")
    type_ = structure.type.target if structure.type.kind == "pointer" else structure.type
    if type_ is None:
        raise EvaluationError("RTL_CONTAINS_FIELD takes a structure")
    field = cpp.field_of(structure.reader, type_, path)
    return field.offset + (field.type.size or 0) <= given


def _number_of(array: Any) -> CppValue:
    if not isinstance(array, CppValue) or array.type.kind != "array":
        raise EvaluationError("RTL_NUMBER_OF takes an array")
    return cpp.integer(array.type.count or 0, cpp.UNSIGNED_LONG_LONG)
