"""The lines of a pasted text: decoded, without quoting and markup, bounded.

What people paste is copied from consoles, mails, web pages and logs. It may be UTF-16, quoted, HTML-escaped, indented,
broken into shorter lines, or have lost its line breaks.
"""

from __future__ import annotations

import html
import re
import unicodedata

from volatility3_kdump.errors import KdumpError

#: Larger files are no pasted text.
LARGEST = 16 << 20
_MOST_LINES = 200_000
_LONGEST_LINE = 2048
#: A text whose line breaks were lost: no debugger prints lines like this.
_LOST_BREAKS = 600

_QUOTE = re.compile(r"(?:[ \t]{0,8}>)+ ?")
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")
_TAGS = re.compile(r"</?(?:br|p|div|pre|code|span|font|b|i|tt|td|tr|li)(?:\s[^<>]{0,200})?/?>", re.IGNORECASE)
_BREAKING_TAGS = re.compile(r"<(?:br|/p|/div|/pre|/tr|/li)\s*/?>", re.IGNORECASE)
#: Where lines of a text without line breaks began: fields, arguments, keys, rows of a stack.
_LINE_STARTS = re.compile(
    r"\s(?=(?:BUGCHECK_(?:CODE|P[1-4])|PROCESS_NAME|STACK_TEXT|SYMBOL_NAME|MODULE_NAME|IMAGE_NAME|FAULTING_[A-Z_]{2,30}"
    r"|TRAP_FRAME|CONTEXT|EXCEPTION_[A-Z0-9_]{2,30}|(?:READ|WRITE|EXECUTE)_ADDRESS|MM_INTERNAL_CODE|STACK_COMMAND"
    r"|BUCKET_ID_FUNC_OFFSET|FAILURE_[A-Z_]{2,30}|DEFAULT_BUCKET_ID|ANALYSIS_VERSION|OSPLATFORM_TYPE|OS_VERSION|OSNAME"
    r"|OSBUILD|DUMP_CLASS|DUMP_QUALIFIER|BUILD_VERSION_STRING|FILE_IN_CAB|DUMP_FILE_ATTRIBUTES|CUSTOMER_CRASH_COUNT|BLACKBOX[A-Z]{3,12}|DPC_TIMEOUT_TYPE"
    r"|BAD_STACK_POINTER|LAST_CONTROL_TRANSFER|FOLLOWUP_(?:IP|NAME)|CRITICAL_PROCESS|SECURITY_COOKIE):"
    r"|Arguments:|Arg[1-4]:|Key\s{1,4}: |Value: |Followup:|[0-9a-f]{8}`?[0-9a-f]{8} [0-9a-f]{8}`?[0-9a-f]{8} {1,8}: )"
)

_TITLE = re.compile(r"(?<![\w!])([A-Z][A-Z0-9_]{5,80} \((?:0x)?[0-9a-fA-F]{1,8}\))(?=\s)")


def decode(data: bytes, name: str) -> list[str]:
    """The lines of a file. Raises :class:`KdumpError` for what is empty, too large or no text."""
    if len(data) > LARGEST:
        raise KdumpError(f"{name}: more than {LARGEST >> 20} MB; paste the analysis, not the dump")
    decoded = _decoded(data)
    if not decoded.strip():
        raise KdumpError(f"{name}: there is no text in it")
    controls = sum(
        unicodedata.category(character) == "Cc" for character in decoded[:65536] if character not in "\t\r\n\f\x1b"
    )
    if controls * 20 > len(decoded[:65536]):
        raise KdumpError(f"{name}: this is not a text; dumps are opened with `kdump -z FILE`")
    return lines_of(decoded)


def lines_of(pasted: str) -> list[str]:
    """The lines of a text, at most 200,000, each cut after 2,048 characters."""
    pasted = _ESCAPE_SEQUENCE.sub("", pasted)
    if "<" in pasted:
        pasted = _TAGS.sub("", _BREAKING_TAGS.sub("\n", pasted))
    if "&" in pasted:
        pasted = html.unescape(pasted)
    lines = []
    for line in pasted.splitlines()[:_MOST_LINES]:
        cleaned = _cleaned(line)
        if len(cleaned) > _LOST_BREAKS:
            broken = _LINE_STARTS.sub("\n", _TITLE.sub(r"\n\1\n", cleaned))
            lines += [part[:_LONGEST_LINE] for part in broken.split("\n")]
        else:
            lines.append(cleaned)
    return lines[:_MOST_LINES]


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    half = len(data) // 2
    if half and not len(data) % 2:
        # Windows' own UTF-16 without its mark: every other byte of a text of ASCII is zero.
        if data[1::2].count(0) * 10 > half * 9:
            return data.decode("utf-16-le", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _cleaned(line: str) -> str:
    """A line without quoting, odd spaces, invisible characters and the marks that writers put around words."""
    if not line.isascii():
        line = "".join(
            " " if unicodedata.category(character) == "Zs" else character
            for character in line
            if unicodedata.category(character) not in ("Cf", "Co", "Cn", "Cs")
        )
        line = line.replace("\u00b7", "").replace("\u2018", "`").replace("\u2019", "'")
    quoted = _QUOTE.match(line)
    # ">" alone marks the current line of a listing; with a quoted text every line has it.
    if quoted and not line.lstrip().startswith(">["):
        line = line[quoted.end() :]
    return line.replace("\\`", "`").expandtabs(8).rstrip()
