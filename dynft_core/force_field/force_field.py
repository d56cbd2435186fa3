"""A force field: basis, supercell and posterior. What everyone outside the core talks to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import FileFormatError
from dynft_core.force_field.calculator import ForceFieldCalculator
from dynft_core.force_field.fitting import NOISE_FLOOR_EV_A, learn
from dynft_core.lattice.supercell import Supercell
from dynft_core.model.bayesian_error import BayesianError
from dynft_core.model.folding import FoldedBasis, fold
from dynft_core.model.label_sums import CellLabels, statistics_of
from dynft_core.model.potential import Potential, sensing_matrix
from dynft_core.model.rotational_conditions import rotational_conditions
from dynft_core.model.sketch import Sketch
from dynft_core.regression.decaying_prior import whitening
from dynft_core.regression.evidence import Decay, Hyperparameters, maximise_evidence
from dynft_core.regression.left_out import LeftOut, leave_one_out
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.soft_conditions import stiffening
from dynft_core.regression.statistics import Statistics, pack_lower, unpack_lower
from dynft_core.storage.segments import read_segment, write_segment
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]
KIND, BASIS_KIND = "force_field", "basis"
MIN_LEFT_OUT, LEFT_OUT_FLOP = 10, 2e12
"""Structures that are left out in turn: this many at least, and as many more as a minute's work allows."""
POSTERIOR_STREAM = 5 << 32
"""Second word of the random generator's key, for samples of the posterior."""


