"""Properties of the crystal with error bars: each from the posterior mean, its error from samples of the posterior.

The thermal ones are those of the quantum harmonic crystal on a mesh of the Brillouin zone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import units
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.interop.phono3py import TransportSettings, require_phono3py
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.bands import band_path, point_name
from dynft_core.phonons.density_of_states import mesh
from dynft_core.phonons.dynamical_matrix import (
    THZ,
    baseline_matrices,
    dynamical_matrices,
    frequencies,
    harmonic_constants,
    to_frequencies,
)
from dynft_core.properties.conductivity import conductivity
from dynft_core.vocabulary import PropertyName

Floats = NDArray[np.float64]

CONDUCTIVITY_SAMPLES = 8
"""Of the thermal conductivity, in relaxation times: each takes as long as the mean; they tell error bars to 25 %."""
HBAR_THZ = 1e12 * units._hplanck / units._e
"""ħω in eV of a frequency of 1 THz."""
HBAR = HBAR_THZ / THZ
"""ħ in ASE's units, Å sqrt(eV amu)."""


@dataclass(frozen=True)
class PropertySettings:
    """At which temperature and how finely properties are computed.

    Attributes:
        temperature_K: of the thermal properties.
        samples: of the posterior; 50 give error bars good to 10 %.
        repeats: mesh of the Brillouin zone for the thermal ones.
        structures: thermal structures for σ_A, drawn from the harmonic phonons on the training supercell.
        seed: of samples and structures.
    """

    temperature_K: float = 300.0
    samples: int = 50
    repeats: tuple[int, int, int] = (8, 8, 8)
    structures: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature_K < float("inf"):
            raise InputError("temperature", "a positive number in K", repr(self.temperature_K), "for example 300")
        if self.samples < 2:
            raise InputError("samples", "at least 2", str(self.samples), "50 give error bars good to 10 %")


@dataclass(frozen=True)
class Value:
    """One number with its error bar: standard deviation over the posterior, inf where that does not exclude that the
    property does not exist (a sample with imaginary modes)."""

    name: str
    value: float
    error: float


def properties(force_field: ForceField, name: PropertyName, settings: PropertySettings) -> tuple[Value, ...]:
    """The values of one property.

    A frequency each, one free energy, a displacement for each species, one σ_A, κ along three axes.

    Raises:
        InputError: the force field cannot give the property (no anharmonic order, imaginary modes).
    """
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, 7 << 32]))
    drawn = force_field.samples(settings.samples, settings.seed)
    names, mean, samples = _COMPUTE[name](force_field, drawn, settings, rng)
    with np.errstate(invalid="ignore"):
        errors = np.where(np.isfinite(samples).all(axis=0), np.std(samples, axis=0), np.inf)
    return tuple(Value(n, float(v), float(e)) for n, v, e in zip(names, mean, errors, strict=True))


def largest_error(force_field: ForceField, name: PropertyName, settings: PropertySettings) -> float:
    """The largest error bar among the values of a property, in its unit; inf when it cannot be computed yet.

    Raises:
        InputError: it never can be: the program that it takes is not installed.
    """
    if name == "conductivity":
        require_phono3py()
    try:
        return max(value.error for value in properties(force_field, name, settings))
    except InputError:
        return float("inf")


_Computed = tuple[list[str], Floats, Floats]
"""Names of the values (V), values of the mean (V,), and of the samples (S, V); nan where a sample has none."""


def _phonons(force_field: ForceField, drawn: Floats, settings: PropertySettings, rng: object) -> _Computed:
    points = band_path(force_field.basis.crystal).points
    q = np.array(list(points.values()))
    mean, samples = frequencies(force_field, q), frequencies(force_field, q, drawn)
    names = [f"{point_name(x, points)} {mode + 1}" for x in q for mode in range(mean.shape[-1])]
    return names, mean.ravel(), samples.reshape(len(drawn), -1)


def free_energy(frequencies_THz: ArrayLike, weights: ArrayLike, temperature_K: float) -> Floats:
    """Helmholtz free energy (…) of harmonic modes, eV per cell: Σ ħω/2 + kT ln(1 - exp(-ħω/kT)).

    Args:
        frequencies_THz: (…, Q, m), positive; zeros are left out.
        weights: (Q,) of the q points, their sum 1.
    """
    energy = HBAR_THZ * np.asarray(frequencies_THz, dtype=np.float64)
    kT = units.kB * temperature_K
    with np.errstate(divide="ignore"):
        modes = np.where(energy == 0, 0.0, energy / 2 + kT * np.log(-np.expm1(-energy / kT)))
    return np.asarray(np.einsum("...qm,q->...", modes, np.asarray(weights, dtype=np.float64)))


