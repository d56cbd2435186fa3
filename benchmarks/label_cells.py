"""What labels of cells chosen by information per cost spare: `python -m benchmarks.label_cost --cells`.

Silicon, 216 atoms, orders 2 to 4 (694 parameters), Tersoff's potential, 300 K; RMSE on structures of 216 atoms from
molecular dynamics. A label of N atoms costs Nᵖ core-seconds, give or take 15 %, and p is learnt from these costs.

walkers' cell: one structure rattled by 0.01 Å for a harmonic fit, then thermal ones of it, all of 216 atoms.
auto: the same in one cell for each irreducible q (2 to 12 atoms), then what `selection.information` buys among all
cells that divide the 216-atom one and that one, at most ten labels between two fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.crystals import Case, silicon
from dynft_core import ForceConstantBasis, ForceField, Supercell
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.initial.rattled import rattled
from dynft_core.lattice.non_diagonal import divisors, smallest_cells
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.fitting import fit_cells, refit_cells
from dynft_core.selection.cost import CostLaw, cost_law
from dynft_core.selection.information import purchase, walk_gram
from dynft_core.symmetry.space_group import space_group
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]
POWERS: tuple[float, ...] = (1.0, 2.0, 3.0)
PRIORS: tuple[Prior, ...] = ("shared", "decaying")
LARGE_LABELS, N_TEST = 4, 20
TOGETHER, EACH, WALKED = 10, 2, 4
"""Most labels between two fits; candidates of each cell; structures that stand for the walks."""
MOST_ROUNDS = 25
LARGEST_PART = 3
"""Small cells have at most one atom in so many of the large one, as in a campaign."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A crystal to learn, with its cells and a test set."""

    case: Case
    basis: ForceConstantBasis
    large: Supercell
    per_q: list[Supercell]
    cells: list[Supercell]
    test: tuple[Floats, Floats]

    @classmethod
    def silicon(cls) -> Problem:
        """Silicon with 216 atoms."""
        case = silicon(3, {2: 8.0, 3: 5.0, 4: 5.0})
        basis = case.basis()
        large, rotations = case.supercell(basis), space_group(basis.crystal).rotations
        per_q, all_cells = (
            [Supercell.build(basis.crystal, m) for m in found(large.matrix, basis.crystal.cell, rotations)]
            for found in (smallest_cells, divisors)
        )
        all_cells = [cell for cell in all_cells if LARGEST_PART * cell.n_atoms <= large.n_atoms]
        return cls(case, basis, large, per_q, [*all_cells, large], case.labels(large, N_TEST, seed=9))

    def labelled(self, cell: Supercell, displacements: Floats) -> CellLabels:
        return CellLabels(cell, displacements, self.case.forces(cell, displacements))

    def rmse(self, force_field: ForceField) -> float:
        u, f = self.test
        return float(np.sqrt(np.mean((force_field.on(self.large).forces(u) - f) ** 2)))


@dataclass
class Account:
    """What has been paid: atoms and core-seconds of each label, and the RMSE (eV/Å) after each fit at its cost."""

    power: float
    rng: np.random.Generator
    atoms: list[int] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)

    def pay(self, labels: Sequence[CellLabels]) -> None:
        for n in (x.supercell.n_atoms for x in labels for _ in x.forces):
            self.atoms.append(n)
            self.core_seconds.append(n**self.power * self.rng.lognormal(0.0, 0.15))

    def fitted(self, rmse: float) -> None:
        self.points.append((sum(self.core_seconds), rmse))

    def cost_of(self, rmse: float) -> float:
        """Core-seconds at which the RMSE was first this low, interpolated; inf: never."""
        before: tuple[float, float] | None = None
        for cost, found in self.points:
            if found <= rmse:
                if before is None:
                    return cost
                part = np.log(before[1] / rmse) / np.log(before[1] / found)
                return float(np.exp(np.log(before[0]) + part * np.log(cost / before[0])))
            before = cost, found
        return np.inf


def start(problem: Problem, cells: list[Supercell], prior: Prior, account: Account) -> ForceField:
    """A harmonic fit to rattled structures, and its thermal structures labelled and fitted."""
    rough = [problem.labelled(cell, rattled(cell, 1, 0.01, account.rng)) for cell in cells]
    account.pay(rough)
    harmonic = ForceConstantBasis.cached(problem.basis.crystal, {2: problem.basis.cutoffs[2]})
    force_field = fit_cells(harmonic, rough, prior="decaying")
    first = [problem.labelled(cell, thermal(force_field, cell, 1, account.rng)) for cell in cells]
    account.pay(first)
    found = fit_cells(problem.basis, first, prior=prior)
    account.fitted(problem.rmse(found))
    return found


