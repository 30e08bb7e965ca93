"""What a pasted analysis says: the bug check, the stack, facts of the failure, and the debugger's own verdict apart."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from volatility3_kdump.analysis.bugcheck import known_codes
from volatility3_kdump.analysis.pasted.frames import Row, number, row, stacks
from volatility3_kdump.errors import KdumpError

#: Fields in which the debugger tells its verdict. They are compared with ours, and used for nothing else.
VERDICT_FIELDS = {
    "SYMBOL_NAME": "symbol_name",
    "MODULE_NAME": "module_name",
    "IMAGE_NAME": "image_name",
    "BUCKET_ID_FUNC_OFFSET": "function_offset",
    "FAILURE_BUCKET_ID": "bucket",
    "FAILURE_ID_HASH": "hash",
}
_VERDICT_KEYS = {"Failure.Bucket": "bucket", "Failure.Hash": "hash"}

_FIELD = re.compile(r"\s{0,12}(?P<name>[A-Z][A-Z0-9_]{2,40}):(?:\s+(?P<value>.*))?$")
_KEY = re.compile(r"\s*Key\s*: ?(?P<name>[\w.]{1,80})\s*$")
_VALUE = re.compile(r"\s*Value\s*: ?(?P<value>.*)$")
_TITLE = re.compile(r"\s*(?P<name>[A-Z][A-Z0-9_]{3,80})\s+\((?:0x)?(?P<code>[0-9a-fA-F]{1,8})\)\s*$")
_ARGUMENT = re.compile(r"\s*Arg(?:ument)?\s?(?P<number>[1-4])\s*[:=]\s*(?:0x)?(?P<value>[0-9a-fA-F`]{1,17})\b")
_HEX = r"(?:0x)?[0-9a-fA-F`]{1,17}"
#: ``BugCheck D1, {4, 2, 1, f832035c}``, ``STOP: 0x0000001E (0x..., ...)``, ``*** BUGCHECK 0xA (...)`` and their kin.
_ONE_LINE = re.compile(
    r"(?:\bbug ?check(?: was| code)?|\bstop(?: code| error)?|Fatal System Error)\s*[:=]?\s*"
    r"(?P<code>(?:0x)?[0-9a-fA-F]{1,8})\b"
    rf"(?:[^(\[{{]{{0,80}}[(\[{{]\s*(?P<arguments>{_HEX}(?:\s*[,;]\s*{_HEX}){{0,3}})\s*[,;]?\s*[)\]}}])?",
    re.IGNORECASE,
)
#: Reports of Windows itself and of tools: ``BCCode: d1`` and ``BCP1:``, ``BugcheckCode 209`` (decimal) and
#: ``BugcheckParameter1``, ``Bug Check Code : 0x...`` and ``Parameter 1 :``; the name alone on a blue screen of today.
_REPORTED_CODE = re.compile(
    r"\b(?P<label>BCCode|BugcheckCode)\b[\s:=\"'>]{1,12}(?P<code>(?:0x)?[0-9a-fA-F]{1,8})\b", re.I
)
_REPORTED_ARGUMENT = re.compile(
    rf"\b(?:BCP|Bugcheck ?Parameter ?|Parameter )(?P<number>[1-4])\b[\s:=\"'>]{{1,24}}(?P<value>{_HEX})\b",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"\b(?:stop ?code|stop|bug ?check(?: string| code)?|error)\s{0,12}:\s{0,12}(?P<name>[A-Z][A-Z0-9_]{5,80})\b",
    re.IGNORECASE,
)
_LIST = re.compile(rf"\s*[({{]\s*(?P<arguments>{_HEX}(?:\s*,\s*{_HEX}){{0,3}})")
_ARGUMENTS_LINE = re.compile(rf"\s*Arguments:?\s+(?P<arguments>{_HEX}(?:\s+{_HEX}){{0,3}})\s*$")
_BARE_HEX = re.compile(r"(?:0x)?(?P<value>[0-9a-fA-F]{8}`?[0-9a-fA-F]{8}|[0-9a-fA-F]{8})\b")
_REGISTER_IP = re.compile(r"\b[re]ip=(?P<value>[0-9a-fA-F]{8,16})\b|\bpc=(?P<arm>[0-9a-fA-F]{16})\b")
_EXCEPTION_ADDRESS = re.compile(
    r"\s*ExceptionAddress:\s*(?P<value>[0-9a-fA-F`]{8,17})(?:\s+\((?P<name>[^()\s]{1,300})\))?"
)
_EXCEPTION_CODE = re.compile(r"\s*ExceptionCode:\s*(?P<value>[0-9a-fA-F]{8})")
_PARAMETER = re.compile(r"\s*Parameter\[(?P<number>[0-9])\]:\s*(?P<value>[0-9a-fA-F`]{8,17})")
_MODULE_LINE = re.compile(
    r"\s*(?P<start>[0-9a-fA-F]{8}`?[0-9a-fA-F]{8}|[0-9a-fA-F]{8})\s+(?P<end>[0-9a-fA-F]{8}`?[0-9a-fA-F]{8}|[0-9a-fA-F]{8})"
    r"\s+(?P<name>[A-Za-z0-9_.$@~+-]{1,64})(?:\s.*)?$"
)
_LOADED_AT = re.compile(
    r"\*\*\*\s+(?P<name>[A-Za-z0-9_.$~-]{1,64}\.(?:sys|exe|dll))\s+-\s+Address\s+[0-9a-fA-F`]{8,17}\s+base at\s+"
    r"(?P<start>[0-9a-fA-F`]{8,17})",
    re.IGNORECASE,
)
_FILE = re.compile(r"(?<![\w-])(?P<name>[A-Za-z0-9_$~.-]{1,64}\.(?:sys|dll|exe))\b", re.IGNORECASE)
_DEBUGGER = re.compile(
    r"(?:Windows Debugger Version|ANALYSIS_VERSION:)\s+(?P<major>\d{1,2})\.(?P<minor>\d{1,2})\.(?P<build>\d{1,5})"
)
_BUILD = re.compile(
    r"Kernel Version (?P<a>\d{4,5})\b|\b(?P<b>\d{4,5})\.\d{1,6}\.(?:amd64|x86|arm64)(?:fre|chk)\b"
    r"|\bOSBUILD:\s+(?P<c>\d{4,5})\b|\bOS_VERSION:\s+\d+\.\d+\.(?P<d>\d{4,5})\b"
    r"|Connected to Windows \S+ (?P<e>\d{4,5})\b"
)
#: Lines that are part of the debugger's verdict without being a field of their own.
_VERDICT_LINE = re.compile(r"\s*(?:Value\s*:|Probably caused by)", re.IGNORECASE)
#: Fields of a name, with its address on the next line.
_NAMED_ADDRESSES = frozenset(
    {"FAULTING_IP", "WORKER_ROUTINE", "FAILED_INSTRUCTION_ADDRESS", "FOLLOWUP_IP", "IP_IN_PAGED_CODE"}
)
#: What the debugger calls the system: one that does not know it takes it for the newest that it knows.
_SYSTEM = re.compile(r"\bWindows (?P<system>[\w. ]{1,24}?) Kernel Version (?P<build>\d{4,5})\b")
_BANNER = re.compile(r"\*?\s*Bugcheck Analysis\s*\*?\s*$")
_MOST_NAMES = 4096


@dataclass
class Report:
    """A pasted analysis.

    ``code`` and ``arguments`` are the bug check, an argument ``None`` where the text has none. ``rows`` is the stack
    that the verdict goes by. ``fields`` and ``keys`` are the debugger's named lines except its verdict, which
    ``pasted`` holds under our names. ``pairs`` names addresses, ``modules`` are (start, end, name), an end of 0 is not
    known; ``files`` the names of image files by what the debugger calls the module. ``system`` is what the debugger
    calls the version of Windows. ``used`` tells which parts of the text the verdict rests on, ``notes`` what was odd
    about it.
    """

    code: int | None = None
    arguments: list[int | None] = field(default_factory=lambda: [None] * 4)
    rows: list[Row] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    pasted: dict[str, str] = field(default_factory=dict)
    pairs: dict[int, str] = field(default_factory=dict)
    modules: list[tuple[int, int, str]] = field(default_factory=list)
    unloaded: list[tuple[int, int, str]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    ip: int | None = None
    exception_code: int | None = None
    exception_parameters: dict[int, int] = field(default_factory=dict)
    debugger: tuple[int, int, int] | None = None
    build: int | None = None
    system: str | None = None
    used: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: str = ""

    def use(self, what: str) -> None:
        if what not in self.used:
            self.used.append(what)


def read_report(lines: Sequence[str], name: str) -> Report:
    """Read the lines of a text. Raises :class:`KdumpError` when there is no bug check in it."""
    chosen, notes = _section(lines)
    report = Report(notes=notes, text="\n".join(chosen))
    _system(report, lines)
    _fields(report, chosen)
    _places(report, chosen)
    _bug_check(report, chosen)
    _stack(report, chosen, lines)
    _from_stack(report)
    if report.code is None:
        raise KdumpError(
            f"{name}: no bug check is in this text; paste what `!analyze -v` prints, or a stop code with its stack"
        )
    return report


def _section(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The analysis that is read where a text has several: the first with a stack, else the first."""
    starts = [index for index, line in enumerate(lines) if _BANNER.search(line)]
    if len(starts) < 2:
        return list(lines), []
    bounds = [0, *starts[1:], len(lines)]
    sections = [list(lines[start:end]) for start, end in itertools.pairwise(bounds)]
    detailed = [part for part in sections if any("STACK_TEXT:" in line for line in part)]
    if len(detailed) > 1:
        return detailed[0], [f"the text has {len(detailed)} analyses with a stack; this is the first"]
    return (detailed or sections)[0], []


