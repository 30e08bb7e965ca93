"""The registry as the kernel keeps it: hives, key nodes, values, key control blocks."""
