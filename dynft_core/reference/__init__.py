"""The reference that the force field learns from: calculators, and the job that labels one structure."""