def _system(report: Report, lines: Iterable[str]) -> None:
    """The debugger's version and the build of Windows, which decide how buckets are written."""
    for line in lines:
        if report.debugger is None:
            version = _DEBUGGER.search(line)
            if version:
                report.debugger = int(version["major"]), int(version["minor"]), int(version["build"])
        if report.build is None:
            build = _BUILD.search(line)
            if build:
                report.build = next(int(value) for value in build.groups() if value)
        if report.system is None:
            system = _SYSTEM.search(line)
            report.system = system["system"] if system else None


def _fields(report: Report, lines: Sequence[str]) -> None:
    key = None
    for index, line in enumerate(lines):
        named = _KEY.match(line)
        if named:
            key = named["name"]
            continue
        valued = _VALUE.match(line) if key is not None else None
        if valued and key is not None:
            value = valued["value"].strip()
            if key in _VERDICT_KEYS:
                report.pasted.setdefault(_VERDICT_KEYS[key], value.strip("{}"))
            else:
                report.keys.setdefault(key, value)
            key = None
            continue
        matched = _FIELD.match(line)
        if not matched:
            continue
        name, value = matched["name"], (matched["value"] or "").strip()
        if name in VERDICT_FIELDS:
            # The last one is the verdict: IMAGE_NAME and MODULE_NAME may stand twice.
            report.pasted[VERDICT_FIELDS[name]] = value.strip("{}")
        elif name == "BUCKET_ID":
            report.pasted.setdefault("bucket", value)
        elif name not in report.fields:
            following = (next_line.strip() for next_line in lines[index + 1 : index + 3])
            report.fields[name] = value or next((next_line for next_line in following if next_line), "")
            # FOLLOWUP_IP only lends its name to an address that the arguments themselves give.
            if name in _NAMED_ADDRESSES:
                _pair(report, [value, *lines[index + 1 : index + 4]])


