"""The grammar of KD's MASM expressions, evaluated while it is read.

Values are 64 bits, unsigned, and wrap around; comparison, division and remainder are unsigned (``>>>`` keeps the sign).
Of 32-bit targets numbers and registers are sign-extended, but a number with a backtick is not, and no result is ("Sign
Extension" in the debugger's public documentation).
From the highest precedence to the lowest, each line evaluated from the left (operators of "MASM Numbers and Operators"
in the debugger's public documentation):

====================================  ================================================================================
``+ - not hi low by wo dwo qwo poi``  unary; ``by`` to ``poi`` read memory, ``hi`` and ``low`` are halves of 32 bits
``* / mod %``
``+ -``
``<< >> >>> shl shr``                 ``>>>`` is arithmetic
``= == < > <= >= !=``                 1 or 0
``and &``
``xor ^``
``or |``
====================================  ================================================================================

Parentheses and brackets group. Numbers are in the current radix unless they begin with ``0x``, ``0n``, ``0t`` or
``0y`` (16, 10, 8, 2; alone they are 0) or begin with a digit and end in ``h``. An exclamation point before a name makes
it a symbol, ``@@(...)`` is an expression of the other evaluator. What a number, a common
register, a module, a symbol and a register could all be is taken as the first of these; ``@`` before a name makes it a
register.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, TypeVar

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.wildcards import Wildcard

_Value = TypeVar("_Value")

MASK = (1 << 64) - 1
#: The most characters of an expression and the deepest nesting of its operators.
LONGEST, DEEPEST = 4096, 100
_SHOWN = 40


class ExpressionError(KdumpError):
    """An expression without a value: KD's words and the text from where the fault is, then the reason if there is more.

    ``position`` counts characters from the start of the expression.
    """

    def __init__(self, complaint: str, text: str, position: int, reason: str | None = None) -> None:
        rest = text[position:].strip() or "<EOL>"
        shown = printable(rest if len(rest) <= _SHOWN else f"{rest[:_SHOWN]}...")
        super().__init__(f"{complaint} '{shown}'" + (f": {reason}" if reason else ""))
        self.position = position


class Unresolved(Exception):
    """A name that means nothing where the expression is evaluated; the text says why, ``words`` are KD's."""

    def __init__(self, reason: str, complaint: str = "Couldn't resolve error at") -> None:
        super().__init__(reason)
        self.words = complaint


#: KD's words for a name that should be a register's and is not.
NO_REGISTER = "Bad register error at"


class Names(Protocol):
    """What the names in an expression mean. All values are unsigned, of 64 bits."""

    @property
    def pointer_size(self) -> int: ...

    @property
    def machine_size(self) -> int: ...

    def common_register(self, name: str) -> int | None:
        """The value of a register that needs no ``@``; ``None`` for no such. Raises :class:`Unresolved`."""

    def register(self, name: str) -> int:
        """The value of a register or pseudo-register (with its ``$``).

        Raises :class:`Unresolved`, without a reason where no register has that name.
        """

    def symbol(self, name: str) -> int | None:
        """The address of a module, or of ``module!symbol`` or ``symbol``; ``None`` for an unqualified name that is
        neither. Raises :class:`Unresolved`."""

    def read(self, address: int, size: int, physical: bool) -> int:
        """An unsigned number in memory. Raises :class:`Unresolved`."""

    def is_valid(self, address: int, length: int) -> bool:
        """Whether the dump holds a range. Raises :class:`Unresolved` when it is too long to tell."""

    def typed(self, name: str) -> object | None:
        """The C++ value that was given to a pseudo-register (with its ``$``); ``None`` where it is a number alone."""

    def cpp(self, text: str, position: int) -> tuple[int, int]:
        """The value of the C++ expression in the parentheses at a position, and where it ends.

        Raises :class:`KdumpError`.
        """


