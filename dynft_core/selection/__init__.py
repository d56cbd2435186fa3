"""Which structures are worth a label, when to audit, and when more labels would no longer help."""
