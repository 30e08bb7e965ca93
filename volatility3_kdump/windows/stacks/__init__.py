"""Stack backtraces."""
