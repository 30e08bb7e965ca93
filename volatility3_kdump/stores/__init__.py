"""Where symbol and image files lie: symbol paths in the debugger's grammar, local stores, symbol servers."""
