"""Is the claimed error true, and is it small enough: audits, calibration, convergence, label scores."""
