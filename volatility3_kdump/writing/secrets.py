"""What a dump that is handed on should not say: names of users and machines, paths below Users, serial numbers.

Bytes are blanked in place, so that every structure keeps its size. Strings are looked for as ASCII and as UTF-16.
"""

from __future__ import annotations

import contextlib
import enum
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.dump.smbios import smbios_structures
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.user_mode import read_user_mode
from volatility3_kdump.windows.user.blocks import read_process_block
from volatility3_kdump.windows.user.spaces import user_space

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The rules by name, and what each of them blanks; ``docs/slice.md`` lists them.
RULES = {
    "user pages": "pages that only user mode maps are left out: command lines, environments, documents",
    "paths": "what follows \\Users\\ or \\Documents and Settings\\ in a path",
    "environments": "the values of environment variables, where three or more follow one another",
    "command lines": "what follows the name of a program in a command line",
    "names": "names of users, machines and domains that the dump gives",
    "accounts": "the numbers of machine, domain and account in security identifiers (`S-1-5-21-...`, `S-1-12-1-...`)",
    "serial numbers": "serial numbers, asset tags and UUIDs of SMBIOS",
}

#: Directories of Windows itself, and names that every machine has.
_NOBODY = {"public", "default", "default user", "all users", "defaultapppool", "system", "nt authority", "workgroup"}
_NOBODY |= {"local service", "network service", "defaultuser0", "wdagutilityaccount", "window manager"}
#: What firmware says where nobody filled in a number.
_NO_SERIAL = re.compile(
    r"to be filled.*|default string|system serial.*|base board.*|chassis.*|none|not (specified|available|applicable)|"
    r"n/?a|unknown|empty|asset.*|sernum.*|[0. x-]*|o\.?e\.?m\.?",
    re.IGNORECASE,
)
#: Shorter names are parts of too much else.
_SHORTEST_NAME, _SHORTEST_SERIAL = 3, 4
#: Variables of an environment that name somebody or something.
_NAMING = (b"USERNAME", b"COMPUTERNAME", b"USERDOMAIN", b"USERDOMAIN_ROAMINGPROFILE", b"LOGONSERVER", b"USERDNSDOMAIN")
_LONGEST_VALUE, _LONGEST_LINE = 2048, 8192
_LONGEST_PATH = 260
_FOLDERS = (r"\Users", r"\Documents and Settings")
#: A character of a file name: not a control character, and none that Windows forbids.
_ASCII = rb'[^\x00-\x1f"*<>?|:/\x7f]'
#: The same in UTF-16: Latin with a high byte of 0, or a letter of another script. Bytes behind a string that has no end
#: are rarely either.
_WIDE = rb'(?:[^\x00-\x1f"*<>?|:/\x7f-\x9f]\x00|[\x00-\xff][\x01-\x06\x09-\x0f\x1e\x30\x4e-\x9f\xac-\xd7])'

#: Any character of a text in UTF-16, quotes and marks as well; and a variable with its value.
_WIDE_ANY = rb"(?:[\x20-\x7e\xa0-\xff]\x00|[\x00-\xff][\x01-\x06\x09-\x0f\x1e\x20\x30\x4e-\x9f\xac-\xd7])"
_VARIABLE = rb"=?[A-Za-z_][A-Za-z0-9_()]{1,60}=[\x20-\x7e\x80-\xff]{0,%d}\x00" % _LONGEST_VALUE
#: Where a text in UTF-16 goes on; without the zero in front, the end of a text in ASCII looks so too.
_WITHIN_WIDE = rb"\x00%s\x00"
_WIDE_VARIABLE = rb"(?:=\x00)?(?:[A-Za-z0-9_()]\x00){2,60}=\x00" + _WIDE_ANY + rb"{0,%d}\x00\x00" % _LONGEST_VALUE

#: SMBIOS: where structures have the numbers of the strings that are serial numbers or asset tags.
_SERIALS = {1: (0x07,), 2: (0x07, 0x08), 3: (0x07, 0x08), 4: (0x20, 0x21), 17: (0x18, 0x19), 39: (0x08, 0x09)}
_UUID_AT, _UUID_SIZE = 0x08, 16


class _Blank(enum.Enum):
    """How bytes are blanked: as text of one or two bytes a character, as the values of variables, as a number."""

    NARROW = enum.auto()
    WIDE = enum.auto()
    VALUES = enum.auto()
    WIDE_VALUES = enum.auto()
    NUMBER = enum.auto()


class _Rule(NamedTuple):
    """A rule of :data:`RULES`, and how what the first group of ``pattern`` finds is blanked."""

    name: str
    pattern: re.Pattern[bytes]
    blank: _Blank


