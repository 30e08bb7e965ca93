"""Stack backtraces in the layouts of KD's ``k`` commands."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.stacks.frames import Frame, Stack

LAST_SET_CONTEXT = "  *** Stack trace for last set context - .thread/.cxr resets it"

#: Layouts: k and kn, kb (arguments), kv (arguments and trap frames), kc (call sites only), kf (with the bytes of stack
#: between a frame and the one above it).
LAYOUTS = ("k", "kn", "kb", "kv", "kc", "kf")
#: The layouts of stacks inside ``!process`` and of ``!thread``: k, or kv with its arguments, without frame numbers.
EMBEDDED, EMBEDDED_ARGUMENTS = "embedded", "embedded arguments"

_HEADERS = {
    EMBEDDED: "Child-SP          RetAddr               Call Site",
    EMBEDDED_ARGUMENTS: (
        "Child-SP          RetAddr               : "
        "Args to Child                                                           : Call Site"
    ),
    "k": " # Child-SP          RetAddr               Call Site",
    "kn": " # Child-SP          RetAddr               Call Site",
    "kb": (
        " # RetAddr               : Args to Child                                                           : Call Site"
    ),
    "kv": (
        " # Child-SP          RetAddr               : "
        "Args to Child                                                           : Call Site"
    ),
    "kc": " # Call Site",
    "kf": " #   Memory  Child-SP          RetAddr               Call Site",
}
#: Of 32-bit targets: the frame pointer, three arguments, and no heading over the call sites.
_HEADERS_32 = {
    EMBEDDED: "ChildEBP RetAddr  ",
    EMBEDDED_ARGUMENTS: "ChildEBP RetAddr  Args to Child              ",
    "k": " # ChildEBP RetAddr  ",
    "kn": " # ChildEBP RetAddr  ",
    "kb": " # ChildEBP RetAddr  Args to Child              ",
    "kv": " # ChildEBP RetAddr  Args to Child              ",
    "kc": " # Call Site",
    "kf": " #   Memory  ChildEBP RetAddr  ",
}
_ARGUMENTS_32 = 3
_GAP = "     "
#: No frame is as large as a kernel stack can be.
_LARGEST_DISTANCE = 0x20000
_SCANNED = "WARNING: Stack unwind information not available. Following frames may be wrong."


def header(layout: str, size: int = 8) -> str:
    """The heading of a layout, for pointers of ``size`` bytes."""
    return (_HEADERS if size == 8 else _HEADERS_32)[layout]


def rows(stack: Stack, layout: str, size: int = 8, lines: bool = False) -> Iterator[str]:
    """The rows of a layout, without its heading, for pointers of ``size`` bytes; ``lines`` adds source lines.

    The first frame that a scan found is marked as KD marks missing unwind data.
    """
    above: int | None = None
    for frame in _warned(stack):
        if frame is None:
            yield _SCANNED
        elif layout == EMBEDDED_ARGUMENTS:
            yield row(frame, "kv", size, lines).partition(" ")[2]
        elif layout == "kf":
            place = frame.fp if size == 4 else frame.sp
            number, _, rest = row(frame, "k", size, lines).partition(" ")
            yield f"{number}{_distance(above, place):>10} {rest}"
            above = place
        else:
            yield row(frame, layout, size, lines)


def _distance(above: int | None, place: int | None) -> str:
    """The bytes of stack between two frames, empty where they are not on the same stack."""
    if above is None or place is None or not 0 <= place - above < _LARGEST_DISTANCE:
        return ""
    return f"{place - above:x}"


def _warned(stack: Stack) -> Iterator[Frame | None]:
    """The frames, with ``None`` where the warning belongs: before the first that a scan found."""
    warned = False
    for frame in stack.frames:
        if frame.trust == "scan" and not warned:
            yield None
            warned = True
        yield frame


def row(frame: Frame, layout: str, size: int = 8, lines: bool = False) -> str:
    """One row of a layout."""
    site = call_site(frame, size)
    if layout == "kc":
        # Only the names, as documented: no offset, but where the module is all that is known.
        name = frame.name
        return f"{frame.number:02x} {site if name is None or name.symbol is None else f'{name.module}!{name.symbol}'}"
    if layout in ("kv", EMBEDDED):
        site += trap_note(frame, size)
    if lines:
        site += source_note(frame)
    back = pointer(_cut(frame.return_address or 0, size), size)
    if size == 4:
        return _narrow_row(frame, layout, back, site)
    child = pointer(None if frame.sp is None else _cut(frame.sp, size), size)
    if layout == EMBEDDED:
        return f"{child} {back}{_GAP}{site}"
    if layout in ("k", "kn"):
        return f"{frame.number:02x} {child} {back}{_GAP}{site}"
    arguments = " ".join(pointer(value or 0, size) for value in frame.arguments)
    if layout == "kb":
        return f"{frame.number:02x} {back}{_GAP}: {arguments} : {site}"
    return f"{frame.number:02x} {child} {back}{_GAP}: {arguments} : {site}"


def _narrow_row(frame: Frame, layout: str, back: str, site: str) -> str:
    parts = [pointer(None if frame.fp is None else _cut(frame.fp, 4), 4), back]
    if layout != EMBEDDED:
        parts.insert(0, f"{frame.number:02x}")
    if layout in ("kb", "kv"):
        parts += [pointer(value or 0, 4) for value in frame.arguments[:_ARGUMENTS_32]]
    return " ".join([*parts, site])


def stack_text(stack: Stack, size: int = 8) -> Iterator[str]:
    """The rows of ``STACK_TEXT``: ``kv`` without numbers and trap frames, scans marked as there."""
    for frame in _warned(stack):
        yield _SCANNED if frame is None else row(frame._replace(trap_frame=None), "kv", size)[3:]


def call_site(frame: Frame, size: int = 8) -> str:
    """``nt!KiPageFault+0x469``, or the bare address where no module holds it."""
    name = frame.name
    return f"0x{pointer(_cut(frame.ip, size), size)}" if name is None else str(name)


def source_note(frame: Frame) -> str:
    """`` [C:\\src\\driver.c @ 120]``, empty where no line is known."""
    return "" if frame.line is None else f" [{frame.line}]"


def trap_note(frame: Frame, size: int = 8) -> str:
    """The note of ``kv`` on frames that keep a trap frame."""
    return "" if frame.trap_frame is None else f" (TrapFrame @ {pointer(_cut(frame.trap_frame, size), size)})"


def _cut(address: int, size: int) -> int:
    return address & ((1 << 8 * size) - 1)


SUMMARY_HEADER = "Proc.Thread  .Thread  Ticks   ThreadState Blocker"
#: Functions in which threads give up their processor: who called them is of interest.
_WAITING = frozenset(
    {
        "KiSwapContext",
        "KiSwapThread",
        "KiCommitThreadWait",
        "KiCommitThread",
        "KeWaitForSingleObject",
        "KeWaitForMultipleObjects",
        "KeDelayExecutionThread",
        "KeRemoveQueueEx",
        "KeRemovePriQueue",
        "KeRemoveQueue",
        "KiAbThreadWait",
        "KeWaitForAlertByThreadId",
        "KeWaitForGate",
        "KiIdleLoop",
    }
)
_SUMMARY_INDENT = " " * 40


def blocker(stack: Stack, size: int = 8) -> str:
    """Where a thread stands: the first frame that is none of the kernel's own for waiting."""
    for frame in stack.frames:
        name = frame.name
        if name is None or name.module != "nt" or name.symbol not in _WAITING:
            return call_site(frame, size)
    return call_site(stack.frames[0], size) if stack.frames else ""


def summary_rest(stack: Stack, size: int = 8) -> Iterator[str]:
    """The frames below the first, under the line of a thread."""
    for frame in stack.frames[1:]:
        yield _SUMMARY_INDENT + call_site(frame, size)
