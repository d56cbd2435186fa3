"""What travels between driver and workers: frozen jobs in, frozen outcomes out, plain data only.

Paths are relative to the run folder (`run_dir`, absolute) unless said otherwise; arrays never travel, they lie in
segments that the outcome names. Errors never travel as exceptions: an outcome says `ok = False`, and why (`failure`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan, sqrt
from typing import Literal

from dynft_core.assessment.scores import Score
from dynft_core.dynamics.relaxation_settings import RelaxationSettings
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkJob, WalkOutcome
from dynft_core.models.settings import ModelSettings
from dynft_core.models.trial import Trial
from dynft_core.reference.failures import Failure
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.selection.cost import CostLaw
from dynft_core.vocabulary import (
    CriterionSettings,
    PropertyName,
    ReferenceSettings,
    Role,
    StructureRef,
)


@dataclass(frozen=True)
class Rattled:
    """Normal displacements with this standard deviation."""

    amplitude_A: float
    name: Literal["rattled"] = "rattled"


@dataclass(frozen=True)
class PhononModes:
    """Thermal displacements in the modes of a force field's harmonic part."""

    force_field: str
    name: Literal["phonons"] = "phonons"


@dataclass(frozen=True)
class MdSteps:
    """Of molecular dynamics that structures are taken from: how it moves, settles, and how far apart they are."""

    timestep_fs: float
    friction_per_ps: float
    equilibration_steps: int = 1000
    interval_steps: int = 200


@dataclass(frozen=True)
class ReferenceMd:
    """Molecular dynamics with the reference calculator."""

    steps: MdSteps
    name: Literal["reference_md"] = "reference_md"


@dataclass(frozen=True)
class ForceFieldMd:
    """Molecular dynamics with a force field."""

    force_field: str
    steps: MdSteps
    name: Literal["force_field_md"] = "force_field_md"


Method = Rattled | PhononModes | ReferenceMd | ForceFieldMd


@dataclass(frozen=True)
class ProposeJob:
    """Make structures, by one of four methods."""

    run_dir: str
    output: str
    method: Method
    role: Role
    n_structures: int
    temperature_K: float
    seed: int
    cell: str
    """The reference cell of the structures; or a pattern: `n_structures` of each that it fits."""
    reference: ReferenceSettings


