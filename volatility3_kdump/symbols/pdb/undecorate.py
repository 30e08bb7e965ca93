"""Linker names to the names that the debugger shows.

C names lose what the calling convention added. C++ names lose everything but the qualified name, with template
arguments: ``?BTreeDelete@?$B_TREE@KUNODE@@$0BAAA@@@SAJXZ`` is ``B_TREE<unsigned long,NODE,4096>::BTreeDelete``.
Grammar: the description of Microsoft's name mangling that is public in LLVM's documentation and demangler. What is not
understood stays as it is.
"""

from __future__ import annotations

import re

_STDCALL = re.compile(r"([_@]?)([^@?]+)@{1,2}\d+")
#: The compiler writes names of its own in angle brackets: ``<lambda_...>``, ``<unnamed-tag>``.
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*|<[A-Za-z_][A-Za-z0-9_$-]*>")
_NAMESPACE_HASH = re.compile(r"(0x[0-9a-fA-F]{1,16})?")
_DEEPEST = 16
_MOST_REFERENCES = 10
_CONVENTIONS = {"A": "__cdecl", "E": "__thiscall", "G": "__stdcall", "I": "__fastcall", "Q": "__vectorcall"}
#: How what a pointer points to is qualified.
_QUALIFIED = {"A": "", "B": " const", "C": " volatile", "D": " const volatile"}
_LONGEST = 4096
#: How functions are accessed: those without an object, and those of one.
_WITHOUT_OBJECT, _OF_AN_OBJECT = "YZCDKLST", "ABEFIJMNQRUV"

_TYPES = {
    "C": "signed char",
    "D": "char",
    "E": "unsigned char",
    "F": "short",
    "G": "unsigned short",
    "H": "int",
    "I": "unsigned int",
    "J": "long",
    "K": "unsigned long",
    "M": "float",
    "N": "double",
    "O": "long double",
    "X": "void",
    "_J": "__int64",
    "_K": "unsigned __int64",
    "_N": "bool",
    "_W": "wchar_t",
}
_OPERATORS = {
    "2": "operator new",
    "3": "operator delete",
    "4": "operator=",
    "5": "operator>>",
    "6": "operator<<",
    "7": "operator!",
    "8": "operator==",
    "9": "operator!=",
    "A": "operator[]",
    "C": "operator->",
    "D": "operator*",
    "E": "operator++",
    "F": "operator--",
    "G": "operator-",
    "H": "operator+",
    "I": "operator&",
    "K": "operator/",
    "L": "operator%",
    "M": "operator<",
    "N": "operator<=",
    "O": "operator>",
    "P": "operator>=",
    "Q": "operator,",
    "R": "operator()",
    "S": "operator~",
    "T": "operator^",
    "U": "operator|",
    "V": "operator&&",
    "W": "operator||",
    "X": "operator*=",
    "Y": "operator+=",
    "Z": "operator-=",
    "_0": "operator/=",
    "_1": "operator%=",
    "_2": "operator>>=",
    "_3": "operator<<=",
    "_4": "operator&=",
    "_5": "operator|=",
    "_6": "operator^=",
    "_U": "operator new[]",
    "_V": "operator delete[]",
    "_7": "`vftable'",
    "_D": "`vbase destructor'",
    "_E": "`vector deleting destructor'",
    "_G": "`scalar deleting destructor'",
}


#: Run-time type information, by the digit behind ``??_R``.
_RTTI = {
    "2": "`RTTI Base Class Array'",
    "3": "`RTTI Class Hierarchy Descriptor'",
    "4": "`RTTI Complete Object Locator'",
}
#: String literals, whose decorated names hold their text, or a part of it: width, length, checksum, text, and in images
#: that were optimised after linking a scope.
LITERAL = "??_C@"
_LITERAL = re.compile(r"\?\?_C@_[01](?:\d|[A-P]+@)[A-P]{1,8}@[^@]*@(?:([A-Za-z_][A-Za-z0-9_]*)@)?")
_LITERAL_NAME = "`string'"
#: Stands for the name of the class until that is read.
_OF_CLASS = {"0": "\0", "1": "\0~"}


