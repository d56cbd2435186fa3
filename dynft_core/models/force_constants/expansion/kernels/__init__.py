"""Compiled contractions (the only door to numba) and a plain numpy reference."""
