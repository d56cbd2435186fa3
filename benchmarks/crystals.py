"""What is measured: silicon, argon near melting, a perovskite with soft modes, tin selenide; embedded references."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.dynamics.langevin import Langevin, Thermostat
from dynft_core.reference.bonds import AnharmonicBonds
from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A crystal with a reference to learn from."""

    name: str
    primitive: Atoms
    conventional: Atoms
    repeat: int | tuple[int, int, int]
    cutoffs_A: dict[int, float]
    temperature_K: float
    timestep_fs: float
    reference: Callable[[], Calculator]

    def supercell(self, basis: ForceConstantBasis, repeat: int | None = None) -> Supercell:
        """`repeat` (default: its own) conventional cells along each axis."""
        return Supercell.match(basis.crystal, self.conventional.repeat(repeat or self.repeat))

    def thermostat(self, friction_per_ps: float = 10.0) -> Thermostat:
        return Thermostat(self.temperature_K, friction_per_ps, self.timestep_fs)

    def basis(self) -> ForceConstantBasis:
        return ForceConstantBasis.build(Crystal(self.primitive), self.cutoffs_A)

    def labels(self, cell: Supercell, count: int, seed: int = 3) -> tuple[Floats, Floats]:
        """Displacements and forces (count, N, 3) from molecular dynamics with the reference itself, 0.2 ps apart."""
        atoms, calculator = cell.atoms(), self.reference()
        atoms.calc = calculator

        def forces(u: Floats) -> Floats:
            atoms.positions = cell.positions + u[:, :, 0]
            return np.asarray(atoms.get_forces())[:, :, None]

        still = np.zeros((1, cell.n_atoms, 3))
        md = Langevin(self.thermostat(20.0), cell.masses, forces, still, still, [(seed, 0)], [0])
        gap = max(1, round(200 / self.timestep_fs))
        md.advance(3 * gap)
        found = []
        for _ in range(count):
            md.advance(gap)
            found.append((md.structure(0), forces(md.displacements)[:, :, 0]))
        u, f = (np.array(part) for part in zip(*found, strict=True))
        return u - u.mean(axis=1, keepdims=True), f

    def forces(self, cell: Supercell, displacements: Floats) -> Floats:
        """The reference's forces (S, N, 3) eV/Å at displacements (S, N, 3) Å."""
        atoms, found = cell.atoms(), []
        atoms.calc = self.reference()
        for u in displacements:
            atoms.positions = cell.positions + u
            found.append(atoms.get_forces())
        return np.array(found)

    def force_fields(self, cell: Supercell, basis: ForceConstantBasis, counts: tuple[int, ...]) -> list[ForceField]:
        """Fitted to the first 1, 2, … of the same labels."""
        u, f = self.labels(cell, max(counts))
        return [fit(basis, cell, u[:n], f[:n]) for n in counts]


def _tersoff() -> Calculator:
    calculator: Calculator = make_calculator(ReferenceSettings("tersoff-si"), tempfile.gettempdir())
    return calculator


def _argon() -> Calculator:
    return LennardJones(sigma=3.405, epsilon=0.010324, rc=8.5, smooth=True)


class BucklingAngles(Calculator):
    """Straight Ti-O-Ti angles that would rather buckle: E = Σ_O B (1 + cos θ)² - A (1 + cos θ), 0 for θ = 180°."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 ASE declares it so

    def __init__(self, buckling_eV: float, stiffening_eV: float) -> None:
        """A and B."""
        super().__init__()
        self._a, self._b = buckling_eV, stiffening_eV

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:  # fmt: skip
        super().calculate(atoms, properties, system_changes)
        now: Any = self.atoms
        oxygen, titanium, bonds = neighbor_list("ijD", now, {("O", "Ti"): 2.8})
        from_oxygen = now.numbers[oxygen] == 8
        oxygen, titanium, bonds = (x[from_oxygen] for x in (oxygen, titanium, bonds))
        vectors = bonds.reshape(-1, 2, 3)  # an oxygen's two bonds come one after the other
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        units = vectors / lengths
        cosine = np.sum(units[:, 0] * units[:, 1], axis=1)
        slope = 2 * self._b * (1 + cosine) - self._a
        across = (units[:, ::-1] - cosine[:, None, None] * units) / lengths
        forces = np.zeros((len(now), 3))
        np.add.at(forces, titanium.reshape(-1, 2), -slope[:, None, None] * across)
        np.add.at(forces, oxygen.reshape(-1, 2), slope[:, None, None] * across)
        energy = float(np.sum(self._b * (1 + cosine) ** 2 - self._a * (1 + cosine)))
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def silicon(repeat: int, cutoffs_A: dict[int, float]) -> Case:
    """Diamond silicon at 300 K, 8 · repeat³ atoms, labelled by Tersoff's potential."""
    atoms = bulk("Si", "diamond", a=5.432)
    cube = bulk("Si", "diamond", a=5.432, cubic=True)
    return Case(f"Si-{8 * repeat**3}", atoms, cube, repeat, cutoffs_A, 300.0, 1.0, _tersoff)


def argon(repeat: int, cutoffs_A: dict[int, float]) -> Case:
    """Solid argon at 70 K (it melts at 84 K), 4 · repeat³ atoms, labelled by a Lennard-Jones potential."""
    cube = bulk("Ar", "fcc", a=5.40, cubic=True)
    return Case(f"Ar-{4 * repeat**3}", bulk("Ar", "fcc", a=5.40), cube, repeat, cutoffs_A, 70.0, 4.0, _argon)


def perovskite(repeat: int, cutoffs_A: dict[int, float]) -> Case:
    """Cubic SrTiO3 at 300 K, 5 · repeat³ atoms, its harmonic modes imaginary down to 4i THz, stable by order 4."""
    sites = [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0)]
    atoms = crystal(["Sr", "Ti", "O"], sites, spacegroup=221, cellpar=[3.905, 3.905, 3.905, 90, 90, 90])
    perfect = atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers

    def reference() -> Calculator:
        return SumCalculator([AnharmonicBonds(*perfect), BucklingAngles(2.0, 20.0)])

    return Case(f"SrTiO3-{5 * repeat**3}", atoms, atoms, repeat, cutoffs_A, 300.0, 2.0, reference)


def tin_selenide() -> Case:
    """SnSe (Pnma) at 300 K, 768 atoms, to order 6: 4376 parameters; labelled by anharmonic bonds."""
    sites = [(0.1195, 0.25, 0.1055), (0.8556, 0.25, 0.4793)]
    cell = [11.42, 4.19, 4.46, 90, 90, 90]
    atoms = crystal(["Sn", "Se"], sites, spacegroup=62, cellpar=cell)
    cutoffs_A = {2: 11.2, 3: 4.5, 4: 4.5, 5: 3.4, 6: 3.4}
    perfect = atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers
    return Case("SnSe-768", atoms, atoms, (2, 8, 6), cutoffs_A, 300.0, 1.0, lambda: AnharmonicBonds(*perfect))
