"""Which processes, threads and stacks are asked for, and the names that belong to each."""
