"""Which labels to buy next: flagged structures, those of the walks, and thermal ones of small cells, by their price.

Structures of a small cell are drawn from the phonons of the present force field in that cell, at the campaign's
temperature: independent displacements of 0.1 Å have energies that the crystal never has, and ruin a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.state import load_state
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.lattice.cells import Frame, ReferenceCell, by_cell
from dynft_core.reference.calculators import structure_key
from dynft_core.selection.information import purchase, walk_gram
from dynft_core.storage.structures import read_cell, read_displacements, write_structures
from dynft_core.tasks.jobs import CellChoice, SelectJob, SelectOutcome
from dynft_core.vocabulary import LABEL_CELLS, StructureRef

Floats = NDArray[np.float64]

EACH = 3
"""Thermal structures of each small cell on offer: those of one cell tell much the same."""
MOST_WALKED, FROM_WALKS = 12, 2
"""Structures that stand for the walks, the latest ones, and how many of them are on offer themselves."""
STREAM = 6 << 32


def cells_like(run_dir: Path, pattern: str) -> list[ReferenceCell]:
    """The reference cells of a run folder whose names fit a pattern, in their order."""
    return [read_cell(run_dir, str(path.relative_to(run_dir))) for path in sorted(run_dir.glob(pattern))]


def buy(job: SelectJob, choice: CellChoice, model: Any) -> SelectOutcome:
    """Choose what tells most of the walks per core-second, until the budget is spent or the goal reached.

    `model`: linear and harmonic, with the labels of the job's force field.
    """
    run_dir, known = Path(job.run_dir), model.without_pending()
    flagged = [_structure(run_dir, ref) for ref in job.candidates]
    walked = _walked(run_dir, choice)
    offered = [*flagged, *walked[:FROM_WALKS], *_thermal(run_dir, choice, known)]
    found = purchase(
        _rows(known, offered),
        [choice.law.core_seconds(frame.cell.n_atoms) for frame in offered],
        walk_gram(_matrices(known, [*walked, *flagged]), known.posterior.half),
        _rows(known, [_structure(run_dir, ref) for ref in job.under_way]),
        choice.budget_core_s, choice.goal_eV_A**2, job.n_max,
    )  # fmt: skip
    gains = dict(zip(found.chosen, found.gains, strict=True))
    bought = [ref for i, ref in enumerate(job.candidates) if i in gains]
    new = {offered[i].key: (offered[i], f"{1e6 * gains[i]:.3g} (meV/Å)²") for i in found.chosen if i >= len(flagged)}
    return SelectOutcome(
        True,
        chosen=tuple(ref.key for ref in bought),
        gains=tuple(gains[i] for i in range(len(job.candidates)) if i in gains),
        redundant=tuple(ref.key for ref in job.candidates if ref not in bought),
        structures=_written(run_dir, choice, new),
    )


def _rows(model: Any, frames: Sequence[Frame]) -> list[Floats]:
    """X = sqrt(w β) A H (3N, M) of each, w the weight of its cell's labels in the fit."""
    half, beta = model.posterior.half, model.posterior.beta
    weights = [model.small_cell_weight if fnmatch(frame.cell.name, LABEL_CELLS) else 1.0 for frame in frames]
    return [np.sqrt(w * beta) * (a @ half) for w, a in zip(weights, _matrices(model, frames), strict=True)]


def _matrices(model: Any, frames: Sequence[Frame]) -> list[Floats]:
    """A (3N, M) of each, those of one cell one after another: the expansion is folded onto each cell once."""
    found: dict[str, Floats] = {}
    for own in by_cell(frames):
        on_cell = model.on(own[0].cell)
        found |= {frame.key: on_cell.sensing_matrix(frame.displacements) for frame in own}
    return [found[frame.key] for frame in frames]


def _structure(run_dir: Path, ref: StructureRef) -> Frame:
    return Frame(read_cell(run_dir, ref.cell), read_displacements(run_dir, ref), key=ref.key)


def _walked(run_dir: Path, choice: CellChoice) -> list[Frame]:
    """Where walkers were at the ends of their latest walks."""
    there = [walk for walk in choice.walked if (run_dir / walk.segment).exists()]
    step = max(1, -(-len(there) // MOST_WALKED))
    found = [(read_cell(run_dir, w.cell), load_state(run_dir / w.segment).displacements) for w in there[::-step]]
    return [_frame(cell, u, choice) for cell, u in found]


def _thermal(run_dir: Path, choice: CellChoice, model: Any) -> list[Frame]:
    rng, found = np.random.Generator(np.random.Philox(key=[choice.seed, STREAM])), list[Frame]()
    for cell in cells_like(run_dir, LABEL_CELLS):
        u = thermal_displacements(model.on(cell), cell.masses, EACH, choice.temperature_K, rng)
        found += [_frame(cell, x, choice) for x in u]
    return found


def _frame(cell: ReferenceCell, displacements: Any, choice: CellChoice) -> Frame:
    key = structure_key(cell.numbers, cell.cell, cell.sites + displacements, choice.reference)
    return Frame(cell, displacements, key=key)


def _written(run_dir: Path, choice: CellChoice, new: dict[str, tuple[Frame, str]]) -> tuple[StructureRef, ...]:
    """The structures in segments, one for each cell."""
    refs = []
    for own in by_cell(frame for frame, _ in new.values()):
        segment = f"{choice.output}-{Path(own[0].cell.name).stem}.h5"
        keys = [frame.key for frame in own]
        (run_dir / segment).parent.mkdir(parents=True, exist_ok=True)
        write_structures(run_dir / segment, np.array([frame.displacements for frame in own]), keys, {"role": "chosen"})
        refs += [
            StructureRef(
                key, segment, i, "chosen", f"lowers the mean ε_B² by {new[key][1]}",
                temperature_K=choice.temperature_K, cell=own[0].cell.name,
            )
            for i, key in enumerate(keys)
        ]  # fmt: skip
    return tuple(refs)