def _command_lines() -> Iterator[_Rule]:
    narrow = rb"\.exe\"? ([\x20-\x7e\x80-\xff]{1,%d})" % _LONGEST_LINE
    yield _Rule("command lines", re.compile(narrow, re.IGNORECASE), _Blank.NARROW)
    end = ".exe".encode("utf-16-le").replace(b".", rb"\.", 1)
    wide = end + rb'(?:"\x00)? \x00(' + _WIDE_ANY + b"{1,%d})" % _LONGEST_LINE
    yield _Rule("command lines", re.compile(wide, re.IGNORECASE), _Blank.WIDE)


def _environments() -> Iterator[_Rule]:
    narrow = rb"(?<![\x20-\x7e])((?:" + _VARIABLE + b"){3,})"
    yield _Rule("environments", re.compile(narrow), _Blank.VALUES)
    wide = b"(?<!" + _WITHIN_WIDE % rb"[\x20-\x7e]" + b")((?:" + _WIDE_VARIABLE + b"){3,})"
    yield _Rule("environments", re.compile(wide), _Blank.WIDE_VALUES)


def _paths() -> Iterator[_Rule]:
    folder = b"(?:" + b"|".join(re.escape(name.encode()) for name in _FOLDERS) + b")"
    narrow = folder + rb"\\(" + _ASCII + b"{1,%d})" % _LONGEST_PATH
    yield _Rule("paths", re.compile(narrow, re.IGNORECASE), _Blank.NARROW)
    wide_folder = b"(?:" + b"|".join(re.escape(name.encode("utf-16-le")) for name in _FOLDERS) + b")"
    wide = wide_folder + rb"\\\x00(" + _WIDE + b"{1,%d})" % _LONGEST_PATH
    yield _Rule("paths", re.compile(wide, re.IGNORECASE), _Blank.WIDE)


def _accounts() -> Iterator[_Rule]:
    """Security identifiers ([MS-DTYP] 2.4.2) of machines, domains and accounts, not those of Windows itself."""
    kinds = ("S-1-5-21-", "S-1-12-1-")
    narrow = b"(?:" + b"|".join(kind.encode() for kind in kinds) + rb")([0-9]{1,10}(?:-[0-9]{1,10}){2,14})"
    yield _Rule("accounts", re.compile(narrow, re.IGNORECASE), _Blank.NARROW)
    wide = b"(?:" + b"|".join(kind.encode("utf-16-le") for kind in kinds) + b")"
    wide += rb"((?:[0-9]\x00){1,10}(?:-\x00(?:[0-9]\x00){1,10}){2,14})"
    yield _Rule("accounts", re.compile(wide, re.IGNORECASE), _Blank.WIDE)
    # Revision, count, the authority in six bytes, and numbers of four bytes, the first of which is in the kind.
    local = rb"\x01[\x04-\x0f]\0{5}\x05\x15\0{3}(.{12})"
    yield _Rule("accounts", re.compile(local, re.DOTALL), _Blank.NUMBER)
    cloud = rb"\x01[\x05-\x0f]\0{5}\x0c\x01\0{3}(.{16})"
    yield _Rule("accounts", re.compile(cloud, re.DOTALL), _Blank.NUMBER)


def _whole_words(rule: str, whole: Iterable[str]) -> Iterator[_Rule]:
    """Words where they stand by themselves, the longest first."""
    for word in sorted(whole, key=len, reverse=True):
        cases = {word, word.lower(), word.upper()}
        either = b"|".join(re.escape(case.encode("utf-16-le")) for case in sorted(cases))
        letter = b"[A-Za-z0-9_]"
        wide = rb"(?<!%s)(%s)(?!%s\x00)" % (_WITHIN_WIDE % letter, either, letter)
        yield _Rule(rule, re.compile(wide, re.IGNORECASE), _Blank.WIDE)
        if word.isascii():
            narrow = rb"(?<![A-Za-z0-9_])(%s)(?![A-Za-z0-9_])" % re.escape(word.encode())
            yield _Rule(rule, re.compile(narrow, re.IGNORECASE), _Blank.NARROW)


def _numbers(identities: Iterable[bytes]) -> Iterator[_Rule]:
    for identity in identities:
        yield _Rule("serial numbers", re.compile(b"(" + re.escape(identity) + b")", re.DOTALL), _Blank.NUMBER)


class Secrets:
    """The secrets of one dump."""

    def __init__(self, names: Iterable[str], serials: Iterable[str], identities: Iterable[bytes] = ()) -> None:
        """Names of users and machines, serial numbers, and UUIDs as they lie in memory."""
        self.names = {name for name in names if _is_name(name)}
        self.serials = {serial for serial in serials if _is_serial(serial)}
        self.identities = {identity for identity in identities if len(set(identity)) > 1}
        self._rules = [
            # First: the name of a program may be blanked as part of a path.
            *_command_lines(),
            *_environments(),
            *_paths(),
            *_accounts(),
            *_whole_words("names", self.names),
            *_whole_words("serial numbers", self.serials),
            *_numbers(self.identities),
        ]

    def blank(self, data: bytearray) -> Counter[str]:
        """Blank in place; how often each rule found something."""
        times: Counter[str] = Counter()
        for rule in self._rules:
            for match in rule.pattern.finditer(bytes(data)):
                start, end = match.span(1)
                blanked = _blanked(data[start:end], rule.blank)
                if blanked != data[start:end]:
                    data[start:end] = blanked
                    times[rule.name] += 1
        return times


