"""KD's MASM expressions, against Python's own arithmetic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.expressions import ExpressionError, as_address, evaluate, parse_bounds, parse_first, parse_range
from volatility3_kdump.expressions.grammar import DEEPEST, LONGEST, Unresolved

MASK = (1 << 64) - 1
MEMORY = bytes(random.Random(7).randrange(256) for _ in range(0x2000))


class Fake:
    """Names over 8 KB of memory: registers ``rax`` and ``ah``, the module ``nt``, the symbols ``X`` and ``nt!X``."""

    def __init__(self, pointer_size: int = 8) -> None:
        self.pointer_size = self.machine_size = pointer_size

    def common_register(self, name: str) -> int | None:
        return 0x1234 if name.lower() == "rax" else None

    def register(self, name: str) -> int:
        values = {"rax": 0x1234, "ah": 0x12, "$ptrsize": self.pointer_size, "$ip": 0x77}
        if name.lower() == "rbx":
            raise Unresolved("rbx is not known", "Bad register error at")
        if name.lower() not in values:
            raise Unresolved("", "Bad register error at")
        return values[name.lower()]

    def symbol(self, name: str) -> int | None:
        symbols = {"nt": 0x1000, "nt!X": 0x1100, "X": 0x1100, "a::b": 0x1200, "nt!a::b": 0x1200, "nt!?f@@YA": 0x1300}
        if name not in symbols and "!" in name:
            raise Unresolved("no such symbol")
        return symbols.get(name)

    def read(self, address: int, size: int, physical: bool) -> int:
        if address + size > len(MEMORY):
            raise Unresolved("not in the dump", "Memory access error at")
        return int.from_bytes(MEMORY[address : address + size], "little") ^ (MASK >> 64 - 8 * size if physical else 0)

    def typed(self, name: str) -> None:
        return None

    def is_valid(self, address: int, length: int) -> bool:
        return address + length <= len(MEMORY)

    def cpp(self, text: str, position: int) -> tuple[int, int]:
        """Every C++ expression is worth its length in characters, and eleven more."""
        end = text.find(")", position) + 1
        if not end:
            raise Unresolved("nothing closes it", "Syntax error at")
        if text[position:end] == "(bad)":
            raise Unresolved("no such thing", "Syntax error at")
        return len(text[position:end]) + 0xB, end


FAKE = Fake()


# oracle: random trees, rendered once for KD and computed with Python's integers ------------------------------------

#: KD's operator, its precedence (higher binds tighter), and what it does to unsigned 64-bit values.
BINARY = [
    ("*", 7, lambda a, b: a * b),
    ("/", 7, lambda a, b: a // b),
    (" mod ", 7, lambda a, b: a % b),
    ("%", 7, lambda a, b: a % b),
    ("+", 6, lambda a, b: a + b),
    ("-", 6, lambda a, b: a - b),
    ("<<", 5, lambda a, b: a << b if b < 64 else 0),
    (">>", 5, lambda a, b: a >> b if b < 64 else 0),
    (">>>", 5, lambda a, b: (a - (1 << 64) if a >= 1 << 63 else a) >> min(b, 64)),
    ("=", 4, lambda a, b: int(a == b)),
    ("==", 4, lambda a, b: int(a == b)),
    ("!=", 4, lambda a, b: int(a != b)),
    ("<", 4, lambda a, b: int(a < b)),
    (">", 4, lambda a, b: int(a > b)),
    ("<=", 4, lambda a, b: int(a <= b)),
    (">=", 4, lambda a, b: int(a >= b)),
    ("&", 3, lambda a, b: a & b),
    (" and ", 3, lambda a, b: a & b),
    ("^", 2, lambda a, b: a ^ b),
    (" xor ", 2, lambda a, b: a ^ b),
    ("|", 1, lambda a, b: a | b),
    (" or ", 1, lambda a, b: a | b),
]
UNARY = [
    ("-", lambda a: -a),
    ("+", lambda a: a),
    ("not ", lambda a: int(a == 0)),
    ("hi ", lambda a: (a >> 16) & 0xFFFF),
    ("low ", lambda a: a & 0xFFFF),
]
NUMBERS = [
    lambda value: f"{value:x}",
    lambda value: f"0x{value:X}",
    lambda value: f"0n{value}",
    lambda value: f"0t{value:o}",
    lambda value: f"0y{value:b}",
    lambda value: f"0{value:x}h",
    lambda value: f"{value:016x}"[:8] + "`" + f"{value:016x}"[8:],
]

values = st.one_of(st.integers(0, MASK), st.integers(0, 80), st.sampled_from([1 << 63, MASK, 0x80000000]))
leaves = st.builds(lambda value, style: (NUMBERS[style](value), 9, value), values, st.integers(0, len(NUMBERS) - 1))


def combine(children: st.SearchStrategy) -> st.SearchStrategy:
    def binary(left, right, chosen, spaces, brackets):
        operator, precedence, compute = BINARY[chosen]
        if left is None or right is None or (operator in ("/", "%", " mod ") and right[2] == 0):
            return None
        # Operators of one precedence associate to the left.
        left_text = left[0] if left[1] >= precedence else brackets[0] + left[0] + brackets[1]
        right_text = right[0] if right[1] > precedence else f"({right[0]})"
        text = f"{left_text}{spaces}{operator}{spaces}{right_text}"
        return text, precedence, compute(left[2], right[2]) & MASK

    def unary(child, chosen):
        if child is None:
            return None
        operator, compute = UNARY[chosen]
        text = child[0] if child[1] >= 8 else f"({child[0]})"
        return f"{operator}{text}", 8, compute(child[2]) & MASK

    def read(child, chosen):
        if child is None:
            return None
        name, size = [("by", 1), ("wo", 2), ("dwo", 4), ("qwo", 8), ("poi", 8)][chosen]
        address = child[2] & 0xFFF
        value = int.from_bytes(MEMORY[address : address + size], "little")
        return f"{name}(({child[0]})&0fff)", 8, value

    return st.one_of(
        st.builds(
            binary,
            children,
            children,
            st.integers(0, len(BINARY) - 1),
            st.sampled_from(["", " "]),
            st.sampled_from(["()", "[]"]),
        ),
        st.builds(unary, children, st.integers(0, len(UNARY) - 1)),
        st.builds(read, children, st.integers(0, 4)),
    )


@given(st.recursive(leaves, combine, max_leaves=25))
def test_any_tree_is_computed_as_python_does(tree) -> None:
    if tree is not None and len(tree[0]) <= LONGEST:
        text, _, value = tree
        assert evaluate(text, FAKE) == value, text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("10-3-2", 0xB),
        ("2+1<<2", 0xC),
        ("1<<2+1", 8),
        ("1 or 2 xor 2 and 0", 3),
        ("-1", MASK),
        ("- - 5", 5),
        ("-1 > 1", 1),
        ("5 / 2 * 2", 4),
        ("1 shl 4 shr 2", 4),
        ("rax", 0x1234),
        ("@rax+1", 0x1235),
        ("@ah", 0x12),
        ("RAX", 0x1234),
        ("@$ptrsize", 8),
        ("$ptrsize", 8),
        (".", 0x77),
        ("nt", 0x1000),
        ("nt!X+10", 0x1110),
        ("nt!=1000", 0),
        ("nt != 5", 1),
        ("X", 0x1100),
        ("a::b", 0x1200),
        ("nt!a::b - 1", 0x11FF),
        ("nt!?f@@YA", 0x1300),
        ('@!"nt!X"', 0x1100),
        ("@@masm(1+1)*2", 4),
        ("by 0", MEMORY[0]),
        ("by 0+1", (MEMORY[0] + 1) & MASK),
        ("by(0+1)", MEMORY[1]),
        ("poi[8]", int.from_bytes(MEMORY[8:16], "little")),
        ("BY 0", MEMORY[0]),
        ("$pby(3)", MEMORY[3] ^ 0xFF),
        ("$vvalid(0, 2000)", 1),
        ("$vvalid(0, 2001)", 0),
        ('$scmp("a", "b")', MASK),
        ('$scmp("b", "a")', 1),
        ('$scmp("a", "A")', 1),
        ('$sicmp("a", "A")', 0),
        ('$spat("MyFault.sys", "myf*.sys")', 1),
        ('$spat("MyFault.sys", "myf?.sys")', 0),
        # Hexadecimal digits are a number before they are a register (ah) or a word.
        ("ah & 0", 0),
        ("add", 0xADD),
        ("dead`beef", 0xDEADBEEF),
        ("0ah", 0xA),
        # A prefix alone is 0, and an exclamation point makes a symbol of what could be a number.
        ("0x", 0),
        ("0n", 0),
        ("0t+5", 5),
        ("0y", 0),
        ("!X+1", 0x1101),
        # The documentation's examples of strings with escapes, and of their literal form.
        (r'$spat( "c:\dir\name.txt", "*name*" )', 0),
        (r'$spat( @"c:\dir\name.txt", "*name*" )', 1),
        (r'$spat( @"c:\dir\", "*filename*" )', 0),
        (r'$scmp("a\"b", "a\x")', MASK),
        ('$spat("Loop", "Lo+p")', 1),
        ('$spat("Lp", "Lo+p")', 0),
        ("@@(5) + @@c++(7)", 0x1C),
    ],
)
def test_by_hand(text: str, value: int) -> None:
    assert evaluate(text, FAKE) == value


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "Numeric expression missing from '<EOL>'"),
        ("  ", 2, "Numeric expression missing from '<EOL>'"),
        ("1+", 2, "Numeric expression missing from '<EOL>'"),
        ("()", 1, "Numeric expression missing from ')'"),
        ("(1", 2, "Syntax error at '<EOL>': ) is missing"),
        ("[1)", 2, "Syntax error at ')': ] is missing"),
        ("1)", 1, "Extra character error at ')'"),
        ("1 2", 2, "Extra character error at '2'"),
        ("*1", 0, "Syntax error at '*1'"),
        ("foo+1", 0, "Couldn't resolve error at 'foo+1'"),
        ("1+foo", 2, "Couldn't resolve error at 'foo'"),
        ("nt!foo", 0, "Couldn't resolve error at 'nt!foo': no such symbol"),
        ("@foo", 0, "Bad register error at '@foo'"),
        ("@rbx", 0, "Bad register error at '@rbx': rbx is not known"),
        ("rbx", 0, "Bad register error at 'rbx': rbx is not known"),
        ("@", 0, "Bad register error at '@'"),
        ("$foo", 0, "Bad register error at '$foo'"),
        ("$foo(1)", 0, "Syntax error at '$foo(1)': there is no function $foo here"),
        ("poi(ffff)", 0, "Memory access error at 'poi(ffff)': not in the dump"),
        ("poi poi(0)", 0, "Memory access error at 'poi poi(0)': not in the dump"),
        ("1/0", 1, "Operand error at '/0': division by zero"),
        ("1 mod 0", 2, "Operand error at 'mod 0': division by zero"),
        ("10000000000000000", 0, "Overflow error at '10000000000000000': the number is beyond 64 bits"),
        ("@@(bad)", 0, "Syntax error at '@@(bad)': no such thing"),
        ("@@ (1)", 0, "Syntax error at '@@ (1)': @@ is followed by ( or c++( or masm("),
        (r'$spat( "c:\dir\", "*filename*" )', 19, "Syntax error at '*filename*\" )': , is missing"),
        ("$iment(0)", 0, "Operand error at '$iment(0)': there is no image at 0x0"),
        ("$fnsucc(nt, 0, 1)", 0, "Type information missing error at '$fnsucc(nt, 0, 1)': its return type is unknown"),
        ('$scmp("a)', 6, "Syntax error at '\"a)': a string in double quotes is expected"),
        ('@!"nt', 0, "Syntax error at '@!\"nt': the closing quote is missing"),
    ],
)
def test_errors_say_where(text: str, position: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, FAKE)
    assert (str(caught.value), caught.value.position) == (message, position)


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 4000 + "1", "(" * 300 + "1" + ")" * 300, "1+" * 3000 + "1"])
def test_depth_and_length_are_bounded(text: str) -> None:
    with pytest.raises(ExpressionError, match="Overflow error"):
        evaluate(text, FAKE)


def test_what_is_within_the_bounds() -> None:
    depth = DEEPEST - 1
    assert evaluate("(" * depth + "1" + ")" * depth, FAKE) == 1
    assert evaluate("1+" * (LONGEST // 2 - 1) + "1", FAKE) == LONGEST // 2


@given(st.text(alphabet="0123abfghxnty`()[]+-*/%<>=!&|^@$.\"',:~?# polwqbyRaxntX!", max_size=60))
def test_text_of_such_characters_has_a_value_or_one_line_of_error(text: str) -> None:
    for radix in (8, 10, 16):
        try:
            assert 0 <= evaluate(text, FAKE, radix) <= MASK
        except ExpressionError as error:
            assert "\n" not in str(error)
            assert 0 <= error.position <= len(text)


@given(st.text(max_size=60), st.sampled_from([4, 8]))
def test_ranges_of_any_text(text: str, pointer_size: int) -> None:
    for parse in (parse_range, parse_bounds):
        try:
            found, rest = parse(text, Fake(pointer_size))
        except ExpressionError as error:
            assert 0 <= error.position <= len(text)
        else:
            assert text.endswith(rest)
            assert (found is None) == (not text.strip())


def test_radix() -> None:
    assert evaluate("10", FAKE, 10) == 10
    assert evaluate("10", FAKE, 8) == 8
    assert evaluate("0x10", FAKE, 10) == 16
    assert evaluate("0n10", FAKE, 8) == 10
    with pytest.raises(ExpressionError, match="Couldn't resolve error at '9'"):
        evaluate("9", FAKE, 8)


def test_narrow_targets() -> None:
    """Numbers of 32-bit targets are sign-extended, with a backtick they are not, no result is ("Sign Extension")."""
    narrow = Fake(4)
    assert evaluate("80000000", narrow) == 0xFFFFFFFF80000000
    assert evaluate("EEAA1122", narrow) == evaluate("00000000EEAA1122", narrow) == 0xFFFFFFFFEEAA1122
    assert evaluate("0`EEAA1122", narrow) == evaluate("00000000`EEAA1122", narrow) == 0xEEAA1122
    assert evaluate("( 0x0`FFFFFFFF & EEAA1122 )", narrow) == 0xEEAA1122
    assert evaluate("7fffffff+1", narrow) == 0x80000000
    assert evaluate("ffffffff+1", narrow) == 0
    assert as_address(evaluate("7fffffff+1", narrow), 4) == 0xFFFFFFFF80000000
    assert parse_first("7fffffff+1 L4", narrow) == (0xFFFFFFFF80000000, "L4")
    assert evaluate("poi(0)", narrow) & 0xFFFFFFFF == int.from_bytes(MEMORY[:4], "little")
    assert evaluate("1`00000000", narrow) == 0x100000000


def test_where_an_expression_ends() -> None:
    assert parse_first("nt + 10 L20", FAKE) == (0x1010, "L20")
    assert parse_first("nt!X nt!X", FAKE) == (0x1100, "nt!X")
    assert parse_first("by(0) ]", FAKE) == (MEMORY[0], "]")


def test_ranges() -> None:
    def shown(text: str, parse=parse_bounds) -> tuple:
        found, rest = parse(text, FAKE)
        return (found.start, found.count, found.end, found.unlimited, rest)

    assert shown("nt") == (0x1000, None, None, False, "")
    assert shown("nt L20") == (0x1000, 0x20, None, False, "")
    assert shown("nt l 20") == (0x1000, 0x20, None, False, "")
    assert shown("nt L10+10 4d 5a") == (0x1000, 0x20, None, False, "4d 5a")
    assert shown("nt L(rax)") == (0x1000, 0x1234, None, False, "")
    assert shown("nt L-10") == (0x1000, -0x10, None, False, "")
    assert shown("nt L?20 5") == (0x1000, 0x20, None, True, "5")
    assert shown("nt L?") == (0x1000, None, MASK, True, "")
    assert shown("nt nt+1f rest") == (0x1000, None, 0x101F, False, "rest")
    assert shown("nt rest", parse_range) == (0x1000, None, None, False, "rest")
    assert parse_bounds("  ", FAKE) == (None, "")


def test_lengths_of_ranges() -> None:
    def length(text: str, size: int) -> int | None:
        found, _ = parse_bounds(text, FAKE)
        assert found is not None
        return found.length(size)

    assert length("0", 4) is None
    assert length("0 L20", 4) == 0x80
    assert length("1000 101f", 4) == 0x20
    assert length("0 L?20000000", 1) == 0x20000000
    for text, size in (("0 L20000000", 1), ("2000 1000", 1), ("0 L0", 1), ("ffffffff`fffffff0 L11", 1)):
        with pytest.raises(Exception, match="Range error"):
            length(text, size)
