"""Compile the kernels that campaigns of orders 2-4 need: run this module by `python -m`.

A site runs it beside the first tasks, on a core that has nothing to do yet; all of them find the kernels in numba's
cache. They are compiled in the order in which a campaign meets them, but for the forces in double precision: the first
task but one needs these at once.
"""

from __future__ import annotations

import numpy as np
from ase.build import bulk

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential, eigentensor_matrix
from dynft_core.symmetry.basis import ForceConstantBasis


def main() -> None:
    """Call each kernel once, on a crystal whose neighbours form clusters of every shape."""
    basis = ForceConstantBasis.build(Crystal(bulk("Si")), dict.fromkeys((2, 3, 4), 4.0))
    folded = fold(basis, Supercell.build(basis.crystal, (2, 2, 2)))
    still = np.zeros((folded.supercell.n_atoms, 3))
    Potential(folded, np.zeros(basis.size), np.float32).batch(still[:, :, None])
    for dtype in (np.float64, np.float32):
        eigentensor_matrix(folded.in_precision(dtype), still)


if __name__ == "__main__":
    main()
