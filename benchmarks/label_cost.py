"""What labels a cheap potential spares: `python -m benchmarks.label_cost --data FOLDER [--cheap MODULE:CALLABLE]`.

SrTiO3, orders 2 to 4. FOLDER holds prim.xyz, ref.xyz and data.xyz (displaced frames of ref.xyz with forces); frames
with an index of 4 modulo 5 are the test. How many labels reach the test RMSE that half of the data give without the
cheap potential, over random orders of the labels. The cheap fit is to structures like all the training's, without
their forces: a campaign has those of its walks.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from numpy.typing import NDArray

from benchmarks import label_cells
from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.fitting import refit
from dynft_core.reference.cheap import CheapPotential
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]
CUTOFFS_A = {2: 6.8, 3: 3.95, 4: 3.95}
COUNTS = (1, 2, 3, 5, 8)


@dataclass(frozen=True)
class Data:
    """Labelled structures of one supercell: displacements and forces (S, N, 3), Å and eV/Å; which are for the test."""

    basis: ForceConstantBasis
    cell: Supercell
    displacements: Floats
    forces: Floats
    test: NDArray[np.bool_]

    @classmethod
    def read(cls, folder: Path) -> Data:
        """The files of a folder."""
        basis = ForceConstantBasis.cached(Crystal(ase.io.read(folder / "prim.xyz")), CUTOFFS_A)
        cell = Supercell.match(basis.crystal, ase.io.read(folder / "ref.xyz"))
        frames = ase.io.read(folder / "data.xyz", ":")
        u = np.array([cell.displacements(frame.positions) for frame in frames])
        f = np.array([frame.get_forces() for frame in frames])
        return cls(basis, cell, u, f, np.arange(len(frames)) % 5 == 4)

    def fitted(self, labels: NDArray[np.int64], cheap: CheapPotential | None = None) -> ForceField:
        others = [(self.cell, self.displacements[~self.test])]  # as walks give them, at no cost
        u, f = self.displacements[labels], self.forces[labels]
        return fit(self.basis, self.cell, u, f, cheap=cheap, unlabelled=others)

    def refitted(self, force_field: ForceField, labels: NDArray[np.int64]) -> ForceField:
        """With further labels, and the same cheap fit."""
        return refit(force_field, self.displacements[labels], self.forces[labels], [str(i) for i in labels])

    def errors(self, force_field: ForceField) -> tuple[float, float]:
        """Test RMSE and what is predicted for it, eV/Å."""
        u, f = self.displacements[self.test], self.forces[self.test]
        predicted = force_field.fitting_error(u) ** 2 + force_field.bayesian_error(u) ** 2
        return float(np.sqrt(np.mean((force_field.forces(u) - f) ** 2))), float(np.sqrt(predicted.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with prim.xyz, ref.xyz and data.xyz")
    parser.add_argument("--cheap", default="chgnet.model.dynamics:CHGNetCalculator", help="the cheap potential")
    parser.add_argument("--seeds", type=int, default=5, help="random orders of the labels")
    parser.add_argument("--cells", action="store_true", help="what labels of small cells spare; no data needed")
    arguments = parser.parse_args()
    if arguments.cells:
        label_cells.compare(arguments.seeds)
        return
    if arguments.data is None or not (arguments.data / "data.xyz").is_file():
        print("SrTiO3 cheap: skipped, there are no labels: give --data FOLDER with prim.xyz, ref.xyz and data.xyz")
        return
    if importlib.util.find_spec(arguments.cheap.partition(":")[0].partition(".")[0]) is None:
        print(f"SrTiO3 cheap: skipped, {arguments.cheap} is not installed: install it, or name another by --cheap")
        return
    srtio3(Data.read(arguments.data), CheapPotential(ReferenceSettings(arguments.cheap)), arguments.seeds)


def srtio3(data: Data, cheap: CheapPotential, n_seeds: int) -> None:
    """The rows: errors in meV/Å of each number of labels, and how many fewer labels do."""
    train, spared = np.flatnonzero(~data.test), []
    half = len(train) // 2
    print(f"SrTiO3, {data.basis.size} parameters; test RMSE, predicted, meV/Å")
    for seed in range(n_seeds):
        order = np.random.default_rng(seed).permutation(train)
        aim = data.errors(data.fitted(order[:half]))[0]
        print(f"order {seed}: {half} labels {1e3 * aim:.1f}", flush=True)
        with_cheap, last = data.fitted(order[:1], cheap), 1
        for n in COUNTS:
            if n > last:
                with_cheap, last = data.refitted(with_cheap, order[last:n]), n
            rmse, predicted = data.errors(with_cheap)
            knows = with_cheap.describe()["cheap"]
            used = f"prior mean, {knows['deviation']}" if knows["used"] else "not used"
            print(f"  {n} with the cheap potential {1e3 * rmse:.1f} {1e3 * predicted:.1f} ({used})", flush=True)
            if rmse <= aim:
                spared.append(half / n)
                break
        else:
            spared.append(half / COUNTS[-1])
    mean, least, most = np.exp(np.mean(np.log(spared))), min(spared), max(spared)
    print(f"SrTiO3 cheap: {mean:.1f} times fewer labels ({least:.1f} to {most:.1f})")


if __name__ == "__main__":
    main()
