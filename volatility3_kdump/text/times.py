"""Times of the target in KD's words."""

from __future__ import annotations

import datetime

_EPOCH = datetime.datetime(1601, 1, 1, tzinfo=datetime.timezone.utc)
_UNIX_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TICKS_PER_MILLISECOND = 10_000
#: The last FILETIME that a calendar date exists for (year 9999).
_LAST = 2_650_467_743_999_999_999


def filetime(value: int | None) -> datetime.datetime | None:
    """A FILETIME (100 ns since 1601, UTC) as an aware datetime; ``None`` for none, zero, or one beyond year 9999."""
    if not value or value < 0 or value > _LAST:
        return None
    return _EPOCH + datetime.timedelta(microseconds=value // 10)


def calendar(moment: datetime.datetime, milliseconds: bool = False) -> str:
    """``Wed Jul 17 18:40:42 2019``, in English whatever the locale; with ``milliseconds`` behind the seconds."""
    day = f"{_DAYS[moment.weekday()]} {_MONTHS[moment.month - 1]} {moment.day:2d}"
    fraction = f".{moment.microsecond // 1000:03d}" if milliseconds else ""
    return f"{day} {moment:%H:%M:%S}{fraction} {moment.year}"


def time_stamp(seconds: int) -> str:
    """A time in seconds since 1970 (TimeDateStamp, time_t), UTC, as :func:`calendar`. 32 bits are never too many."""
    return calendar(_UNIX_EPOCH + datetime.timedelta(seconds=seconds))


def session_time(value: int | None, bias: int | None = 0) -> str | None:
    """``Thu Oct  7 20:33:12.945 2021 (UTC + 9:00)``: a FILETIME in the zone of ``bias`` (100 ns to add for UTC)."""
    moment = filetime(value)
    if moment is None or bias is None:
        return None
    minutes = -round(bias / (60 * 1000 * TICKS_PER_MILLISECOND))
    if abs(minutes) > 24 * 60:
        return None
    local = moment + datetime.timedelta(minutes=minutes)
    hours, rest = divmod(abs(minutes), 60)
    return f"{calendar(local, milliseconds=True)} (UTC {'-' if minutes < 0 else '+'} {hours}:{rest:02d})"


def uptime(value: int | None) -> str | None:
    """``0 days 0:00:54.755`` from 100 ns units; ``None`` for none or zero."""
    if not value or value < 0:
        return None
    milliseconds = value // TICKS_PER_MILLISECOND
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} days {hours}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}"


def span(value: int | None, days: bool = False) -> str | None:
    """``00:00:47.378`` from 100 ns units, ``1 Day 02:03:04.000`` and ``2 Days 02:03:04.000`` from a day on.

    With ``days`` as in tick counts: ``0:00:00:00.187``. ``None`` for an unknown or negative duration.
    """
    if value is None or value < 0:
        return None
    seconds, milliseconds = divmod(value // TICKS_PER_MILLISECOND, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    number, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}"
    if days:
        return f"{number}:{clock}"
    return clock if not number else f"1 Day {clock}" if number == 1 else f"{number} Days {clock}"
