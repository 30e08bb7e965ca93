"""Hardware error records in words, as ``!errrec`` shows them: the frame is KD's, what sections say is in our words."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.machine.whea import ErrorRecord, Section

_THICK, _THIN = "=" * 79, "-" * 79
_WIDTH = 14


def error_record_lines(record: ErrorRecord) -> Iterator[str]:
    """A record with its sections, each with what is decoded of it, or why nothing is."""
    yield _THICK
    yield f"Common Platform Error Record @ {pointer(record.address, 8, tick=False)}"
    yield _THIN
    yield _labelled("Record Id", f"{record.record_id:016x}")
    yield _labelled("Severity", record.severity.capitalize())
    yield _labelled("Length", str(record.length))
    yield _labelled("Notify Type", record.notification)
    for number, section in enumerate(record.sections):
        yield ""
        yield from _section_lines(number, section, record.address)
    for note in record.notes:
        yield f"NOTE: {note}"


def _section_lines(number: int, section: Section, address: int) -> Iterator[str]:
    yield _THICK
    yield _labelled(f"Section {number}", section.name or f"{{{section.type_id}}}")
    yield _THIN
    yield f"{'Section':<{_WIDTH}}@ {pointer(address + section.offset, 8, tick=False)}"
    yield _labelled("Offset", str(section.offset))
    yield _labelled("Length", str(section.length))
    yield _labelled("Severity", section.severity.capitalize() + (" (primary section)" if section.primary else ""))
    if section.fru_text:
        yield _labelled("FRU Text", section.fru_text)
    yield ""
    width = max((len(label) + 1 for label, _ in section.facts), default=_WIDTH)
    for label, value in section.facts:
        yield _labelled(label, value, max(width, _WIDTH))
    if section.absent:
        yield f"NOTE: {section.absent}"


def _labelled(label: str, text: str, width: int = _WIDTH) -> str:
    return f"{label:<{width}}: {text}"
