"""Writes crash dumps of opened dumps and memory images, for whoever has to open them with WinDbg."""

from __future__ import annotations

from volatility3_kdump.writing.crash_dump import TYPES, Plan, plan, write

__all__ = ["TYPES", "Plan", "plan", "write"]
