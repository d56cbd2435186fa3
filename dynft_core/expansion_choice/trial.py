"""What the labels say of one expansion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """An expansion and what the labels say of it; one order up to one cutoff is what it changes."""

    order: int
    cutoff_A: float
    n_parameters: int
    log_evidence: float
    beta_inv_sqrt_eV_A: float
    left_out_eV_A: float
    """RMS error of labels left out in turn."""
