"""What a run of VASP tells in vasprun.xml or OUTCAR, of any version from 4.6 on: tags, POTCARs, k-points, ionic steps.

An ionic step is read as soon as it is whole, so an interrupted run gives those before it. Whether a step converged is
judged by its own electronic iterations: VASP 5 prints that EDIFF is reached whenever its cycle ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from dynft_core.reference.failures import Failure
from dynft_core.reference.k_points import KPoints

Floats = NDArray[np.float64]
Element = ElementTree.Element

NELM, EDIFF_EV = 60, 1e-4
"""VASP's defaults."""
PRINTED_EV = 2e-8
"""vasprun.xml prints EDIFF and energies to 1e-8 eV."""
OTHER_SECTIONS = frozenset(
    ["response functions", "linear response parameters", "model GW", "orbital magnetization", "External order field"]
)
"""Sections of <parameters> that are of no ground state; one of them names NELM again (VASP 5.2 to 6.2)."""


@dataclass(frozen=True)
class Species:
    """One kind of atom, as VASP has it: how many, valence electrons of each, title of its POTCAR."""

    symbol: str
    count: int
    valence: float
    title: str


@dataclass(frozen=True, eq=False)
class IonicStep:
    """One ionic step.

    Attributes:
        cell: (3, 3) Å.
        positions: (N, 3) Å.
        forces: (N, 3) eV/Å.
        energy_eV: the free energy, whose derivatives the forces are.
        energies_eV: free energy after each iteration of its own electronic cycle; none where VASP computed none.
    """

    cell: Floats
    positions: Floats
    forces: Floats
    energy_eV: float
    energies_eV: tuple[float, ...]

    @property
    def last_change_eV(self) -> float:
        """Change of the energy in the last iteration; infinite after one alone."""
        return abs(self.energies_eV[-1] - self.energies_eV[-2]) if len(self.energies_eV) > 1 else float("inf")


@dataclass(frozen=True, eq=False)
class VaspRun:
    """One run.

    Attributes:
        version: of VASP.
        incar: tags and values that INCAR has; None: the file does not tell (OUTCAR of VASP 5).
        parameters: tags and values as VASP completed them.
        species: in VASP's order.
        symbols: (N,) of the atoms.
        k_points: None where the file does not tell.
        steps: the ionic steps that have ended; of one that cannot be read, why.
        cut_off: whether the file ends before it should.
    """

    version: str
    incar: Mapping[str, str] | None
    parameters: Mapping[str, str]
    species: tuple[Species, ...]
    symbols: tuple[str, ...]
    k_points: KPoints | None
    steps: tuple[IonicStep | str, ...]
    cut_off: bool = False

    @property
    def tags(self) -> Mapping[str, str]:
        """Values of all tags: those of INCAR first, which VASP shortens in what it completes."""
        return {**self.parameters, **(self.incar or {})}

    @property
    def potcar_family(self) -> str:
        """How the titles of the POTCARs begin, for example PAW_PBE; '' when they do not agree."""
        families = {species.title.split()[0] for species in self.species if species.title}
        return families.pop() if len(families) == 1 else ""

    def failure_of(self, step: IonicStep | str) -> Failure | None:
        """Why a step's forces are none of a converged DFT calculation; None when they are."""
        if isinstance(step, str):
            return Failure("incomplete", step)
        n = len(step.energies_eV)
        if n == 0:
            sentence = "no electronic iteration: the forces are those of VASP's machine-learned force field"
            return Failure("incomplete", sentence)
        if int(self.tags.get("ICHARG", 0)) >= 10:
            why = "its forces are of no self-consistent cycle"
            return Failure("incomplete", f"the charge density is fixed (ICHARG = {self.tags['ICHARG']}): {why}")
        if not (np.isfinite(step.forces).all() and np.isfinite(step.energy_eV)):
            return Failure("not finite", f"NaN or infinity in the forces or in the energy ({step.energy_eV} eV)")
        most, ediff_eV = int(self.tags.get("NELM", NELM)), float(self.tags.get("EDIFF", EDIFF_EV))
        if n < most and step.last_change_eV <= ediff_eV + PRINTED_EV:
            return None
        reached = f"{n} iterations = NELM" if n == most else f"{n} iterations (NELM = {most})"
        ediff = f"EDIFF = {ediff_eV:g} eV" if ediff_eV else "EDIFF below 5e-9 eV"
        return Failure("not converged", f"{reached}, the last energy change is {step.last_change_eV:.2g} eV, {ediff}")

    def atoms(self, step: IonicStep) -> Atoms:
        """A step as ASE has it, with energy and forces."""
        atoms = Atoms(self.symbols, positions=step.positions, cell=step.cell, pbc=True)
        energies = {"energy": step.energy_eV, "free_energy": step.energy_eV}
        atoms.calc = SinglePointCalculator(atoms, forces=step.forces, **energies)
        return atoms


def has_response(tags: Mapping[str, str]) -> bool:
    """Whether VASP lists iterations of linear response behind those of the electronic cycle."""
    asked = any(tags.get(tag, "F").strip(".")[:1] == "T" for tag in ("LEPSILON", "LCALCEPS"))
    return asked or tags.get("IBRION") in ("7", "8")


def ground_state(energies_eV: list[float], tags: Mapping[str, str]) -> tuple[float, ...]:
    """The iterations of the electronic cycle; of a run with linear response, up to the first one that reaches EDIFF."""
    if has_response(tags):
        ediff_eV = float(tags.get("EDIFF", EDIFF_EV))
        for i in range(1, len(energies_eV)):
            if abs(energies_eV[i] - energies_eV[i - 1]) <= ediff_eV + PRINTED_EV:
                return tuple(energies_eV[: i + 1])
    return tuple(energies_eV)