_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[\w$?.~`][\w$?@.~`]*(?:::[\w$?@.~`]+)*")
_QUALIFIED = re.compile(r"!(?!=)([\w$?@.~`]+(?:::[\w$?@.~`]+)*)?")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_LITERAL = re.compile(r'@"([^"]*)"')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a", "f": "\f", "v": "\v", "0": "\0"}
_EVALUATOR = re.compile(r"@@(masm|c\+\+)?\(", re.IGNORECASE)
_BINARY = re.compile(r"<<|>>>|>>|<=|>=|==|!=|[-+*/%<>=&^|]|(?:mod|shl|shr|and|xor|or)\b", re.IGNORECASE)
_NUMBERS = (
    (re.compile(r"0x([0-9a-f`]*)", re.IGNORECASE), 16),
    (re.compile(r"0n([0-9`]*)", re.IGNORECASE), 10),
    (re.compile(r"0t([0-7`]*)", re.IGNORECASE), 8),
    (re.compile(r"0y([01`]*)", re.IGNORECASE), 2),
    (re.compile(r"([0-9][0-9a-f`]*)h", re.IGNORECASE), 16),
)
_DIGITS = {
    16: re.compile(r"[0-9a-f`]*[0-9a-f][0-9a-f`]*", re.IGNORECASE),
    10: re.compile(r"[0-9`]*[0-9][0-9`]*"),
    8: re.compile(r"[0-7`]*[0-7][0-7`]*"),
}

#: Binary operators by precedence, the lowest first.
_LEVELS = (
    ("or", "|"),
    ("xor", "^"),
    ("and", "&"),
    ("=", "==", "<", ">", "<=", ">=", "!="),
    ("<<", ">>", ">>>", "shl", "shr"),
    ("+", "-"),
    ("*", "/", "mod", "%"),
)
_PRECEDENCE = {operator: level for level, operators in enumerate(_LEVELS) for operator in operators}
#: The marks of an image: MZ, and PE with two zeros.
_MZ, _PE = 0x5A4D, 0x4550
_READS = {"by": 1, "wo": 2, "dwo": 4, "qwo": 8, "poi": 0}
_PHYSICAL_READS = {f"$p{name}": size for name, size in _READS.items()}
_UNARY = frozenset({"not", "hi", "low", *_READS, *_PHYSICAL_READS})


def _shift(value: int, by: int, left: bool) -> int:
    if by >= 64:
        return 0
    return value << by if left else value >> by


def _arithmetic_shift(value: int, by: int) -> int:
    signed = value - (1 << 64) if value >> 63 else value
    return signed >> min(by, 63)


_COMPUTE: dict[str, Callable[[int, int], int]] = {
    "or": lambda left, right: left | right,
    "xor": lambda left, right: left ^ right,
    "and": lambda left, right: left & right,
    "=": lambda left, right: int(left == right),
    "<": lambda left, right: int(left < right),
    ">": lambda left, right: int(left > right),
    "<=": lambda left, right: int(left <= right),
    ">=": lambda left, right: int(left >= right),
    "!=": lambda left, right: int(left != right),
    "<<": lambda left, right: _shift(left, right, True),
    ">>": lambda left, right: _shift(left, right, False),
    ">>>": _arithmetic_shift,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right,
    "mod": lambda left, right: left % right,
}
_SAME = {"|": "or", "^": "xor", "&": "and", "==": "=", "shl": "<<", "shr": ">>", "%": "mod"}