def _pair(report: Report, lines: Sequence[str]) -> None:
    """A name and, on the next line, its address."""
    texts = [stripped.strip() for stripped in lines if stripped.strip()]
    if not texts:
        return
    name = texts[0].split(" ")[0].split("[")[0]
    for stripped in texts[:2]:
        address = _BARE_HEX.match(stripped)
        if address and stripped is not texts[0] and ("+" in name or "!" in name):
            report.pairs.setdefault(number(address["value"]), name)


def _places(report: Report, lines: Sequence[str]) -> None:
    """Addresses and names of modules, the registers of the failure, its exception record."""
    unloaded = False
    for index, line in enumerate(lines):
        stripped = line.strip()
        if not stripped:
            continue
        if stripped.lower().startswith("unloaded modules"):
            unloaded = True
        ip = _REGISTER_IP.search(line) if report.ip is None else None
        if ip:
            report.ip = number(ip["value"] or ip["arm"])
            _named_instruction(report, lines[index : index + 8], report.ip)
        _exception(report, line)
        at = _LOADED_AT.search(line)
        if at:
            start = number(at["start"])
            report.modules.append((start, 0, _stem(at["name"])))
        if len(report.files) < _MOST_NAMES and not _FIELD.match(line) and not _VERDICT_LINE.match(line):
            for file in _FILE.finditer(line):
                report.files.setdefault(_stem(file["name"]).lower(), file["name"])
        if len(report.modules) + len(report.unloaded) < _MOST_NAMES:
            module = _MODULE_LINE.match(line)
            if module and row(line) is None and module["name"].lower() not in ("module", "image"):
                entry = number(module["start"]), number(module["end"]), _stem(module["name"])
                if entry[0] < entry[1]:
                    (report.unloaded if unloaded else report.modules).append(entry)
    faulting = re.match(
        r"(?P<start>[0-9a-fA-F`]{8,17})\s+(?P<name>[\w.$~-]{1,64})", report.fields.get("FAULTING_MODULE", "")
    )
    if faulting:
        report.modules.append((number(faulting["start"]), 0, faulting["name"]))


