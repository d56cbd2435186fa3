"""Which structures are worth a label."""
