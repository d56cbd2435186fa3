"""Properties of the crystal with error bars."""
