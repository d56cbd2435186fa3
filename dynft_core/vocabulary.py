"""What jobs, campaign and core agree on: names of choices, a structure to be labelled, settings that travel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["harmonic", "initial", "flagged", "chosen", "audit", "test"]
"""Why a structure is labelled. `harmonic` labels serve the first harmonic fit alone, `test` labels are never fitted;
`chosen` ones tell most of the walks for what they cost."""

PropertyName = Literal["phonons", "free_energy", "displacements", "sigma_A", "conductivity"]
PROPERTY_UNITS: dict[PropertyName, str] = {
    "phonons": "THz", "free_energy": "meV/atom", "displacements": "Å²", "sigma_A": "1", "conductivity": "W/mK"
}  # fmt: skip
"""Properties with error bars, and the unit of each."""

Policy = Literal["wait", "continue"]

MonitorName = Literal["sketch", "exact"]
"""How ε_B is watched: estimated, with the exact value wherever something is decided, or exact at every step."""


Prior = Literal["shared", "per_order", "decaying"]
"""One prior precision for all parameters; one for each order; or one for each order, rising with distance and number
of bodies at rates learnt from the data."""

ModelFamily = Literal["force_constants", "moment_tensor"]
"""Families of models that come with dynft."""
MOMENT_TENSOR = "moment_tensor"

RadialKind = Literal["fixed", "trained"]
"""Radial functions of a moment tensor potential: polynomials, or combinations of some that are trained."""

TransportMethod = Literal["rta", "lbte", "wigner"]
"""How the thermal conductivity is computed: relaxation times, the whole linearised Boltzmann equation, or relaxation
times and the coherences of Wigner's transport equation."""

Images = Literal["shortest", "all"]
"""Where constants sit that the training supercell cannot tell apart."""

Precision = Literal["double", "single"]
"""Of the forces of a walk; state and decisions are in double precision."""


SUPERCELL = "supercell.xyz"
"""The campaign's supercell, in its run folder; other reference cells lie in `cells/`."""
LABEL_CELLS, FIRST_LABEL_CELLS = "cells/label-*.xyz", "cells/label-q-*.xyz"
"""Small cells of a run folder in which labels may be computed, and those of them that the start is labelled in."""


@dataclass(frozen=True)
class StructureRef:
    """A structure waiting for, or having, a label: row `index` of the segment `segment`."""

    key: str
    """Content hash of structure and reference settings: the label's name in the ledger and in labels/<key>/."""
    segment: str
    index: int
    role: Role
    reason: str = ""
    """One sentence: why it was chosen."""
    bayesian_error_eV_A: float = float("nan")
    """ε_B when it was chosen."""
    temperature_K: float = float("nan")
    cell: str = SUPERCELL
    """Its reference cell: the file in the run folder that its displacements refer to."""


@dataclass(frozen=True)
class ReferenceSettings:
    """Which ASE calculator labels structures. `calculator`: a name that dynft knows, or 'module:callable'."""

    calculator: str
    parameters: dict[str, object] = field(default_factory=dict)
    timeout_s: float = 3600.0
    max_net_force_eV_A: float = 0.01
    """Largest accepted |Σ f| / N."""


@dataclass(frozen=True)
class CriterionSettings:
    """When a walker's structure is selected for a label, and when the walk is broken off.

    `name`: 'trajectory_average' (paper eq. 5: ε_B > gamma μ_k), 'epsilon_min' (Jinnouchi et al. 2019: the threshold
    follows the mean error of the last selections), 'fixed' (ε_B > threshold_eV_A), 'grade' (extrapolation grade >
    select_grade; Novikov et al. 2021).
    """

    name: Literal["trajectory_average", "epsilon_min", "fixed", "grade"] = "trajectory_average"
    gamma: float = 3.0
    window: int = 1000
    """k of eq. 5, in MD steps."""
    threshold_eV_A: float = 0.0
    """Fixed threshold, or the first one of 'epsilon_min' (0: none before the first selection)."""
    break_factor: float = 10.0
    """The walk is broken, and goes back to its last good snapshot, when ε_B exceeds this many times the threshold."""
    warm_up: int = 20
    """Steps that a window must hold before it may select."""
    while_heating: bool = False
    """Select while the crystal is still being heated, too, as the papers have it."""
    select_grade: float = 2.0
    """γ_select: a structure beyond it is a candidate."""
    break_grade: float = 10.0
    """γ_break: beyond it the walk stops until the labels are there."""
