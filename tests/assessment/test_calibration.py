"""Calibration on data whose truth is known: a linear model with normal parameters and noise."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core.assessment.calibration import LEVELS, calibrations, species_scores
from dynft_core.assessment.scores import Score
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.regression.left_out import left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

N_PARAMETERS, N_ATOMS, NOISE = 30, 12, 0.2
GROUPS = np.zeros(N_PARAMETERS, dtype=np.int64)
SPECIES = ["Ga"] * 8 + ["As"] * 4


class World:
    """Structures with sensing matrices A, forces A φ + noise; φ drawn once."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.parameters = self.rng.standard_normal(N_PARAMETERS)

    def structure(self) -> tuple[np.ndarray, np.ndarray]:
        matrix = self.rng.standard_normal((3 * N_ATOMS, N_PARAMETERS))
        return matrix, matrix @ self.parameters + NOISE * self.rng.standard_normal(3 * N_ATOMS)


def posterior_of(structures: list[tuple[np.ndarray, np.ndarray]], noise: float | None = None) -> Posterior:
    """By evidence, or with a noise level that is claimed."""
    total = Statistics.empty(N_PARAMETERS)
    for matrix, forces in structures:
        total = total + Statistics.of(matrix, forces)
    found = Hyperparameters((1.0,), noise**-2, 0.0) if noise else maximise_evidence(total, GROUPS, 1e-6)
    return Posterior.of(GROUPS, found, total)


def score(residual: np.ndarray, variance: np.ndarray, temperature_K: float = 300.0, role: str = "audit") -> Score:
    shape = (N_ATOMS, 3)
    species = species_scores(SPECIES, residual.reshape(shape), variance.reshape(shape))
    return Score("key", role, 1.0, 1.0, 1.0, temperature_K, species)  # type: ignore[arg-type]


def prequential(seed: int, claimed_noise: float | None) -> list[Score]:
    """Each structure predicted by the fit to those before it."""
    world = World(seed)
    structures = [world.structure() for _ in range(12)]
    scores = []
    for n in range(2, 12):
        posterior = posterior_of(structures[:n], claimed_noise)
        matrix, forces = structures[n]
        variance = 1 / posterior.beta + np.einsum("im,mk,ik->i", matrix, posterior.covariance, matrix)
        scores.append(score(matrix @ posterior.mean - forces, variance, 300.0 if n % 2 else 600.0))
    return scores


def test_predictions_by_evidence_cover_what_they_promise_by_species_and_temperature() -> None:
    scores = [s for seed in range(20) for s in prequential(seed, None)]
    table = {row.name: row for row in calibrations(scores)}
    assert list(table) == ["all", "As", "Ga", "600 K", "300 K"]
    assert table["all"].n_components == 200 * 3 * N_ATOMS and table["As"].n_components == 200 * 12
    for row in table.values():
        assert row.coverage == pytest.approx(LEVELS, abs=0.03)
        assert row.scale == pytest.approx(1, abs=0.05)


def test_a_false_noise_level_shows_and_the_scale_mends_it() -> None:
    """A noise level claimed three times too small: errors three times as large as predicted, nearly."""
    scores = [s for seed in range(20) for s in prequential(seed, NOISE / 3)]
    row = calibrations(scores)[0]
    assert 2.5 < row.scale < 3.1 and row.coverage[0] < 0.35
    mended = calibrations(scores, lambda score: row.scale)[0]
    assert mended.recalibrated == pytest.approx(LEVELS, abs=0.03)


def test_left_out_errors_are_those_of_fits_without_the_structure() -> None:
    world = World(5)
    structures = [world.structure() for _ in range(5)]
    whole = posterior_of(structures, NOISE)
    for i, (matrix, forces) in enumerate(structures):
        errors, variances = left_out(whole, matrix, forces)
        others = posterior_of(structures[:i] + structures[i + 1 :], NOISE)
        assert errors == pytest.approx(matrix @ others.mean - forces, abs=1e-10)
        expected = NOISE**2 + np.einsum("im,mk,ik->i", matrix, others.covariance, matrix)
        assert variances == pytest.approx(expected, rel=1e-10)


def test_left_out_errors_are_calibrated_too() -> None:
    scores = []
    for seed in range(20):
        world = World(100 + seed)
        structures = [world.structure() for _ in range(8)]
        whole = posterior_of(structures)
        scores += [score(*left_out(whole, *own)) for own in structures]
    assert calibrations(scores)[0].coverage == pytest.approx(LEVELS, abs=0.03)
