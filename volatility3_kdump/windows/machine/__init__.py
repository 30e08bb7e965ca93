"""Processors, deferred calls, shared data, version and hardware errors."""