def _named_instruction(report: Report, lines: Sequence[str], ip: int) -> None:
    """``driver+0x1d1e:`` before the instruction of a register block."""
    for line, following in itertools.pairwise(lines):
        named = re.match(r"\s*(?P<name>[^\s:]{1,300}):(?: \[.*)?\s*$", line)
        if named and ("!" in named["name"] or "+0x" in named["name"]):
            address = _BARE_HEX.match(following.strip())
            if address and number(address["value"]) == ip:
                report.pairs.setdefault(ip, named["name"])
            return


def _exception(report: Report, line: str) -> None:
    address = _EXCEPTION_ADDRESS.match(line)
    if address and address["name"]:
        report.pairs.setdefault(number(address["value"]), address["name"].replace("+0x00000000", "+0x"))
    code = _EXCEPTION_CODE.match(line)
    if code and report.exception_code is None:
        report.exception_code = number(code["value"])
    parameter = _PARAMETER.match(line)
    if parameter:
        report.exception_parameters.setdefault(int(parameter["number"]), number(parameter["value"]))


def _stem(file: str) -> str:
    head, dot, extension = file.rpartition(".")
    return head if dot and extension.lower() in ("sys", "dll", "exe") else file


# the bug check --------------------------------------------------------------------------------------------------------


def _bug_check(report: Report, lines: Sequence[str]) -> None:
    """The code and its arguments, from the most exact place that has them."""
    if _code_of(report.fields.get("BUGCHECK_CODE")) is not None:
        report.code = _code_of(report.fields["BUGCHECK_CODE"])
        report.use("BUGCHECK_CODE")
    _take(report, (report.fields.get(f"BUGCHECK_P{index}") for index in range(1, 5)), "BUGCHECK_P1 to BUGCHECK_P4")
    _titled(report, lines)
    _written(report, lines)
    _reported(report, lines)
    if report.code is None:
        for key in ("Bugcheck.Code.LegacyAPI", "Bugcheck.Code.DumpHeader", "Bugcheck.Code.KiBugCheckData"):
            if report.code is None and _code_of(report.keys.get(key)) is not None:
                report.code = _code_of(report.keys[key])
                report.use(key)


def _code_of(text: str | None) -> int | None:
    matched = re.match(r"(?:0x)?([0-9a-fA-F]{1,8})\b", text or "")
    return int(matched[1], 16) if matched else None


def _take(report: Report, values: Iterable[str | None], what: str) -> None:
    """Fill the arguments that are not known yet."""
    for index, value in enumerate(values):
        matched = re.match(rf"{_HEX}\b", value.strip()) if value else None
        if matched and report.arguments[index] is None:
            report.arguments[index] = _argument(number(matched[0]))
            report.use(what)


