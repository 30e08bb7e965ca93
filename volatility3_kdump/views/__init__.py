"""Tables of the plugins: each view turns values into typed rows and names the KD text that belongs to them."""
