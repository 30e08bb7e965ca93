"""Containers that a dump may come in, and the cache of what was taken out of them."""