def _blanked(data: bytearray, how: _Blank) -> bytes:
    """As many ``x``, with the backslashes of a path left where they are; zeros for what is no text."""
    if how is _Blank.NUMBER:
        return bytes(len(data))
    if how is _Blank.VALUES:
        return re.sub(rb"=([^\x00=][^\x00]*)", lambda match: b"=" + b"x" * len(match[1]), bytes(data))
    if how is _Blank.WIDE_VALUES:
        value = b"=\x00((?:(?!\x00\x00)(?!=\x00)..)(?:(?!\x00\x00)..)*)"
        return re.sub(value, lambda match: b"=\0" + b"x\0" * (len(match[1]) // 2), bytes(data), flags=re.DOTALL)
    if how is _Blank.NARROW:
        return bytes(byte if byte == 0x5C else 0x78 for byte in data)
    units = (data[at : at + 2] for at in range(0, len(data), 2))
    return b"".join(b"\\\0" if unit == b"\\\0" else b"x\0" for unit in units)


def _is_name(name: str) -> bool:
    return _SHORTEST_NAME <= len(name) <= _LONGEST_PATH and name.lower() not in _NOBODY and set(name) != {"x"}


def _is_serial(serial: str) -> bool:
    return len(serial) >= _SHORTEST_SERIAL and not _NO_SERIAL.fullmatch(serial)


def user_names_in(data: bytes) -> set[str]:
    """Names of directories right below Users: the users."""
    names = set()
    for folder in _FOLDERS:
        narrow = re.escape(folder.encode()) + rb"\\([^\\\x00-\x1f\"*<>?|:/\x7f-\xff]{1,64})[\\\x00]"
        names |= {match[1].decode("ascii") for match in re.finditer(narrow, data, re.IGNORECASE)}
        name = rb"((?:(?!\\\x00)" + _WIDE + rb"){1,64})(?:\\\x00|\x00\x00)"
        wide = re.escape(f"{folder}\\".encode("utf-16-le")) + name
        names |= {match[1].decode("utf-16-le", "replace") for match in re.finditer(wide, data, re.IGNORECASE)}
    return names


def names_in_environments(data: bytes) -> set[str]:
    """What the variables of an environment say who uses which machine."""
    names = set()
    for variable in _NAMING:
        narrow = rb"(?<![A-Z_])" + variable + rb"=([\x20-\x7e]{1,64})\x00"
        names |= {match[1].decode("ascii") for match in re.finditer(narrow, data)}
        wide = b"".join(b"%c\0" % byte for byte in variable + b"=")
        wide = b"(?<!" + _WITHIN_WIDE % b"[A-Z_]" + b")" + wide + b"(" + _WIDE_ANY + rb"{1,64})\x00\x00"
        names |= {match[1].decode("utf-16-le", "replace") for match in re.finditer(wide, data)}
    return {name.lstrip("\\") for name in names}


def secrets_of(target: Target, pages: Iterable[bytes] = ()) -> Secrets:
    """The secrets that a dump names: in its processes, its SMBIOS data, and in some of its pages."""
    names: set[str] = set()
    for page in pages:
        names |= user_names_in(page) | names_in_environments(page)
    for address in process_addresses(target):
        process = read_process(target, address)
        told = read_user_mode(target, process)
        texts = [process.image_path, told.image_path, told.command_line, told.current_directory]
        for string in texts:
            if string:
                names |= user_names_in(string.encode("utf-16-le", "replace") + b"\0\0")
        with contextlib.suppress(KdumpError):
            variables = read_process_block(user_space(target, address)).environment or ()
            names |= names_in_environments("".join(f"\0{line}\0" for line in variables).encode("utf-16-le", "replace"))
    serials: set[str] = set()
    identities: set[bytes] = set()
    for kind, body, strings in smbios_structures(target.dump.source, target.dump.tagged):
        for place in _SERIALS.get(kind, ()):
            number = body[place] if place < len(body) else 0
            if 0 < number <= len(strings):
                serials.add(strings[number - 1])
        if kind == 1 and len(body) >= _UUID_AT + _UUID_SIZE:
            identities.add(body[_UUID_AT : _UUID_AT + _UUID_SIZE])
    return Secrets(names, serials, identities)
