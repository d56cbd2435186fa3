"""Lattice thermal conductivity with error bars: of the posterior mean, and of samples of the posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.interop.common import baseline_dense, born_charges, fitted_dense, phonopy_supercell
from dynft_core.interop.phono3py import ImaginaryModesError, Transport, TransportSettings, TransportSolver
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.force_constants.force_field import ForceField

Floats = NDArray[np.float64]

OWN_MASS = 1e-3
"""Relative difference from the natural mass from which on an atom counts as an isotope of its own."""


@dataclass(frozen=True, eq=False)
class Conductivity:
    """The transport of the mean force constants and of samples; those with imaginary modes have none.

    `seconds`: wall time of the mean, and of each sample.
    """

    settings: TransportSettings
    mean: Transport
    samples: tuple[Transport, ...]
    n_imaginary: int
    seconds: tuple[float, float]

    @cached_property
    def errors_W_per_mK(self) -> Floats:
        """Standard deviation (T, 3, 3) of κ over the samples; nan without any, inf where one has imaginary modes."""
        return self.error_of(lambda found: found.kappa_W_per_mK)

    def error_of(self, quantity: Callable[[Transport], Floats]) -> Floats:
        """Standard deviation of a quantity over the samples, as `errors_W_per_mK`."""
        if self.n_imaginary:
            return np.full_like(quantity(self.mean), np.inf)
        if not self.samples:
            return np.full_like(quantity(self.mean), np.nan)
        values = np.array([quantity(found) for found in self.samples])
        with np.errstate(invalid="ignore"):
            return np.asarray(np.std(values, axis=0))


def conductivity(
    force_field: ForceField,
    settings: TransportSettings,
    samples: int = 8,
    seed: int = 0,
    born: BornCharges | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Conductivity:
    """Compute κ of the posterior mean and of `samples` of the posterior; their constants lie on the training supercell.

    Args:
        born: for a force field without Born charges of its own: its constants go on beyond its supercell by them.
        progress: called with how many points of all meshes are done, and how many there are.

    Raises:
        InputError: no phono3py, no third order, a mesh without the crystal's symmetry, isotopes of their own masses.
        ImaginaryModesError: the mean has imaginary modes.
    """
    if settings.isotopes:
        _refuse_own_masses(force_field)
    cell = phonopy_supercell(force_field.supercell.crystal, force_field.supercell.matrix)
    below = baseline_dense(force_field, cell)
    own = born_charges(force_field)
    solver = TransportSolver(cell, born if own is None else own, settings)
    n_runs = samples + 1

    def run(number: int, parameters: Floats | None) -> Transport:
        second = fitted_dense(force_field, 2, cell, parameters) + below
        third = fitted_dense(force_field, 3, cell, parameters)
        return solver.run(second, third, lambda done, total: progress(number * total + done, n_runs * total))

    started = time.monotonic()
    mean = run(0, None)
    between = time.monotonic()
    found: list[Transport] = []
    # the covariance of many parameters takes seconds: it is not asked for without samples
    drawn: Iterable[Floats] = force_field.samples(samples, seed) if samples else ()
    for number, parameters in enumerate(drawn, start=1):
        try:
            found.append(run(number, parameters))
        except ImaginaryModesError:  # counted: the error bar is then infinite
            continue
    seconds = (between - started, (time.monotonic() - between) / max(samples, 1))
    return Conductivity(settings, mean, tuple(found), samples - len(found), seconds)


def cumulative(values: Floats, shares: Floats, limits: Floats) -> Floats:
    """How much of κ modes with `values` (T, Q, m) up to each of `limits` (L,) carry: (T, L), the unit of `shares`.

    `values` (Q, m) hold at all temperatures.
    """
    flat = np.broadcast_to(values, shares.shape).reshape(len(shares), -1)
    found = np.zeros((len(shares), len(limits)))
    for row, own, weights in zip(found, flat, shares.reshape(len(shares), -1), strict=True):
        order = np.argsort(own)
        total = np.concatenate([[0.0], np.cumsum(weights[order])])
        row[:] = total[np.searchsorted(own[order], limits, side="right")]
    return found


def _refuse_own_masses(force_field: ForceField) -> None:
    """The natural mixture scatters nothing in a crystal of chosen isotopes."""
    crystal = force_field.basis.crystal
    natural = atomic_masses[crystal.numbers]
    own = np.flatnonzero(np.abs(crystal.masses / natural - 1) > OWN_MASS)
    if len(own):
        raise InputError(
            "--isotopes",
            "atoms of the natural masses",
            f"{crystal.masses[own[0]]:g} amu for {natural[own[0]]:g}",
            "leave it out: a crystal of one isotope has no such scattering",
        )
