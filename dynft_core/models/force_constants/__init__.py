"""The force field: basis, supercell and posterior in one object, its fit and its ASE calculators."""
