"""Sums over neighbourhoods, compiled (a door to numba), and a plain numpy reference."""
