"""KD's words for values: every function takes a value and returns text, and reads no memory by itself."""
