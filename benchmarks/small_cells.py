"""What labels of small supercells are worth: `python -m benchmarks.small_cells`.

Silicon, [8, 5, 5 Å], Tersoff, 300 K. The cells are the smallest ones that hold each q point of the 216-atom cell, one
for each irreducible q (Lloyd-Williams and Monserrat, Phys. Rev. B 92, 184301 (2015)): 2 to 12 atoms, most of them not
diagonal. Their structures are thermal: phonon modes of a harmonic force field of the large cell, at 300 K.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from benchmarks.crystals import Case, silicon
from dynft_core import ForceConstantBasis, fit
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.label_sums import CellLabels, told_apart
from dynft_core.models.force_constants.fitting import fit_cells
from dynft_core.symmetry.space_group import space_group
from dynft_core.vocabulary import Prior

Ints = NDArray[np.int64]
TEMPERATURE_K = 300.0
EACH, N_TEST = 20, 40


def irreducible_q(supercell: Supercell) -> list[tuple[Ints, int]]:
    """One q point of each star among those that the supercell holds, as integers over a common denominator."""
    inverse = np.linalg.inv(supercell.matrix)
    whole = (d for d in range(1, supercell.n_atoms) if np.allclose(d * inverse, np.rint(d * inverse)))
    denominator = next(whole)
    steps = np.array(list(product(range(denominator), repeat=3)))
    grid = np.mod(steps @ np.rint(denominator * inverse).astype(np.int64).T, denominator)  # q = M⁻¹ n modulo 1
    points = {tuple(int(x) for x in q) for q in grid}
    rotations = space_group(supercell.crystal).rotations
    found = []
    while points:
        q = np.array(min(points))
        star = np.mod(np.concatenate([q @ rotations, -q @ rotations]), denominator)
        points -= {tuple(int(x) for x in member) for member in star}
        found.append((q, denominator))
    return found


def hermite_forms(size: int) -> Iterator[Ints]:
    """All sublattices of this index, by their Hermite normal forms."""
    for a in (n for n in range(1, size + 1) if size % n == 0):
        for b in (n for n in range(1, size // a + 1) if (size // a) % n == 0):
            c = size // (a * b)
            for x, y, z in product(range(b), range(c), range(c)):
                yield np.array([[a, x, y], [0, b, z], [0, 0, c]])


def smallest_cell(supercell: Supercell, q: Ints, denominator: int) -> Supercell:
    """The smallest supercell that holds q, of the most compact shape, right-handed."""
    size = denominator // int(np.gcd.reduce([*q, denominator]))
    best: tuple[float, Ints] | None = None
    for form in hermite_forms(size):
        if np.any(form @ q % denominator):
            continue
        reduced, operation = minkowski_reduce(form @ supercell.crystal.cell)
        length = float((reduced**2).sum())
        if best is None or length < best[0] - 1e-9:
            matrix = np.asarray(operation @ form, dtype=np.int64)
            best = length, matrix if np.linalg.det(matrix) > 0 else -matrix
    assert best is not None
    return Supercell.build(supercell.crystal, best[1])


def labelled(case: Case, basis: ForceConstantBasis, cell: Supercell, count: int, seed: int) -> CellLabels:
    """Thermal structures of a cell, labelled by the reference."""
    large = case.supercell(basis)
    harmonic = ForceConstantBasis.cached(basis.crystal, {2: basis.cutoffs[2]})
    u, f = case.labels(large, 1)
    rough = fit(harmonic, large, u, f, prior="decaying")
    rng = np.random.default_rng(seed)
    found = thermal_displacements(rough.on(cell), rough.on(cell).supercell.masses, count, TEMPERATURE_K, rng)
    return CellLabels(cell, found, case.forces(cell, found))


def main() -> None:
    case = silicon(3, {2: 8.0, 3: 5.0, 4: 5.0})
    basis = case.basis()
    large = case.supercell(basis)
    cells = [smallest_cell(large, *q) for q in irreducible_q(large)]
    print(f"cells of {', '.join(str(cell.n_atoms) for cell in cells)} atoms; {basis.size} parameters, of which they")
    print(f"distinguish {told_apart(basis, cells)} together")
    small = [labelled(case, basis, cell, EACH, seed) for seed, cell in enumerate(cells)]
    one = labelled(case, basis, large, 1, 100)
    twenty = [CellLabels(x.supercell, x.displacements[:2], x.forces[:2]) for x in small]
    u, f = case.labels(large, N_TEST, seed=9)
    sets = {f"{EACH} of each small cell": small, "1 large and 2 of each small cell": [one, *twenty], "1 large": [one]}
    print(f"{'labels':<34s}{'prior':<10s}{'RMSE, large cell':>18s}{'predicted':>11s}  meV/Å")
    for (name, labels), prior in product(sets.items(), PRIORS):
        fitted = fit_cells(basis, labels, prior=prior).on(large)
        rmse = np.sqrt(np.mean((fitted.forces(u) - f) ** 2))
        predicted = np.hypot(fitted.posterior.beta_inv_sqrt, np.mean(fitted.bayesian_error(u)))
        print(f"{name:<34s}{prior:<10s}{1e3 * rmse:18.2f}{1e3 * predicted:11.2f}", flush=True)


PRIORS: tuple[Prior, ...] = ("shared", "decaying")

if __name__ == "__main__":
    main()
