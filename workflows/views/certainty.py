"""What it costs to know how large the error is, for dry runs and rehearsals."""

from __future__ import annotations

from dynft_core.assessment.audits import price_of_certainty


def certainty_line(certainty: float, degrees: float | None = None) -> str:
    """What it costs to know the error; `degrees` (see `AuditTest`): as the audits of a rehearsal scatter."""
    price = price_of_certainty(certainty) if degrees is None else price_of_certainty(certainty, degrees)
    parts = " and ".join(f"{n:.0f} tell it to ±{part:.0%}" for part, n in price.items())
    fewer = ", fewer where the next orders expect the errors" if degrees is None else ""
    return f"audits: about {parts} with {certainty:.0%} certainty (convergence.audit_ratio){fewer}; each trains as well"
