"""Command programs: tokens, loops, aliases, script files, as Microsoft's pages of each describe them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.prompt import answer
from volatility3_kdump.console.commands.control import _replaced
from volatility3_kdump.console.script import MARK, split, whole_lines
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError

_OF_THE_DUMP = ": a word of the dump is no command; put a command in front of it"
_NO_COMMAND = ": no such command here; .help lists the commands"


@pytest.mark.parametrize(
    ("line", "lines"),
    (
        (".if (1) { .echo yes } .else { .echo no }", ["yes"]),
        (".if (0) {.echo a} .elsif (2 > 1) {.echo b} .else {.echo c}", ["b"]),
        (".if (0) {.echo a}\n.elsif (0) {.echo b}\n.else\n{\n.echo c; .echo d\n}\n.echo e", ["c", "d", "e"]),
        (".if (1) { .if (0) { .echo a } .else { .echo b; .echo c } } ; .echo d", ["b", "c", "d"]),
        ('.if ($scmp("a", "a") == 0) { .echo "};" }', ["};"]),
        (".for (r $t0=0; @$t0 < 3; r $t0=@$t0+1) { .printf \"%d \", @$t0 }", ["0 1 2 "]),
        (".for (r $t0=0; @$t0 < 9; r $t0=@$t0+1) { .if (@$t0 == 1) {.continue}; .if (@$t0 == 3) {.break}; ? @$t0 }",
         ["Evaluate expression: 0 = 00000000`00000000", "Evaluate expression: 2 = 00000000`00000002"]),
        ("r $t1=2; .while (@$t1) { r $t1=@$t1-1; .echo w }", ["w", "w"]),
        ("r $t1=5; .do { .echo once } (@$t1 == 0)", ["once"]),
        ("r $t0=0; .block { r $t0=@$t0+1; .echo z; z (@$t0 < 3) }", ["z", "z", "z"]),
        ("j (1 < 2) '.echo a; .echo b' ; '.echo c'", ["a", "b"]),
        ("j 0 '.echo a; .echo b' ; '.echo c' ; .echo d", ["c", "d"]),
        ("j 1 .echo a ; .echo b", ["a"]),
        (".echo it's; .echo that's", ["it's", "that's"]),
        (".catch { .echo a; !nosuch; .echo b }; .echo c", ["a", f"!nosuch{_NO_COMMAND}", "c"]),
        (".catch { .echo a; .leave; .echo b }", ["a"]),
        (".break", [".break: there is nothing here that it could leave"]),
        (".else { k }", [".else stands behind the block of an .if"]),
        (".if (1) .echo x", ["the { is missing: .if (CONDITION) { COMMANDS }"]),
        (".if 1 { .echo x }", ["the ( is missing: .if (CONDITION) { COMMANDS }"]),
        ('.foreach /s (x "a b  c") { .echo <x> x }', ["<x> a", "<x> b", "<x> c"]),
        ('.foreach /s (x "a b") { .echo <${x}> }', ["<a>", "<b>"]),
        ('.foreach /pS 2 /ps 4 /s (x "1 2 3 4 5 6 7 8 9") { .echo x }', ["3", "8"]),
        (".foreach (x { .echo a b; .printf \"c%cd\", 20 }) { .echo x }", ["a", "b", "c", "d"]),
        # The documented example of as, aS.
        ("aS /x myAlias 5 + 1; .block{.echo myAlias}", ["0x6"]),
        ("aS /x other 5 + 1; .echo other", ["other"]),
        ("aS here a,b; .block{.echo ${here}x ${/d:here} ${/d:none} ${/f:none}| ${/n:here} ${none} ${/v:here}}",
         ["a,bx 1 0 | here ${none} ${/v:here}"]),
        ('aS two ".echo 1; .echo 2"; .block{two}', ["1", "2"]),
        ("ad none", ["no alias is named none: al lists them"]),
        ("ad /q none", []),
        ("as al x", ["al: the name of an alias does not begin with al, as, aS or ad"]),
    ),
)  # fmt: skip
def test_programs(session: Session, line: str, lines: list[str]) -> None:
    assert answer(session, line) == lines


def test_aliases_of_later_lines(session: Session) -> None:
    assert answer(session, "as say .echo a; .echo b") == []
    assert answer(session, "say") == ["a", "b"]
    assert answer(session, "al") == ["  Alias   Value", "  -----   -----", "  say     .echo a; .echo b"]
    assert answer(session, "ad say") == []
    assert answer(session, "al") == ["No aliases"]


def test_strings_of_the_dump_as_aliases_begin_no_commands(session: Session) -> None:
    answer(session, "aS /msu name poi(nt!PsLoadedModuleList)+58")
    assert answer(session, ".echo name") == ["ntoskrnl.exe"]
    assert answer(session, "name ; .block { ${name} }") == [f"ntoskrnl.exe{_OF_THE_DUMP}"] * 2
    assert answer(session, '.if ($scmp("${name}", "ntoskrnl.exe") == 0) { .echo same }') == ["same"]
    assert answer(session, "al")[-1].endswith("   ntoskrnl.exe")


def test_hostile_words_begin_no_commands(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(session, '.foreach (x { .printf "a;.echo%cb }{ c\\"d" , 1f }) { .echo x }') == [
        "a_.echo_b",
        "__",
        "c_d",
    ]
    assert answer(session, ".foreach (x { .echo ../../a }) { .if (0) { .logopen x } ; .echo x }") == ["_.._.._a"[1:]]


@pytest.mark.parametrize(
    "block",
    (
        *("x", "${x}", ".block { x }", ".echo a; x", ".if (1) { x }", ".for (${x}; 0; r $t0=1) { .echo b }", "~*e x"),
        *("~0 x", "j 1 '${x}'", "j 0 '.echo b' ; '${x}'", "j 1 x", "!for_each_frame x", '!for_each_process "${x}"'),
        *(
            "!for_each_register -c:${x}",
            ".do { x } (0)",
            ".catch { x }",
            '!list -x "${x};.echo @$extret" nt!PsActiveProcessHead',
        ),
        *('.foreach /s (y "${x}") { y }', ".foreach (y { .echo x }) { y }", "as /x n 1; aS y ${x}; .block { y }"),
        *("aS /c y .echo ${x}; .block { y }", "r $.u1=${x}; .block { $u1 }"),
    ),
)
@pytest.mark.parametrize("word", (".echo", "q", "$$<passwd", "$<passwd"))
def test_words_of_the_dump_are_no_commands(session: Session, block: str, word: str) -> None:
    session.most_steps = 500
    lines = answer(session, f'.foreach (x {{ .printf "{word}" }}) {{ {block} }}')
    assert not session.finished
    assert f"{word}{_OF_THE_DUMP}" in lines, lines
    assert "b" not in lines


@pytest.mark.parametrize(
    ("block", "lines"),
    (
        (".echo x ; ? ${x} + 1", ["1", "Evaluate expression: 2 = 00000000`00000002"]),
        (".if (${x} == 1) { .echo <${x}> }", ["<1>"]),
        ("j (${x} == 1) '.echo yes' ; '.echo no'", ["yes"]),
        ('.printf "%d ${x}\\n", x', ["1 1"]),
        ('.foreach /pS x /s (y "a b") { .echo y }', ["b"]),
        ("aS one ${x}; .block { .echo one }", ["1"]),
        ("~${x}s; .echo @$t0; ~0s", ["@$t0"]),
    ),
)
def test_words_of_the_dump_as_arguments(session: Session, block: str, lines: list[str]) -> None:
    assert answer(session, f'.foreach (x {{ .printf "1" }}) {{ {block} }}') == lines


def test_a_mark_is_never_shown(session: Session) -> None:
    (line,) = answer(session, '.foreach (x { .printf "1" }) { !list -q${x} 1 }')
    assert line.startswith("!list knows no option -q1: ")


def test_names_of_modules_are_no_commands(session: Session) -> None:
    """A name such as ``a} .writemem b`` would also have ended the block that it stands in."""
    lines = answer(session, "!for_each_module .if (1) { ${@#ImageName} }")
    assert f"ntoskrnl.exe{_OF_THE_DUMP}" in lines
    assert all(line.endswith(_OF_THE_DUMP) for line in lines)
    assert _replaced(".if (1) { .echo @#ModuleName }", {"modulename": "a} '.echo' b\\"}) == (
        f".if (1) {{ .echo {MARK}a_ _.echo_ b_ }}"
    )
    assert "nt" in answer(session, "!for_each_module .echo @#ModuleName")


@pytest.mark.parametrize(
    ("line", "lines"),
    (
        (r'.printf "%d %i %u %x %X|%08x|%-6d|%6d|\n", -1, -2, 0n10, ff, ff, 1f, 5, 5',
         ["-1 -2 10 ff FF|0000001f|5     |     5|"]),
        (r'.printf "%I64x %I64d %p\n", -1, -1, 1234', ["ffffffffffffffff -1 00000000`00001234"]),
        (r'.printf "%c%c %% %s\ta\n", 41, 42, nosuch', ["Couldn't resolve error at 'nosuch'"]),
        (r'.printf "%c%c %%\ta\n", 41, 42', ["AB %\ta"]),
        (r'.printf "%msu|\n", poi(nt!PsLoadedModuleList)+58', ["ntoskrnl.exe|"]),
        (r'.printf "%mu|\n", poi(poi(nt!PsLoadedModuleList)+60)', ["ntoskrnl.exe|"]),
        (r'.printf "%y\n", nt!KeBugCheckEx', ["nt!KeBugCheckEx"]),
        (r'.printf "%ma\n", 0', ["(not in the dump: 00000000`00000000)"]),
        (r'.printf "%f %.2lf\n", 3f800000, 4004000000000000', ["1.000000 2.50"]),
        ('.printf "one"; .printf " two"; .echo " three"', ["one two three"]),
        ('.printf "%d"', [".printf has too few arguments: nothing is left for %d"]),
        ('.printf "%d", 1, 2', [".printf has 2 arguments, more than its format takes"]),
        ('.printf "%q", 1', [".printf has no conversion '%q'"]),
        (".printf %d, 1", ['.printf takes a format in double quotes: .printf "%p\\n", VALUE']),
        ('.printf /D /od "x"', ["x"]),
    ),
)  # fmt: skip
def test_formats(session: Session, line: str, lines: list[str]) -> None:
    assert answer(session, line) == lines


def _script(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_documented_scripts(session: Session, tmp_path: Path) -> None:
    plain = _script(
        tmp_path / "myfile.txt", ".echo The first argument is ${$arg1}.\n.echo The second argument is ${$arg2}.\n"
    )
    assert answer(session, f"$$>a<{plain} myFirstArg mySecondArg") == [
        "The first argument is myFirstArg.",
        "The second argument is mySecondArg.",
    ]
    spaced = _script(
        tmp_path / "my script.txt",
        ".echo The first argument is ${$arg1}.\n.echo The fifth argument is ${$arg5}.\n"
        ".echo The fourth argument is ${$arg4}.\n",
    )
    assert answer(session, f'$$>a< "{spaced}" "First one" Two "Three More" Four; .echo behind') == [
        "The first argument is First one.",
        "The fifth argument is ${$arg5}.",
        "The fourth argument is Four.",
        "behind",
    ]


def test_scripts_as_a_block_and_by_line(session: Session, tmp_path: Path) -> None:
    path = _script(
        tmp_path / "a.txt", "$$ a comment\n* another; .echo not\n.if (1)\n{\n  .echo a\n}\n.else\n{\n  .echo b\n}\n"
    )
    for token in ("$$><", "$><", "$$>a<"):
        assert answer(session, f"{token}{path}") == ["a"]
    lines = _script(tmp_path / "b.txt", ".echo a\n\n.echo b; .echo c\n")
    prompt = session.prompt
    assert answer(session, f"$$<{lines}; .echo d") == [
        f"{prompt}.echo a", "a", prompt, f"{prompt}.echo b; .echo c", "b", "c", "d"
    ]  # fmt: skip
    assert answer(session, f"$<{tmp_path}/none.txt") == [
        f"{tmp_path}/none.txt: the file cannot be opened: No such file or directory"
    ]


def test_scripts_that_call_themselves_end(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "self.txt"
    path.write_text(f".echo x\n$$><{path}\n", encoding="utf-8")
    lines = answer(session, f"$$><{path}")
    assert lines[-1] == "programs and scripts nest deeper than 40"
    assert set(lines[:-1]) == {"x"}


@pytest.mark.parametrize("line", (".while (1) { }", ".for (;;) { .echo x }", ".do { .catch { !nosuch } } (1)", "z (1)",
                                  '.while (1) { .foreach /s (x "a b c") { .echo x } }'))  # fmt: skip
def test_endless_loops_end_in_batch(session: Session, line: str) -> None:
    session.most_steps = 500
    assert answer(session, line)[-1] == "stopped after 500 commands: --steps allows more"
    assert answer(session, ".echo on") == ["on"]


def test_foreach_is_streamed(session: Session) -> None:
    """The first word is handled before the commands have said all: nothing is gathered."""
    begin = time.process_time()
    assert answer(session, ".foreach (x { .while (1) { .echo a } }) { .echo x ; .break }") == ["a"]
    assert time.process_time() - begin < 1


def test_brackets_without_end() -> None:
    with pytest.raises(KdumpError):
        list(split(".if (1 { .echo a }"))


@settings(max_examples=part(200), deadline=None)
@given(st.text(alphabet=".if(){};\"$<> \nelswhforacj'z*", max_size=60))
def test_any_program_is_split(text: str) -> None:
    try:
        for command in split(text):
            assert command == command.strip()
            assert command in text
    except KdumpError as error:
        assert "has no" in str(error)


def test_pieces_become_lines() -> None:
    from volatility3_kdump.console.script import Partial

    assert list(whole_lines(["a", Partial("b"), Partial("c\nd\ne"), "f", Partial("g")])) == ["a", "bc", "d", "ef", "g"]


def test_commands_in_blocks_are_asked_for_as_well(session: Session) -> None:
    """What a client of a server may not do, it may not do in a block, an alias or for another processor."""
    from volatility3_kdump.serving.confinement import refuse

    session.guard = lambda text: refuse(text, ())
    refusal = ".logopen is not available here: it writes files"
    assert answer(session, ".if (1) { .logopen /tmp/x }") == [refusal]
    assert answer(session, '.foreach /s (x "a b") { .logopen x }') == [refusal, refusal]
    assert answer(session, "aS log .logopen; .block { log /tmp/x }") == [refusal]
    assert answer(session, "~0 .logopen /tmp/x") == [refusal]
    assert answer(session, ".block { $$><x }") == ["files of commands are not run here: give the commands themselves"]
    reading = ["files and the environment are not read by commands here"]
    assert answer(session, "as /e home HOME") == answer(session, '.foreach /f (x "/etc/passwd") { .echo x }') == reading


def test_fixed_aliases(session: Session) -> None:
    """The examples of "Using Aliases": a definition is replaced when it is made, and not again."""
    value = "Evaluate expression: 3 = 00000000`00000003"
    for line in ("r $.u2=2", "r $.u1=1+$u2", "r $.u2=6"):
        assert answer(session, line) == []
    assert answer(session, "? $u1") == [value]
    for line in ("as fred 2", "r $.u1= 1 + fred", "as fred 6"):
        answer(session, line)
    assert answer(session, "? $u1") == [value]
    for line in ("r $.u0=2", "r $.u0=7+$u0"):
        answer(session, line)
    assert answer(session, "? $u0") == ["Evaluate expression: 9 = 00000000`00000009"]
    # Wherever it stands, also without blanks around it.
    answer(session, "r $.u3=nt!KeBugCheckEx")
    assert answer(session, "u $u3+0 L1") == answer(session, "u nt!KeBugCheckEx L1")
    assert answer(session, ".echo $u9") == ["$u9"]


def test_each_function(session: Session) -> None:
    """The examples of "!for_each_function"."""
    found = answer(session, "!for_each_function -m:nt -p:*BugCheckEx* -c:.echo @#FunctionName")
    assert "KeBugCheckEx" in found
    line = "!for_each_function -m:nt -p:KeBugCheckEx -c:u @#SymbolAddress L1"
    assert answer(session, line) == answer(session, "u nt!KeBugCheckEx L1")
    nested = "!for_each_module !for_each_function -m:${@#ModuleName} -p:KeBugCheckEx -c:.echo @#SymbolName"
    assert "nt!KeBugCheckEx" in answer(session, nested)
    assert answer(session, "!for_each_function -m:nt -p:x")[0].startswith("!for_each_function needs -c:")
    assert answer(session, "!for_each_function -q:5")[0].startswith("!for_each_function knows no option -q:5")


def test_versions_of_modules(session: Session) -> None:
    """An example of "!for_each_module"; ``lmvm`` has the same."""
    lines = answer(session, "!for_each_module .echo @#ModuleName fver = @#FileVersion pver = @#ProductVersion")
    (line,) = [line for line in lines if line.startswith("myfault ")]
    shown = "\n".join(answer(session, "lmvm myfault"))
    assert line == "myfault fver = 4.0.0.0 pver = 4.0.0.0"
    assert "File version:     4.0.0.0" in shown and "Product version:  4.0.0.0" in shown


def test_long_lines_are_split_in_time_that_grows_with_them() -> None:
    begin = time.process_time()
    assert len(list(split("? 1;" * 50_000 + ";" * 150_000 + "q"))) == 50_001
    assert time.process_time() - begin < 3
