"""What came of a campaign under `faults.py`: counted from its files, not from what its driver believes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from fault_course import CUTOFFS_A, Course

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.reference.calculation import Calculation, LabelError, finished_calculation
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import Label, read_label, relative_label_path
from dynft_core.storage.journal import read_journal
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign.paths import PRIMITIVE, SUPERCELL
from workflows.campaign.state import State
from workflows.run_folder.folder import state_of


def verdict(course: Course) -> dict[str, Any]:
    """The counts of a finished campaign."""
    state = state_of(course.run_dir)
    labels = {key: read_label(course.run_dir / relative_label_path(key)) for key in state.ledger.accepted}
    events = read_journal(course.run_dir / "journal.jsonl")
    answers = Counter(event["key"] for event in events if event["event"] == "label_finished")
    return {
        "site": "slurm" if course.cluster else "local",
        "labels": len(labels),
        "lost": sum(e.status not in ("accepted", "dropped") for e in state.ledger.entries.values())
        + len(labels.keys() ^ answers.keys()),
        "repeated": sum(map(_repeated, course.run_dir.glob("labels/*/attempts.jsonl"))),
        "wrong": sum(_wrong(label) for label in labels.values()),
        "orphans": course.orphans,
        "hangs": course.hangs,
        "drivers": sum(event["event"] == "driver_started" for event in events),
        "posterior": posterior_difference(course.run_dir, state, labels),
    }


def _repeated(attempts: Path) -> bool:
    """Whether a label's calculation came out right more often than once before the label failed, or after it."""
    right = [0]
    for event in read_journal(attempts):
        if event["event"] == "attempt":
            right[-1] += _right(attempts.parent / f"attempt-{event['attempt']:03d}")
        else:  # the failure of a label, whose attempts are of no use to the next one
            right.append(0)
    if max(right) > 1:
        print(f"repeated: {attempts.parent.name}", *read_journal(attempts), sep="\n  ", flush=True)
    return max(right) > 1


def _right(attempt: Path) -> bool:
    """Whether a calculation finished, was not refused, and gave the reference's forces."""
    try:
        found = finished_calculation(attempt)
    except LabelError:
        return False
    return found is not None and not (attempt / "failed.json").exists() and not _wrong(found)


def _wrong(found: Label | Calculation) -> bool:
    atoms = Atoms(numbers=found.numbers, positions=found.positions, cell=found.cell, pbc=True)
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), Path())
    forces = atoms.get_forces()
    return found.forces.shape != forces.shape or not np.abs(forces - found.forces).max() < 1e-9


def posterior_difference(run_dir: Path, state: State, labels: dict[str, Label]) -> float:
    """Of mean and covariance, relative to their largest element, from a force field fitted in one go."""
    last = ForceField.load(run_dir / state.force_field, pending=True)
    assert not last.pending
    chosen = state.ledger.labels("initial", "flagged", "audit")
    assert sorted(last.labels) == sorted(ref.key for ref in chosen)
    crystal = Crystal(read_perfect_structure(run_dir / PRIMITIVE))
    basis = ForceConstantBasis.build(crystal, dict(enumerate(CUTOFFS_A, start=2)))
    cell = Supercell.match(basis.crystal, read_perfect_structure(run_dir / SUPERCELL))
    u, f = (np.array([getattr(labels[ref.key], name) for ref in chosen]) for name in ("displacements", "forces"))
    anew = fit(basis, cell, u, f, prior=state.campaign.expansion.prior)
    differences = []
    for name in ("mean", "covariance"):
        one, other = getattr(last.posterior, name), getattr(anew.posterior, name)
        differences.append(np.abs(one - other).max() / np.abs(other).max())
    return float(max(differences))
