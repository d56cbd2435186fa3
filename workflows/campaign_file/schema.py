"""The campaign file: every key, its unit, its default. Unknown keys are refused, with the nearest right one named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dynft_core.models.settings import AUTO, ModelSettings, force_constants
from dynft_core.reference.cheap import CheapPotential
from dynft_core.vocabulary import (
    MOMENT_TENSOR,
    MonitorName,
    Policy,
    Precision,
    Prior,
    PropertyName,
    RadialKind,
    ReferenceSettings,
)
from workflows.campaign_file.groups import CellRecipe, Matrix, WalkerGroup, matrix_of, walker_groups

FIRST_ORDER = 4
"""Highest order that the labels of the start may choose: walks test those that are chosen later."""
RATTLE_A = 0.1
"""Of the first structures of a moment tensor potential: thermal displacements; small ones teach it nothing."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


COMPUTE = "compute"
"""In the place of a file of Born charges: the campaign computes them."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CrystalSection(_Section):
    structure: str
    """File that ASE reads, primitive or conventional; relative to the campaign file."""
    supercell: list[int] | list[list[int]]
    """Three integers or a 3×3 integer matrix, acting on the cell in `structure`."""
    born: str | None = None
    """Born charges, whose dipole-dipole forces the force field is fitted on top of: a file (BORN, phonopy_params.yaml,
    the output of VASP or ph.x), relative to the campaign file; or 'compute': by the reference, before the first fit."""
    metal: bool = False
    """There are no Born charges: do not ask for any."""


class ExpansionSection(_Section):
    cutoffs_A: list[Positive] | Literal["auto"]
    """Cutoffs for orders 2, 3, … (up to 6); 'auto': chosen by the labels, again and again as they come."""
    max_parameters: Count = 3000
    """Most parameters that 'auto' may choose."""
    prior: Prior = "decaying"
    """One prior precision for all parameters; one for each order; or one for each order that rises with distance and
    number of bodies, which a second-order cutoff beyond half the supercell needs."""
    noise_floor_meV_A: Positive = 0.01


class ModelSection(_Section):
    family: str = "force_constants"
    """'force_constants', which `[expansion]` describes, 'moment_tensor', which the keys here describe, or the
    'module:attribute' of a family of your own."""
    parameters: dict[str, Any] = {}
    """What a family of your own is asked for."""
    cutoff_A: Positive | None = None
    """Of a moment tensor potential: where neighbours end."""
    min_distance_A: Positive | None = None
    """Of a moment tensor potential: a walk is broken off where two atoms are nearer."""
    level: Annotated[int, Field(ge=2)] | None = None
    """Of a moment tensor potential: how many functions; without it, as many as a fit in seconds takes."""
    radial: RadialKind = "fixed"
    """Radial functions of a moment tensor potential; campaigns train no others than 'fixed' ones."""

    @property
    def of_moment_tensor(self) -> bool:
        """Whether it is a moment tensor potential."""
        return self.family == MOMENT_TENSOR

    def settings(self) -> ModelSettings:
        """What the family is asked for, where `[expansion]` does not say it."""
        if not self.of_moment_tensor:
            return ModelSettings(self.family, self.parameters)
        values = {"cutoff_A": self.cutoff_A, "min_distance_A": self.min_distance_A, "level": self.level}
        return ModelSettings(self.family, {**values, "radial": self.radial})


class CheapSection(_Section):
    calculator: str
    """A potential that computes forces in a moment, by a name that ASE knows or as 'module:callable'."""
    parameters: dict[str, Any] = {}

    def potential(self) -> CheapPotential:
        """The cheap potential."""
        return CheapPotential(ReferenceSettings(self.calculator, dict(self.parameters)))


class DynamicsSection(_Section):
    temperature_K: Positive = 300.0
    timestep_fs: Annotated[float, Field(ge=0.01, le=20)] = 1.0
    friction_per_ps: Positive = 10.0
    walkers: Annotated[int, Field(ge=1, le=10_000)] = 4
    walkers_per_task: Count = 2
    seed: Annotated[int, Field(ge=0)] = 1
    segment_ps: Positive = 0.5
    """Longest walk of one task."""
    precision: Precision = "double"
    """Of the forces: 'single' halves their time; the walkers' state and all decisions stay in double precision."""
    max_task_minutes: Positive = 60.0