def _free_energy(force_field: ForceField, drawn: Floats, settings: PropertySettings, rng: object) -> _Computed:
    q, weights = mesh(settings.repeats)
    n = len(force_field.basis.crystal.numbers)

    def of(parameters: Floats) -> Floats:
        found = _real(frequencies(force_field, q, parameters), q)
        return np.asarray(1000 * free_energy(found, weights, settings.temperature_K) / n)

    mean = of(force_field.posterior.mean)
    _refuse_imaginary(mean, "free_energy")
    return ["free energy"], mean[None], of(drawn)[:, None]


def _displacements(force_field: ForceField, drawn: Floats, settings: PropertySettings, rng: object) -> _Computed:
    q, weights = mesh(settings.repeats)
    numbers = force_field.basis.crystal.numbers
    species = np.unique(numbers)
    masses = force_field.basis.crystal.masses
    below = baseline_matrices(force_field, q)

    def of(parameters: Floats) -> Floats:
        fitted = dynamical_matrices(harmonic_constants(force_field, parameters), masses, q)
        squares, vectors = np.linalg.eigh(fitted + below)
        found = _real(to_frequencies(squares), q)
        with np.errstate(divide="ignore"):
            warmth = np.tanh(HBAR_THZ * found / (2 * units.kB * settings.temperature_K))
            amplitude = np.where(found == 0, 0.0, HBAR / (2 * THZ * found * warmth))
        # |e|² (Q, 3n, modes) of each atom's three components
        shares = (np.abs(vectors) ** 2).reshape(len(q), len(numbers), 3, -1).sum(axis=2)
        per_atom = np.einsum("q,qam,qm->a", weights, shares, amplitude) / masses / 3
        return np.array([per_atom[numbers == z].mean() for z in species])

    mean = of(force_field.posterior.mean)
    _refuse_imaginary(mean, "displacements")
    return [chemical_symbols[z] for z in species], mean, np.array([of(parameters) for parameters in drawn])


def _sigma(force_field: ForceField, drawn: Floats, settings: PropertySettings, rng: np.random.Generator) -> _Computed:
    if list(force_field.basis.slices) == [2]:
        raise InputError("property", "a force field of more than order 2 for 'sigma_A'", "order 2", "add an order")
    masses = force_field.supercell.masses
    structures = thermal_displacements(force_field, masses, settings.structures, settings.temperature_K, rng)
    parameters = np.vstack([force_field.posterior.mean, drawn]).T
    harmonic = np.zeros_like(parameters)
    harmonic[force_field.basis.slices[2]] = parameters[force_field.basis.slices[2]]
    forces, anharmonic = [], []
    for u in structures:
        matrix = force_field.sensing_matrix(u)
        forces.append(matrix @ parameters + force_field.baseline_forces(u).reshape(-1, 1))
        anharmonic.append(matrix @ (parameters - harmonic))
    sigma = np.concatenate(anharmonic).std(axis=0) / np.concatenate(forces).std(axis=0)
    return ["σ_A"], sigma[:1], sigma[1:, None]


def _conductivity(force_field: ForceField, drawn: object, settings: PropertySettings, rng: object) -> _Computed:
    wanted = TransportSettings((settings.temperature_K,), settings.repeats)
    count = min(CONDUCTIVITY_SAMPLES, settings.samples)
    found = conductivity(force_field, wanted, count, settings.seed)
    samples = np.full((count, 3), np.nan)
    for row, sample in zip(samples, found.samples, strict=False):  # those with imaginary modes have none
        row[:] = np.diagonal(sample.kappa_W_per_mK[0])
    return ["κ xx", "κ yy", "κ zz"], np.diagonal(found.mean.kappa_W_per_mK[0]), samples


_COMPUTE: dict[PropertyName, Callable[[ForceField, Floats, PropertySettings, np.random.Generator], _Computed]] = {
    "phonons": _phonons,
    "free_energy": _free_energy,
    "displacements": _displacements,
    "sigma_A": _sigma,
    "conductivity": _conductivity,
}


def _real(found: Floats, q: Floats) -> Floats:
    """Frequencies (…, Q, m) with the three acoustic ones at Γ as 0 and imaginary ones as nan."""
    kept = np.where(found > 0, found, np.nan)
    at_gamma = np.flatnonzero(np.all(q == np.round(q), axis=1))
    for i in at_gamma:
        acoustic = np.argsort(np.abs(found[..., i, :]), axis=-1)[..., :3]
        row = kept[..., i, :]
        np.put_along_axis(row, acoustic, 0.0, axis=-1)
        kept[..., i, :] = row
    return np.asarray(kept)


def _refuse_imaginary(mean: Floats, name: str) -> None:
    if not np.all(np.isfinite(mean)):
        raise InputError(
            "property",
            f"a crystal whose phonons are all real for '{name}'",
            "imaginary ones",
            "see them with: dynft phonons",
        )
