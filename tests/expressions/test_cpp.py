"""C++ expressions: arithmetic against a C++ compiler, structures against ``dt`` and the documentation's examples."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import TargetNames
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp import CppParser
from volatility3_kdump.expressions.cpp_names import CppNames
from volatility3_kdump.expressions.cpp_values import CppValue
from volatility3_kdump.target import Target
from volatility3_kdump.views.cpp import cpp_lines


@pytest.fixture(scope="module")
def names(sample) -> CppNames:
    target = Target.open(sample())
    return CppNames(target, TargetNames(target, variables={"t0": 5, "t1": 1, "t2": 2}))


def value(names: CppNames, text: str) -> object:
    return CppParser(text, names).whole()({})


# oracle: a C++ compiler -----------------------------------------------------------------------------------------------

_TYPES = ("char", "unsigned char", "short", "unsigned short", "int", "unsigned int", "__int64", "unsigned __int64")
_OPERATORS = ("+", "-", "*", "&", "|", "^", "<", ">", "<=", ">=", "==", "!=", "&&", "||", "<<", ">>", "/", "%")


def _expression(source: random.Random, depth: int) -> str:
    if depth == 0:
        number = source.choice(
            (0, 1, 2, 3, 7, 127, 128, 255, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 62)
        )
        form = source.choice(
            (f"{number:#x}", str(number), f"{number}u", f"{number:#x}i64", f"{number}ull", f"0{number:o}")
        )
        return f"({source.choice(_TYPES)})({form})" if source.random() < 0.6 else form
    kind = source.random()
    left = _expression(source, depth - 1)
    if kind < 0.15:
        return f"{source.choice('-~!+')}({left})"
    if kind < 0.25:
        return f"(({left}) ? ({_expression(source, depth - 1)}) : ({_expression(source, depth - 1)}))"
    sign = source.choice(_OPERATORS)
    right = _expression(source, depth - 1)
    if sign in ("<<", ">>"):
        right = str(source.randrange(32))
    if sign in ("/", "%"):
        # Quotients that overflow are undefined in C++, and so is division by zero.
        return f"(unsigned __int64)({left}) {sign} (unsigned __int64)(({right}) | 1)"
    return f"({left}) {sign} ({right})"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_arithmetic_as_a_compiler_does_it(names: CppNames, tmp_path: Path) -> None:
    """400 random expressions: value, size and signedness of the result. Takes a second to compile."""
    source = random.Random(16)
    expressions = [_expression(source, source.choice((1, 2, 3))) for _ in range(400)]
    program = tmp_path / "all.cpp"
    written = [
        f"  show({text.replace('i64', 'LL').replace('unsigned __int64', 'ULL64').replace('__int64', 'long long')});"
        for text in expressions
    ]
    program.write_text(
        "#include <cstdio>\n#include <type_traits>\ntypedef unsigned long long ULL64;\n"
        "template <class T> void show(T x)\n"
        "{ typedef typename std::conditional<std::is_same<T, bool>::value, int, T>::type V;"
        ' printf("%llu %d %d\\n", (unsigned long long)(V)x, (int)sizeof(x), (int)std::is_signed<T>::value); }\n'
        "int main() {\n" + "\n".join(written) + "\n}\n"
    )
    built = subprocess.run(
        ["g++", "-w", "-fwrapv", "-fsigned-char", "-o", str(tmp_path / "all"), str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[:2000]
    lines = subprocess.run([str(tmp_path / "all")], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(expressions)
    for text, line in zip(expressions, lines, strict=True):
        number, size, signed = map(int, line.split())
        found = value(names, text)
        if isinstance(found, bool):
            assert (int(found), 1, 0) == (number, size, signed), text
            continue
        assert isinstance(found, CppValue), text
        assert (cpp.whole(found) % (1 << 64), cpp.size_of(found)) == (number, size), text
        if size >= 4:
            assert cpp.is_signed(found) == bool(signed), text


# the documentation's examples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        # "C++ numbers and operators"
        ("@$t0", ["unsigned int64 5"]),
        ("@$t1 + @$t2", ["unsigned int64 3"]),
        ("@$t2/@$t1", ["unsigned int64 2"]),
        ("@$t2|@$t1", ["unsigned int64 3"]),
        ("#FIELD_OFFSET(_PEB, BeingDebugged)", ["long 0n2"]),
        ("(sizeof(_TEB))", ["unsigned int64 0x1838"]),
        ("@rip", ["unsigned int64 0xfffff800`629f71c0"]),
        ("1 == 1", ["bool true"]),
        ("5", ["int 0n5"]),
        ("'A'", ["char 0n65 'A'"]),
        ("1.5 * 2", ["double 3"]),
        ("017", ["int 0n15"]),
        ("fffff800`629f71c0", ["unsigned int64 0xfffff800`629f71c0"]),
        ("@@(10) + 1", ["unsigned int64 0x11"]),
        ("0n10 + 0N10", ["int 0n20"]),
        ("0y101", ["int 0n5"]),
        ("0t17", ["int 0n15"]),
        ("0n4294967296 == 0x100000000", ["bool true"]),
        ("@@masm(poi(nt!PsInitialSystemProcess)) == (unsigned __int64)nt!PsInitialSystemProcess", ["bool true"]),
        ("@$proc->UniqueProcessId", ["void * 0x00000000`00001c58"]),
        ("((nt!_EPROCESS *)@$proc)->Pcb.Header.Type", ["unsigned char 3 '\x03'".replace("\x03", "")]),
        ("(nt!_KTHREAD_STATE)((nt!_KTHREAD *)@$thread)->State", ["_KTHREAD_STATE Running (0n2)"]),
        ("#RTL_NUMBER_OF(@$proc->ImageFileName)", ["unsigned int64 0xf"]),
        ("#RTL_FIELD_SIZE(nt!_EPROCESS, ImageFileName)", ["long 0n15"]),
        ("*@$proc == 0 ? 1 : 2", None),
        ("reinterpret_cast<nt!_EPROCESS *>(@$proc) == @$proc", ["bool true"]),
        ("(unsigned char)0x1ff", ["unsigned char 0xff ''"]),
        ("1 // a remark", ["int 0n1"]),
        ("nt!PsInitialSystemProcess->ImageFileName[0]", ["unsigned char 0x53 'S'"]),
        ("&@$proc->ActiveProcessLinks == (nt!_LIST_ENTRY *)((char *)@$proc + 0x448)", ["bool true"]),
        ("#CONTAINING_RECORD(&@$proc->ActiveProcessLinks, nt!_EPROCESS, ActiveProcessLinks) == @$proc", ["bool true"]),
        ("(nt!_EPROCESS *)@$proc + 1 - (nt!_EPROCESS *)@$proc", ["int64 0n1"]),
        ("sizeof(unsigned long[4])", ["unsigned int64 0x10"]),
        ("(*(nt!_KPRCB*(*)[4])&nt!KiProcessorBlock)[2] == @$prcb", ["bool true"]),
    ],
)
def test_expressions(names: CppNames, text: str, lines: list[str] | None) -> None:
    if lines is None:
        with pytest.raises(KdumpError):
            list(cpp_lines(text, names))
    else:
        assert list(cpp_lines(text, names)) == lines


def test_structures_are_shown_as_dt_shows_them(names: CppNames) -> None:
    assert list(cpp_lines("&@$thread->Cid", names)) == [
        "struct _CLIENT_ID * 0xffff9189`52f554f8",
        "   +0x000 UniqueProcess    : 0x00000000`00001c58 Void",
        "   +0x008 UniqueThread     : 0x00000000`00001c5c Void",
    ]
    assert next(cpp_lines("*@$proc", names)) == "struct _EPROCESS"
    assert list(cpp_lines("@$proc->ImageFileName", names)) == [
        'unsigned char [15] 0xffff9189`5301a628  "notmyfault64.e"'
    ]


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Numeric expression missing from '<EOL>'"),
        ("1 +", "Numeric expression missing from '<EOL>'"),
        ("(1", "Syntax error at '<EOL>': ) is missing"),
        ("1 2", "Extra character error at '2'"),
        ("nosuch", "Couldn't resolve error at 'nosuch'"),
        ("nt!_EPROCESS", "that is a type"),
        ("1 / 0", "division by zero"),
        ("@nosuch", "Bad register error at '@nosuch'"),
        ("*5", "only a pointer can be followed"),
        ("*(void *)5", "cast it"),
        ("@$proc->NoSuchField", "_EPROCESS has no field NoSuchField"),
        ("*(int *)0", "Unable to read memory at Address 0x0"),
        ("@$t0 = 1", "nothing in a dump can be assigned to"),
        ("++@$t0", "Syntax error"),
        ("nt!KeBugCheckEx()", "a function cannot be called"),
        ("1 << 64", "a shift by 64"),
        ("0x12345678123456781", "Overflow error"),
        ("089", "an octal number"),
        ("0t8", "Syntax error"),
        ("0y2", "Syntax error"),
        ("0n1f", "Syntax error"),
        ("0n18446744073709551616", "Overflow error"),
        ("nt!PsIdleProcess", "Type information missing error"),
        ("nt", "is a module"),
        ("1.5 & 1", "& takes integers"),
        ("&5", "only what lies in memory has an address"),
        ("#NOSUCH(1)", "there is no macro NOSUCH"),
        ("(nt!_EPROCESS)5", "cast it to a pointer"),
        ("(" * 5000, "Overflow error"),
        ("- " * 2000 + "1", "Overflow error"),
    ],
)
def test_errors(names: CppNames, text: str, message: str) -> None:
    with pytest.raises(KdumpError) as caught:
        list(cpp_lines(text, names))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text("()[]{}*&->.,!@$#\"'0123456789abnt_ xEPROCESS=<>?:+", max_size=40))
def test_any_text_gives_an_answer_or_one_line(names: CppNames, text: str) -> None:
    try:
        list(cpp_lines(text, names))
    except KdumpError as error:
        assert "\n" not in str(error)