def thermal(force_field: ForceField, cell: Supercell, count: int, rng: np.random.Generator) -> Floats:
    return thermal_displacements(force_field.on(cell), cell.masses, count, 300.0, rng)


def in_large_cell(problem: Problem, prior: Prior, account: Account) -> None:
    """Labels of the walkers' cell alone."""
    force_field = start(problem, [problem.large], prior, account)
    for i in range(LARGE_LABELS - 1):
        force_field = bought(problem, force_field, account, [one_large(problem, force_field, account)], i)


def one_large(problem: Problem, force_field: ForceField, account: Account) -> tuple[Supercell, Floats]:
    return problem.large, thermal(force_field, problem.large, 1, account.rng)[0]


def bought(
    problem: Problem, force_field: ForceField, account: Account, chosen: Sequence[tuple[Supercell, Floats]], number: int
) -> ForceField:
    """The fit with the labels of these structures, paid for."""
    labels = [problem.labelled(cell, u[None]) for cell, u in chosen]
    account.pay(labels)
    found = refit_cells(force_field, labels, [f"{number}-{i}" for i in range(len(labels))])
    account.fitted(problem.rmse(found))
    return found


def automatic(problem: Problem, prior: Prior, account: Account, goal: float) -> CostLaw:
    """Cells chosen by information per cost until the RMSE is `goal`; returns the law of costs that was learnt."""
    force_field = start(problem, problem.per_q, prior, account)
    law = cost_law(account.atoms, account.core_seconds)
    for number in range(MOST_ROUNDS):
        if account.points[-1][1] <= goal:
            break
        one = [one_large(problem, force_field, account)]
        chosen = choice(problem, force_field, account, law) if law.pays else one
        force_field = bought(problem, force_field, account, chosen, number)
        law = cost_law(account.atoms, account.core_seconds)
    return law


def choice(problem: Problem, force_field: ForceField, account: Account, law: CostLaw) -> list[tuple[Supercell, Floats]]:
    """What `purchase` chooses among thermal structures of all cells."""
    half, beta = force_field.posterior.half, force_field.posterior.beta
    on_large, offered, rows = force_field.on(problem.large), list[tuple[Supercell, Floats]](), list[Floats]()
    gram = walk_gram((on_large.sensing_matrix(u) for u in thermal(on_large, problem.large, WALKED, account.rng)), half)
    for cell in problem.cells:
        on_cell = force_field.on(cell)
        offered += [(cell, u) for u in thermal(on_cell, cell, EACH, account.rng)]
        rows += [np.sqrt(beta) * on_cell.sensing_matrix(u) @ half for _, u in offered[-EACH:]]
    costs = [law.core_seconds(cell.n_atoms) for cell, _ in offered]
    budget = law.core_seconds(problem.large.n_atoms)
    return [offered[i] for i in purchase(rows, costs, gram, budget=budget, n_max=TOGETHER).chosen]


def compare(seeds: int, powers: Sequence[float] = POWERS, priors: Sequence[Prior] = PRIORS) -> None:
    """Print the table."""
    problem = Problem.silicon()
    print(f"cells of {', '.join(str(c.n_atoms) for c in problem.cells)} atoms; {problem.basis.size} parameters")
    titles = f"{'RMSE':>7s}{'216 atoms':>11s}{'auto':>10s}{'factor':>8s}  labels by atoms"
    print(f"{'prior':<10s}{'seed':>5s}{'cost':>6s}{titles}")
    factors: dict[tuple[str, float], list[float]] = {}
    for prior in priors:
        for seed in range(1, seeds + 1):
            for power in powers:
                large, small = (Account(power, np.random.default_rng([seed, k])) for k in range(2))
                in_large_cell(problem, prior, large)
                goal = large.points[2][1]  # of three labels: what a campaign stops at
                law = automatic(problem, prior, small, goal)
                paid, instead = large.cost_of(goal), small.cost_of(goal)
                factors.setdefault((prior, power), []).append(paid / instead)
                sizes = ", ".join(f"{n}: {small.atoms.count(n)}" for n in sorted(set(small.atoms)))
                print(f"{prior:<10s}{seed:5d}{f'N^{power:g}':>6s}{1e3 * goal:7.2f}{paid:11.3g}{instead:10.3g}"
                      f"{paid / instead:8.2f}  {sizes}; learnt N^{law.power:.2f}", flush=True)  # fmt: skip
    for (prior, power), found in factors.items():
        print(f"{prior}, N^{power:g}: {min(found):.2f} to {max(found):.2f}, median {np.median(found):.2f}")
