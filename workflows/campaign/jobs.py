"""The jobs of a campaign: its settings put into the words that workers understand. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise

from dynft_core.assessment.audits import audit_steps
from dynft_core.assessment.convergence import ConvergenceSettings
from dynft_core.dynamics.relaxation_settings import RelaxationSettings
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkerStart, WalkJob
from dynft_core.reference.label_job import LabelJob
from dynft_core.selection.random_steps import random_steps
from dynft_core.tasks.jobs import (
    BornJob,
    ChooseJob,
    EvaluateJob,
    FitJob,
    ForceFieldMd,
    MdSteps,
    Method,
    PhononModes,
    ProposeJob,
    Rattled,
    ReferenceMd,
    RelaxJob,
    SelectJob,
    TruncationJob,
    ValidateJob,
)
from dynft_core.vocabulary import (
    FIRST_LABEL_CELLS,
    PROPERTY_UNITS,
    CriterionSettings,
    ReferenceSettings,
    Role,
    StructureRef,
)
from workflows.campaign.paths import (
    BORN,
    PRIMITIVE,
    SUPERCELL,
    force_field_path,
    relaxation_path,
    relaxed_path,
    walk_path,
)
from workflows.campaign_file.groups import WalkerGroup
from workflows.campaign_file.schema import Campaign, RelaxationsSection

CHANGEABLE = (
    "convergence.", "validation.", "test.", "limits.", "dynamics.max_task_minutes", "reference.timeout_s",
    "reference.max_concurrent", "selection.max_pending",
)  # fmt: skip
"""Keys that may change when a campaign goes on: bounds, which no number computed so far depends on."""


def batches(campaign: Campaign) -> tuple[tuple[int, ...], ...]:
    """The walkers of each walk task, which are of one group."""
    return _batches(tuple(len(group.walkers) for group in campaign.groups), campaign.dynamics.walkers_per_task)


def batch_of(campaign: Campaign, walker: int) -> int:
    """The number of the batch that a walker is in."""
    return _batch_of(batches(campaign))[walker]


def group_of(campaign: Campaign, walker: int) -> WalkerGroup:
    """The group that a walker is in."""
    return next(group for group in campaign.groups if walker in group.walkers)


def all_batches(campaign: Campaign) -> frozenset[int]:
    """Their numbers."""
    return _numbers(len(batches(campaign)))


@cache
def _numbers(n: int) -> frozenset[int]:
    return frozenset(range(n))


@cache
def _batches(groups: tuple[int, ...], size: int) -> tuple[tuple[int, ...], ...]:
    starts = list(accumulate(groups, initial=0))
    return tuple(
        tuple(range(first, min(first + size, end)))
        for start, end in pairwise(starts) for first in range(start, end, size)
    )  # fmt: skip


@cache
def _batch_of(batches: tuple[tuple[int, ...], ...]) -> dict[int, int]:
    return {walker: number for number, batch in enumerate(batches) for walker in batch}


def audit_turns(campaign: Campaign) -> tuple[int, ...]:
    """The order in which walkers take audits, over and over: groups in turn, and in each group its walkers."""
    return _turns(tuple(group.walkers for group in campaign.groups))


@cache
def _turns(groups: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    rounds = math.lcm(*map(len, groups))
    return tuple(group[i % len(group)] for i in range(rounds) for group in groups)


def reference_settings(campaign: Campaign) -> ReferenceSettings:
    """Which calculator labels, and how it is checked."""
    r = campaign.reference
    return ReferenceSettings(r.calculator, dict(r.parameters), r.timeout_s, r.max_net_force_eV_A)


def criterion_settings(campaign: Campaign) -> CriterionSettings:
    """When a structure is selected for a label."""
    s = campaign.selection
    if s.criterion == "random":  # taken by the clock, as audits are; ε_B selects nothing
        return CriterionSettings("fixed", threshold_eV_A=math.inf)
    return CriterionSettings(
        s.criterion, s.gamma, s.window_steps, s.threshold_meV_A / 1000, s.break_factor,
        while_heating=s.while_heating, select_grade=s.select_grade, break_grade=s.break_grade,
    )  # fmt: skip


def convergence_settings(campaign: Campaign) -> ConvergenceSettings:
    """When the campaign is done."""
    c = campaign.convergence
    (low, high), (least, most) = c.audit_ratio, c.scale_bounds
    settings = ConvergenceSettings(
        min_walk_ps=c.min_walk_ps,
        max_walk_ps=c.max_walk_ps,
        quiet_ps=_quiet_ps(campaign),
        audits=c.audits,
        audit_ratio=(low, high),
        certainty=c.certainty,
        recalibrate=c.recalibrate,
        scale_bounds=(least, most),
        negligible_eV_A=c.negligible_meV_A / 1000,
        noise_floor_eV_A=campaign.expansion.noise_floor_meV_A / 1000 if campaign.expansion else 0.0,
        max_error_eV_A=math.inf if c.max_error_meV_A is None else c.max_error_meV_A / 1000,
        max_error_change=c.max_error_change,
        max_bayesian_share=c.max_bayesian_share,
    )
    if (stop := c.stop_when) is None:
        return settings
    return replace(
        settings,
        property_name=stop.property,
        property_tolerance=stop.value(),
        property_unit=PROPERTY_UNITS[stop.property],
    )


def _quiet_ps(campaign: Campaign) -> float:
    """For how long nothing may have been selected: by grade, over the whole walked time that is asked for."""
    bounds = campaign.convergence
    longest = {"trajectory_average": bounds.quiet_ps, "grade": bounds.min_walk_ps}
    return min(longest.get(campaign.selection.criterion, 0.0), bounds.min_walk_ps)


def harmonic_job(campaign: Campaign, run_dir: str) -> ProposeJob:
    """Structures with small random displacements, for the first harmonic fit."""
    initial = campaign.initial
    return _propose(campaign, run_dir, "harmonic", Rattled(initial.rattle_A), initial.harmonic_structures)


def initial_jobs(campaign: Campaign, run_dir: str) -> tuple[ProposeJob, ...]:
    """The structures that the first force field is fitted to: in the supercell, or in each cell of the walkers."""
    initial, dynamics = campaign.initial, campaign.dynamics
    methods: dict[str, Method] = {
        "rattled": Rattled(initial.rattle_A),
        "phonons": PhononModes(force_field_path(0)),
        "reference_md": ReferenceMd(MdSteps(dynamics.timestep_fs, dynamics.friction_per_ps)),
    }
    job = _propose(campaign, run_dir, "initial", methods[initial.method], initial.structures)
    if not campaign.model.of_moment_tensor:
        return (job,)
    cells = {group.cell: group for group in reversed(campaign.groups)}
    return tuple(
        replace(
            job, output=f"structures/initial-{number:02d}.h5", cell=cell, temperature_K=cells[cell].temperature_K,
            seed=dynamics.seed + number,
        )
        for number, cell in enumerate(sorted(cells))
    )  # fmt: skip


def test_segment(campaign: Campaign, group: WalkerGroup) -> str:
    """Where the test structures of a group of walkers lie in the run folder."""
    return "structures/test.h5" if len(campaign.groups) == 1 else f"structures/test-{group.name}.h5"


def test_job(campaign: Campaign, run_dir: str, force_field: str, group: WalkerGroup) -> ProposeJob:
    """A group's independent test set: a molecular dynamics run of its own, with random numbers of its own."""
    test, dynamics = campaign.test, campaign.dynamics
    steps_per_ps = 1000 / dynamics.timestep_fs
    steps = MdSteps(
        dynamics.timestep_fs, dynamics.friction_per_ps,
        equilibration_steps=round(test.equilibration_ps * steps_per_ps),
        interval_steps=max(1, round(test.interval_ps * steps_per_ps)),
    )  # fmt: skip
    method, seed = ForceFieldMd(force_field, steps), dynamics.seed + 1 + campaign.groups.index(group)
    return ProposeJob(
        run_dir, test_segment(campaign, group), method, "test", test.structures, group.temperature_K, seed, group.cell,
        reference_settings(campaign),
    )  # fmt: skip


