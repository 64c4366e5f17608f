"""What is said on the wire; no I/O."""
