"""The tokens of C++ expressions: numbers, names with ``!`` and ``::``, text, registers, macros, signs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from volatility3_kdump.expressions.grammar import DEEPEST, LONGEST, ExpressionError

#: What a part of an expression is read into: its value, given the local names.
Node = Callable[[dict[str, Any]], Any]

_SPACE = re.compile(r"(?:\s+|//.*$)*")
_TOKEN = re.compile(
    r"""(?P<number>0[nN][0-9`]+\b|0[tT][0-7`]+\b|0[yY][01`]+\b|0[xX][0-9a-fA-F`]+(?:[uUlL]{0,3}|[iI]64)\b|[0-9a-fA-F]{1,8}`[0-9a-fA-F]{8}\b
        |\d+\.\d*(?:[eE][-+]?\d+)?[fF]?|\d+(?:[uUlL]{0,3}|[uU]?[iI]64)\b)
      |(?P<name>[A-Za-z_]\w*(?:!(?!=)[A-Za-z_?][\w?$@`]*)?(?:::~?[A-Za-z_]\w*)*)
      |(?P<string>"(?:[^"\\]|\\.)*")|(?P<character>'(?:[^'\\]|\\.)')
      |(?P<register>@(?:\$)?[A-Za-z_]\w*|@(?=@)|\$[A-Za-z_]\w*)|(?P<macro>\#[A-Za-z_]\w*)
      |(?P<sign>=>|->|<<=|>>=|<<|>>|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%&|^]=|[-+*/%&|^~!<>=?:.,()\[\]{}@])""",
    re.VERBOSE,
)


class Tokens:
    """A text that is read token by token; ``position`` is where the next one begins."""

    def __init__(self, text: str, position: int = 0) -> None:
        self.text = text
        self.position = position
        self._depth = 0
        if len(text) > LONGEST:
            raise ExpressionError("Overflow error at", text, LONGEST, f"the text is longer than {LONGEST} characters")

    def _match(self) -> re.Match[str] | None:
        space = _SPACE.match(self.text, self.position)
        self.position = space.end() if space else self.position
        return _TOKEN.match(self.text, self.position)

    def _peek(self) -> str:
        """The next token, empty at the end of the text."""
        match = self._match()
        if match is None:
            if self.position < len(self.text):
                raise self._error("Syntax error at")
            return ""
        return match[0]

    def _accept(self, sign: str) -> bool:
        if self._peek() != sign:
            return False
        self.position += len(sign)
        return True

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._error("Syntax error at", f"{sign} is missing")

    def _name(self) -> str:
        match = self._match()
        if match is None or match["name"] is None or "!" in match[0]:
            raise self._error("Syntax error at", "a name is expected")
        self.position = match.end()
        return match[0]

    def _error(self, complaint: str, reason: str | None = None) -> ExpressionError:
        return ExpressionError(complaint, self.text, self.position, reason)

    def _nested(self, rule: Callable[..., Node], *arguments: Any) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._error("Overflow error at", "the expression is nested too deeply")
        node = rule(*arguments)
        self._depth -= 1
        return node