def is_literal(shown: str) -> bool:
    """Whether a name, as :func:`undecorate` gives it, is that of a string literal."""
    return shown.endswith(_LITERAL_NAME)


class _NotUnderstood(Exception):
    pass


def undecorate(name: str, pointer_size: int) -> str:
    """The name of a public symbol as the debugger shows it.

    One leading underscore goes on every machine (the debugger shows ``__C_specific_handler`` of x64 as
    ``_C_specific_handler``); the marks of stdcall, fastcall and vectorcall only where ``pointer_size`` is 4.
    """
    if name.startswith("?"):
        return undecorate_cpp(name)
    if pointer_size == 4:
        stdcall = _STDCALL.fullmatch(name)
        if stdcall:
            return stdcall.group(2)
    # The linker marks the ends of import lists with DEL.
    return name[1:] if name[:1] in ("_", "\x7f") and len(name) > 1 else name


def undecorate_cpp(name: str) -> str:
    """The qualified name in a decorated C++ name; the name itself when it is none, or is not understood."""
    if not name.startswith("?") or len(name) > _LONGEST:
        return name
    if name.startswith(LITERAL):
        literal = _LITERAL.fullmatch(name)
        # The debugger's own way to write a name that is none in a scope: nt! ?? ::FNODOBFM::`string'.
        return f" ?? ::{literal[1]}::{_LITERAL_NAME}" if literal is not None and literal[1] else _LITERAL_NAME
    try:
        return _Parser(name).symbol()
    except (_NotUnderstood, IndexError):
        return name


