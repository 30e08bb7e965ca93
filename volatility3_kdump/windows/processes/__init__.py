"""Processes, threads, objects and handles, and what they own and wait for."""