@dataclass(frozen=True, eq=False)
class ForceField:
    """Posterior of the force constants of a crystal, on one supercell.

    Attributes:
        basis: the symmetry-reduced expansion.
        supercell: the perfect structure that displacements (…, N, 3) refer to; `on` changes it.
        posterior: of the parameters.
        prior, rotational: how refits learn it (see `fit`).
        labels: keys of the structures fitted; pending: of those in the covariance alone.
        left_out: leave-one-structure-out errors that the posterior was widened by, if it was.
    """

    basis: ForceConstantBasis
    supercell: Supercell
    posterior: Posterior
    prior: Prior = "shared"
    rotational: bool = False
    labels: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    left_out: LeftOut | None = None

    @property
    def n_labels(self) -> int:
        """Number of structures fitted."""
        return self.posterior.statistics.n_structures

    @cached_property
    def folded(self) -> FoldedBasis:
        """The basis on the supercell."""
        return fold(self.basis, self.supercell)

    @cached_property
    def potential(self) -> Potential:
        """The mean force field on the supercell."""
        return Potential(self.folded, self.posterior.mean)

    @cached_property
    def highest_order(self) -> Potential:
        """Its highest order alone: what an expansion leaves out grows with the last that it keeps."""
        last = [part for part in self.basis.slices.values() if part.stop > part.start][-1]
        parameters = np.zeros(self.basis.size)
        parameters[last] = self.posterior.mean[last]
        return Potential(self.folded, parameters)

    @cached_property
    def error(self) -> BayesianError:
        """Its Bayesian error on the supercell."""
        return BayesianError(self.folded, self.posterior.half)

    @cached_property
    def quick_error(self) -> BayesianError:
        """The same in single precision: half the time, right to about 1e-6."""
        return BayesianError(self.folded.in_precision(np.float32), self.posterior.half)

    @cached_property
    def sketch(self) -> Sketch:
        """Its Bayesian error, estimated."""
        return Sketch(self.folded, self.posterior.half)

    def on(self, supercell: Supercell) -> ForceField:
        """The same force field on another supercell of the crystal."""
        return replace(self, supercell=supercell)

    def on_structure(self, reference: Atoms) -> ForceField:
        """The same on the supercell that `reference` is, in its order of atoms.

        Raises:
            StructureError: `reference` is no supercell of the crystal.
        """
        return self.on(Supercell.match(self.basis.crystal, reference))

    def forces(self, displacements: ArrayLike) -> Floats:
        """Forces (…, N, 3) eV/Å at displacements (…, N, 3) Å."""
        return self.potential.forces(self.supercell.check_displacements(displacements))

    def energy(self, displacements: ArrayLike) -> Floats:
        """Energies (…) eV relative to the perfect crystal."""
        return self.potential.energy(self.supercell.check_displacements(displacements))

    def bayesian_error(self, displacements: ArrayLike, per_atom: bool = False) -> Floats:
        """ε_B (…) eV/Å of structures (…, N, 3), or (…, N) per atom (paper eq. 4, second term)."""
        u = self.supercell.check_displacements(displacements)
        flat = u.reshape(-1, *u.shape[-2:])
        if per_atom:
            return np.array([self.error.per_atom(x) for x in flat]).reshape(u.shape[:-1])
        return np.array([self.error.structure(x) for x in flat]).reshape(u.shape[:-2])

    def samples(self, count: int, seed: int = 0) -> Floats:
        """Parameters (count, M') drawn from the posterior: whoever asks for as many by one seed gets the same ones."""
        return self.posterior.sample(np.random.Generator(np.random.Philox(key=[seed, POSTERIOR_STREAM])), count)

    def sensing_matrix(self, displacements: ArrayLike) -> Floats:
        """A(u) (3N, M') of one structure (N, 3): forces are A φ (paper eq. 2)."""
        return sensing_matrix(self.folded, self.supercell.check_displacements(displacements))

    def condition(self, displacements: ArrayLike, keys: Sequence[str]) -> ForceField:
        """With structures (S, N, 3) pending: the covariance knows them, the mean does not."""
        u = self.supercell.check_displacements(displacements).reshape(-1, self.supercell.n_atoms, 3)
        gram = np.zeros((self.basis.size, self.basis.size))
        for x in u:
            matrix = sensing_matrix(self.folded, x)
            gram += matrix.T @ matrix
        return replace(self, posterior=self.posterior.condition(gram), pending=(*self.pending, *keys))

    def without_pending(self) -> ForceField:
        """With nothing but the labels in its covariance."""
        if self.posterior.pending is None:
            return self
        return replace(self, posterior=replace(self.posterior, pending=None), pending=())

    def refit(
        self,
        displacements: ArrayLike,
        forces: ArrayLike,
        keys: Sequence[str],
        noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
        ranks: Ranks | None = None,
    ) -> ForceField:
        """With further labels (S, N, 3) Å and eV/Å, hyperparameters learnt anew; nothing is pending any more.

        `ranks`: processes that share the sums over structures, as in `fit`.
        """
        processes, u, f = ranks or Ranks(), np.asarray(displacements), np.asarray(forces)
        with processes.together():
            own = statistics_of(self.folded, u[processes.own], f[processes.own])
        statistics = self.posterior.statistics + processes.sum(own)
        posterior = learn(self.basis, statistics, self.prior, noise_floor_eV_A, self.posterior.hyperparameters)
        found = ForceField(self.basis, self.supercell, posterior, self.prior, labels=(*self.labels, *keys))
        return found.with_rotational_sum_rules(noise_floor_eV_A) if self.rotational else found

    def widened(
        self,
        cells: Sequence[CellLabels],
        noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
        ranks: Ranks | None = None,
    ) -> ForceField:
        """With β^(-1/2) and ε_B multiplied by what its labels' leave-one-structure-out errors exceed them by.

        The mean stays. Evidence alone is too sure of an expansion that cannot represent the forces. Of many labels an
        even choice, the same of each cell, is left out in turn. β^(-1/2) stays above the noise floor.
        """
        processes, size, count = ranks or Ranks(), self.basis.size, sum(len(x.forces) for x in cells)
        rows = -(-sum(x.forces.size for x in cells) // max(count, 1))
        affordable = max(MIN_LEFT_OUT, int(LEFT_OUT_FLOP / (rows * (2 * size**2 + rows * size + rows**2))))
        step = -(-count // affordable)
        with processes.together():
            own = leave_one_out(self.posterior, self._rows(x.every(step, processes.own) for x in cells))
        total = processes.add(np.array([own.square, own.expected, own.n_rows]))
        found = LeftOut(float(total[0]), float(total[1]), round(total[2]))
        factor = max(found.ratio, noise_floor_eV_A / self.posterior.beta_inv_sqrt)
        return replace(self, posterior=self.posterior.scaled(factor), left_out=found)

    def _rows(self, cells: Iterable[CellLabels]) -> Iterator[tuple[Floats, Floats]]:
        """Sensing matrix (3N, M') and forces (3N,) of each structure."""
        for cell in cells:
            on_cell = self.on(cell.supercell)
            for u, f in zip(cell.displacements, cell.forces, strict=True):
                yield on_cell.sensing_matrix(u), f.ravel()

    def with_rotational_sum_rules(self, noise_floor_eV_A: float = NOISE_FLOOR_EV_A) -> ForceField:
        """With the rotational sum rules of order 2 as soft conditions, α and β learnt anew; nothing is pending.

        For crystals at rest and without stress only: in others these conditions are false (`symmetry.rotational`).
        A log evidence that falls says that the data contradict them, by stress or by a cutoff too short to obey them.
        Nothing changes where symmetry alone makes them hold.
        """
        if self.rotational:
            return self.without_pending()
        posterior, part = self.posterior, self.basis.slices[2]
        conditions = rotational_conditions(self.basis, self.supercell)
        if len(conditions) == 0:
            return replace(self.without_pending(), rotational=True)
        alpha = posterior.alpha[posterior.groups[part.start]]
        blocks = posterior.whitening or tuple(np.eye(m) for m in self.basis.n_parameters.values())
        gram = blocks[0].T @ posterior.statistics.gram[part, part] @ blocks[0]
        stiff = stiffening(conditions @ blocks[0], gram, alpha, posterior.beta)
        blocks = (blocks[0] @ stiff, *blocks[1:])
        found = maximise_evidence(
            posterior.statistics.transformed(blocks), posterior.groups, noise_floor_eV_A, posterior.hyperparameters
        )
        found = replace(found, decay=posterior.hyperparameters.decay)
        changed = Posterior.of(posterior.groups, found, posterior.statistics, blocks)
        return replace(self, posterior=changed, rotational=True, pending=())

    def calculator(self, reference: Atoms | None = None) -> ForceFieldCalculator:
        """ASE calculator for any supercell, made ready for the one that `reference` is (default: the own one)."""
        return ForceFieldCalculator(self if reference is None else self.on_structure(reference))

    def save(self, path: str | Path, basis_beside: bool = False) -> str:
        """Write the force field, whole and at once. Returns its hash.

        The file stands alone, or with `basis_beside` it names the basis, which all versions of a campaign share: that
        lies in the folder `basis` beside the file, written once under its hash.
        """
        p = self.posterior
        if basis_beside:
            _keep_basis(self.basis, _basis_path(Path(path), self.basis.content_hash))
            arrays: dict[str, Any] = {}
        else:
            arrays = {f"basis.{name}": value for name, value in self.basis.arrays().items()}
        arrays |= {f"supercell.{name}": value for name, value in self.supercell.describe().items()}
        sums, counts = p.statistics.packed()
        arrays |= {"mean": p.mean, "groups": p.groups, "alpha": np.array(p.alpha), **sums}
        if p.pending is not None:
            arrays["pending_gram"] = pack_lower(p.pending)
        decay = p.hyperparameters.decay
        if decay is not None:
            arrays["decay"] = np.array([*decay.per_A, decay.per_body])
        if decay is None or self.rotational:  # otherwise it follows from the decay
            arrays |= {f"whitening.{n}": x for n, x in zip(self.basis.cutoffs, p.whitening or (), strict=False)}
        if self.left_out is not None:
            arrays["left_out"] = np.array([self.left_out.square, self.left_out.expected, self.left_out.n_rows])
        attributes: dict[str, Any] = {
            "kind": KIND,
            "prior": self.prior,
            "rotational": self.rotational,
            "beta": p.beta,
            "log_evidence": p.log_evidence,
            **counts,
            "labels": list(self.labels),
            "pending": list(self.pending),
            "basis_hash": self.basis.content_hash,
        }
        return write_segment(Path(path), arrays, attributes)

    @classmethod
    def load(cls, path: str | Path, pending: bool = False) -> ForceField:
        """Read a force field, by default with nothing but its labels in the covariance.

        `pending`: also with the structures that waited for their labels when it was written. Walkers need that, to
        choose nothing twice; an error that is told must not contain it, as labels may fail.

        Raises:
            FileFormatError: the file, or the basis that it names, is missing, damaged, of another kind or newer format.
        """
        segment = read_segment(Path(path), KIND)
        a, attributes = segment.arrays, segment.attributes
        apart = "basis.cell" not in a and "basis_hash" in attributes
        beside = _basis_beside(Path(path), attributes["basis_hash"]) if apart else None
        try:
            basis = beside or ForceConstantBasis.from_arrays(_under(a, "basis."))
            cell = _under(a, "supercell.")
            supercell = Supercell(basis.crystal, cell["matrix"], cell["basis_index"], cell["cells"])
            statistics = Statistics.unpacked(a, attributes)
            waiting = unpack_lower(a["pending_gram"]) if pending and "pending_gram" in a else None
            *per_A, per_body = (float(x) for x in a.get("decay", [0.0]))
            decay = Decay(tuple(per_A), per_body) if "decay" in a else None
            alpha = tuple(float(x) for x in a["alpha"])
            found = Hyperparameters(alpha, float(attributes["beta"]), float(attributes["log_evidence"]), decay)
            blocks = tuple(a[f"whitening.{n}"] for n in basis.cutoffs if f"whitening.{n}" in a) or None
            if blocks is None and decay is not None:
                blocks = whitening(basis.prior_classes(), decay)
            posterior = Posterior(a["groups"], found, statistics, a["mean"], waiting, blocks)
            return cls(
                basis, supercell, posterior, attributes["prior"], bool(attributes["rotational"]),
                tuple(attributes["labels"]), tuple(attributes["pending"] if pending else ()), _left_out(a),
            )
        except (FileFormatError, KeyError, ValueError, IndexError) as error:
            raise FileFormatError(
                str(path), "a complete force-field file", f"one that lacks something ({error})", "fit or copy it again"
            ) from error


def _basis_path(force_field: Path, content_hash: str) -> Path:
    return force_field.parent / "basis" / f"{content_hash}.h5"


def _keep_basis(basis: ForceConstantBasis, path: Path) -> None:
    """Write a basis, if nobody has: whoever does so at the same time writes the same."""
    if not path.exists():
        write_segment(path, basis.arrays(), {"kind": BASIS_KIND})


def _basis_beside(force_field: Path, content_hash: str) -> ForceConstantBasis:
    path = _basis_path(force_field, content_hash)
    try:
        return _read_basis(path.absolute())
    except FileFormatError as error:
        raise FileFormatError(
            str(path), f"the basis of '{force_field.name}'", error.got,
            "copy the folder 'basis' together with the force field, or take the campaign's force_field.h5",
        ) from error


@lru_cache(maxsize=2)
def _read_basis(path: Path) -> ForceConstantBasis:
    """A basis, kept for the next version of the force field: a file named by its hash never changes."""
    return ForceConstantBasis.from_arrays(read_segment(path, BASIS_KIND).arrays)


def _left_out(arrays: Mapping[str, Floats]) -> LeftOut | None:
    if "left_out" not in arrays:
        return None
    square, expected, rows = arrays["left_out"]
    return LeftOut(float(square), float(expected), int(rows))


def _under(arrays: Any, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def fit(
    basis: ForceConstantBasis,
    supercell: Supercell,
    displacements: ArrayLike,
    forces: ArrayLike,
    keys: Sequence[str] | None = None,
    prior: Prior = "decaying",
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
    rotational: bool = False,
    start: Hyperparameters | None = None,
) -> ForceField:
    """The force field of labelled structures: displacements (S, N, 3) Å, forces (S, N, 3) eV/Å.

    `ranks`: processes that share the sums over structures; each gives all structures, and gets the force field.
    `rotational`: with the rotational sum rules, which hold for crystals at rest and without stress.
    `start`: hyperparameters of a similar expansion of the same crystal spare work; what is found is the same.

    Raises:
        InputError: shapes that do not agree, or no structure.
    """
    labels = CellLabels(supercell, np.asarray(displacements), np.asarray(forces))
    return fit_cells(basis, [labels], keys, prior, noise_floor_eV_A, ranks, rotational, start)


def fit_cells(
    basis: ForceConstantBasis,
    cells: Sequence[CellLabels],
    keys: Sequence[str] | None = None,
    prior: Prior = "decaying",
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
    rotational: bool = False,
    start: Hyperparameters | None = None,
) -> ForceField:
    """The force field of labelled structures of several supercells of a crystal, on the largest of them; as `fit`.

    The sums over the structures of each cell add up: what one cell cannot distinguish another one may.

    Raises:
        InputError: shapes that do not agree, or no structure.
    """
    processes, own = ranks or Ranks(), Statistics.empty(basis.size)
    with processes.together():
        for x in (cell.every(1, processes.own) for cell in cells):
            own = own + statistics_of(fold(basis, x.supercell), x.displacements, x.forces)
    statistics = processes.sum(own)
    names = tuple(keys) if keys is not None else tuple(f"structure-{i}" for i in range(statistics.n_structures))
    posterior = learn(basis, statistics, prior, noise_floor_eV_A, start and start.of_orders(len(basis.orders)))
    largest = max((x.supercell for x in cells), key=lambda cell: cell.n_atoms)
    force_field = ForceField(basis, largest, posterior, prior, labels=names)
    return force_field.with_rotational_sum_rules(noise_floor_eV_A) if rotational else force_field