class _Parser:
    """``position`` is the next character; ``seen`` the names that a digit refers back to, at most ten."""

    def __init__(self, text: str, position: int = 0, depth: int = 0) -> None:
        self.text = text
        self.position = position
        self.depth = depth
        self.seen: list[str] = []
        self.types: list[str] = []
        #: Types are read of which nothing is shown.
        self.skipping = False
        if depth > _DEEPEST:
            raise _NotUnderstood

    def symbol(self) -> str:
        self.take("?")
        if self.accept("?"):
            if self.accept("$"):
                name = self.template()
            else:
                return self.special()
        else:
            name = self.identifier()
        scopes = self.scopes()
        self.must_be_typed()
        if name.startswith("\0"):
            if not scopes:
                raise _NotUnderstood
            rest = name[1:].removeprefix("~")
            name = f"{'~' if name[1:2] == '~' else ''}{scopes[-1]}{rest}"
        return "::".join([*scopes, name])

    def special(self) -> str:
        code = self.next()
        if code == "_":
            code += self.next()
        if code == "_R":
            return self.type_information()
        if code in "01":
            scopes = self.scopes()
            self.must_be_typed()
            if not scopes:
                raise _NotUnderstood
            stem = scopes[-1]
            return "::".join([*scopes, stem if code == "0" else f"~{stem}"])
        if code == "B":
            return self.conversion()
        if code not in _OPERATORS:
            raise _NotUnderstood
        scopes = self.scopes()
        self.must_be_typed()
        return "::".join([*scopes, _OPERATORS[code]])

    def conversion(self) -> str:
        """``??B``: an operator that is named after what it gives."""
        scopes = self.scopes()
        self.skip_access()
        if self.next() not in _CONVENTIONS:
            raise _NotUnderstood
        self.accept("?A")  # how the result is qualified
        result = self.type()
        self.must_be_typed()
        return "::".join([*scopes, f"operator {result}"])

    def type_information(self) -> str:
        """``??_R``: what the compiler writes for dynamic_cast and exceptions."""
        code = self.next()
        if code == "0":
            self.accept("?A")  # how the type itself is qualified
            name = self.type()
            self.must_be_typed()
            return f"{name} `RTTI Type Descriptor'"
        if code == "1":
            numbers = ",".join(self.number() for _ in range(4))
            name = f"`RTTI Base Class Descriptor at ({numbers})'"
        elif code in _RTTI:
            name = _RTTI[code]
        else:
            raise _NotUnderstood
        scopes = self.scopes()
        self.must_be_typed()
        if not scopes:
            raise _NotUnderstood
        return "::".join([*scopes, name])

    def scopes(self) -> list[str]:
        """The enclosing names, outermost first."""
        scopes: list[str] = []
        while not self.accept("@"):
            if self.accept("?"):
                if self.accept("A"):
                    end = self.text.index("@", self.position) if "@" in self.text[self.position :] else -1
                    if end < 0 or not _NAMESPACE_HASH.fullmatch(self.text, self.position, end):
                        raise _NotUnderstood
                    self.position = end + 1
                    scopes.append("`anonymous namespace'")
                    self.remember(scopes[-1])
                    continue
                if self.accept("$"):
                    scopes.append(self.template_scope())
                else:
                    scopes += self.function_scope()
            else:
                scopes.append(self.identifier())
        return scopes[::-1]

    def function_scope(self) -> list[str]:
        """A block of a function that a static variable stands in, innermost first: its number, the function."""
        block = self.number()
        inner = _Parser(self.text, self.position, self.depth + 1)
        inner.seen, inner.types = self.seen, self.types  # digits refer to the names of both
        inner.take("?")
        function = inner.symbol()
        if not inner.accept("9"):  # names of C have no types behind them
            inner.skip_function_type()
        self.position = inner.position
        return [f"`{block}'", f"`{function}'"]

    def skip_function_type(self) -> None:
        """What follows the name of a function of C++, of which nothing is shown."""
        self.skipping = True
        self.skip_access()
        self.signature()
        self.skipping = False

    def skip_access(self) -> None:
        """Who may call a function, and how the object that it is of is qualified."""
        access = self.next()
        if access in _OF_AN_OBJECT:
            self.accept("E")  # a pointer of 64 bits
            if not self.accept("G"):  # & or &&
                self.accept("H")
            if self.next() not in _QUALIFIED:
                raise _NotUnderstood
        elif access not in _WITHOUT_OBJECT:
            raise _NotUnderstood

    def identifier(self) -> str:
        if self.text[self.position].isdigit():
            index = int(self.next())
            if index >= len(self.seen):
                raise _NotUnderstood
            return self.seen[index]
        name = self.plain()
        self.remember(name)
        return name

    def plain(self) -> str:
        identifier = _IDENTIFIER.match(self.text, self.position)
        if identifier is None:
            raise _NotUnderstood
        self.position = identifier.end()
        self.take("@")
        return identifier.group()

    def template(self) -> str:
        """Name and arguments, in which digits refer to the template's own names."""
        inner = _Parser(self.text, self.position, self.depth + 1)
        name = inner.operator() if inner.accept("?") else inner.identifier()
        arguments: list[str] = []
        while not inner.accept("@"):
            arguments.append(inner.argument())
        self.position = inner.position
        listed = ",".join(arguments)
        return f"{name}<{listed}{' ' if listed.endswith('>') else ''}>"

    def operator(self) -> str:
        """The name of an operator, constructor or destructor that is a template."""
        code = self.next()
        if code == "_":
            code += self.next()
        name = _OF_CLASS.get(code) or _OPERATORS.get(code, "`")
        if name.startswith("`"):
            raise _NotUnderstood
        return name

    def template_scope(self) -> str:
        """A template that encloses or is a type: unlike that of a function, digits may refer back to it."""
        name = self.template()
        self.remember(name)
        return name

    def argument(self) -> str:
        if self.accept("$0"):
            return self.number()
        return self.function() if self.accept("$1") else self.type()

    def function(self) -> str:
        """The address of a function, with its type, as the debugger writes it."""
        self.take("?")
        name = self.identifier()
        name = "::".join([*self.scopes(), name])
        if self.accept("9"):
            return f"&{name}"
        self.take("Y")
        result, convention, parameters = self.signature()
        return f"&{result} {convention} {name}({parameters})"

    def signature(self) -> tuple[str, str, str]:
        """What a function gives, its calling convention, and its parameters."""
        convention = _CONVENTIONS.get(self.next())
        if convention is None:
            raise _NotUnderstood
        self.accept("?A")  # how the result is qualified
        result = "" if self.skipping and self.accept("@") else self.type()  # constructors give nothing
        parameters: list[str] = []
        if self.accept("X"):
            parameters.append("void")
        else:
            while not self.accept("@"):
                if self.accept("Z"):
                    parameters.append("...")
                    break
                parameters.append(self.parameter())
        self.take("Z")
        return result, convention, ",".join(parameters)

    def parameter(self) -> str:
        """A type; a digit refers to an earlier one that takes more than a letter."""
        if self.text[self.position].isdigit():
            index = int(self.next())
            if index >= len(self.types):
                raise _NotUnderstood
            return self.types[index]
        start = self.position
        name = self.type()
        if self.position - start > 1 and len(self.types) < _MOST_REFERENCES:
            self.types.append(name)
        return name

    def pointer(self, mark: str) -> str:
        if self.accept("6"):
            result, convention, parameters = self.signature()
            return f"{result} ({convention}{mark})({parameters})"
        self.accept("E")  # of 64 bits
        qualified = _QUALIFIED.get(self.next())
        if qualified is None:
            raise _NotUnderstood
        pointed = self.type()
        inner = f"{pointed}{qualified}"
        return f"{inner}{mark}" if inner.endswith("*") else f"{inner} {mark}"

    def type(self) -> str:
        if self.accept("$$T"):
            return "std::nullptr_t"
        if self.accept("?<auto>@@"):  # a result that the compiler derives
            return "<auto>"
        if self.skipping and self.accept("$$Q"):
            return self.pointer("&&")
        code = self.next()
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _NotUnderstood
        try:
            if self.skipping and code in "QRSBY":
                return self.array() if code == "Y" else self.pointer("&" if code == "B" else "*")
            return self.pointer("*" if code == "P" else "&") if code in "PA" else self.plain_type(code)
        finally:
            self.depth -= 1

    def array(self) -> str:
        bounds = [self.number() for _ in range(min(int(self.number()), _DEEPEST))]
        return f"{self.type()}[{']['.join(bounds)}]"

    def plain_type(self, code: str) -> str:
        if code in "TUVW":
            if code == "W":
                self.take("4")
            return "::".join(self.type_name())
        if code == "_":
            code += self.next()
        if code not in _TYPES:
            raise _NotUnderstood
        return _TYPES[code]

    def type_name(self) -> list[str]:
        if self.accept("?"):
            self.take("$")
            name = self.template_scope()
        else:
            name = self.identifier()
        return [*self.scopes(), name]

    def number(self) -> str:
        """A number: one digit for 1 to 10, else hexadecimal in the letters A to P up to an @; ? in front for minus."""
        sign = "-" if self.accept("?") else ""
        code = self.next()
        if code.isdigit():
            return f"{sign}{int(code) + 1}"
        value = 0
        while code != "@":
            if not "A" <= code <= "P":
                raise _NotUnderstood
            value = value * 16 + ord(code) - ord("A")
            code = self.next()
        return f"{sign}{value}"

    def must_be_typed(self) -> None:
        """What follows a name says what it is; nothing would mean that the name was cut."""
        if self.position >= len(self.text):
            raise _NotUnderstood

    def remember(self, name: str) -> None:
        if len(self.seen) < _MOST_REFERENCES and name not in self.seen:
            self.seen.append(name)

    def accept(self, text: str) -> bool:
        if self.text.startswith(text, self.position):
            self.position += len(text)
            return True
        return False

    def take(self, text: str) -> None:
        if not self.accept(text):
            raise _NotUnderstood

    def next(self) -> str:
        character = self.text[self.position]
        self.position += 1
        return character
