"""What travels between driver and workers: frozen jobs in, frozen outcomes out, plain data only.

Paths are relative to the run folder (`run_dir`, absolute) unless said otherwise; arrays never travel, they lie in
segments that the outcome names. Errors never travel as exceptions: an outcome says `ok = False`, why (`error`, a
sentence), and of which class the failure is (`failure`, see `errors.STORAGE` and `reference.label.run_label`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynft_core.terms import (
    CriterionSettings,
    MonitorName,
    Policy,
    Precision,
    Prior,
    PropertyName,
    ReferenceSettings,
    Role,
    StructureRef,
)


@dataclass(frozen=True)
class ProposeJob:
    """Make structures: 'rattled' or 'phonons' or 'reference_md' for a start, 'force_field_md' for a test set."""

    run_dir: str
    output: str
    method: Literal["rattled", "phonons", "reference_md", "force_field_md"]
    role: Role
    n_structures: int
    temperature_K: float
    seed: int
    structure: str
    """File with the supercell's perfect structure."""
    reference: ReferenceSettings
    amplitude_A: float = 0.01
    """Standard deviation of the displacements of 'rattled'."""
    force_field: str | None = None
    """Needed by 'phonons' (harmonic part) and 'force_field_md'."""
    timestep_fs: float = 1.0
    friction_per_ps: float = 10.0
    equilibration_steps: int = 1000
    interval_steps: int = 200


@dataclass(frozen=True)
class ProposeOutcome:
    ok: bool
    error: str = ""
    structures: tuple[StructureRef, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class LabelJob:
    """Compute reference forces of one structure in labels/<key>/."""

    run_dir: str
    structure: StructureRef
    perfect_structure: str
    """File with the supercell's perfect structure (cell, species, reference positions)."""
    reference: ReferenceSettings
    force_field: str | None = None
    """The newest one: a label far from what it expects is computed twice."""


@dataclass(frozen=True)
class LabelOutcome:
    ok: bool
    key: str
    path: str = ""
    """labels/<key>/label.h5"""
    error: str = ""
    """Why it failed: a class ('timeout', 'net force', …, see `reference.label.run_label`) and a sentence."""
    harvested: bool = False
    """True when a finished label was found and nothing was computed."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""
    note: str = ""
    """One sentence for the user about a label that is accepted all the same."""


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
    perfect_structure: str
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
    """(bin, how many) of ε_B over the walk, see `selection.histogram`."""
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
    error: str = ""
    walks: tuple[WalkerOutcome, ...] = ()
    force_field: str = ""
    n_labels: int = 0
    n_pending: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class ValidateJob:
    """Walk on with training off: nothing is chosen, ε_B is recorded."""

    walk: WalkJob


@dataclass(frozen=True)
class ValidateOutcome:
    ok: bool
    error: str = ""
    walks: tuple[WalkerOutcome, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class TruncationJob:
    """Try larger expansions on the labels of a force field, beginning none after `seconds`."""

    run_dir: str
    force_field: str
    audits: tuple[str, ...]
    """Keys of the labels that are left out in turn to tell the error."""
    seconds: float = 20.0


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


@dataclass(frozen=True)
class TruncationOutcome:
    ok: bool
    error: str = ""
    present: Trial | None = None
    """The force field's own expansion; its order is 0."""
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class FitJob:
    """Compute the posterior from `base` (a force field whose statistics are reused) and further labels."""

    run_dir: str
    version: int
    output: str
    perfect_structure: str
    primitive_structure: str
    cutoffs_A: dict[int, float]
    """By order; a harmonic fit names order 2 alone."""
    base: str | None
    labels: tuple[StructureRef, ...]
    """Labels to add to those in `base`."""
    pending: tuple[StructureRef, ...] = ()
    """All structures without a label that shall enter the covariance."""
    prior: Prior = "decaying"
    noise_floor_eV_A: float = 1e-5
    property_name: PropertyName | None = None
    """Property whose largest error bar the outcome shall tell."""
    temperature_K: float = 300.0
    """Of that property."""
    audits: tuple[StructureRef, ...] = ()
    """Labels drawn from the walks whatever their ε_B, in `base` or new: they tell the error of the outcome."""
    initial: tuple[StructureRef, ...] = ()
    """Labels of the start: set aside once the audits contradict them."""
    walked: tuple[str, ...] = ()
    """Segments of walks: where the walkers were at their ends, whatever ε_B."""
    heating_steps: int = 0
    """Steps before which a walker is colder than its thermostat."""


@dataclass(frozen=True)
class SpeciesScore:
    """A label's force components of one species: residual over predicted standard deviation, by size."""

    species: str
    z_counts: tuple[tuple[int, int], ...]
    """(bin, how many), see `selection.histogram`."""


@dataclass(frozen=True)
class Score:
    """One label against a prediction made without it (eV/Å)."""

    key: str
    role: Role
    rmse_eV_A: float
    predicted_eV_A: float
    """sqrt(1/β + ε_B²) of the force field that did not know the label."""
    bayesian_error_eV_A: float
    temperature_K: float = float("nan")
    species: tuple[SpeciesScore, ...] = ()
    highest_order_eV_A: float = float("nan")
    """RMS force of the force field's highest order."""


@dataclass(frozen=True)
class FitOutcome:
    ok: bool
    version: int
    path: str = ""
    error: str = ""
    n_labels: int = 0
    n_pending: int = 0
    beta_inv_sqrt_eV_A: float = float("nan")
    alpha: tuple[float, ...] = ()
    log_evidence: float = float("nan")
    scores: tuple[Score, ...] = ()
    """New labels against the prediction of `base`."""
    left_out: tuple[Score, ...] = ()
    """The job's audits, each against the prediction of all other labels."""
    walked_highest_order_eV_A: tuple[float, ...] = ()
    """RMS force of the highest order in structures that were walked through."""
    set_aside: tuple[str, ...] = ()
    """Keys of the initial labels that are in the fit no more."""
    property_name: PropertyName | None = None
    property_error: float = float("nan")
    """The property of the job, and its largest error bar in its unit."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class EvaluateJob:
    """Score force fields on labelled structures that none of them was fitted to."""

    run_dir: str
    force_fields: tuple[str, ...]
    labels: tuple[StructureRef, ...]
    perfect_structure: str


@dataclass(frozen=True)
class Evaluation:
    """Table II of the paper for one force field (eV/Å)."""

    force_field: str
    rmse_eV_A: float
    mae_eV_A: float
    beta_inv_sqrt_eV_A: float
    mean_bayesian_error_eV_A: float
    n_labels: int
    n_structures: int


@dataclass(frozen=True)
class EvaluateOutcome:
    ok: bool
    error: str = ""
    evaluations: tuple[Evaluation, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class SelectJob:
    """Choose among candidates those whose labels tell most, beside what is under way."""

    run_dir: str
    force_field: str
    candidates: tuple[StructureRef, ...]
    under_way: tuple[StructureRef, ...]
    method: Literal["log_det", "maxvol"]
    n_max: int
    min_gain: float
    select_grade: float


@dataclass(frozen=True)
class SelectOutcome:
    """Keys of the candidates chosen, in that order, with their gains; and of those that are redundant."""

    ok: bool
    error: str = ""
    chosen: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()
    redundant: tuple[str, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: str = ""


Job = ProposeJob | LabelJob | WalkJob | ValidateJob | TruncationJob | SelectJob | FitJob | EvaluateJob
Outcome = (
    ProposeOutcome | LabelOutcome | WalkOutcome | ValidateOutcome | TruncationOutcome | SelectOutcome | FitOutcome
    | EvaluateOutcome
)  # fmt: skip
