"""The only I/O: one module for each tool of this machine."""
