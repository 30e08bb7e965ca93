"""Drivers and devices, their requests, and the I/O error log."""
