"""The campaign file: every key, its unit, its default. Unknown keys are refused, with the nearest right one named."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynft_core.errors import FileFormatError, InputError, nearest
from dynft_core.models.settings import ModelSettings, force_constants
from dynft_core.vocabulary import PROPERTY_UNITS, MonitorName, Policy, Precision, Prior, PropertyName
from workflows.campaign_file.errors import explained

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CrystalSection(_Section):
    structure: str
    """File that ASE reads, primitive or conventional; relative to the campaign file."""
    supercell: list[int] | list[list[int]]
    """Three integers or a 3×3 integer matrix, acting on the cell in `structure`."""


class ExpansionSection(_Section):
    cutoffs_A: list[Positive]
    """Cutoffs for orders 2, 3, … (up to 6)."""
    prior: Prior = "decaying"
    """One prior precision for all parameters; one for each order; or one for each order that rises with distance and
    number of bodies, which a second-order cutoff beyond half the supercell needs."""
    noise_floor_meV_A: Positive = 0.01


class ModelSection(_Section):
    family: str = "force_constants"
    """'force_constants', which `[expansion]` describes, or the 'module:attribute' of a family of your own."""
    parameters: dict[str, Any] = {}
    """What a family of your own is asked for."""


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


class SelectionSection(_Section):
    criterion: Literal["trajectory_average", "epsilon_min", "fixed", "random"] = "trajectory_average"
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
    """'maxvol' drops a candidate with an extrapolation grade up to this."""
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
    """Largest error bar with its unit: THz, meV/atom, Å² or 1, for example "0.05 THz"."""

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
    dynamics: DynamicsSection = DynamicsSection()
    selection: SelectionSection = SelectionSection()
    initial: InitialSection = InitialSection()
    audit: AuditSection = AuditSection()
    convergence: ConvergenceSection = ConvergenceSection()
    validation: ValidationSection = ValidationSection()
    reference: ReferenceSection
    limits: LimitsSection = LimitsSection()
    test: TestSection = TestSection()

    def model_settings(self, harmonic: bool = False) -> ModelSettings:
        """What the family of models is asked for; `harmonic`: order 2 alone."""
        if (own := self.expansion) is None:
            return ModelSettings(self.model.family, self.model.parameters)
        return force_constants(own.cutoffs_A[: 1 if harmonic else None], own.prior, own.noise_floor_meV_A / 1000)


BUILT_IN = Path(__file__).parent / "builtin"
"""Campaigns that come with dynft: NAME.toml and the structure it names."""

_PATHS = {"espresso": ("pseudo_dir",), "force_field": ("path",)}
"""Parameters that are paths, by calculator."""


def built_in_names() -> list[str]:
    """Names of the campaigns that come with dynft."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def find_campaign(source: str | Path) -> Path:
    """The campaign file that `source` means: a path, or the name of a built-in campaign.

    Raises:
        FileFormatError: neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in built_in_names():
        return BUILT_IN / f"{source}.toml"
    if path.is_dir():
        raise FileFormatError("campaign", "a campaign file", f"'{source}', a folder", f"give {path / 'campaign.toml'}")
    raise FileFormatError(
        "campaign", f"a campaign file, or one of {', '.join(built_in_names())}", f"'{source}', which is not there",
        nearest(str(source), built_in_names(), "make one with: dynft init STRUCTURE"),
    )


def load_campaign(source: str | Path) -> tuple[Campaign, str]:
    """Read and check a campaign; returns it, `crystal.structure` made absolute, and the file's text as it stands.

    Args:
        source: path of a TOML file, or the name of a built-in campaign.

    Raises:
        InputError: file missing or no TOML, unknown key, wrong type or unit, values that contradict each other.
    """
    path = find_campaign(source)
    table, text = _read_toml(path)
    campaign = parse_campaign(table)
    structure = (path.parent / campaign.crystal.structure).resolve()
    if not structure.is_file():
        raise FileFormatError(
            "crystal.structure", "a structure file, its path relative to the campaign file",
            f"'{structure}', which is not there", "correct the path, or put the file there",
        )
    crystal = campaign.crystal.model_copy(update={"structure": str(structure)})
    parameters = _with_absolute_paths(campaign.reference, path.parent)
    reference = campaign.reference.model_copy(update={"parameters": parameters})
    return campaign.model_copy(update={"crystal": crystal, "reference": reference}), text


def _with_absolute_paths(reference: ReferenceSection, folder: Path) -> dict[str, Any]:
    """The reference's parameters, paths relative to the campaign's folder made absolute: labels run elsewhere."""
    names = _PATHS.get(reference.calculator.strip().lower(), ())
    paths = {name: reference.parameters[name] for name in names if name in reference.parameters}
    return reference.parameters | {name: str((folder / str(path)).resolve()) for name, path in paths.items()}


def campaign_toml(campaign: Campaign) -> str:
    """The campaign as the text of a campaign file, every key written out."""
    return tomli_w.dumps(campaign.model_dump(exclude_none=True))


def _read_toml(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileFormatError(str(path), "a TOML text file", str(error), "correct the file at that place") from error


def parse_campaign(table: Mapping[str, Any]) -> Campaign:
    """Check the parsed TOML of a campaign.

    Raises:
        InputError: the first thing that is wrong, with the key's full name and what to do.
    """
    try:
        campaign = Campaign.model_validate(dict(table))
    except ValidationError as error:
        # An unknown key explains the missing one that it was meant to be: it is named first.
        problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
        raise explained(problems[0], Campaign) from error
    _check_values(campaign)
    return campaign


def _check_values(campaign: Campaign) -> None:
    """What no single value shows."""
    matrix = campaign.crystal.supercell
    square = len(matrix) == 3 and all(isinstance(row, int) or len(row) == 3 for row in matrix)
    if not square:
        raise InputError(
            "crystal.supercell", "three integers or a 3×3 integer matrix", repr(matrix), "for example [3, 3, 3]"
        )
    for key in ("audit_ratio", "scale_bounds"):
        bounds = getattr(campaign.convergence, key)
        if len(bounds) != 2 or not bounds[0] < 1 < bounds[1]:
            raise InputError(
                f"convergence.{key}", "two bounds, one below 1 and one above", repr(bounds), "for example [0.85, 1.18]"
            )
    _check_model(campaign)
    if campaign.convergence.max_walk_ps < campaign.convergence.min_walk_ps:
        raise InputError(
            "convergence.max_walk_ps", f"at least min_walk_ps, {campaign.convergence.min_walk_ps:g} ps",
            f"{campaign.convergence.max_walk_ps:g} ps", "raise it",
        )
    if (stop := campaign.convergence.stop_when) is not None:
        _check_tolerance(stop, max_order=len(campaign.expansion.cutoffs_A) + 1 if campaign.expansion else 0)
    if campaign.selection.criterion == "fixed" and campaign.selection.threshold_meV_A == 0:
        raise InputError(
            "selection.threshold_meV_A", "more than 0 meV/Å for criterion 'fixed'", "0",
            "set the largest ε_B that you accept",
        )


def _check_model(campaign: Campaign) -> None:
    """The table that describes the model is there, and what is asked for fits it."""
    expansion, family = campaign.expansion, campaign.model.family
    if (expansion is not None) != (family == "force_constants"):
        if expansion is None:
            raise InputError("expansion", "a table with cutoffs_A", "none", "write [expansion] and cutoffs_A = [...]")
        raise InputError("expansion", f"no such table for models of '{family}'", "one", "leave it out")
    if expansion is None:
        if campaign.initial.method == "phonons":
            raise InputError(
                "initial.method", f"'rattled' or 'reference_md' for models of '{family}'", "'phonons'", "set it"
            )
        return
    floor, largest = expansion.noise_floor_meV_A, campaign.convergence.max_error_meV_A
    if largest is not None and largest <= floor:
        raise InputError(
            "convergence.max_error_meV_A", f"more than the noise of the labels, noise_floor_meV_A = {floor:g} meV/Å",
            f"{largest:g} meV/Å, which no campaign reaches", "raise it, or leave it out",
        )


def _check_tolerance(stop: StopWhen, max_order: int) -> None:
    unit = PROPERTY_UNITS[stop.property]
    words = stop.tolerance.split()
    number = re.fullmatch(r"[0-9.]+(?:[eE][-+]?[0-9]+)?", words[0]) if words else None
    if number is None or words[1:] not in ([unit], [] if unit == "1" else [unit]) or not float(words[0]) > 0:
        raise InputError(
            "convergence.stop_when.tolerance", f"a number above 0 and the unit {unit} for '{stop.property}'",
            f"'{stop.tolerance}'", f'for example "0.05{"" if unit == "1" else " " + unit}"',
        )
    if stop.property == "sigma_A" and max_order == 2:
        raise InputError(
            "convergence.stop_when.property", "a property that the orders present can give",
            "'sigma_A' with order 2 alone", "add a cutoff for order 3, or choose phonons",
        )
