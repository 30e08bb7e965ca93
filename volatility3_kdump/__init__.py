"""KD's crash-dump analysis inside Volatility 3."""

__version__ = "0.1.0"
