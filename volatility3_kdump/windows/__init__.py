"""NT structures as values: modules, processors, processes, shared data."""
