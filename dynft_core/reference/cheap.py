"""A cheap potential: any calculator that computes forces in a moment, one by name or of the user's own module."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.reference.calculators import check_calculator, dft_code_of, make_calculator
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]

ARGUMENT = "cheap.calculator"
KEPT = 2000
"""Structures of a cell whose forces a process remembers: fits want those of the same labels again and again."""


@contextmanager
def _as_cheap() -> Iterator[None]:
    """What is wrong with a reference calculator, said of a cheap one."""
    try:
        yield
    except InputError as error:
        argument = error.argument.replace("reference.", "cheap.")
        raise InputError(argument, error.expected, " ".join(error.got.split()), error.remedy) from error


@dataclass(frozen=True)
class CheapPotential:
    """The forces of a cheap calculator, less those on the perfect crystal. See `models.protocol.Baseline`."""

    settings: ReferenceSettings

    def on(self, cell: ReferenceCell) -> CheapForces:
        """Its potential on a cell.

        Raises:
            InputError: a calculator that cannot be made.
        """
        return _on(self._text, tuple(cell.numbers.tolist()), cell.cell.tobytes(), cell.sites.tobytes())

    def check(self, cell: ReferenceCell) -> None:
        """Refuse what is no cheap potential of this crystal, by its forces on a slightly displaced one.

        Raises:
            InputError: a DFT code, one that cannot be made, fails on these species, or gives no forces.
        """
        if dft_code_of(self.settings) is not None:
            raise InputError(
                ARGUMENT,
                "a potential that computes forces in a moment",
                f"'{self.settings.calculator}', a DFT code",
                "name the ASE calculator of a potential",
            )
        with _as_cheap():
            check_calculator(self.settings, cell.atoms())
        u = np.random.default_rng(0).normal(0.0, 0.02, (1, *cell.sites.shape))
        if not self.on(cell).forces_and_energies(u)[0].any():
            raise InputError(
                ARGUMENT,
                "one that exerts forces on displaced atoms",
                f"zeros from '{self.settings.calculator}'",
                "choose another",
            )

    @property
    def _text(self) -> str:
        return json.dumps(asdict(self.settings), sort_keys=True)

    def describe(self) -> str:
        """See `Baseline.describe`."""
        return f"{__name__}:read_cheap_potential {self._text}"


def read_cheap_potential(text: str) -> CheapPotential:
    """The cheap potential of settings in JSON."""
    return CheapPotential(ReferenceSettings(**json.loads(text)))


class CheapForces:
    """A cheap calculator on one reference cell; constant forces, which no order of an expansion has, are taken off."""

    def __init__(self, settings: ReferenceSettings, cell: ReferenceCell) -> None:
        self._name, self._cell = settings.calculator, cell
        self._atoms = cell.atoms()  # one for all structures: some calculators read their parameters for each new one
        with _as_cheap():
            self._atoms.calc = make_calculator(settings, tempfile.gettempdir())
        self._perfect = self._computed(np.zeros_like(cell.sites))
        self._of = lru_cache(KEPT)(lambda u: self._computed(np.frombuffer(u).reshape(-1, 3)))

    def _computed(self, displacements: Floats) -> tuple[Floats, float]:
        """Forces (N, 3) eV/Å and energy eV at displacements (N, 3) Å.

        Raises:
            InputError: the calculator fails, or gives something else.
        """
        self._atoms.positions = self._cell.sites + displacements
        try:
            forces = np.array(self._atoms.get_forces(), dtype=np.float64)
            energy = float(self._atoms.get_potential_energy())
        except Exception as error:  # every calculator fails in its own way
            species = ", ".join(sorted({chemical_symbols[z] for z in self._cell.numbers}))
            words = " ".join(str(error).split())[:200]
            raise InputError(
                ARGUMENT,
                f"one that computes crystals of {species}",
                f"'{self._name}', which fails ({type(error).__name__}: {words})",
                "choose one that knows these species, or leave it out",
            ) from error
        if forces.shape != displacements.shape or not np.isfinite(forces).all():
            got = f"an array {forces.shape}" if forces.shape != displacements.shape else "NaN or infinity"
            raise InputError(
                ARGUMENT,
                f"finite forces of shape {displacements.shape}",
                f"{got} from '{self._name}'",
                "mend the calculator, or choose another",
            )
        return forces, energy

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV of structures (…, N, 3) Å; 0 in the perfect crystal.

        Raises:
            InputError: the calculator fails.
        """
        u = np.asarray(displacements, dtype=np.float64)
        found = [self._of(x.tobytes()) for x in u.reshape(-1, *u.shape[-2:])]
        forces, energy = self._perfect
        energies = np.array([e for _, e in found]) - energy
        return np.array([f - forces for f, _ in found]).reshape(u.shape), energies.reshape(u.shape[:-2])

    def batch_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        return np.moveaxis(self.forces_and_energies(np.moveaxis(displacements, 2, 0))[0], 0, 2)

    def in_precision(self, dtype: type[np.floating]) -> CheapForces:
        """Itself: calculators have one precision."""
        return self


@lru_cache(maxsize=8)
def _on(text: str, numbers: tuple[int, ...], cell: bytes, sites: bytes) -> CheapForces:
    """One for each cell in a process, as calculators take long to begin."""
    vectors, positions = (np.frombuffer(x).reshape(-1, 3) for x in (cell, sites))
    atoms = Atoms(numbers, cell=vectors, positions=positions, pbc=True)
    return CheapForces(ReferenceSettings(**json.loads(text)), ReferenceCell.of(atoms))