class WalkersSection(_Section):
    """A group of walkers; without any, `[dynamics]` and `[crystal]` describe one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=40)]
    count: Annotated[int, Field(ge=1, le=10_000)] = 2
    temperature_K: Positive | None = None
    """None: that of `[dynamics]`."""
    supercell: list[int] | list[list[int]] | None = None
    """None: that of `[crystal]`; of a structure of their own: once."""
    structure: str | None = None
    """A file with a structure of their own, another phase or one with defects, for families that need no crystal."""
    strain: Annotated[float, Field(gt=-0.5, lt=1)] = 0.0
    """By how much the cell is longer in all directions: 0.02 is 2 %; for families that need no crystal."""

    def recipe(self, own: CellRecipe) -> CellRecipe:
        """How the group's cell is made; `own`: the campaign's."""
        otherwise = matrix_of([1, 1, 1]) if self.structure else own.supercell
        matrix = matrix_of(self.supercell) if self.supercell else otherwise
        return CellRecipe(matrix, self.structure or "", self.strain)


class RelaxationsSection(_Section):
    """Structures to be relaxed with the force field, for families that need no crystal, by criterion 'grade'."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=40)]
    structures: str
    """File of any number of structures; relative to the campaign file."""
    pressure_GPa: float = 0.0
    fixed_cell: bool = False
    """Atoms alone move."""
    force_tolerance_eV_A: Positive = 0.005
    stress_tolerance_GPa: Positive = 0.05
    max_steps: Count = 500


class SelectionSection(_Section):
    criterion: Literal["trajectory_average", "epsilon_min", "fixed", "random", "grade"] = "trajectory_average"
    """'grade' is the default of moment tensor potentials."""
    gamma: Positive = 3.0
    window_steps: Count = 1000
    threshold_meV_A: Annotated[float, Field(ge=0)] = 0.0
    break_factor: Annotated[float, Field(gt=1)] = 10.0
    while_heating: bool = False
    """Flag structures while the crystal is still being heated, too, as the papers have it."""
    random_interval_ps: Positive = 1.0
    """Mean walked time of one walker between the structures that 'random' takes."""
    policy: Policy = "wait"
    batch: Literal["log_det", "maxvol", "all"] = "log_det"
    """Which flagged structures are labelled under 'continue': by information gain, by extrapolation grade, or all."""
    min_gain: Annotated[float, Field(ge=0, le=1)] = 0.5
    """'log_det' drops a candidate of whose information what is under way leaves less than this part."""
    select_grade: Annotated[float, Field(ge=1)] = 2.0
    """'maxvol' drops a candidate with an extrapolation grade up to this; 'grade' takes candidates beyond it."""
    break_grade: Annotated[float, Field(gt=1)] = 10.0
    """Criterion 'grade': extrapolation grade at which a walk stops until there are labels."""
    max_pending: Count = 100
    """Most flagged structures whose label is queued or under way; others stay candidates."""
    monitor: MonitorName = "sketch"
    """How ε_B is watched. 'sketch': estimated to a few percent, every decision on the exact value."""
    monitor_every: Count = 1
    """MD steps from one look at ε_B to the next; `window_steps` counts MD steps all the same."""


class InitialSection(_Section):
    method: Literal["phonons", "rattled", "reference_md"] = "phonons"
    structures: Count = 2
    rattle_A: Positive = 0.01
    """Displacements of 'rattled' structures, and of those for the first harmonic fit."""
    harmonic_structures: Count = 1


