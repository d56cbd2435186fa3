"""What travels to a worker that walks, and what it answers: plain data, no arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynft_core.reference.failures import Failure
from dynft_core.vocabulary import CriterionSettings, MonitorName, Policy, Precision, ReferenceSettings, StructureRef


@dataclass(frozen=True)
class WalkerStart:
    """Where one walker starts. `state` None: the perfect crystal at rest."""

    walker: int
    state: str | None
    output: str


@dataclass(frozen=True)
class WalkJob:
    """Walk a batch of walkers with one force field, ε_B at every step."""

    run_dir: str
    walkers: tuple[WalkerStart, ...]
    force_field: str
    cell: str
    """The reference cell that they walk in."""
    n_steps: int
    seed: int
    temperature_K: float
    timestep_fs: float
    friction_per_ps: float
    criterion: CriterionSettings
    policy: Policy
    reference: ReferenceSettings
    """For the keys of the structures it selects."""
    audit_steps: tuple[tuple[int, int], ...] = ()
    """(walker, absolute MD step) at which that walker's structure is taken for an audit."""
    max_seconds: float = 3600.0
    pending: tuple[StructureRef, ...] = ()
    """Structures whose labels the force field does not know yet: its covariance shall hold just these."""
    keeps_pending: bool = False
    """`pending` names only those beyond the ones that are in the force field's covariance already, which stay."""
    monitor: MonitorName = "sketch"
    monitor_every: int = 1
    """MD steps from one look at ε_B to the next."""
    precision: Precision = "double"


@dataclass(frozen=True)
class WalkerOutcome:
    """What one walker did. Errors in eV/Å, by the labels alone; `step` counts from the walker's birth."""

    walker: int
    output: str
    """The walk's segment: state after the walk, traces, and the structures chosen."""
    step: int
    steps_walked: int
    ended: Literal["finished", "selected", "broken", "exploded", "left", "walltime"]
    """'exploded': the force field failed; 'left': an atom left its site at thermal speed."""
    selected: tuple[StructureRef, ...]
    """Flagged structures and audits, in the order they were met."""
    mean_error_eV_A: float
    """μ_k at the end, see `dynamics.state.WalkReport`."""
    std_error_eV_A: float
    temperature_K: float
    """Mean over the walk."""
    last_flag_step: int = -1
    """Absolute step of the walker's latest flag (-1: never)."""
    error_counts: tuple[tuple[int, int], ...] = ()
    """(bin, how many) of ε_B over the walk, see `assessment.histogram`."""
    watch_deviation: float = 0.0
    """Relative standard error of ε_B as it was watched: measured on the walk, with this posterior."""
    departure: str = ""
    """How the walker left the crystal, in words; "" while it is there."""


@dataclass(frozen=True)
class WalkOutcome:
    """What a batch did, and with what: the force field, how many labels it knew, how many structures were pending.

    Which these were, the segment of each walk tells: it holds the job, with the structures that were pending beyond
    those that the force field's file names. Here they would make a long journal of little else.
    """

    ok: bool
    walks: tuple[WalkerOutcome, ...] = ()
    force_field: str = ""
    n_labels: int = 0
    n_pending: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None
