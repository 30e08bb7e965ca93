"""The memory manager: page tables and frames, pools, address spaces, counters."""
