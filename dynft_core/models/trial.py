"""What the labels say of one model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """A model and what the labels say of it.

    Attributes:
        change: what it changes of the present model, in words; "" for the present one.
        setting: the line of a campaign file that makes the change.
        left_out_eV_A: RMS error of labels left out in turn.
        cutoffs_A: of orders 2, 3, …, where the model is an expansion.
    """

    change: str
    setting: str
    n_parameters: int
    log_evidence: float
    beta_inv_sqrt_eV_A: float
    left_out_eV_A: float
    cutoffs_A: tuple[float, ...] = ()
