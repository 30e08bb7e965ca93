"""``u``, ``uf`` and ``#`` at the prompt."""

from __future__ import annotations

from tests.prompt import answer
from volatility3_kdump.console.session import Session


def test_counts(session: Session) -> None:
    assert answer(session, "u nt!KeBugCheckEx L?2") == answer(session, "u nt!KeBugCheckEx L2")
    assert answer(session, "uu nt!KeBugCheckEx L2") == answer(session, "u nt!KeBugCheckEx L2")


def test_calls_of_a_function(session: Session) -> None:
    """``uf /c``: the calls in the code that ``uf`` shows, and where they lead."""
    code = answer(session, "uf myfault+1d00")
    goals = [line.rpartition("call    ")[2] for line in code if "    call    " in line]
    assert goals == ["myfault+0x1950 (fffff800`60da1950)"]
    assert answer(session, "uf /c myfault+1d00") == [
        "myfault+0x1c80 (fffff800`60da1c80)",
        "  myfault+0x1d38 (fffff800`60da1d38):",
        f"    call to {goals[0]}",
    ]
    assert answer(session, "uf /c nt!KeBugCheckEx") == ["nt!KeBugCheckEx (fffff800`629f71c0)"]
    assert answer(session, "uf /i nt!KeBugCheckEx")[0] == "6 instructions scanned"
    assert answer(session, "uf /x nt!KeBugCheckEx")[0].startswith("uf knows no option /x")


def test_search(session: Session) -> None:
    """ "# (Search for Disassembly Pattern)": address, bytes, mnemonic, operands; successive occurrences."""
    code = answer(session, "u nt!KeBugCheckEx L6")[1:]
    assert answer(session, "# sub nt!KeBugCheckEx")[1] == code[4]
    assert answer(session, "# 4889542410 nt!KeBugCheckEx") == ["nt!KeBugCheckEx+0x5:", code[1]]
    assert answer(session, "# mov*r8 nt!KeBugCheckEx L6") == ["nt!KeBugCheckEx+0xa:", code[2]]
    first = answer(session, "# mov nt!KeBugCheckEx")
    second = answer(session, "#")
    assert (first[1], second[1]) == (code[0], code[1])
    assert answer(session, "# MOV nt!KeBugCheckEx L6")[1::2] == code[:4]
    assert answer(session, '# "rsp,38h" nt!KeBugCheckEx')[1] == code[4]
    assert answer(session, "# nosuch nt!KeBugCheckEx L6") == ["No match for 'nosuch' in 6 instructions (hexadecimal)"]
    assert answer(session, "# mov 0")[0].startswith("No match for 'mov' up to 0: ")


def test_function_entries(session: Session) -> None:
    """``.fnent``: the nearest symbols, then the entry; the extent is what ``uf`` shows."""
    shown = answer(session, ".fnent nt!KeBugCheckEx+5")
    assert shown[0].startswith("(fffff800`629f71c0)   nt!KeBugCheckEx")
    base = session.evaluate("nt")
    code = answer(session, "uf nt!KeBugCheckEx")
    assert f"BeginAddress      = 00000000`{session.evaluate('nt!KeBugCheckEx') - base:08x}" in shown
    end = int(code[-1].split()[0].replace("`", ""), 16) + 1
    assert f"EndAddress        = 00000000`{end - base:08x}" in shown
    assert shown[-1] == "  00: offs 18, unwind op 2, op info 6\tUWOP_ALLOC_SMALL."
    assert answer(session, ".fnent 0") == ["No function entry for 0: there is no x64 image with a function table"]
    assert answer(session, ".fnent")[0].startswith(".fnent needs ADDRESS")


def test_the_first_search_needs_an_address(session: Session) -> None:
    assert answer(session, "# mov") == ["# needs an address the first time: # PATTERN ADDRESS"]
    assert len(answer(session, "#")) == 2
