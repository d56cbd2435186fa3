"""Neighbourhoods of the structures of a reference cell: those asked for last are remembered.

Molecular dynamics asks for forces, distances and grades of one structure in turn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.potential import Basis

Floats = NDArray[np.float64]

KEPT = 16
"""Structures remembered: walkers that move together."""


@dataclass(frozen=True, eq=False)
class CellNeighbours:
    """Pairs within the cutoff of a basis, by displacements."""

    basis: Basis
    cell: ReferenceCell
    _kept: OrderedDict[bytes, Neighbourhoods] = field(default_factory=OrderedDict)

    def of(self, displacements: Floats) -> Neighbourhoods:
        """Those of a structure (N, 3) Å.

        Raises:
            StructureError: an atom of another species, or displacements that are not finite.
        """
        key = np.ascontiguousarray(displacements, dtype=np.float64).tobytes()
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self.basis.neighbourhoods(self.cell.atoms(displacements))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found
