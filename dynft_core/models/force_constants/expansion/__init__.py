"""The expansion on a supercell: forces, energy, sensing matrix."""
