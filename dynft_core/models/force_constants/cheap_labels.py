"""Labels by a cheap potential: of structures like those of the data, as many as its force constants need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


HOTTER = 1.5
"""RMS displacement of new labels, relative to the structures of the cheap fit, beyond which that is made anew."""

SumsOf = Callable[[Sequence[CellLabels]], Statistics]
"""Sums over labels, each of the ranks taking its own share of them (`fitting.statistics_of_cells`)."""


def cheap_prior(
    basis: ForceConstantBasis, cells: Sequence[CellLabels], potential: Baseline, sums_of: SumsOf, ranks: Ranks
) -> CheapPrior:
    """What a fit to labels takes from a cheap potential: its force constants, and its forces on the labels.

    The force constants are fitted to structures like those of the largest supercell among the labels.

    Raises:
        InputError: the potential fails.
    """
    mean, rms_A = force_constants(basis, cells, potential, sums_of, ranks)
    return CheapPrior(potential.describe(), mean, rms_A, cheap_sums(cells, potential, sums_of, ranks))


def with_labels(
    basis: ForceConstantBasis, cheap: CheapPrior, cells: Sequence[CellLabels], sums_of: SumsOf, ranks: Ranks
) -> CheapPrior:
    """With further labels; its force constants stay, unless these are far hotter than what they were fitted to."""
    potential = cheap.potential
    cheap = replace(cheap, sums=cheap.sums + cheap_sums(cells, potential, sums_of, ranks))
    if _rms(_largest(cells).displacements) < HOTTER * cheap.rms_displacement_A:
        return cheap
    mean, rms_A = force_constants(basis, cells, potential, sums_of, ranks)
    return replace(cheap, mean=mean, rms_displacement_A=rms_A)


def without_labels(cheap: CheapPrior, cells: Sequence[CellLabels], sums_of: SumsOf) -> CheapPrior:
    """Without labels that are among its own."""
    return replace(cheap, sums=cheap.sums - cheap_sums(cells, cheap.potential, sums_of, Ranks()))


def force_constants(
    basis: ForceConstantBasis, cells: Sequence[CellLabels], potential: Baseline, sums_of: SumsOf, ranks: Ranks
) -> tuple[Floats, float]:
    """φ_c (M,), and the RMS displacement (Å) of the structures that it was fitted to."""
    like = _largest(cells)
    rows = 3 * like.supercell.n_atoms
    count = max(LEAST, -(-ROWS_PER_PARAMETER * basis.size // rows))
    u = mixed(like.supercell, like.displacements, count)
    labels = with_cheap_forces(CellLabels(like.supercell, u, np.zeros_like(u)), potential, ranks)
    return learn(basis, sums_of([labels]), "shared", NOISE_FLOOR_EV_A).mean, _rms(u)


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


def _largest(cells: Sequence[CellLabels]) -> CellLabels:
    return max(cells, key=lambda x: x.supercell.n_atoms)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


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
