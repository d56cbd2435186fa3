"""Labels by a cheap potential: of structures like those of the data, as many as its force constants need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.cheap_prior import CheapPrior
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.learning import NOISE_FLOOR_EV_A, learn
from dynft_core.models.protocol import Baseline
from dynft_core.regression.control_variate import CheapSums
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.symmetry.space_group import space_group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS_PER_PARAMETER, LEAST = 50, 20
"""Force components for each parameter, and fewest structures: with 50 the scatter of φ_c is a seventh of what the
expansion leaves out; with 7 the gain of a cheap potential is noticeably smaller."""


RENEWED_AT = 2
"""The cheap fit is made anew, to structures like all that are known, when there are so many times more of them."""
KEPT = 32
"""Labels' structures that are kept for that."""

SumsOf = Callable[[Sequence[CellLabels]], Statistics]
"""Sums over labels, each of the ranks taking its own share of them (`fitting.statistics_of_cells`)."""
Structures = tuple[Supercell, Floats]
"""Structures (S, N, 3) Å of a supercell, without forces."""


def cheap_prior(
    basis: ForceConstantBasis, cells: Sequence[CellLabels], unlabelled: Sequence[Structures], potential: Baseline,
    sums_of: SumsOf, ranks: Ranks,
) -> CheapPrior:  # fmt: skip
    """What a fit to labels takes from a cheap potential: its force constants, and its forces on the labels.

    The force constants are fitted to structures like those of the largest supercell among the labels, and like
    `unlabelled` ones of that.

    Raises:
        InputError: the potential fails.
    """
    largest = max(cells, key=lambda x: x.supercell.n_atoms)
    begun = CheapPrior(
        potential.describe(),
        np.zeros(basis.size),
        largest.displacements[:0],
        largest.supercell,
        0,
        CheapSums(np.zeros(basis.size), 0.0, 0.0),
    )
    return with_labels(basis, begun, cells, unlabelled, sum(len(x.forces) for x in cells), sums_of, ranks)


def with_labels(
    basis: ForceConstantBasis, cheap: CheapPrior, cells: Sequence[CellLabels], unlabelled: Sequence[Structures],
    n_labels: int, sums_of: SumsOf, ranks: Ranks,
) -> CheapPrior:  # fmt: skip
    """With further labels, `n_labels` in all; its force constants stay until far more structures are known."""
    potential = cheap.potential
    like = _kept(np.concatenate([cheap.like, *_of(cheap.supercell, ((x.supercell, x.displacements) for x in cells))]))
    cheap = replace(cheap, like=like, sums=cheap.sums + cheap_sums(cells, potential, sums_of, ranks))
    known = np.concatenate([like, *_of(cheap.supercell, unlabelled)])
    count = n_labels + len(known) - len(like)
    if count < RENEWED_AT * cheap.n_structures:
        return cheap
    mean = force_constants(basis, cheap.supercell, known, potential, sums_of, ranks)
    return replace(cheap, mean=mean, n_structures=count)


def _of(cell: Supercell, structures: Iterable[Structures]) -> list[Floats]:
    """Those of this supercell, with its order of atoms."""
    own = cell.describe()
    return [u for x, u in structures if all(np.array_equal(own[name], a) for name, a in x.describe().items())]


def without_labels(cheap: CheapPrior, cells: Sequence[CellLabels], sums_of: SumsOf) -> CheapPrior:
    """Without labels that are among its own."""
    return replace(cheap, sums=cheap.sums - cheap_sums(cells, cheap.potential, sums_of, Ranks()))


def force_constants(
    basis: ForceConstantBasis, cell: Supercell, like: Floats, potential: Baseline, sums_of: SumsOf, ranks: Ranks
) -> Floats:
    """φ_c (M,), fitted to structures mixed from those of `like` (S, N, 3) Å."""
    u = mixed(cell, like, max(LEAST, -(-ROWS_PER_PARAMETER * basis.size // (3 * cell.n_atoms))))
    labels = with_cheap_forces(CellLabels(cell, u, np.zeros_like(u)), potential, ranks)
    return learn(basis, sums_of([labels]), "shared", NOISE_FLOOR_EV_A).mean


def _kept(displacements: Floats) -> Floats:
    """At most KEPT of them, evenly."""
    numbers = np.unique(np.linspace(0, len(displacements) - 1, KEPT).round().astype(int))
    return np.asarray(displacements[numbers])


def cheap_sums(cells: Sequence[CellLabels], potential: Baseline, sums_of: SumsOf, ranks: Ranks) -> CheapSums:
    """Sums over labels and the cheap forces on them."""
    twins = [with_cheap_forces(x, potential, ranks) for x in cells]
    cheap, labels = sums_of(twins), sums_of(cells)
    apart = sum(float(np.sum((x.forces - y.forces)[ranks.own] ** 2)) for x, y in zip(cells, twins, strict=True))
    (total,) = ranks.add(np.array([apart]))
    return CheapSums(cheap.moment, (cheap.square + labels.square - float(total)) / 2, cheap.square)


def with_cheap_forces(labels: CellLabels, potential: Baseline, ranks: Ranks) -> CellLabels:
    """The same structures with the cheap potential's forces, zeros for those that fall to other processes."""
    forces = np.zeros_like(labels.displacements)
    with ranks.together():
        on_cell = potential.on(ReferenceCell.of(labels.supercell.atoms()))
        forces[ranks.own] = on_cell.forces_and_energies(labels.displacements[ranks.own])[0]
    return replace(labels, forces=forces)


def mixed(cell: Supercell, displacements: Floats, count: int) -> Floats:
    """(count, N, 3) Å: cos θ g u_a + sin θ h u_b of structures a, b, operations g, h of the supercell and angles θ.

    Second moments of displacements with the crystal's symmetry stay, so structures are about as hot as those given.
    """
    rng = np.random.default_rng(0)  # the same ones whoever asks
    permutations, rotations = operations(cell)

    def turned() -> Floats:
        u, g = displacements[rng.integers(len(displacements))], rng.integers(len(rotations))
        cells = cell.cells + rng.integers(0, abs(round(np.linalg.det(cell.matrix))), 3)
        moved: Floats = np.empty_like(u)
        moved[permutations[g][cell.site_index(cell.basis_index, cells)]] = u @ rotations[g].T
        return moved

    angles = rng.uniform(0, 2 * np.pi, count)
    found: Floats = np.array([np.cos(angle) * turned() + np.sin(angle) * turned() for angle in angles])
    return found


def operations(cell: Supercell) -> tuple[Ints, Floats]:
    """The space group of the supercell modulo lattice translations: atom (G, N) each atom goes to, (G, 3, 3) rotations.

    Operations that do not send the supercell's vectors to such are left out.
    """
    group = space_group(cell.crystal)
    back = np.linalg.inv(cell.matrix)
    vectors = np.einsum("gij,kj->gki", group.rotations, cell.matrix) @ back
    keeps = np.flatnonzero(np.abs(vectors - np.rint(vectors)).max(axis=(1, 2)) < 1e-6)
    basis = cell.basis_index
    targets = [
        cell.site_index(group.permutations[g, basis], cell.cells @ group.rotations[g].T + group.shifts[g, basis])
        for g in keeps
    ]
    return np.array(targets), group.cartesian[keeps]