def _propose(campaign: Campaign, run_dir: str, role: Role, method: Method, n_structures: int) -> ProposeJob:
    """Structures for the start, of the hottest walkers' temperature, in small cells where labels may be of them."""
    return ProposeJob(
        run_dir, f"structures/{role}.h5", method, role, n_structures, campaign.highest_temperature_K,
        campaign.dynamics.seed, FIRST_LABEL_CELLS if campaign.small_cells else SUPERCELL, reference_settings(campaign),
    )  # fmt: skip


def label_job(campaign: Campaign, run_dir: str, ref: StructureRef, force_field: str | None = None) -> LabelJob:
    """The reference calculation of one structure, which `force_field` is to find plausible."""
    return LabelJob(run_dir, ref, reference_settings(campaign), force_field)


def born_job(campaign: Campaign, run_dir: str) -> BornJob:
    """Born charges of the crystal, by the reference."""
    return BornJob(run_dir, BORN, PRIMITIVE, SUPERCELL, reference_settings(campaign))


def fit_job(
    campaign: Campaign,
    run_dir: str,
    version: int,
    labels: Sequence[StructureRef],
    pending: Sequence[StructureRef],
    cutoffs_A: Sequence[float] = (),
) -> FitJob:
    """The fit of force field `version`: order 2 alone for version 0, from scratch up to 1, then on top of the last.

    `cutoffs_A`: those that the labels have chosen, if they do.
    """
    stop = campaign.convergence.stop_when
    return FitJob(
        run_dir=run_dir,
        version=version,
        output=force_field_path(version),
        model=campaign.model_settings(version == 0, _born(campaign, run_dir), cutoffs_A if campaign.automatic else ()),
        primitive_structure=PRIMITIVE,
        base=force_field_path(version - 1) if version > 1 else None,
        labels=tuple(labels),
        pending=tuple(pending),
        property_name=stop.property if stop and version else None,
        temperature_K=campaign.highest_temperature_K,
    )


