"""PDB files: the container, names, types, and linker names made readable."""
