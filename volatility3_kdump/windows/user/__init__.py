"""User mode: address spaces of processes, PEB and TEB, loaded modules, and the code in them."""