class AuditSection(_Section):
    first_ps: Positive = 0.2
    """Time of the first audit, from when the walkers have been heated (4 / friction_per_ps). The schedule is the
    campaign's: walkers take audits in turn, two (one for a single walker) for every factor `ratio` of that time."""
    ratio: Annotated[float, Field(gt=1)] = 2.0


class StopWhen(_Section):
    property: PropertyName
    """Property whose largest error bar decides whether more labels are needed, at the campaign's temperature."""
    tolerance: str
    """Largest error bar with its unit: THz, meV/atom, Å², 1 or W/mK, for example "0.05 THz"."""

    def value(self) -> float:
        """The tolerance's number, in the property's unit."""
        return float(self.tolerance.split()[0])


class ConvergenceSection(_Section):
    min_walk_ps: Positive = 2.0
    """Each walker walks at least this long."""
    max_walk_ps: Positive = 50.0
    """A campaign that has not converged when every walker has walked this long stops, and says so."""
    quiet_ps: Annotated[float, Field(ge=0)] = 0.25
    """No walker may have been flagged for this long (or `min_walk_ps`, if that is less). Asked of 'trajectory_average'
    alone: other criteria flag for ever."""
    audits: Count = 4
    """Fewest audits."""
    audit_ratio: list[Positive] = [0.87, 1.12]
    """Bounds on true error / predicted error, as the audits find it."""
    certainty: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """How certain it must be that the ratio lies within them; audits are taken until it is."""
    negligible_meV_A: Annotated[float, Field(ge=0)] = 0.2
    """An error that is certainly below this need be known to a quarter only, and costs fewer audits."""
    max_error_meV_A: Positive | None = None
    """Largest predicted error; without it, the campaign is done when more labels would not lower it."""
    recalibrate: bool = True
    """Multiply the predicted errors by the scale that the audits found; `audit_ratio` bounds how well it is known."""
    scale_bounds: list[Positive] = [0.67, 1.5]
    """Bounds on this scale, beyond which the prediction is not credible."""
    max_error_change: Positive = 0.1
    """Largest relative change of β^(-1/2) over the latest four labels."""
    max_bayesian_share: Positive = 0.5
    """Largest μ_k[ε_B] β^(1/2): beyond it more labels would still help."""
    stop_when: StopWhen | None = None
    """A property with a tolerance, in the place of the last two."""


class ValidationSection(_Section):
    walk_ps: Annotated[float, Field(ge=0)] = 0.5
    """How long each walker walks on with training off once the campaign has converged; the paper's 500 ps among all
    walkers tell more. 0: not at all."""


class ReferenceSection(_Section):
    calculator: str
    parameters: dict[str, Any] = {}
    timeout_s: Positive = 3600.0
    max_net_force_eV_A: Positive = 0.01
    max_concurrent: Count = 1000
    """Most labels handed to the site at one time."""


class LimitsSection(_Section):
    """Wall time after which a running task is given up and tried again, beside those of walks and labels."""

    propose_minutes: Positive = 60.0
    select_minutes: Positive = 60.0
    fit_minutes: Positive = 120.0
    """Of a fit, a trial of larger expansions, or scoring the force fields on the test set."""
    relax_minutes: Positive = 60.0
    """Of the relaxations of one table `[[relaxations]]`."""


class LabelsSection(_Section):
    cells: Literal["walkers", "auto"] | list[list[int] | list[list[int]]] = "walkers"
    """In which cells labels are computed beside the walkers': none; those of which the supercell is a repetition, each
    label chosen by what it tells of the walks per core-second; or some of them, three integers or 3×3 in the vectors of
    the primitive cell, as `dynft structures --divide … --list` has them. Audits are of the walkers' cell."""


class TestSection(_Section):
    structures: Annotated[int, Field(ge=0)] = 0
    """Further reference calculations, for a test set at the end; 0: none."""
    equilibration_ps: Positive = 1.0
    interval_ps: Positive = 0.2


