"""Molecular dynamics on displacements: the integrator, a walker's state, and the monitored walk."""
