"""What a user should know of cutoffs and cell before a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.label_sums import told_apart
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.symmetry.clusters import between_shells
from dynft_core.vocabulary import Prior


def images_note(
    supercell: Supercell, cutoffs_A: Mapping[int, float], prior: Prior = "decaying", others: Sequence[Supercell] = ()
) -> str:
    """A sentence when a cutoff reaches beyond half the cell: images add up, and leave something open; else ''.

    `others`: further supercells with labels, which may distinguish what `supercell`, the largest, cannot.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(supercell.cell), axis=0)
    half = 0.5 * float(heights.min())
    beyond = [f"{cutoff:g} Å (order {order})" for order, cutoff in sorted(cutoffs_A.items()) if cutoff > half]
    if not beyond:
        return ""
    note = f"note: cutoff {', '.join(beyond)} beyond half the supercell, {half:.2f} Å: images are added up"
    if cutoffs_A[2] <= half:
        return note
    basis = ForceConstantBasis.cached(supercell.crystal, {2: cutoffs_A[2]})
    cells = [Supercell.match(basis.crystal, cell.atoms()) for cell in (supercell, *others)]  # in its own crystal's cell
    told = told_apart(basis, cells)
    who = "all cells together tell" if others else "it tells"
    note += f"; of {basis.size} second-order parameters {who} {told} apart, "
    if prior == "decaying":
        return f"{note}the prior gives the rest to the nearest images"
    return f"{note}the prior shares the rest among images near and far: 'decaying' would give it to the nearest"


def shell_note(crystal: Crystal, cutoffs_A: Mapping[int, float]) -> str:
    """A sentence on cutoffs that lie on a shell of neighbours, and what becomes of it; '' when none does."""
    on = [f"{c:g} Å (order {n})" for n, c in sorted(cutoffs_A.items()) if between_shells(crystal, c) < c]
    if not on:
        return ""
    return (
        f"note: cutoff {', '.join(on)} lies on a shell of neighbours, which is left out; "
        "to include it, make the cutoff 0.01 Å longer"
    )
