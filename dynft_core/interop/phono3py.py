"""Thermal transport by phono3py: the one door to it. An optional extra, imported when it is first needed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from ase import units
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.interop.common import symbols
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.vocabulary import TransportMethod

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OLDEST = (4, 8)
INSTALL = f"pip install 'phono3py>={OLDEST[0]}.{OLDEST[1]}'"
IMAGINARY_THZ = -1e-3
"""Frequencies above it count as real."""

_METHODS: dict[TransportMethod, str] = {"rta": "std-rta", "lbte": "std-lbte", "wigner": "SMM19-rta"}
_VOIGT = ([0, 5, 4], [5, 1, 3], [4, 3, 2])
"""Where the components of a tensor lie in xx, yy, zz, yz, xz, xy."""
_KM_PER_S = 0.1
"""Of 1 Å THz."""


class ImaginaryModesError(InputError):
    """Phonons on the mesh that are imaginary: they carry no heat."""


def require_phono3py() -> None:
    """Refuse to go on without a phono3py that is new enough.

    Raises:
        InputError: with the command that installs it.
    """
    try:
        found = version("phono3py")
    except PackageNotFoundError:
        raise InputError("conductivity", "phono3py, which computes the transport", "none", INSTALL) from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise InputError("conductivity", f"phono3py {OLDEST[0]}.{OLDEST[1]} or newer", found, INSTALL)


@dataclass(frozen=True)
class TransportSettings:
    """What is computed.

    Attributes:
        temperatures_K: positive.
        mesh: points along the reciprocal vectors of the primitive cell.
        method: see `TransportMethod`.
        isotopes: scattering by the natural mixture of isotopes, too (Tamura 1983).
    """

    temperatures_K: tuple[float, ...] = (300.0,)
    mesh: tuple[int, int, int] = (11, 11, 11)
    method: TransportMethod = "rta"
    isotopes: bool = False

    def __post_init__(self) -> None:
        if not self.temperatures_K or not all(0 < t < float("inf") for t in self.temperatures_K):
            got = ", ".join(f"{t:g}" for t in self.temperatures_K) or "none"
            raise InputError("--temperatures", "positive numbers in K", got, "for example 100,200,300")
        if min(self.mesh) < 1:
            raise InputError("--mesh", "three positive integers", f"{self.mesh}", "for example 11,11,11")


@dataclass(frozen=True, eq=False)
class Transport:
    """The thermal conductivity of one set of force constants, and which modes carry it.

    T temperatures, Q irreducible points of the mesh, m branches.

    Attributes:
        kappa_W_per_mK: (T, 3, 3); relaxation: (T, 3, 3) in the relaxation-time approximation, the same but for 'lbte';
            coherences: (T, 3, 3) what of it flows between branches, 0 but for 'wigner'.
        q_points: (Q, 3) fractional; weights: (Q,) how many points of the mesh each stands for.
        frequencies_THz: (Q, m).
        velocities_km_per_s: (Q, m, 3) group velocities, Cartesian.
        lifetimes_ps: (T, Q, m) 1/(4π Γ); inf for modes that are not scattered (at rest).
        shares_W_per_mK: (T, Q, m) of the trace of κ over 3, the modes of equivalent points included.
    """

    kappa_W_per_mK: Floats
    relaxation: Floats
    coherences: Floats
    q_points: Floats
    weights: Ints
    frequencies_THz: Floats
    velocities_km_per_s: Floats
    lifetimes_ps: Floats
    shares_W_per_mK: Floats

    @property
    def free_paths_nm(self) -> Floats:
        """Mean free paths (T, Q, m): speed times lifetime, inf where that is; 0 for modes at rest."""
        speeds = np.linalg.norm(self.velocities_km_per_s, axis=-1)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(speeds == 0, 0.0, speeds * self.lifetimes_ps))


class TransportSolver:
    """phono3py on one supercell and one mesh, which sets of force constants share: symmetry, grid, nearest images."""

    def __init__(self, supercell: Supercell, born: BornCharges | None, settings: TransportSettings) -> None:
        """Prepare it.

        Args:
            supercell: in phonopy's order of atoms (`phonopy_supercell`), that of the constants to come.
            born: charges of the non-analytic term.

        Raises:
            InputError: no phono3py, or a mesh without the symmetry of the crystal.
        """
        require_phono3py()
        from phono3py import Phono3py
        from phonopy.structure.atoms import PhonopyAtoms

        crystal = supercell.crystal
        cell = PhonopyAtoms(
            symbols=symbols(crystal.numbers), cell=crystal.cell, scaled_positions=crystal.scaled_positions,
            masses=crystal.masses, magnetic_moments=crystal.moments if crystal.moments.any() else None,
        )  # fmt: skip
        self._settings = settings
        self._phono3py = Phono3py(cell, supercell_matrix=supercell.matrix.T, primitive_matrix=np.eye(3))
        if born is not None:
            self._phono3py.nac_params = {
                "born": born.charges, "dielectric": born.dielectric, "factor": units.Hartree * units.Bohr
            }  # fmt: skip
        try:
            self._phono3py.mesh_numbers = list(settings.mesh)
        except RuntimeError as error:  # "Grid symmetry is broken"
            raise InputError(
                "--mesh",
                "as many points along vectors that symmetry makes equal",
                ",".join(map(str, settings.mesh)),
                "give them one number",
            ) from error

    def run(self, second: Floats, third: Floats, after_point: Callable[[int, int], None]) -> Transport:
        """The transport of force constants (n, N, 3, 3) eV/Å² and (n, N, N, 3, 3, 3) eV/Å³.

        `after_point(done, total)` is called after every point of the mesh.

        Raises:
            ImaginaryModesError: phonons on the mesh that are not real.
        """
        from phono3py.conductivity.factory import conductivity_calculator

        own, settings = self._phono3py, self._settings
        own.fc2, own.fc3 = second, third
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for what the command prints
            own.init_phph_interaction()
            self._refuse_imaginary()
            calculator: Any = conductivity_calculator(
                own.phph_interaction, np.array(settings.temperatures_K), [None], method=_METHODS[settings.method],
                is_isotope=settings.isotopes,
            )  # fmt: skip
            total = len(calculator.grid_points)
            calculator.run(on_grid_point=lambda number: after_point(number + 1, total))
        return _transport(calculator, settings.method)

    def _refuse_imaginary(self) -> None:
        """Refuse frequencies below IMAGINARY_THZ, but for the three acoustic ones at Γ, which are 0 up to rounding."""
        self._phono3py.run_phonon_solver()
        found, _, addresses = self._phono3py.get_phonon_data()
        kept = found.copy()
        for gamma in np.flatnonzero(~addresses.any(axis=1)):
            kept[gamma, np.argsort(np.abs(kept[gamma]))[:3]] = 0.0
        lowest = np.unravel_index(np.argmin(kept), kept.shape)
        if kept[lowest] < IMAGINARY_THZ:
            q = addresses[lowest[0]] / np.array(self._settings.mesh)
            raise ImaginaryModesError(
                "force field",
                "a crystal whose phonons are all real",
                f"{kept[lowest]:.3g} THz at ({' '.join(f'{x:.4g}' for x in q)})",
                "see them with: dynft phonons",
            )


def _transport(calculator: Any, method: TransportMethod) -> Transport:
    kappa = _tensors(calculator.kappa[0])
    modes = calculator.mode_kappa_matrix[0].sum(axis=3) if method == "wigner" else calculator.mode_kappa[0]
    linewidths = calculator.gamma[0] + (0.0 if calculator.gamma_isotope is None else calculator.gamma_isotope[0])
    with np.errstate(divide="ignore"):
        lifetimes = np.where(linewidths > 0, 1 / (4 * np.pi * linewidths), np.inf)
    return Transport(
        kappa,
        _tensors(calculator.kappa_RTA[0]) if method == "lbte" else kappa,
        _tensors(calculator.kappa_inter[0]) if method == "wigner" else np.zeros_like(kappa),
        calculator.qpoints,
        np.array(calculator.grid_weights),
        calculator.frequencies,
        _KM_PER_S * calculator.group_velocities,
        lifetimes,
        modes[..., :3].mean(axis=-1) / np.prod(calculator.mesh_numbers),
    )


def _tensors(voigt: Floats) -> Floats:
    """(…, 3, 3) of (…, 6)."""
    return np.asarray(voigt[..., np.array(_VOIGT)])
