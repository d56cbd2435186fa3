"""The symmetry-adapted basis of the force constants."""
