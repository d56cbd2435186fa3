"""Moment tensor potentials: polynomials of the moments of an atom's neighbourhood, invariant under rotations."""
