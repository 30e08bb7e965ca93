"""Pasted debugger text: read it, and give the verdict that the same facts in a dump would get."""
