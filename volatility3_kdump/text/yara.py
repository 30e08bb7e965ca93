"""Hits of YARA rules in KD's columns: the bytes as ``db`` shows them, below whose memory they are."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.memory_owners import Owner
from volatility3_kdump.findings.yara_scan import Hit
from volatility3_kdump.text.addresses import pointer

_PER_LINE = 16
_MOST_LINES = 4


def heading(size: int, library: str) -> str:
    """What is scanned: its bytes and the library."""
    amount = f"{size / (1 << 20):,.1f} MB" if size >= 1 << 20 else f"{size / 1024:,.1f} KB"
    return f"YARA scan of {amount} that the dump holds ({library})"


def hit(match: Hit, owner: Owner, size: int) -> Iterator[str]:
    """One match: rule and string, whose memory it is, and its first bytes."""
    tags = f" [{' '.join(match.rule.tags)}]" if match.rule.tags else ""
    yield f"{match.rule.name}:{match.string}{tags}  {_owner(owner, size)}"
    if owner.detail:
        yield f"    {owner.detail}"
    for start in range(0, min(len(match.data), _PER_LINE * _MOST_LINES), _PER_LINE):
        yield dump_line(match.address + start, match.data[start : start + _PER_LINE], size)
    if match.length > _PER_LINE * _MOST_LINES:
        yield f"    ... {match.length:#x} bytes in all"


def _owner(owner: Owner, size: int) -> str:
    parts = [owner.kind]
    if owner.name:
        parts.append(owner.name)
    if owner.address is not None:
        parts.append(pointer(owner.address, size) + (f"+{owner.offset:#x}" if owner.offset is not None else ""))
    if owner.section:
        parts.append(f"({owner.section})")
    if owner.symbol:
        parts.append(owner.symbol)
    return " ".join(parts)


def dump_line(address: int, data: bytes, size: int) -> str:
    """A line of ``db``: address, up to sixteen bytes with a dash in the middle, and their characters."""
    pairs = [f"{byte:02x}" for byte in data] + ["  "] * (_PER_LINE - len(data))
    dash = "-" if len(data) > _PER_LINE // 2 else " "
    shown = " ".join(pairs[: _PER_LINE // 2]) + dash + " ".join(pairs[_PER_LINE // 2 :])
    characters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    return f"{pointer(address, size)}  {shown}  {characters}"


def summary(hits: int, rules: int) -> str:
    """How many hits of how many rules."""
    if not hits:
        return "No hits."
    return f"{hits:,} {'hit' if hits == 1 else 'hits'} of {rules:,} {'rule' if rules == 1 else 'rules'}."
