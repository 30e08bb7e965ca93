"""The syntax of owner rules, which rule wins, and the shipped rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump import open as open_dump
from volatility3_kdump import tables
from volatility3_kdump.analysis.owners import (
    IGNORE,
    LAST,
    LAST_IGNORE,
    MAYBE,
    PLAIN,
    OwnerRules,
    microsoft_modules,
    parse,
)
from volatility3_kdump.errors import KdumpError

EXAMPLE = """\
; The form of the examples in the debugger's documentation.
default=MachineOwner
module1!functionA=Person1
module1=Person2           ; everything else of it
module2!funct*=Person3
driver*=Person4
driver7!*=last_Person5
Module8=maybe_Person6
module9!KeTest*=ignore
"""


@pytest.mark.parametrize(
    ("module", "function", "owner", "strength"),
    [
        ("module1", "functionA", "Person1", PLAIN),
        ("MODULE1", "FUNCTIONA", "Person1", PLAIN),
        ("module1", "functionAB", "Person2", PLAIN),
        ("module1", None, "Person2", PLAIN),
        ("module2", "function9", "Person3", PLAIN),
        ("module2", "other", "MachineOwner", PLAIN),
        ("module2", None, "MachineOwner", PLAIN),
        ("driver1", "f", "Person4", PLAIN),
        ("driver7", "f", "Person5", LAST),
        ("module8", None, "Person6", MAYBE),
        ("module9", "KeTestIt", "ignore", IGNORE),
        ("anything", None, "MachineOwner", PLAIN),
    ],
)
def test_the_most_specific_rule_gives_the_owner(module, function, owner, strength):
    rules = OwnerRules.of_text(EXAMPLE)
    assert not rules.problems
    found = rules.owner(module, function)
    assert (found.owner, found.strength) == (owner, strength)
    assert not found.rule or found.rule in EXAMPLE or found.source == "built in"


def test_a_match_of_the_module_goes_before_one_of_the_function():
    rules = OwnerRules.of_text("mod*!SpecialFunction=ByFunction\nmodule=ByModule\nmodu*=Longer\nmo*!S*=Shorter\n")
    assert rules.owner("module", "SpecialFunction").owner == "ByModule"
    assert rules.owner("modules", "SpecialFunction").owner == "Longer"
    assert rules.owner("modest", "SpecialFunction").owner == "ByFunction"
    assert rules.owner("moth", "Spare").owner == "Shorter"


def test_operators_and_templates_can_be_named():
    rules = OwnerRules.of_text("a!X::operator===One\na!ST_STORE<SM_TRAITS>::StDmPageError=Two\na!operator new=Three\n")
    assert not rules.problems
    assert rules.owner("a", "X::operator==").owner == "One"
    assert rules.owner("a", "ST_STORE<SM_TRAITS>::StDmPageError").owner == "Two"
    assert rules.owner("a", "operator new").owner == "Three"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no equals sign", "no '='"),
        ("module=", "no owner"),
        ("=owner", "name is missing"),
        ("module!=owner", "name is missing"),
        ("!function=owner", "name is missing"),
        ("mo*dule=owner", "'*' may only"),
        ("module!fu*nction=owner", "'*' may only"),
        ("*module=owner", "'*' may only"),
        ("a module=owner", "'*' may only"),
        ("module=two words", "not one word"),
        ("+other.ini", "not included"),
    ],
)
def test_a_bad_line_is_reported_by_number_and_left_out(line, words):
    rules = OwnerRules.of_text(f"good=First\n\n{line}\nbetter=Second\n", "my.ini")
    assert len(rules.problems) == 1
    assert rules.problems[0].startswith("my.ini, line 3: ")
    assert words in rules.problems[0]
    assert rules.owner("good", None).owner == "First"
    assert rules.owner("better", "f").owner == "Second"
    assert rules.owner("module", "function").source == "built in"


def test_a_users_file_replaces_line_by_line(tmp_path):
    path = tmp_path / "mine.ini"
    path.write_text("NT=last_KernelTeam\nmydriver=Me\nnt!KiPageFault=Pager\ndefault=Desk\noops\n", encoding="utf-8")
    shipped, mine = OwnerRules.load(), OwnerRules.load(path)
    assert shipped.owner("nt", "MmFoo") != mine.owner("nt", "MmFoo")
    assert mine.owner("nt", "MmFoo")[:2] == ("KernelTeam", LAST)
    assert mine.owner("nt", "KiPageFault")[:2] == ("Pager", PLAIN)
    assert mine.owner("nt", "KeBugCheckEx") == shipped.owner("nt", "KeBugCheckEx")
    assert mine.owner("tcpip", None) == shipped.owner("tcpip", None)
    assert mine.owner("MyDriver", None).source == f"{path}, line 2"
    assert mine.owner("unheard_of", None).owner == "Desk"
    assert [problem for problem in mine.problems if problem.startswith(f"{path}, line 5: ")]
    assert OwnerRules.load().owner("unheard_of", None).owner == "MachineOwner"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "triage.ini"
    path.write_text("mydriver=Me\r\n", encoding=encoding)
    rules = OwnerRules.load(path)
    assert not rules.problems
    assert rules.owner("mydriver", None).owner == "Me"


def test_a_file_that_is_not_there_is_an_error_of_one_line(tmp_path):
    with pytest.raises(KdumpError, match=r"absent\.ini: the file of owner rules cannot be opened: "):
        OwnerRules.load(tmp_path / "absent.ini")


def test_the_shipped_rules_are_all_understood():
    rules = OwnerRules.load()
    assert not rules.problems
    assert rules.owner("nt", "KeBugCheckEx").strength == IGNORE
    assert rules.owner("nt", "KiPageFault").strength == LAST_IGNORE
    assert rules.owner("nt", "KiFastFailDispatch").strength == LAST
    assert rules.owner("nt", None).microsoft
    assert rules.owner("NETIO", "WfpNotifyFlowContextDelete")[:2] == ("microsoft", PLAIN)
    assert rules.owner("tcpip", "TcpTcbHeaderSend").strength == MAYBE
    assert rules.owner("myfault", None)[:2] == ("MachineOwner", PLAIN)


def test_no_line_of_the_shipped_rules_stands_twice():
    rules, problems = parse(tables.data_path("triage.ini").read_text(encoding="utf-8"), "triage.ini")
    assert not problems
    keys = [rule.key for rule in rules]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", ["triage_x64_17763", "triage_x64_19041", "triage_x64_9600", "triage_arm64_22000"])
def test_real_machines_tell_windows_from_the_rest(shared_data, name):
    """The driver lists of real machines: what every Windows loads is Microsoft's, what vendors add is not."""
    rules = OwnerRules.load()
    modules = [module.name for module in open_dump(shared_data / "dumps" / f"{name}.dmp").modules]
    others = {module.lower() for module in modules if not rules.owner(module, None).microsoft}
    assert others & {"nvlddmkm", "igdkmd64", "atikmdag", "qcdxkm7180", "vsock"}
    basic = "nt hal acpi pci disk partmgr volmgr ntfs fltmgr ndis tcpip netio afd dxgkrnl win32k win32kfull wdf01000"
    assert not others & set(basic.split())
    assert len(others) < len(modules) / 2


def test_every_microsoft_module_is_a_plain_name():
    names = list(microsoft_modules())
    assert len(names) > 300
    assert all(name == name.lower() and name.strip() == name for name in names)


@given(st.text(max_size=200), st.text(max_size=20), st.none() | st.text(max_size=20))
def test_any_text_can_be_parsed(text, module, function):
    rules = OwnerRules.of_text(text)
    assert rules.owner(module, function).strength in (IGNORE, LAST_IGNORE, LAST, MAYBE, PLAIN)
    lines = text.splitlines()
    assert len(rules.problems) <= len(lines)
    assert all("\n" not in problem and problem.startswith("rules, line ") for problem in rules.problems)
