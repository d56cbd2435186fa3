"""Crystals and their supercells."""
