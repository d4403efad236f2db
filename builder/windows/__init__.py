"""What we know about Windows: pure tables and encoders, no I/O."""