def _argument(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _titled(report: Report, lines: Sequence[str]) -> None:
    """``NAME (hex)`` with ``Arg1:`` to ``Arg4:`` under it."""
    for index, line in enumerate(lines):
        title = _TITLE.match(line.strip("*# ") if line.strip().startswith(("*", "#")) else line)
        if not title:
            continue
        arguments: list[str | None] = [None] * 4
        for following in lines[index + 1 : index + 80]:
            argument = _ARGUMENT.match(following)
            if argument:
                arguments[int(argument["number"]) - 1] = argument["value"]
        if report.code is None:
            code = int(title["code"], 16)
            if not any(arguments) and code not in known_codes():
                continue
            report.code = code
            report.use(f"{title['name']} ({title['code']})")
        _take(report, arguments, "Arg1 to Arg4")
        return
    arguments = [None] * 4
    for line in lines:
        argument = _ARGUMENT.match(line)
        if argument and arguments[int(argument["number"]) - 1] is None:
            arguments[int(argument["number"]) - 1] = argument["value"]
    _take(report, arguments, "Arg1 to Arg4")


def _written(report: Report, lines: Sequence[str]) -> None:
    """A bug check in one line, the way of the blue screen, the event log and the kernel debugger."""
    for index, line in enumerate(lines):
        matched = _ONE_LINE.search(line)
        if not matched:
            continue
        code = int(matched["code"].lower().removeprefix("0x"), 16)
        arguments = matched["arguments"]
        if arguments is None:
            for following_line in lines[index + 1 : index + 3]:
                following = _LIST.match(following_line) or _ARGUMENTS_LINE.match(following_line)
                arguments = following["arguments"] if following else arguments
        if report.code is None and (
            arguments is not None or "0x" in matched["code"].lower() or len(matched["code"]) == 8
        ):
            report.code = code
            report.use(matched[0].split("(")[0].split("{")[0].strip(" :,"))
        if arguments is not None and report.code in (code, code | 0x10000000, code & ~0x10000000):
            _take(report, re.split(r"[\s,;]+", arguments.strip()), "the arguments behind the code")
            return


def _reported(report: Report, lines: Sequence[str]) -> None:
    """The bug check in what Windows and tools report of a crash, where no debugger wrote it."""
    arguments: list[str | None] = [None] * 4
    for line in lines:
        for argument in _REPORTED_ARGUMENT.finditer(line):
            position = int(argument["number"]) - 1
            arguments[position] = arguments[position] or argument["value"]
        matched = _REPORTED_CODE.search(line)
        if matched and report.code is None:
            # The log of events has decimal numbers, what Windows Error Reporting shows is hexadecimal.
            decimal = matched["label"].lower() == "bugcheckcode" and not matched["code"].lower().startswith("0x")
            code = int(matched["code"], 10 if decimal and matched["code"].isdecimal() else 16)
            # 0 is what the log has of a machine that lost its power.
            if code:
                report.code = code
                report.use(matched["label"])
    if report.code is None:
        codes = {name: code for code, name in known_codes().items()}
        named = (_NAMED.search(line) for line in lines)
        name = next((match["name"].upper() for match in named if match and match["name"].upper() in codes), None)
        if name is not None:
            report.code = codes[name]
            report.use(name)
    if report.code is not None:
        _take(report, arguments, "the parameters of the report")


# the stack ------------------------------------------------------------------------------------------------------------


def _stack(report: Report, chosen: Sequence[str], everything: Sequence[str]) -> None:
    """STACK_TEXT, else the stack that shows the bug check, else the longest."""
    sections = stacks(chosen) or stacks(everything)
    texts = [rows for place, rows in sections if place == "STACK_TEXT"]
    others = [rows for place, rows in sections if place != "STACK_TEXT"]
    raising = [rows for rows in others if any((entry.symbol or "").startswith("KeBugCheck") for entry in rows)]
    for rows, what in ((texts, "STACK_TEXT"), (raising, "the stack with nt!KeBugCheckEx"), (others, "the stack")):
        if rows:
            report.rows = max(rows, key=len) if rows is others else rows[0]
            report.use(what)
            return


def _from_stack(report: Report) -> None:
    """The bug check from the arguments that the row of nt!KeBugCheckEx shows, where nothing else tells it."""
    for entry in report.rows:
        if entry.module != "nt" or entry.symbol not in ("KeBugCheckEx", "KeBugCheck2"):
            continue
        if len(entry.arguments) < 2:
            continue
        code, *arguments = entry.arguments
        if report.code is None and code & 0xFFFFFFFF in known_codes():
            report.code = code & 0xFFFFFFFF
            report.use("the arguments of nt!KeBugCheckEx")
        if report.code is not None and code & 0xFFFFFFFF == report.code & ~0x10000000:
            for index, value in enumerate(arguments[:3]):
                if report.arguments[index] is None:
                    report.arguments[index] = value
                    report.use("the arguments of nt!KeBugCheckEx")
        return


def field_of(report: Report, names: Iterable[str], table: Mapping[str, str] | None = None) -> str | None:
    """The first of several fields that the text has, noted as used."""
    for name in names:
        value = (table if table is not None else report.fields).get(name)
        if value:
            report.use(name)
            return value
    return None
