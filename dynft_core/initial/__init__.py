"""Structures to start from: rattled, thermal phonon modes, short molecular dynamics."""
