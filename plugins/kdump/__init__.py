"""Volatility 3 plugins for Windows crash dumps: one plugin in each file."""