@dataclass(frozen=True)
class ProposeOutcome:
    ok: bool
    structures: tuple[StructureRef, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class ValidateJob:
    """Walk on with training off: nothing is chosen, ε_B is recorded."""

    walk: WalkJob


@dataclass(frozen=True)
class ValidateOutcome:
    ok: bool
    walks: tuple[WalkerOutcome, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class TruncationJob:
    """Try larger expansions on the labels of a force field, beginning none after `seconds`."""

    run_dir: str
    force_field: str
    audits: tuple[str, ...]
    """Keys of the labels that are left out in turn to tell the error."""
    seconds: float = 20.0


@dataclass(frozen=True)
class TruncationOutcome:
    ok: bool
    present: Trial | None = None
    """The force field's own expansion."""
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class ChooseJob:
    """Choose the expansion that the labels of a force field support; it must hold walks at these temperatures."""

    run_dir: str
    force_field: str
    model: ModelSettings
    primitive_structure: str
    max_parameters: int
    cells: tuple[tuple[str, float], ...]
    """(reference cell, temperature in K) of the walkers."""
    timestep_fs: float
    friction_per_ps: float
    seed: int


@dataclass(frozen=True)
class ChooseOutcome:
    ok: bool
    cutoffs_A: tuple[float, ...] = ()
    """Of orders 2, 3, … from now on; those of the force field where nothing better was found."""
    why: str = ""
    """What changes, and by what it is borne out."""
    present: Trial | None = None
    """The force field's own expansion."""
    chosen: Trial | None = None
    """The one that replaces it."""
    fell_apart: tuple[str, ...] = ()
    """Better ones whose walks did not stay whole."""
    untried: tuple[str, ...] = ()
    """What the budget forbade."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class WalkEnd:
    """Where a walk ended: its segment, its cell, and the group of its walker."""

    segment: str
    cell: str
    group: str


@dataclass(frozen=True)
class FitJob:
    """Compute the posterior from `base` (a force field whose statistics are reused) and further labels."""

    run_dir: str
    version: int
    output: str
    model: ModelSettings
    """What the family is asked for."""
    primitive_structure: str
    base: str | None
    labels: tuple[StructureRef, ...]
    """Labels to add to those in `base`."""
    pending: tuple[StructureRef, ...] = ()
    """All structures without a label that shall enter the covariance."""
    property_name: PropertyName | None = None
    """Property whose largest error bar the outcome shall tell."""
    temperature_K: float = 300.0
    """Of that property."""
    audits: tuple[StructureRef, ...] = ()
    """Labels drawn from the walks whatever their ε_B, in `base` or new: they tell the error of the outcome."""
    initial: tuple[StructureRef, ...] = ()
    """Labels of the start: set aside once the audits contradict them."""
    others: tuple[StructureRef, ...] = ()
    """Labels that are no audits, whose errors are told as well."""
    walked: tuple[WalkEnd, ...] = ()
    """Walks whose structures, taken by the clock whatever ε_B, tell how hard the walks are."""
    heating_steps: int = 0
    """Steps before which a walker is colder than its thermostat."""


@dataclass(frozen=True)
class FitOutcome:
    ok: bool
    version: int
    path: str = ""
    n_labels: int = 0
    n_pending: int = 0
    beta_inv_sqrt_eV_A: float = float("nan")
    log_evidence: float = float("nan")
    scores: tuple[Score, ...] = ()
    """New labels against the prediction of `base`."""
    left_out: tuple[Score, ...] = ()
    """The job's audits, then its others, each against the prediction of all other labels."""
    walked_difficulty: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """How hard structures are that were walked through, by group of walkers (`assessment.difficulty`)."""
    explained: float = 0.0
    """Part of the mean square error there that a larger model explains; 0: the model's own measure was taken."""
    set_aside: tuple[str, ...] = ()
    """Keys of the initial labels that are in the fit no more."""
    property_name: PropertyName | None = None
    property_error: float = float("nan")
    """The property of the job, and its largest error bar in its unit."""
    cutoffs_A: tuple[float, ...] = ()
    """Of orders 2, 3, …, where the model is an expansion."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class EvaluateJob:
    """Score force fields on labelled structures, of one group of walkers, that none of them was fitted to."""

    run_dir: str
    force_fields: tuple[str, ...]
    labels: tuple[StructureRef, ...]
    group: str = ""


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
    group: str = ""


def pooled_rmse(evaluations: Sequence[Evaluation]) -> float:
    """One force field's error (eV/Å) on the test structures of several groups of walkers; nan without any."""
    n = sum(e.n_structures for e in evaluations)
    return sqrt(sum(e.n_structures * e.rmse_eV_A**2 for e in evaluations) / n) if n else nan


@dataclass(frozen=True)
class EvaluateOutcome:
    ok: bool
    evaluations: tuple[Evaluation, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class CellChoice:
    """Structures of small cells, and of the walks, to be weighed against flagged ones by what they tell for their cost.

    `output`: folder of those chosen; `goal_eV_A`: root of the mean ε_B² over the walks that is low enough.
    """

    output: str
    temperature_K: float
    seed: int
    reference: ReferenceSettings
    law: CostLaw
    budget_core_s: float
    goal_eV_A: float
    walked: tuple[WalkEnd, ...]


@dataclass(frozen=True)
class SelectJob:
    """Choose among candidates those whose labels tell most, beside what is under way."""

    run_dir: str
    force_field: str
    candidates: tuple[StructureRef, ...]
    under_way: tuple[StructureRef, ...]
    method: Literal["log_det", "maxvol", "grade"]
    n_max: int
    min_gain: float
    select_grade: float
    cells: CellChoice | None = None
    """Where labels of small cells may be bought: what is chosen is what tells most of the walks for its cost."""


@dataclass(frozen=True)
class SelectOutcome:
    """Keys of the candidates chosen, in that order, with their gains; and of those that are redundant."""

    ok: bool
    chosen: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()
    redundant: tuple[str, ...] = ()
    structures: tuple[StructureRef, ...] = ()
    """New ones, which were no candidates; their labels are wanted as well."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class RelaxJob:
    """Relax structures of a file with a force field."""

    run_dir: str
    name: str
    structures: str
    """Extended xyz in the run folder."""
    force_field: str
    version: int
    """Of the force field."""
    output: str
    """Where those that are relaxed go, extended xyz."""
    settings: RelaxationSettings
    criterion: CriterionSettings
    """Whose γ_select makes a candidate, whose γ_break breaks off."""
    reference: ReferenceSettings
    """For the keys of the candidates."""
    numbers: tuple[int, ...] = ()
    """Of the structures in the file; (): all."""


@dataclass(frozen=True)
class RelaxOutcome:
    """How the structures ended, by their numbers in the file of `n_structures`."""

    ok: bool
    n_structures: int = 0
    relaxed: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    unfinished: tuple[int, ...] = ()
    selected: tuple[StructureRef, ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class BornJob:
    """Compute Born charges and dielectric tensor of the crystal in born/, as labels of a supercell are."""

    run_dir: str
    output: str
    primitive_structure: str
    supercell_structure: str
    reference: ReferenceSettings


@dataclass(frozen=True)
class BornOutcome:
    ok: bool
    seconds: float = 0.0
    core_seconds: float = 0.0
    failure: Failure | None = None


Job = (
    BornJob | ProposeJob | LabelJob | WalkJob | ValidateJob | TruncationJob | ChooseJob | SelectJob
    | FitJob | EvaluateJob | RelaxJob
)  # fmt: skip
Outcome = (
    BornOutcome | ProposeOutcome | LabelOutcome | WalkOutcome | ValidateOutcome | TruncationOutcome | ChooseOutcome
    | SelectOutcome
    | FitOutcome | EvaluateOutcome | RelaxOutcome
)  # fmt: skip
