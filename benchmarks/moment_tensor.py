"""Moment tensor potentials: errors, training and evaluation times, elastic constants, each by one command.

    python -m benchmarks.moment_tensor errors DATA [--elements Mo,Si] [--level 16]
    python -m benchmarks.moment_tensor elastic DATA
    python -m benchmarks.moment_tensor speed [POTENTIAL.mtp …]

DATA: a folder with the set mlearn (Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020)), ELEMENT/train.xyz and test.xyz.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import GPa
from scipy.optimize import minimize_scalar

from dynft_core.interop.mtp import read_mtp
from dynft_core.models.moment_tensor.fitting import Labels, fitted, widened
from dynft_core.models.moment_tensor.model import MomentTensorModel
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.rows import matrices, sums
from dynft_core.models.moment_tensor.settings import BasisSettings
from workflows.commands.moment_tensor import accuracy
from workflows.user_files.labelled_structures import read_labelled_structures, shortest_distances

CUTOFFS_A = {"Mo": 5.2, "Si": 4.8, "Ge": 5.2, "Li": 5.2, "Ni": 4.6, "Cu": 4.6}
STRAIN = 1e-3


def fit(data: Path, element: str, level: int | None) -> tuple[MomentTensorModel, float]:
    """The model of an element's training set with default settings, and the CPU time that it took, s."""
    structures = read_labelled_structures(data / element / "train.xyz")
    begun = time.process_time()
    shortest_A = float(shortest_distances(structures, CUTOFFS_A[element]).min())
    species = tuple(sorted({int(z) for z in structures[0].atoms.numbers}))
    basis = BasisSettings(CUTOFFS_A[element], np.floor(100 * shortest_A) / 100, level).basis(species)
    model = widened(fitted(basis, Labels(sums(basis, structures), ())), structures)
    return model, time.process_time() - begun


def errors(data: Path, elements: list[str], level: int | None) -> None:
    """Test errors, true and predicted."""
    print(f"{'':4}{'functions':>10}{'CPU s':>8}{'meV/atom':>10}{'predicted':>10}{'meV/Å':>10}{'predicted':>10}"
          f"{'ratio':>7}{'GPa':>8}{'predicted':>10}")  # fmt: skip
    for element in elements:
        model, seconds = fit(data, element, level)
        a = accuracy(model, read_labelled_structures(data / element / "test.xyz"))
        print(
            f"{element:4}{model.basis.n_functions:10d}{seconds:8.1f}{1e3 * a.energy_rmse_eV_per_atom:10.2f}"
            f"{1e3 * a.predicted_energy_rmse_eV_per_atom:10.2f}{1e3 * a.rmse:10.1f}{1e3 * a.predicted_rmse:10.1f}"
            f"{a.predicted_rmse / a.rmse:7.2f}{a.stress_rmse_GPa:8.3f}{a.predicted_stress_rmse_GPa:10.3f}", flush=True,
        )  # fmt: skip


def elastic(data: Path) -> None:
    """Elastic constants of molybdenum (DFT: 472, 154, 95 GPa): linear in the parameters, so are their error bars."""
    model, _ = fit(data, "Mo", None)

    def cell(a: float, strain: np.ndarray | float = 0.0) -> Atoms:
        atoms = bulk("Mo", cubic=True, a=a)
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
        return atoms

    a = float(minimize_scalar(lambda x: model.mean.evaluate(cell(x)).energy, bracket=(3.1, 3.2)).x)
    print(f"lattice constant {a:.4f} Å (DFT 3.1592)")
    for name, (i, j), component in (("C11", (0, 0), 0), ("C12", (0, 0), 1), ("C44", (1, 2), 3)):
        rows = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * STRAIN / 2
            strain[j, i] += sign * STRAIN / 2
            atoms = cell(a, strain)
            per_volume = np.sqrt(len(atoms)) / atoms.get_volume()
            rows.append(matrices(model.basis, model.basis.neighbourhoods(atoms))[2][component] * per_volume)
        row = (rows[0] - rows[1]) / (2 * STRAIN) / GPa
        deviation = np.linalg.norm(row @ model.posterior.half)
        print(f"{name} {row @ model.posterior.mean:7.1f} ± {2 * deviation:.1f} GPa (2 σ)")


def speed(files: list[Path]) -> None:
    """CPU time (µs an atom) of energy, forces and stress of 1024 atoms of molybdenum, without and with the pairs."""
    atoms = bulk("Mo", cubic=True).repeat(8)
    atoms.rattle(0.1, seed=1)
    potentials = {str(path): read_mtp(path, (42,)) for path in files}
    for level in (16, 18):
        basis = BasisSettings(5.2, 1.9, level).basis((42,))
        weights = np.random.default_rng(0).normal(size=(1, basis.n_functions))
        potentials[f"fixed radial functions, level {level}"] = MomentTensorPotential(basis, np.zeros(1), weights)
    print(f"{'':50}{'functions':>10}{'neighbours':>11}{'µs':>8}{'with pairs':>11}")
    for name, potential in potentials.items():
        pairs = potential.basis.neighbourhoods(atoms)
        without = shortest(lambda p=potential, x=pairs: p.evaluate(x))
        whole = shortest(lambda p=potential: p.evaluate(atoms))
        print(
            f"{name[-50:]:50}{potential.basis.n_functions:10d}{len(pairs.second) / len(atoms):11.1f}"
            f"{1e6 * without / len(atoms):8.1f}{1e6 * whole / len(atoms):11.1f}"
        )


def shortest(work: Callable[[], object], repeats: int = 7) -> float:
    """CPU seconds of the quickest of several calls."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_errors = commands.add_parser("errors")
    of_errors.add_argument("data", type=Path)
    of_errors.add_argument("--elements", default=",".join(CUTOFFS_A))
    of_errors.add_argument("--level", type=int)
    commands.add_parser("elastic").add_argument("data", type=Path)
    commands.add_parser("speed").add_argument("potentials", type=Path, nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "errors":
        errors(arguments.data, arguments.elements.split(","), arguments.level)
    elif arguments.command == "elastic":
        elastic(arguments.data)
    else:
        speed(arguments.potentials)


if __name__ == "__main__":
    main()