def _born(campaign: Campaign, run_dir: str) -> str | None:
    """Where the Born charges lie whose dipoles are the baseline."""
    return f"{run_dir}/{BORN}" if campaign.crystal.born else None


def walk_job(
    campaign: Campaign, run_dir: str, number: int, force_field: str,
    walkers: Sequence[tuple[int, WalkerOutcome | None]], pending: Sequence[StructureRef] = (),
    keeps_pending: bool = False, audited: Container[int] = (), flags: bool = True, scheduled: bool = True,
) -> WalkJob:  # fmt: skip
    """The next walk of a batch; `walkers` with how their last walk ended, `number` of the walk in this batch.

    `pending`, `keeps_pending`: as in `WalkJob`; `audited`: walkers that are audited at the end of this walk besides
    the schedule; `flags`: structures are chosen by the criterion, too; `scheduled`: audits by the schedule are taken.
    """
    dynamics, audit, group = campaign.dynamics, campaign.audit, group_of(campaign, walkers[0][0])
    n_steps = max(1, round(1000 * dynamics.segment_ps / dynamics.timestep_fs))
    starts, audits = [], []
    for w, last in walkers:
        starts.append(WalkerStart(w, last.output if last else None, walk_path(w, number)))
        step = last.step if last else 0
        schedule = (audit.first_ps, audit.ratio, dynamics.timestep_fs, step, step + n_steps, w, audit_turns(campaign))
        chosen = {*audit_steps(*schedule, heating_ps(campaign))} if scheduled else set[int]()
        chosen |= set(_random_steps(campaign, w, step, step + n_steps) if flags else ())
        chosen |= {step + n_steps} if w in audited else set()
        audits += [(w, at) for at in sorted(chosen) if at >= heating_steps(campaign)]
    criterion = criterion_settings(campaign)
    return WalkJob(
        run_dir=run_dir,
        walkers=tuple(starts),
        force_field=force_field,
        cell=group.cell,
        n_steps=n_steps,
        seed=dynamics.seed,
        temperature_K=group.temperature_K,
        timestep_fs=dynamics.timestep_fs,
        friction_per_ps=dynamics.friction_per_ps,
        criterion=criterion if flags else replace(criterion, name="fixed", threshold_eV_A=math.inf),
        policy=campaign.selection.policy,
        reference=reference_settings(campaign),
        audit_steps=tuple(audits),
        max_seconds=60 * dynamics.max_task_minutes,
        pending=tuple(pending),
        keeps_pending=keeps_pending,
        monitor=campaign.selection.monitor,
        monitor_every=campaign.selection.monitor_every,
        precision=dynamics.precision,
    )


def heating_ps(campaign: Campaign) -> float:
    """How long a walker that started at rest is colder than its thermostat: by e^-4 = 2 % at the end."""
    return 4 / campaign.dynamics.friction_per_ps


