"""Phonons of a force field."""
