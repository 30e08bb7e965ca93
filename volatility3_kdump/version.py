"""The version of the package, apart from it: whoever names it need not import what scripts use."""

__version__ = "0.2.0"