def heating_steps(campaign: Campaign) -> int:
    """The same in MD steps."""
    return round(1000 * heating_ps(campaign) / campaign.dynamics.timestep_fs)


def validation_steps(campaign: Campaign) -> int:
    """MD steps that each walker walks in validation."""
    return round(1000 * campaign.validation.walk_ps / campaign.dynamics.timestep_fs)


def validate_job(
    campaign: Campaign, run_dir: str, name: str, force_field: str, walkers: Sequence[tuple[WalkerOutcome, int]]
) -> ValidateJob:
    """A batch walks on from where each of its walkers is, for so many steps, with nothing chosen.

    `name`: of the walk, new for every one.
    """
    states = [(walker.walker, walker) for walker, _ in walkers]
    job = walk_job(campaign, run_dir, 0, force_field, states, flags=False)
    starts = tuple(replace(start, output=f"validation/{start.walker:02d}/{name}.h5") for start in job.walkers)
    n_steps = max(steps for _, steps in walkers)
    return ValidateJob(replace(job, walkers=starts, n_steps=n_steps, audit_steps=()))


def truncation_job(run_dir: str, force_field: str, audits: Sequence[StructureRef]) -> TruncationJob:
    """Larger expansions on the labels of a force field."""
    return TruncationJob(run_dir, force_field, tuple(ref.key for ref in audits))


def choose_job(campaign: Campaign, run_dir: str, force_field: str, cutoffs_A: Sequence[float]) -> ChooseJob:
    """The choice of the expansion by the labels of a force field."""
    assert campaign.expansion is not None
    return ChooseJob(
        run_dir=run_dir,
        force_field=force_field,
        model=campaign.model_settings(False, _born(campaign, run_dir), cutoffs_A),
        primitive_structure=PRIMITIVE,
        max_parameters=campaign.expansion.max_parameters,
        cells=tuple((group.cell, group.temperature_K) for group in campaign.groups),
        timestep_fs=campaign.dynamics.timestep_fs,
        friction_per_ps=campaign.dynamics.friction_per_ps,
        seed=campaign.dynamics.seed,
    )


def chooses_batches(campaign: Campaign) -> bool:
    """Whether flagged structures are candidates, of which only some are labelled. The paper's loop labels all."""
    selection = campaign.selection
    return selection.criterion == "grade" or (selection.policy == "continue" and selection.batch != "all")


def select_job(
    campaign: Campaign, run_dir: str, force_field: str, candidates: Sequence[StructureRef],
    under_way: Sequence[StructureRef], n_max: int,
) -> SelectJob:  # fmt: skip
    """The choice among flagged structures, beside those whose labels are under way."""
    s = campaign.selection
    method = "grade" if s.criterion == "grade" else s.batch
    assert method != "all"
    return SelectJob(
        run_dir, force_field, tuple(candidates), tuple(under_way), method, n_max, s.min_gain, s.select_grade
    )


def relax_job(
    campaign: Campaign, run_dir: str, section: RelaxationsSection, version: int, numbers: Sequence[int]
) -> RelaxJob:
    """The relaxation of some structures of a file, (): of all, with force field `version`."""
    settings = RelaxationSettings(
        section.force_tolerance_eV_A, section.stress_tolerance_GPa, section.pressure_GPa, section.max_steps,
        fixed_cell=section.fixed_cell,
    )  # fmt: skip
    return RelaxJob(
        run_dir, section.name, relaxation_path(section.name), force_field_path(version), version,
        relaxed_path(section.name, version), settings, criterion_settings(campaign), reference_settings(campaign),
        tuple(numbers),
    )  # fmt: skip


def _random_steps(campaign: Campaign, walker: int, from_step: int, to_step: int) -> tuple[int, ...]:
    """Steps that criterion 'random' takes."""
    if campaign.selection.criterion != "random":
        return ()
    mean_steps = 1000 * campaign.selection.random_interval_ps / campaign.dynamics.timestep_fs
    return random_steps(mean_steps, from_step, to_step, walker, campaign.dynamics.seed)


def evaluate_job(run_dir: str, n_versions: int, labels: Sequence[StructureRef], group: str) -> EvaluateJob:
    """Score every force field since the first full one, `n_versions` of them, on a group's test set."""
    paths = tuple(force_field_path(v) for v in range(1, n_versions + 1))
    return EvaluateJob(run_dir, paths, tuple(labels), group)
