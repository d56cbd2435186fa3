"""What travels to a worker that computes a label, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from dynft_core.reference.failures import Failure
from dynft_core.vocabulary import ReferenceSettings, StructureRef


@dataclass(frozen=True)
class LabelJob:
    """Compute reference forces of one structure in labels/<key>/."""

    run_dir: str
    structure: StructureRef
    reference: ReferenceSettings
    force_field: str | None = None
    """The newest one: a label far from what it expects is computed twice."""


@dataclass(frozen=True)
class LabelOutcome:
    ok: bool
    key: str
    path: str = ""
    """labels/<key>/label.h5"""
    harvested: bool = False
    """True when a finished label was found and nothing was computed."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None
    note: str = ""
    """One sentence for the user about a label that is accepted all the same."""
    n_atoms: int = 0
    """Of its cell; 0: not told."""
