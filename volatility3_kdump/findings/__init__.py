"""What the state of the machine shows: who waits, whose memory it is, what is tampered with."""
