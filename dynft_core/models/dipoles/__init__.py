"""Dipole-dipole forces of polar crystals, from Born charges and dielectric tensor: the baseline of their fits."""
