"""What is told of a force field is of its labels alone: structures that still wait for theirs may never have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.settings import force_constants
from dynft_core.reference.label import Label, read_label, relative_label_path
from dynft_core.reference.label_job import LabelJob
from dynft_core.regression.left_out import left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.tasks.jobs import EvaluateJob, FitJob, ProposeJob, Rattled, TruncationJob
from dynft_core.tasks.tasks import _expectation, evaluate, fit_labels, propose, truncation
from dynft_core.tasks.tasks import label as compute_label
from dynft_core.vocabulary import ReferenceSettings, StructureRef

REFERENCE, MODEL = ReferenceSettings("tersoff-si"), force_constants([4.0, 3.0], "shared")
Run = tuple[Path, tuple[StructureRef, ...]]


def job(run_dir: Path, output: str, base: str | None, refs: tuple[StructureRef, ...], **more: object) -> FitJob:
    found = FitJob(str(run_dir), 1, output, MODEL, "primitive.xyz", base, refs)
    return replace(found, **more)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten labels of 16 atoms; force field 1 is fitted to three of them, four more are pending in its covariance."""
    primitive = bulk("Si", "diamond", a=5.432)
    write_perfect_structure(tmp_path / "primitive.xyz", primitive)
    write_perfect_structure(tmp_path / "perfect.xyz", primitive.repeat(2))
    refs = propose(
        ProposeJob(str(tmp_path), "structures/initial.h5", Rattled(0.05), "initial", 10, 300.0, 1, "perfect.xyz",
                   REFERENCE)
    ).structures  # fmt: skip
    assert all(compute_label(LabelJob(str(tmp_path), ref, REFERENCE)).ok for ref in refs)
    outcome = fit_labels(job(tmp_path, "1.h5", None, refs[:3], pending=refs[3:7]))
    assert outcome.ok and outcome.n_pending == 4
    return tmp_path, refs


def label(run_dir: Path, ref: StructureRef) -> Label:
    return read_label(run_dir / relative_label_path(ref.key))


def of_labels(run_dir: Path, refs: tuple[StructureRef, ...]) -> tuple[ForceField, Posterior]:
    """The force field in the file, and the posterior of `refs` with its hyperparameters, from dense matrices."""
    force_field = ForceField.load(run_dir / "1.h5", pending=True)
    pairs = [
        (force_field.sensing_matrix(x.displacements), x.forces.ravel()) for x in (label(run_dir, ref) for ref in refs)
    ]
    p = force_field.posterior
    return force_field, Posterior.of(p.groups, p.hyperparameters, Statistics.over(force_field.basis.size, pairs))


def bayesian_error(force_field: ForceField, posterior: Posterior, u: np.ndarray) -> float:
    """sqrt(tr(A Σ Aᵀ) / 3N), term by term."""
    matrix = force_field.sensing_matrix(u)
    return float(np.sqrt(np.trace(matrix @ np.linalg.inv(_precision(posterior)) @ matrix.T) / len(matrix)))


def _precision(posterior: Posterior) -> np.ndarray:
    alpha = np.array(posterior.alpha)[posterior.groups]
    return np.asarray(np.diag(alpha) + posterior.beta * posterior.statistics.gram)


def test_a_force_field_read_from_its_file_knows_nothing_of_what_is_pending(
    run: Run,
) -> None:
    run_dir, refs = run
    walked, alone = of_labels(run_dir, refs[:3])
    u = label(run_dir, refs[8]).displacements
    expected = bayesian_error(walked, alone, u)
    assert float(ForceField.load(run_dir / "1.h5").bayesian_error(u)) == pytest.approx(expected, rel=1e-6)
    assert ForceField.load(run_dir / "1.h5").pending == () and len(walked.pending) == 4
    assert float(walked.bayesian_error(u)) < 0.9 * expected  # what walkers see


def test_scores_on_a_test_set_are_of_the_labels_alone(run: Run) -> None:
    run_dir, refs = run
    outcome = evaluate(EvaluateJob(str(run_dir), ("1.h5",), refs[7:]))
    force_field, alone = of_labels(run_dir, refs[:3])
    errors = [bayesian_error(force_field, alone, label(run_dir, ref).displacements) for ref in refs[7:]]
    assert outcome.evaluations[0].mean_bayesian_error_eV_A == pytest.approx(np.mean(errors), rel=1e-6)


def test_a_label_is_predicted_by_the_others_though_it_was_pending(run: Run) -> None:
    run_dir, refs = run
    outcome = fit_labels(job(run_dir, "2.h5", "1.h5", refs[3:5]))
    force_field, alone = of_labels(run_dir, refs[:3])
    for score, ref in zip(outcome.scores, refs[3:5], strict=True):
        expected = bayesian_error(force_field, alone, label(run_dir, ref).displacements)
        assert score.bayesian_error_eV_A == pytest.approx(expected, rel=1e-6)
        assert score.predicted_eV_A == pytest.approx(np.hypot(expected, force_field.posterior.beta_inv_sqrt), rel=1e-6)


def test_larger_expansions_are_compared_with_the_left_out_error_of_the_labels(
    run: Run,
) -> None:
    run_dir, refs = run
    outcome = truncation(TruncationJob(str(run_dir), "1.h5", (), seconds=0.0))
    assert outcome.ok and not outcome.failure and outcome.present is not None
    squares = []
    for ref in refs[:3]:
        force_field, others = of_labels(run_dir, tuple(x for x in refs[:3] if x != ref))
        left = label(run_dir, ref)
        squares.append((force_field.sensing_matrix(left.displacements) @ others.mean - left.forces.ravel()) ** 2)
    assert outcome.present.left_out_eV_A == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)


def test_what_a_label_is_expected_to_be_is_known_from_labels(run: Run) -> None:
    run_dir, refs = run
    reference = replace(REFERENCE, calculator="vasp")  # one that is doubted
    expected = _expectation(LabelJob(str(run_dir), refs[3], reference, "1.h5"))
    force_field, alone = of_labels(run_dir, refs[:3])
    mean = bayesian_error(force_field, alone, label(run_dir, refs[3]).displacements)
    assert expected is not None
    rms = np.sqrt(np.mean(expected.error_eV_A**2))
    assert rms == pytest.approx(np.hypot(mean, force_field.posterior.beta_inv_sqrt), rel=1e-6)


def test_left_out_errors_with_pending_structures_are_refused(force_field: ForceField) -> None:
    u = np.random.default_rng(1).normal(0, 0.05, (1, force_field.supercell.n_atoms, 3))
    pending = force_field.condition(u, ["new"]).posterior
    with pytest.raises(InputError, match="pending") as refused:
        left_out(pending, force_field.sensing_matrix(u[0]), np.zeros(u.size))
    assert "without_pending" in str(refused.value)
