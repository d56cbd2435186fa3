"""The choice of an expansion in a campaign: proposals of the family, the first of which that holds walks is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynft_core.dynamics.sampling import sample
from dynft_core.errors import DynftError
from dynft_core.lattice.cells import Frame
from dynft_core.models.protocol import Growing
from dynft_core.models.registry import family
from dynft_core.models.trial import Trial
from dynft_core.regression.mpi import Ranks
from dynft_core.storage.structures import read_cell, read_perfect_structure
from dynft_core.tasks.jobs import ChooseJob, ChooseOutcome

HOTTER = 1.3
"""Times the walkers' temperature at which an expansion must hold, too: odd and high orders are unbounded below."""
WALKERS, WALK_PS = 4, 1.0
"""Walkers of each such test, and how long they walk."""


def run_choose(job: ChooseJob, model: Any, frames: Sequence[Frame]) -> ChooseOutcome:
    """Choose the expansion of the labels `frames` of a model.

    Raises:
        DynftError: files that cannot be read.
    """
    made_by = family(model.family)
    if not isinstance(made_by, Growing):
        return ChooseOutcome(True)
    present, better, untried = made_by.proposals(model, frames, job.max_parameters)
    primitive = read_perfect_structure(Path(job.run_dir) / job.primitive_structure)
    fell_apart: list[str] = []
    for trial in better:
        settings = replace(job.model, parameters={**job.model.parameters, "cutoffs_A": list(trial.cutoffs_A)})
        fitted = made_by.fit(settings, primitive, frames, None, Ranks())
        if not (departure := _departure(job, fitted)):
            why = _change(present, trial)
            return ChooseOutcome(True, trial.cutoffs_A, why, present, trial, tuple(fell_apart), untried)
        fell_apart.append(f"{_cutoffs(trial)}: {departure}")
    return ChooseOutcome(
        True, present.cutoffs_A, f"{_cutoffs(present)} stays", present, None, tuple(fell_apart), untried
    )


def _departure(job: ChooseJob, model: Any) -> str:
    """Why walks with a model do not stay whole, at the temperatures of the job and HOTTER; "" when they do."""
    steps = max(1, round(1000 * WALK_PS / job.timestep_fs))
    for name, temperature_K in job.cells:
        cell = read_cell(job.run_dir, name)
        for hot_K in (temperature_K, HOTTER * temperature_K):
            try:
                sample(
                    model.on(cell), cell.masses, WALKERS, hot_K, job.timestep_fs, job.friction_per_ps, steps // 2,
                    steps - steps // 2, job.seed,
                )  # fmt: skip
            except DynftError as error:
                return str(error)
    return ""


def _change(present: Trial, chosen: Trial) -> str:
    """'4.97, 3.1 Å → 4.97, 4.17, 3.1 Å (62 → 221 parameters): left out 6.23 → 5.09 meV/Å, log evidence +1298'."""
    return (
        f"{_cutoffs(present)} → {_cutoffs(chosen)} ({present.n_parameters} → {chosen.n_parameters} parameters): "
        f"left out {1e3 * present.left_out_eV_A:.3g} → {1e3 * chosen.left_out_eV_A:.3g} meV/Å, "
        f"log evidence {chosen.log_evidence - present.log_evidence:+.0f}"
    )


def _cutoffs(trial: Trial) -> str:
    return ", ".join(f"{c:g}" for c in trial.cutoffs_A) + " Å"