class Campaign(_Section):
    """A campaign file, checked."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    """Names the run folder runs/NAME."""
    crystal: CrystalSection
    model: ModelSection = ModelSection()
    expansion: ExpansionSection | None = None
    cheap: CheapSection | None = None
    dynamics: DynamicsSection = DynamicsSection()
    walkers: list[WalkersSection] = []
    relaxations: list[RelaxationsSection] = []
    selection: SelectionSection = SelectionSection()
    initial: InitialSection = InitialSection()
    audit: AuditSection = AuditSection()
    convergence: ConvergenceSection = ConvergenceSection()
    validation: ValidationSection = ValidationSection()
    reference: ReferenceSection
    labels: LabelsSection = LabelsSection()
    limits: LimitsSection = LimitsSection()
    test: TestSection = TestSection()

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_the_family(cls, table: Any) -> Any:
        """Defaults of moment tensor potentials, where none is set: structures far from rest, no phonons."""
        model = table.get("model") if isinstance(table, dict) else None
        if not (isinstance(model, dict) and model.get("family") == MOMENT_TENSOR):
            return table
        defaults: dict[str, dict[str, Any]] = {
            "selection": {"criterion": "grade"}, "initial": {"method": "rattled", "rattle_A": RATTLE_A},
        }  # fmt: skip
        found = {name: table.get(name, {}) for name in defaults}
        return table | {
            name: {**values, **found[name]} for name, values in defaults.items() if isinstance(found[name], dict)
        }

    @property
    def groups(self) -> tuple[WalkerGroup, ...]:
        """The walkers, group by group."""
        own, dynamics = CellRecipe(matrix_of(self.crystal.supercell)), self.dynamics
        sections = self.walkers or [WalkersSection(name="all", count=dynamics.walkers)]
        return walker_groups(own, tuple(
            (w.name, w.count, w.temperature_K or dynamics.temperature_K, w.recipe(own)) for w in sections
        ))  # fmt: skip

    @property
    def n_walkers(self) -> int:
        """How many walkers there are."""
        return self.groups[-1].walkers[-1] + 1

    @property
    def highest_temperature_K(self) -> float:
        """The temperature of the hottest walkers: that of the structures of the start."""
        return max(group.temperature_K for group in self.groups)

    @property
    def small_cells(self) -> bool:
        """Whether labels may be computed in smaller cells than the walkers'."""
        return self.labels.cells != "walkers"

    @property
    def label_cells(self) -> Literal["auto"] | tuple[Matrix, ...]:
        """The smaller cells, in vectors of the primitive cell; 'auto': all that the supercell repeats."""
        cells = self.labels.cells
        return "auto" if cells == "auto" else tuple(matrix_of(m) for m in cells if not isinstance(m, str))

    @property
    def automatic(self) -> bool:
        """Whether the labels choose the expansion."""
        return self.expansion is not None and self.expansion.cutoffs_A == AUTO

    def model_settings(
        self, harmonic: bool = False, born: str | None = None, chosen_A: Sequence[float] = ()
    ) -> ModelSettings:
        """What the family of models is asked for.

        `harmonic`: order 2 alone; `born`: where the file BORN lies; `chosen_A`: cutoffs, once the labels chose them.
        """
        if (own := self.expansion) is None:
            return self.model.settings()
        floor_eV_A, cutoffs_A = own.noise_floor_meV_A / 1000, chosen_A or own.cutoffs_A
        if cutoffs_A != AUTO:
            cutoffs_A = cutoffs_A[: 1 if harmonic else None]
        cheap = "" if self.cheap is None or harmonic else self.cheap.potential().describe()
        found = force_constants(cutoffs_A, own.prior, floor_eV_A, born, self.crystal.metal, cheap)
        if self.small_cells:
            found = replace(found, parameters={**found.parameters, "small_cells": True})
        bounds = {"max_order": 2 if harmonic else FIRST_ORDER, "max_parameters": own.max_parameters}
        return replace(found, parameters={**found.parameters, **bounds}) if self.automatic else found