class Parser:
    """Evaluates expressions one after another from the start of a text.

    ``position`` is where the next one begins. Every failure is an :class:`ExpressionError`.
    """

    def __init__(self, text: str, names: Names, radix: int = 16) -> None:
        self.text = text
        self.position = 0
        self._names = names
        self._radix = radix
        self._depth = 0
        if len(text) > LONGEST:
            raise ExpressionError("Overflow error at", text, LONGEST, f"the text is longer than {LONGEST} characters")

    def whole(self) -> int:
        """The value of the text as one expression."""
        value = self.expression()
        self.skip_space()
        if self.position < len(self.text):
            raise self._error("Extra character error at")
        return value

    def expression(self) -> int:
        """The value of the longest expression that begins here; ``position`` is then behind it."""
        return self._binary(0)

    def group(self) -> int:
        """The value of the expression in the parentheses that begin here."""
        return self._group()

    def skip_space(self) -> None:
        """Go to the next character that is not white space."""
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position

    # operators --------------------------------------------------------------------------------------------------

    def _binary(self, lowest: int) -> int:
        value = self._operand()
        while True:
            self.skip_space()
            match = _BINARY.match(self.text, self.position)
            operator = match[0].lower() if match else ""
            if match is None or _PRECEDENCE[operator] < lowest:
                return value
            at = self.position
            self.position = match.end()
            right = self._nested(self._binary, _PRECEDENCE[operator] + 1)
            operator = _SAME.get(operator, operator)
            if operator in ("/", "mod") and right == 0:
                raise ExpressionError("Operand error at", self.text, at, "division by zero")
            value = _COMPUTE[operator](value, right) & MASK

    def _nested(self, rule: Callable[..., int], *arguments: int) -> int:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._error("Overflow error at", "the expression is nested too deeply")
        value = rule(*arguments)
        self._depth -= 1
        return value

    def _operand(self) -> int:
        self.skip_space()
        character = self.text[self.position : self.position + 1]
        if character in ("+", "-"):
            self.position += 1
            value = self._nested(self._operand)
            return value if character == "+" else -value & MASK
        if character in ("(", "["):
            return self._group()
        if character == "@":
            return self._at()
        if character == "!":
            return self._plain_symbol()
        match = _WORD.match(self.text, self.position)
        if match is None:
            raise self._error("Numeric expression missing from" if character in ("", ")", "]") else "Syntax error at")
        return self._word(match)

    def _group(self) -> int:
        closing = ")" if self.text[self.position] == "(" else "]"
        self.position += 1
        value = self._nested(self._binary, 0)
        self._expect(closing)
        return value

    def _expect(self, character: str) -> None:
        self.skip_space()
        if not self.text.startswith(character, self.position):
            raise self._error("Syntax error at", f"{character} is missing")
        self.position += 1

    # operands ---------------------------------------------------------------------------------------------------

    def _at(self) -> int:
        """What begins with a commercial at: a register, a quoted symbol, or another evaluator's expression."""
        start = self.position
        other = _EVALUATOR.match(self.text, start)
        if other is not None:
            self.position = other.end() - 1
            if (other[1] or "").lower() == "masm":
                return self._group()
            value, self.position = self._resolved(lambda: self._names.cpp(self.text, other.end() - 1), start)
            return value & MASK
        if self.text.startswith("@@", start):
            raise self._error("Syntax error at", "@@ is followed by ( or c++( or masm(")
        if self.text.startswith('@!"', start):
            match = _STRING.match(self.text, start + 2)
            if match is None:
                raise self._error("Syntax error at", "the closing quote is missing")
            self.position = match.end()
            return self._symbol(match[1], start)
        match = _WORD.match(self.text, start + 1)
        if match is None:
            raise self._error(NO_REGISTER)
        self.position = match.end()
        return self._resolved(lambda: self._names.register(match[0]), start)

    def _plain_symbol(self) -> int:
        """A symbol of any module, whatever else its name could be."""
        match = _WORD.match(self.text, self.position + 1)
        if match is None:
            raise self._error("Syntax error at")
        start, self.position = self.position, match.end()
        return self._symbol(match[0], start)

    def _word(self, match: re.Match[str]) -> int:
        start, word = self.position, match[0]
        qualified = _QUALIFIED.match(self.text, match.end())
        if qualified is not None:
            if not qualified[1]:
                raise ExpressionError("Syntax error at", self.text, match.end(), "no symbol after the module's name")
            self.position = qualified.end()
            return self._symbol(word + qualified[0], start)
        lowered = word.lower()
        if lowered in _UNARY:
            self.position = match.end()
            return self._unary(lowered, start)
        if word.startswith("$") and self.text.startswith("(", match.end()):
            self.position = match.end()
            return self._function(lowered, start)
        self.position = match.end()
        number = self._number(word, start)
        if number is not None:
            return number
        if word.startswith("$") or word == ".":
            return self._resolved(lambda: self._names.register("$ip" if word == "." else word), start)
        common = self._resolved(lambda: self._names.common_register(word), start)
        if common is not None:
            return common
        symbol = self._resolved(lambda: self._names.symbol(word), start)
        if symbol is not None:
            return symbol
        try:
            return self._names.register(word)
        except Unresolved as error:
            # With a reason it is the name of a register that has no value here.
            message = error.words if str(error) else "Couldn't resolve error at"
            raise ExpressionError(message, self.text, start, str(error) or None) from None

    def _number(self, word: str, start: int) -> int | None:
        for pattern, radix in _NUMBERS:
            match = pattern.fullmatch(word)
            if match is not None:
                return self._valued(match[1], radix, start)
        if _DIGITS[self._radix].fullmatch(word):
            return self._valued(word, self._radix, start)
        return None

    def _valued(self, digits: str, radix: int, start: int) -> int:
        value = int(digits.replace("`", "") or "0", radix)
        if value > MASK:
            raise ExpressionError("Overflow error at", self.text, start, "the number is beyond 64 bits")
        # So KD takes the numbers of 32-bit targets.
        return value if "`" in digits or value >> 32 else sign_extended(value, self._names.pointer_size)

    def _symbol(self, name: str, start: int) -> int:
        value = self._resolved(lambda: self._names.symbol(name), start)
        if value is None:
            raise ExpressionError("Couldn't resolve error at", self.text, start)
        return value

    def _unary(self, name: str, start: int) -> int:
        value = self._nested(self._operand)
        if name == "not":
            return int(value == 0)
        if name in ("hi", "low"):
            return value >> 16 & 0xFFFF if name == "hi" else value & 0xFFFF
        physical = name in _PHYSICAL_READS
        size = (_PHYSICAL_READS if physical else _READS)[name] or self._names.machine_size
        pointee = self._resolved(lambda: self._names.read(value, size, physical), start)
        return sign_extended(pointee, self._names.pointer_size) if name.endswith("poi") else pointee

    def _function(self, name: str, start: int) -> int:
        self.position += 1
        if name == "$vvalid":
            address = self._nested(self._binary, 0)
            self._expect(",")
            length = self._nested(self._binary, 0)
            self._expect(")")
            return int(self._resolved(lambda: self._names.is_valid(address, length), start))
        if name == "$iment":
            base = self._nested(self._binary, 0)
            self._expect(")")
            return self._resolved(lambda: self._entry_point(base), start)
        if name == "$fnsucc":
            # Only private symbols give it.
            reason = "its return type is unknown"
            raise ExpressionError("Type information missing error at", self.text, start, reason)
        if name in ("$scmp", "$sicmp", "$spat"):
            left = self._string()
            self._expect(",")
            right = self._string()
            self._expect(")")
            if name == "$spat":
                return int(Wildcard(right).matches(left))
            if name == "$sicmp":
                left, right = left.lower(), right.lower()
            return ((left > right) - (left < right)) & MASK
        raise ExpressionError("Syntax error at", self.text, start, f"there is no function {name} here")

    def _entry_point(self, base: int) -> int:
        """Where an image begins to run, from its headers in memory."""
        if self._names.read(base, 2, False) != _MZ:
            raise Unresolved(f"there is no image at {base:#x}", "Operand error at")
        headers = base + self._names.read(base + 0x3C, 4, False)
        if self._names.read(headers, 4, False) != _PE:
            raise Unresolved(f"there is no image at {base:#x}", "Operand error at")
        return base + self._names.read(headers + 0x28, 4, False) & MASK

    def _string(self) -> str:
        """A string; escapes in it are read, but not behind a commercial at."""
        self.skip_space()
        literal = _LITERAL.match(self.text, self.position)
        match = literal or _STRING.match(self.text, self.position)
        if match is None:
            raise self._error("Syntax error at", "a string in double quotes is expected")
        self.position = match.end()
        return (
            match[1]
            if literal is not None
            else _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1])
        )

    # errors -----------------------------------------------------------------------------------------------------

    def _resolved(self, function: Callable[[], _Value], start: int) -> _Value:
        try:
            return function()
        except Unresolved as error:
            raise ExpressionError(error.words, self.text, start, str(error) or None) from None

    def _error(self, complaint: str, reason: str | None = None) -> ExpressionError:
        return ExpressionError(complaint, self.text, self.position, reason)
